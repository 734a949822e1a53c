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


def test_links_out_of_the_directory_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        link = tarfile.TarInfo("car")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
    with pytest.raises(UserError, match="is not safe"):
        archives.unpack(str(tmp_path / "a.tar"), str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["a.tar"]


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


def test_the_published_digest_is_checked(tmp_path, capsys):
    path = write(tmp_path / "a.tgz", FILES)
    size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="is damaged: its SHA-256 is"):
        archives.unpack(str(path), str(tmp_path / "out"), size=size, sha256="0" * 64)
    assert capsys.readouterr().err == ""
    archives.unpack(str(path), str(tmp_path / "out"), size=size, sha256=digest)
    archives.unpack(str(path), str(tmp_path / "other"), size=size + 1, sha256=digest)
    assert f"has {size:,} bytes, the published archive {size + 1:,}" in capsys.readouterr().err


def test_a_disk_too_small_is_noticed_beforehand(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zip", FILES)
    usage = archives.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match="No space left") as error:
        archives.unpack(str(path), str(tmp_path / "out"))
    assert error.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["a.zip"]
