"""Atomic writes, locks and fingerprints: the only module that renames into place or locks.

A file or directory gets its final name only when it is complete and on the disk, so that neither a
killed process nor a power failure leaves half of it under that name.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import filelock

from layered_segmentation.errors import UserError

_IS_WINDOWS = os.name == "nt"
LONGEST_NAME = 255  # bytes, on all common file systems
_LEFTOVER = re.compile(r"\.(?P<stem>.+)\.(partial|replaced)(?P<suffix>\.[^.]*)?")
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of a directory, on some network disks
_WAITS = (0.02, 0.1, 0.4, 1.5)  # seconds
_PART = 1 << 22  # bytes that are read at once
_SMALL, _SAMPLE = 1 << 16, 1 << 14  # bytes of a file that is hashed whole, and of each part
_MANY_FILES = 100  # from here on one sync of all disks is faster than one of each file


def partial_path(path: str) -> str:
    """Returns the name of `path` while it is written: hidden, same directory, same suffix."""
    folder, name = os.path.split(os.path.normpath(path))
    stem, suffix = os.path.splitext(name)
    partial = f".{stem}.partial{suffix}"
    if len(os.fsencode(partial)) > LONGEST_NAME:
        partial = f".{digest(name)[:32]}.partial{suffix}"
    return os.path.join(folder, partial)


def final_name(name: str) -> str:
    """Returns the final name of a leftover of a killed process; other names are returned as is."""
    match = _LEFTOVER.fullmatch(name)
    return f"{match['stem']}{match['suffix'] or ''}" if match else name


@contextlib.contextmanager
def replacing(path: str, durable: bool = True) -> Iterator[str]:
    """Writes a file: whole, or not at all.

    Args:
        path: The file; an existing one is replaced.
        durable: Whether to wait until the file is on the disk. If not, many small files are
            written ten times faster, but a power failure may leave empty ones; call `sync` at the
            end.

    Yields:
        The path to write to. It gets its final name when the block ends without an error.
    """
    partial = partial_path(path)
    try:
        yield partial
        if durable:
            _sync_file(partial)
        _rename(partial, path)
        if durable:
            _sync_directory(os.path.dirname(path))
    except BaseException as error:
        _name_place(error, partial, path)
        remove(partial)
        raise


def write_bytes(path: str, content: bytes, durable: bool = True) -> None:
    """Writes a file as `replacing` does."""
    with replacing(path, durable) as partial, open(partial, "wb") as file:
        file.write(content)


def write_text(path: str, text: str) -> None:
    """Writes a UTF-8 file with the line ends of `text`, as `replacing` does.

    Bytes of file names that are not UTF-8 become escapes, which JSON reads back.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str, content: Any, **options: Any) -> None:
    """Writes JSON values as `replacing` does, indented by 2; options as of `json.dumps`."""
    write_text(path, json.dumps(content, **({"indent": 2} | options)) + "\n")


def read_json(path: str) -> Any:
    """Returns the content of a JSON file, or None if there is no file or it is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


@contextlib.contextmanager
def replacing_directory(path: str, overwrite: bool = True) -> Iterator[str]:
    """Writes a directory: whole, or not at all.

    An existing directory stays until the new one is complete. What a killed process left is removed
    or put back first.

    Args:
        path: The directory.
        overwrite: Whether an existing directory is replaced; if not, it is an `OSError`.

    Yields:
        An empty directory to write to. It gets its final name when the block ends without an error.
    """
    path = os.path.normpath(path)
    partial = partial_path(path)
    restore_replaced(path)
    remove(partial)
    os.makedirs(partial)
    try:
        yield partial
        sync(partial)
        with setting_aside(path) if overwrite else contextlib.nullcontext():
            os.rename(partial, path)
            _sync_directory(os.path.dirname(path))
    except BaseException as error:
        _name_place(error, partial, path)
        remove(partial)
        raise


@contextlib.contextmanager
def setting_aside(path: str) -> Iterator[None]:
    """Renames `path` for the block; removes it afterwards, or puts it back on an error."""
    restore_replaced(path)
    aside = _aside(path)
    move(path, aside)
    try:
        yield
    except BaseException:
        if os.path.lexists(aside):
            remove(path)
            _rename(aside, path)
        raise
    remove(aside)


@contextlib.contextmanager
def undoing(*paths: str) -> Iterator[None]:
    """Removes what the block wrote if it fails, so that the same command can be run again.

    Args:
        *paths: Files and directories; those that exist before the block stay.
    """
    new = [path for path in paths if not os.path.lexists(path)]
    try:
        yield
    except BaseException:
        for path in new:
            remove(path)
        raise


def restore_replaced(path: str) -> None:
    """Puts `path` back if a process was killed while it replaced it; removes leftovers."""
    aside = _aside(path)
    if os.path.lexists(path):
        remove(aside)
    move(aside, path)


def move(path: str, target: str) -> None:
    """Renames a file or directory, if it exists and nothing has the new name."""
    if os.path.lexists(path) and not os.path.lexists(target):
        os.rename(path, target)


def require_empty_or(path: str, marker: str, kind: str) -> None:
    """Refuses a directory to write to that holds something else.

    Args:
        path: The value of `--out`; it need not exist.
        marker: A file that only directories of the same kind have.
        kind: What the directory is without it, for the message.

    Raises:
        UserError: It is a file, or neither empty nor of that kind.
    """
    require_directory(path)
    if os.path.isdir(path) and os.listdir(path) and not os.path.exists(marker):
        raise UserError(
            f"--out={path}: the directory is not empty and {kind} (it contains "
            f"{sorted(os.listdir(path))[0]!r}); name an empty or a new one"
        )


def require_directory(path: str, flag: str = "--out") -> None:
    """Raises a UserError if a file has the name of a directory to write to."""
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{flag}={path}: a file has this name; name a directory")


def remove(path: str) -> None:
    """Removes a file, a link or a directory with its content, if it exists."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.remove(path)


