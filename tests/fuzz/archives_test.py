"""Archives: tar, zip and LMDB, damaged and hostile."""

import gzip
import io
import os
import stat
import tarfile
import tempfile
import warnings
import zipfile

import fuzzing
import lmdb_files
import pytest
from hypothesis import strategies as st

from layered_segmentation.data.prepare import archives, lmdb_reader
from layered_segmentation.errors import UserError

_parts = st.one_of(
    st.sampled_from(
        ["..", ".", "", "a", "A", "b", "outside", "file", "C:", "c:x", "a\\b", "..\\x", "é", "\0",
         "con", "a" * 300]
    ),
    st.text(max_size=6),
)  # fmt: skip
_names = st.one_of(
    st.lists(_parts, min_size=1, max_size=4).map("/".join),
    st.sampled_from(["/etc/x", "../../outside/file", "../outside/new", "a/../../x", "//a", "./a"]),
)
_sizes = st.one_of(st.none(), st.integers(0, 100), st.sampled_from([1 << 33, (1 << 63) - 1]))
_members = st.lists(
    st.fixed_dictionaries(
        {
            "name": _names,
            "kind": st.sampled_from(
                [tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE,
                 tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
                 tarfile.GNUTYPE_SPARSE, b"9", b"\0"]
            ),
            "target": _names,
            "content": st.binary(max_size=30),
            "mode": st.sampled_from([0o644, 0o000, 0o7777]),
            "size": st.one_of(st.none(), st.none(), _sizes),
        }
    ),
    max_size=5,
)  # fmt: skip


def _tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", errors="surrogatepass") as archive:
        for member in members:
            info = tarfile.TarInfo(member["name"])
            info.type, info.linkname, info.mode = member["kind"], member["target"], member["mode"]
            content = member["content"]
            info.size = len(content) if member["size"] is None else member["size"]
            try:
                archive.addfile(info)
            except (ValueError, UnicodeError):  # cannot be written
                continue
            padded = content + bytes(-len(content) % 512)
            archive.fileobj.write(padded)
            archive.offset += len(padded)
    return file.getvalue()


def _zip(members):
    file = io.BytesIO()
    kinds = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.FIFOTYPE: stat.S_IFIFO}
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # names that occur twice
        for member in members:
            info = zipfile.ZipInfo(member["name"] or "x")
            info.external_attr = (kinds.get(member["kind"], stat.S_IFREG) | member["mode"]) << 16
            if member["kind"] == tarfile.DIRTYPE:
                info.filename += "/"
            info.compress_type = zipfile.ZIP_DEFLATED
            try:
                archive.writestr(info, member["content"])
            except UnicodeError:
                continue
    return file.getvalue()


def _check(name, kind, content):
    with fuzzing.confined() as directory, fuzzing.refused(name, 32):
        path = fuzzing.write(directory, f"archive.{kind}", content)
        try:
            unpacked = archives.unpack(path, os.path.join(directory, "unpacked"))
            for folder, folders, names in os.walk(unpacked):
                for entry in [*folders, *names]:
                    mode = os.lstat(os.path.join(folder, entry)).st_mode
                    assert stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        except OSError as error:  # the disk refuses a name or is full
            assert error.errno is not None
        finally:
            left = [name for name in os.listdir(directory) if "partial" in name]
            assert not left, left


_WHOLE = [
    {
        "name": f"a/{number}", "kind": tarfile.REGTYPE, "target": "", "content": b"x" * 40,
        "mode": 0o644, "size": None,
    }
    for number in range(3)
]  # fmt: skip
_TARS = [_tar(_WHOLE)]
_made_tars = _members.map(_tar)


@fuzzing.fuzz(
    st.one_of(_made_tars, fuzzing.damaged(_TARS), fuzzing.damaged([gzip.compress(_TARS[0])])),
    share=0.04,
    quick=25,
)
def test_tars(data):
    _check("test_tars", "tar", data)


_ZIPS = [_zip(_WHOLE)]


@fuzzing.fuzz(st.one_of(_members.map(_zip), fuzzing.damaged(_ZIPS)), share=0.04, quick=25)
def test_zips(data):
    _check("test_zips", "zip", data)


def test_a_header_of_a_tar_that_is_far_too_long():
    """Gzip holds a gigabyte of zeros in a megabyte, and tarfile would read a header whole."""
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 200 << 20
        content = info.tobuf(tarfile.GNU_FORMAT) + bytes(info.size)
        _check("test_a_header_of_a_tar_that_is_far_too_long", "tgz", gzip.compress(content, 1))


def test_files_far_larger_than_their_archive(monkeypatch):
    monkeypatch.setattr(archives, "_FEW_BYTES", 1 << 20)
    zeros = {**_WHOLE[0], "content": bytes(30 << 20)}
    for kind, content in (("tgz", gzip.compress(_tar([zeros]))), ("zip", _zip([zeros]))):
        with fuzzing.confined() as directory:
            path = fuzzing.write(directory, f"archive.{kind}", content)
            with pytest.raises(UserError, match="more than 200 times larger"):
                archives.unpack(path, os.path.join(directory, "unpacked"))
            assert os.listdir(directory) == [f"archive.{kind}"]


def _database():
    with tempfile.TemporaryDirectory() as directory:
        values = {f"{n:040x}": bytes([n]) * 50 for n in range(40)}
        lmdb_files.write(os.path.join(directory, "car"), values)
        with open(os.path.join(directory, "car", "data.mdb"), "rb") as file:
            return file.read()


@fuzzing.fuzz(fuzzing.damaged([_database()], most=3), share=0.001, quick=2)
def test_lmdbs(data):
    with fuzzing.confined() as directory, fuzzing.refused("test_lmdbs", 32):
        fuzzing.write(directory, "data.mdb", data)
        count = lmdb_reader.summary(directory).entries
        assert len(list(lmdb_reader.entries(directory, min(count, 50)))) <= 50
