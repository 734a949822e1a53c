"""Writes that fail, directories set aside, fingerprints, and locks within a process."""

import errno
import os
import pathlib

import pytest

from layered_segmentation import files
from layered_segmentation.data.prepare import archives
from layered_segmentation.errors import UserError


@pytest.fixture
def calls(monkeypatch):
    """Records what is synced and renamed, in order, by name; the real calls still run."""
    found = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def synced(descriptor):
        found.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def renamed(call):
        def record(source, target):
            found.append(("rename", os.path.basename(source), os.path.basename(target)))
            call(source, target)

        return record

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed(replace))
    monkeypatch.setattr(os, "rename", renamed(rename))
    return found


def test_writing_replaces_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    for text in ("first\n", "second\r\nwith its own line ends\n", "é"):
        files.write_text(str(path), text)
        assert path.read_bytes() == text.encode()
    files.write_json(str(tmp_path / "file.json"), {"b": 1, "a": "é"}, sort_keys=True)
    assert (tmp_path / "file.json").read_text() == '{\n  "a": "\\u00e9",\n  "b": 1\n}\n'
    assert sorted(os.listdir(tmp_path)) == ["file.json", "file.txt"]


def test_a_relative_path_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_text("file.txt", "text")
    with files.replacing_directory("folder") as partial:
        files.write_text(os.path.join(partial, "a"), "a")
    assert sorted(os.listdir(tmp_path)) == ["file.txt", "folder"]


def test_the_partial_file_is_hidden_and_keeps_the_suffix(tmp_path):
    with files.replacing(str(tmp_path / "net.keras")) as partial:
        assert os.path.dirname(partial) == str(tmp_path)
        assert os.path.basename(partial) == ".net.partial.keras"
        pathlib.Path(partial).write_bytes(b"x")
    assert os.listdir(tmp_path) == ["net.keras"]


@pytest.mark.parametrize("name", ["a.png", "a", "a.mask.png", "00001.json", "000001.png", "1.0.0"])
def test_a_leftover_tells_the_name_it_was_to_get(name):
    assert files.final_name(os.path.basename(files.partial_path(f"folder/{name}"))) == name
    assert files.final_name(f".{name}.replaced") == name
    assert files.final_name(name) == name


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "é" * 120 + ".png"])
def test_the_longest_names_can_be_written(tmp_path, name):
    files.write_bytes(str(tmp_path / name), b"x")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.linux("/proc")
def test_a_name_counts_only_when_its_content_is_on_the_disk(tmp_path, calls):
    files.write_bytes(str(tmp_path / "a.png"), b"x")
    assert calls == [
        ("sync", ".a.partial.png"), ("rename", ".a.partial.png", "a.png"), ("sync", tmp_path.name)
    ]  # fmt: skip
    calls.clear()
    files.write_bytes(str(tmp_path / "b.png"), b"x", durable=False)
    assert calls == [("rename", ".b.partial.png", "b.png")]


@pytest.mark.linux("/proc")
def test_a_directory_counts_only_when_all_in_it_is_on_the_disk(tmp_path, calls):
    path = tmp_path / "new"
    for _ in range(2):
        calls.clear()
        with files.replacing_directory(str(path)) as partial:
            os.mkdir(os.path.join(partial, "deep"))
            for name in ("a", "deep/b"):
                pathlib.Path(partial, name).write_bytes(b"x")
        renames = [call for call in calls if call[0] == "rename"]
        first = calls.index(renames[0])
        assert sorted(name for _, name in calls[:first]) == [".new.partial", "a", "b", "deep"]
        assert calls[-1] == ("sync", tmp_path.name)
        assert renames[-1] == ("rename", ".new.partial", "new")
    assert renames[0] == ("rename", "new", ".new.replaced")
    assert os.listdir(tmp_path) == ["new"]
    assert (path / "deep" / "b").read_bytes() == b"x"


@pytest.mark.linux("/proc")
def test_many_files_are_synced_at_once(tmp_path, calls, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "sync", lambda: synced.append(sorted(os.listdir(tmp_path))))
    with files.replacing_directory(str(tmp_path / "new")) as partial:
        for number in range(200):
            pathlib.Path(partial, str(number)).write_bytes(b"x")
    assert synced == [[".new.partial"]]
    assert calls == [("rename", ".new.partial", "new"), ("sync", tmp_path.name)]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt(), SystemExit()])
def test_an_error_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), files.replacing(str(path)) as partial:
        pathlib.Path(partial).write_text("new")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_directory_alone(tmp_path, error):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(type(error)), files.replacing_directory(str(path)) as partial:
        pathlib.Path(partial, "new").write_text("new")
        raise error
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["folder"]


def test_a_directory_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "1"
    with pytest.raises(OSError), files.replacing_directory(str(path), overwrite=False) as partial:
        pathlib.Path(partial, "new").write_text("new")
        path.mkdir()
        (path / "other").write_text("other")
    assert os.listdir(path) == ["other"]
    assert os.listdir(tmp_path) == ["1"]