def sync(*paths: str) -> None:
    """Waits until files, or directories with all their files, are on the disk."""
    walked = [part for path in paths for part in os.walk(path, topdown=False)]
    names = [os.path.join(folder, file) for folder, _, found in walked for file in found]
    names += [path for path in paths if not os.path.isdir(path)]
    if len(names) > _MANY_FILES and hasattr(os, "sync"):
        os.sync()
        return
    for name in names:
        if not os.path.islink(name):
            _sync_file(name)
    for folder, _, _ in walked:
        _sync_directory(folder)


class Lock:
    """Keeps other processes out of a `with` block; freed even if the process is killed.

    The same object may be entered again inside its block.

    Args:
        path: The lock file, in an existing directory; it stays there.
        message: What the other process does, and what the user can do.
        wait: Whether to print the message and wait for the other process, instead of an error.
    """

    def __init__(self, path: str, message: str, wait: bool = False):
        self._lock = filelock.FileLock(path)
        self._message = message
        self._wait = wait

    def __enter__(self) -> "Lock":
        """Takes the lock.

        Raises:
            UserError: Another process holds it, and `wait` is off.
        """
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            if not self._wait:
                raise UserError(self._message) from None
            print(self._message, file=sys.stderr, flush=True)
            self._lock.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        """Frees the lock."""
        self._lock.release()


def digest(content: str | bytes) -> str:
    """Returns the SHA-256 of a text or of bytes, 64 hexadecimal digits."""
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")
    return hashlib.sha256(content).hexdigest()


def digest_of_files(*paths: str, progress: Callable[[int], None] | None = None) -> str:
    """Returns the SHA-256 of files one after the other, 64 hexadecimal digits.

    Args:
        *paths: The files.
        progress: Called with the bytes of each part that was read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while part := file.read(_PART):
                digest.update(part)
                if progress is not None:
                    progress(len(part))
    return digest.hexdigest()


def digest_of_parts(path: str) -> str:
    """Returns 16 hexadecimal digits that change with a file's content.

    Of a large file only the size, the beginning, the middle and the end are read, which differ
    between two photos.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _SMALL:
            return digest(file.read())[:16]
        parts = [str(size).encode()]
        for start in (0, (size - _SAMPLE) // 2, size - _SAMPLE):
            file.seek(start)
            parts.append(file.read(_SAMPLE))
    return digest(b"".join(parts))[:16]


def fingerprint(directory: str, names: Iterable[str]) -> str:
    """Returns a text that changes when files are added, removed, renamed or written again.

    Args:
        directory: Directory of the files.
        names: Paths relative to it, in order; they need not exist.
    """
    lines = []
    for name in names:
        try:
            status = os.stat(os.path.join(directory, name))
            about = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            about = "absent"
        lines.append(f"{name!r} {about}\n")
    return f"files:{digest(''.join(lines))}"


def _rename(source: str, target: str) -> None:
    """Renames over what is there; Windows refuses while another program reads it, for a moment."""
    for wait in _WAITS if _IS_WINDOWS else ():
        with contextlib.suppress(PermissionError):
            return os.replace(source, target)
        time.sleep(wait)
    os.replace(source, target)


def _aside(path: str) -> str:
    folder, name = os.path.split(os.path.normpath(path))
    return os.path.join(folder, f".{name}.replaced")


def _name_place(error: BaseException, partial: str, path: str) -> None:
    """Sets the file of an error that names none, as when the disk is full, or the partial one."""
    if not isinstance(error, OSError):
        return
    if error.filename is None or str(error.filename).startswith(partial):
        error.filename = path


def _sync_file(path: str) -> None:
    # Windows flushes only files that are open for writing.
    file = os.open(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sync_directory(path: str) -> None:
    if _IS_WINDOWS:  # directories cannot be opened there
        return
    directory = os.open(path or os.curdir, os.O_RDONLY)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(directory)
