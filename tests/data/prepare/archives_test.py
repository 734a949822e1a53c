import errno
import hashlib
import io
import os
import pathlib
import tarfile
import zipfile

import pytest

from layered_segmentation.data.prepare import archives
from layered_segmentation.errors import UserError
from layered_segmentation.files import partial_path

FILES = {"car/data.mdb": bytes(range(256)) * 4000, "car/lock.mdb": b"", "car/deep/a.txt": b"a"}


def write(path, files):
    """Writes an archive whose members may have any name."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in files.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as file:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(params=["a.zip", "a.tgz"])
def archive(request, tmp_path):
    return write(tmp_path / request.param, FILES)


def content(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".unpacked.json"
    }


def test_unpacks_all(archive, tmp_path):
    assert archives.unpack(str(archive), str(tmp_path / "out")) == str(tmp_path / "out")
    assert content(tmp_path / "out") == FILES


def test_what_is_unpacked_is_reused_until_the_archive_changes(archive, tmp_path):
    out = tmp_path / "out"
    archives.unpack(str(archive), str(out))
    (out / "car" / "lock.mdb").write_bytes(b"seen")
    archives.unpack(str(archive), str(out))
    assert content(out)["car/lock.mdb"] == b"seen"
    write(archive, {"car/data.mdb": b"other"})
    archives.unpack(str(archive), str(out))
    assert content(out) == {"car/data.mdb": b"other"}


def test_leftovers_of_a_killed_run_are_replaced(archive, tmp_path):
    partial = pathlib.Path(partial_path(str(tmp_path / "out")))
    partial.mkdir()
    (partial / "rest").write_bytes(b"half")
    archives.unpack(str(archive), str(tmp_path / "out"))
    assert content(tmp_path / "out") == FILES
    assert not partial.exists()


@pytest.mark.parametrize("name", ["../evil", "car/../../evil", "/evil", "..\\evil", "C:\\evil"])
@pytest.mark.parametrize("kind", ["a.zip", "a.tgz"])
def test_paths_outside_the_directory_are_refused(tmp_path, name, kind):
    inside = tmp_path / "in"
    inside.mkdir()
    archive = write(inside / kind, {"car/good": b"x", name: b"x"})
    with pytest.raises(UserError, match="which leads out of the directory"):
        archives.unpack(str(archive), str(inside / "out"))
    assert os.listdir(inside) == [kind]
    assert os.listdir(tmp_path) == ["in"]
    assert not os.path.exists("/evil")


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def untouched(tmp_path, archive):
    """Whether refusing an archive wrote nothing, neither beside it nor where its links lead."""
    with pytest.raises(UserError) as error:
        archives.unpack(str(archive), str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == [archive.name, "kept"]
    assert (tmp_path / "kept").read_bytes() == b"kept"
    return str(error.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc", "b", "../kept"])
def test_links_are_refused_wherever_they_lead(tmp_path, kind, target):
    (tmp_path / "kept").write_bytes(b"kept")
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(link("car", target, kind))
    message = untouched(tmp_path, tmp_path / "a.tar")
    assert "'car', which is a link, not a file or a directory; nothing was unpacked" in message


def test_a_chain_of_links_that_outgrows_the_longest_path_is_refused(tmp_path):
    """CVE-2025-4517: past PATH_MAX, the standard library's filter loses track of the links."""
    (tmp_path / "kept").write_bytes(b"kept")
    part = "d" * 247
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        path = ""
        for step in "abcdefghijklmnop":
            directory = tarfile.TarInfo(os.path.join(path, part))
            directory.type = tarfile.DIRTYPE
            file.addfile(directory)
            file.addfile(link(os.path.join(path, step), part))
            path = os.path.join(path, step)
        file.addfile(link(os.path.join(path, "l" * 254), "../" * 16))
        file.addfile(link("escape", path + "/" + "l" * 254 + "/../kept"))
        file.addfile(link("again", "escape", tarfile.LNKTYPE))
        evil = tarfile.TarInfo("again")
        evil.size = 4
        file.addfile(evil, io.BytesIO(b"evil"))
    assert "which is a link" in untouched(tmp_path, tmp_path / "a.tar")