def test_a_full_disk_names_the_file(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device")
    for write in (files.replacing, files.replacing_directory):
        error.filename = None
        with pytest.raises(OSError) as raised, write(str(tmp_path / "a")):
            raise error
        assert raised.value.filename == str(tmp_path / "a")


def test_errors_name_the_file_not_its_partial_one(tmp_path):
    for path, kind in ((tmp_path / "none" / "a", FileNotFoundError), (tmp_path, OSError)):
        with pytest.raises(kind) as raised:
            files.write_bytes(str(path), b"x")
        assert raised.value.filename == str(path)


@pytest.mark.posix("links without special rights")
def test_a_file_or_link_makes_way_for_a_directory(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("old")
    for name in ("link", "file"):
        with files.replacing_directory(str(tmp_path / name)) as partial:
            pathlib.Path(partial, "new").write_text("new")
        assert os.listdir(tmp_path / name) == ["new"]
    assert (tmp_path / "elsewhere" / "mine").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "file", "link"]


def test_setting_aside_puts_back_what_was_there_on_an_error(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.setting_aside(str(path)):
        assert not path.exists()
        path.mkdir()
        (path / "half").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(path) == ["old"]
    with files.setting_aside(str(path)):
        path.mkdir()
    assert os.listdir(path) == []
    assert os.listdir(tmp_path) == ["data"]


def test_a_lock_is_held_until_its_outermost_block_ends(tmp_path):
    path = str(tmp_path / "lock")
    outer, other = files.Lock(path, "held"), files.Lock(path, "taken")
    with outer:
        with outer:
            pass
        with pytest.raises(UserError, match="taken"):
            other.__enter__()
    with other:
        pass


def test_fingerprints_tell_what_changed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    before = files.fingerprint(str(tmp_path), ["a", "b"])
    assert before.startswith("files:")
    assert files.fingerprint(str(tmp_path), ["a", "b"]) == before
    assert files.fingerprint(str(tmp_path), ["b", "a"]) != before
    assert files.fingerprint(str(tmp_path), ["a", "b", "none"]) != before
    os.utime(tmp_path / "a", ns=(0, 1))
    assert files.fingerprint(str(tmp_path), ["a", "b"]) != before
    archive = archives.fingerprint_of_archives(str(tmp_path / "a"), str(tmp_path / "b"))
    assert archive == "archives:1,1"
    assert archives.fingerprints_differ(archive, "archives:1,2")
    assert not archives.fingerprints_differ(archive, archive)
    assert not archives.fingerprints_differ(archive, before)
    assert not archives.fingerprints_differ("", before)


def test_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"c")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.digest("abc") == files.digest(b"abc") == abc
    assert files.digest_of_files(str(tmp_path / "a"), str(tmp_path / "b")) == abc
    assert files.digest(os.fsdecode(b"\xe9.jpg"))  # a file name in Latin-1


def test_windows_without_directory_handles(tmp_path, monkeypatch):
    """Windows opens no directory, and flushes only files that are open for writing."""
    opened = []
    real = os.open

    def windows_open(path, flags, *rest, **options):
        assert not os.path.isdir(path)
        opened.append(flags)
        return real(path, flags, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_IS_WINDOWS", True)
        patch.setattr(os, "open", windows_open)
        files.write_bytes(str(tmp_path / "a"), b"x")
        with files.replacing_directory(str(tmp_path / "d")) as partial:
            pathlib.Path(partial, "b").write_bytes(b"x")
    assert opened and all(flags & os.O_RDWR for flags in opened)
    assert sorted(os.listdir(tmp_path)) == ["a", "d"]


def test_names_that_are_not_utf8_are_written_as_escapes(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    files.write_text(str(tmp_path / "a.txt"), f"é {name}\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é caf\\udce9\n"
    files.write_json(str(tmp_path / "a.json"), {"é": name}, ensure_ascii=False)
    assert files.read_json(str(tmp_path / "a.json")) == {"é": name}


def test_undoing_removes_what_a_failing_block_wrote(tmp_path):
    old, new, folder = tmp_path / "old", tmp_path / "new", tmp_path / "folder"
    old.write_text("old")
    with (
        pytest.raises(OSError),
        files.undoing(str(old), str(new), str(folder), str(tmp_path / "x")),
    ):
        new.write_text("new")
        folder.mkdir()
        (folder / "a").write_text("a")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path) == ["old"]
    with files.undoing(str(new)):
        new.write_text("new")
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


def test_windows_is_asked_again_while_another_program_reads_the_file(tmp_path, monkeypatch):
    refusals, waited, rename = [2], [], os.replace

    def busy(source, target):
        if refusals[0]:
            refusals[0] -= 1
            raise PermissionError(13, "in use", target)
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", busy)
    monkeypatch.setattr(files.time, "sleep", waited.append)
    with pytest.raises(PermissionError):  # elsewhere it is no matter of time
        files.write_text(str(tmp_path / "a"), "text")
    monkeypatch.setattr(files, "_IS_WINDOWS", True)
    refusals[0] = 2
    files.write_text(str(tmp_path / "a"), "text")
    assert (tmp_path / "a").read_text() == "text" and waited == [0.02, 0.1]
    refusals[0] = 99
    with pytest.raises(PermissionError):
        files.write_text(str(tmp_path / "a"), "other")
    assert (tmp_path / "a").read_text() == "text"
