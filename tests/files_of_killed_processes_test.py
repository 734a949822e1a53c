"""Processes that are killed, full disks, power failures, and locks between processes."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from layered_segmentation import files
from layered_segmentation.errors import UserError

pytestmark = pytest.mark.posix("SIGKILL")

PROGRAM = """
import sys, time
from layered_segmentation import files
kind, path = sys.argv[1:]
if kind == "file":
    with files.replacing(path) as partial, open(partial, "w") as file:
        file.write("new")
        file.flush()
        print("begun", flush=True)
        time.sleep(60)
elif kind == "directory":
    with files.replacing_directory(path) as partial:
        open(partial + "/half", "w").close()
        print("begun", flush=True)
        time.sleep(60)
elif kind == "aside":
    with files.setting_aside(path):
        print("begun", flush=True)
        time.sleep(60)
else:
    with files.Lock(path, "taken"):
        print("begun", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def start():
    """Starts `PROGRAM` in a process of its own and returns it once it is in the middle."""
    processes = []

    def run(kind, path):
        command = [sys.executable, "-c", PROGRAM, kind, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "begun\n"
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def folder(tmp_path):
    """A directory with one file."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    return path


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_its_own(tmp_path, start):
    path = tmp_path / "file.txt"
    path.write_text("old")
    kill(start("file", path))
    assert path.read_text() == "old"
    files.write_text(str(path), "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_killed_writer_of_a_directory_leaves_the_old_one(tmp_path, folder, start):
    kill(start("directory", folder))
    assert os.listdir(folder) == ["old"]
    with files.replacing_directory(str(folder)) as partial:
        pathlib.Path(partial, "new").write_text("new")
    assert os.listdir(folder) == ["new"]
    assert os.listdir(tmp_path) == ["folder"]


def test_what_a_killed_process_had_set_aside_comes_back(tmp_path, folder, start):
    kill(start("aside", folder))
    assert not folder.exists()
    files.restore_replaced(str(folder))
    assert os.listdir(folder) == ["old"]
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["96k"], indirect=True)
def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(small_disk):
    path = small_disk / "file"
    path.write_bytes(b"old" * 1000)
    with pytest.raises(OSError) as raised:
        files.write_bytes(str(path), bytes(200_000))
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old" * 1000
    with pytest.raises(OSError), files.replacing_directory(str(small_disk / "folder")) as partial:
        pathlib.Path(partial, "a").write_bytes(bytes(200_000))
    assert os.listdir(small_disk) == ["file"]
    files.write_bytes(str(path), bytes(50_000))  # the space is free again
    assert path.stat().st_size == 50_000


@pytest.mark.slow
def test_what_was_written_survives_a_power_failure(power_failure):
    disk, fail = power_failure
    for content in (b"first" * 20_000, b"second" * 20_000):
        files.write_bytes(str(disk / "file"), content)
        assert (fail() / "file").read_bytes() == content
    for content in (b"first" * 20_000, b"second" * 20_000):
        with files.replacing_directory(str(disk / "folder")) as partial:
            os.mkdir(os.path.join(partial, "deep"))
            for name in ("a", "deep/b"):
                pathlib.Path(partial, name).write_bytes(content)
        after = fail() / "folder"
        assert (after / "a").read_bytes() == (after / "deep" / "b").read_bytes() == content


@pytest.mark.slow
def test_what_was_only_renamed_does_not_survive_one(power_failure):
    """Otherwise the test above could not fail."""
    disk, fail = power_failure
    with open(disk / ".file.partial", "wb") as file:
        file.write(b"content" * 20_000)
    os.replace(disk / ".file.partial", disk / "file")
    after = fail() / "file"
    assert not after.exists() or after.read_bytes() != b"content" * 20_000
    files.sync(str(disk))
    assert (fail() / "file").read_bytes() == b"content" * 20_000


@pytest.mark.slow
def test_no_kill_at_any_time_leaves_half_a_file(tmp_path):
    program = """
import itertools, sys
from layered_segmentation import files
print("begun", flush=True)
for number in itertools.count():
    files.write_text(sys.argv[1], f"{number}\\n" * 20_000)
"""
    path = tmp_path / "file.txt"
    for attempt in range(20):
        command = [sys.executable, "-c", program, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "begun\n"
            time.sleep(0.01 + 0.007 * attempt)
            kill(process)
        if path.exists():
            lines = path.read_text().splitlines()
            assert len(lines) == 20_000 and len(set(lines)) == 1
        assert {*os.listdir(tmp_path)} <= {"file.txt", ".file.partial.txt"}


def test_a_lock_keeps_another_process_out_until_it_is_killed(tmp_path, start, capsys):
    path = str(tmp_path / "lock")
    other = start("lock", path)
    with pytest.raises(UserError, match="another process writes to it; wait"):
        files.Lock(path, "another process writes to it; wait").__enter__()
    kill(other)
    lock = files.Lock(path, "taken")
    with lock, lock:  # the same lock may be entered again
        pass
    with lock:
        pass


def test_a_lock_may_wait_for_the_other_process(tmp_path, start, capsys):
    path = str(tmp_path / "lock")
    other = start("lock", path)
    waiter = subprocess.Popen(
        [sys.executable, "-c", "import sys; from layered_segmentation import files\n"
         "with files.Lock(sys.argv[1], 'busy; waiting', wait=True): print('mine')", path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiter.stderr.readline() == "busy; waiting\n"
    assert waiter.poll() is None
    kill(other)
    assert waiter.communicate(timeout=60)[0] == "mine\n"