def test_links_in_a_zip_and_devices_are_refused(tmp_path):
    (tmp_path / "kept").write_bytes(b"kept")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        info = zipfile.ZipInfo("car")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "../kept")
        file.writestr("car/x", "evil")
    assert "which is a link" in untouched(tmp_path, tmp_path / "a.zip")
    (tmp_path / "a.zip").unlink()
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(link("null", "", tarfile.CHRTYPE))
        file.addfile(link("pipe", "", tarfile.FIFOTYPE))
    assert "which is a device" in untouched(tmp_path, tmp_path / "a.tar")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["a.zip", "a.tgz"])
@pytest.mark.parametrize("second", ["car/a", "car/./a", "car//a", "car/a/b"])
def test_names_that_occur_twice_are_refused(tmp_path, kind, second):
    (tmp_path / "kept").write_bytes(b"kept")
    path = tmp_path / kind
    if kind == "a.zip":
        with zipfile.ZipFile(path, "w") as file:
            for name in ("car/a", second):
                file.writestr(name, b"x")
    else:
        with tarfile.open(path, "w:gz") as file:
            for name in ("car/a", second):
                member = tarfile.TarInfo(name)
                member.size = 1
                file.addfile(member, io.BytesIO(b"x"))
    assert "which occurs twice" in untouched(tmp_path, path)


@pytest.mark.parametrize("kind", ["a.zip", "a.tgz"])
def test_names_that_are_too_long_are_refused(tmp_path, kind):
    (tmp_path / "kept").write_bytes(b"kept")
    path = write(tmp_path / kind, {"n" * 256: b"x"})
    assert "more than 255 bytes in a part of its path" in untouched(tmp_path, path)
    path = write(path, {"/".join(["n" * 200] * 25): b"x"})
    assert "which is too long for this disk" in untouched(tmp_path, path)


def test_directories_may_be_listed_more_than_once(tmp_path):
    directory = tarfile.TarInfo("car")
    directory.type = tarfile.DIRTYPE
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for _ in range(2):
            file.addfile(directory)
    archives.unpack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    assert os.path.isdir(tmp_path / "out" / "car")


def test_a_truncated_archive_is_an_error(archive, tmp_path):
    os.truncate(archive, archive.stat().st_size * 2 // 3)
    with pytest.raises(UserError, match=r"a\.\w+: is damaged or was not downloaded to its end"):
        archives.unpack(str(archive), str(tmp_path / "out"))
    assert os.listdir(tmp_path) == [archive.name]


def test_damage_inside_a_zip_is_an_error(tmp_path):
    path = write(tmp_path / "a.zip", FILES)
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.zip: is damaged"):
        archives.unpack(str(path), str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["a.zip"]


def test_an_archive_that_is_not_the_published_one_is_refused(tmp_path):
    path = write(tmp_path / "a.tgz", FILES)
    size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"is not the published archive.*its SHA-256 is") as error:
        archives.unpack(str(path), str(out), size=size, sha256="0" * 64)
    assert digest in str(error.value) and "0" * 64 in str(error.value)
    with pytest.raises(UserError, match=r"is not the published archive.*its SHA-256 is"):
        archives.unpack(str(path), str(out), sha256="0" * 64)
    words = f"it has {size:,} bytes, that one {size + 1:,}"
    with pytest.raises(UserError, match=words):
        archives.unpack(str(path), str(out), size=size + 1, sha256=digest)
    assert os.listdir(tmp_path) == ["a.tgz"]
    archives.unpack(str(path), str(out), size=size, sha256=digest)
    assert content(out) == FILES


def test_a_disk_too_small_is_noticed_beforehand(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zip", FILES)
    usage = archives.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match="No space left") as error:
        archives.unpack(str(path), str(tmp_path / "out"))
    assert error.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["a.zip"]
