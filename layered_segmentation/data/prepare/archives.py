"""Unpacks zip and tar archives: completely or not at all, never outside of their directory."""

import contextlib
import errno
import os
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from layered_segmentation import files
from layered_segmentation.errors import UserError
from layered_segmentation.progress import Bar

_STAMP = ".unpacked.json"  # records the archive of the files next to it
_CHUNK = 1 << 22
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.ReadError,
    EOFError,
    zlib.error,
    OSError,
    RuntimeError,  # an encrypted member, an unknown method of compression
)


def is_archive(path: str) -> bool:
    """Whether a file's name is that of an archive that `unpack` reads."""
    return path.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def unpack(
    archive: str, directory: str, show_progress: bool = False, size: int = 0, sha256: str = ""
) -> str:
    """Unpacks an archive, or finds it unpacked.

    The leftovers of a stopped run are removed first. The directory gets its name when it is
    complete, and is reused as long as the archive's size and time stay the same.

    Args:
        archive: A zip or tar file, by its name.
        directory: Where to; a directory of this name from another archive is replaced.
        show_progress: Whether to show a bar.
        size: Bytes of the published archive, if known; another size is reported.
        sha256: Its digest, if known; an archive of that size with another digest is damaged.

    Returns:
        `directory`.

    Raises:
        UserError: The archive is damaged, or holds names that lead out of the directory.
        OSError: The disk is full, or may not be written to.
    """
    stamp = _stamp(archive)
    if files.read_json(os.path.join(directory, _STAMP)) == stamp:
        return directory
    _require_published(archive, size, sha256)
    files.remove(directory)
    with files.replacing_directory(directory) as partial:
        if archive.lower().endswith(".zip"):
            _unzip(archive, partial, show_progress)
        else:
            _untar(archive, partial, show_progress)
        files.write_json(os.path.join(partial, _STAMP), stamp)
    return directory


def _require_published(archive: str, size: int, sha256: str) -> None:
    found = os.path.getsize(archive)
    if size and found != size:
        print(
            f"{archive}: has {found:,} bytes, the published archive {size:,}: it is another, or "
            "was not downloaded to its end",
            file=sys.stderr,
        )
    elif sha256:
        digest = files.digest_of_files(archive)
        if digest != sha256:
            raise UserError(
                f"{archive}: is damaged: its SHA-256 is {digest}, that of the published archive "
                f"{sha256}; download it again"
            )


def _stamp(archive: str) -> dict[str, str | int]:
    status = os.stat(archive)
    return {
        "archive": os.path.basename(archive),
        "bytes": status.st_size,
        "modified": status.st_mtime_ns,
    }


def _unzip(archive: str, directory: str, show_progress: bool) -> None:
    with _damage_is_an_error(archive), zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            _require_inside(archive, member.filename)
        total = sum(member.file_size for member in members)
        free = shutil.disk_usage(directory).free
        if total > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory)
        with Bar(total >> 20, f"unpacking {os.path.basename(archive)}", "MB", show_progress) as bar:
            done = 0
            for member in members:
                path = os.path.join(directory, member.filename)
                if member.is_dir():
                    os.makedirs(path, exist_ok=True)
                    continue
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with file.open(member) as source, open(path, "wb") as target:
                    while chunk := source.read(_CHUNK):  # the end of it checks the CRC
                        target.write(chunk)
                        bar.update(((done + len(chunk)) >> 20) - (done >> 20))
                        done += len(chunk)


def _untar(archive: str, directory: str, show_progress: bool) -> None:
    total = os.path.getsize(archive)
    with (
        _damage_is_an_error(archive),
        open(archive, "rb") as raw,
        tarfile.open(fileobj=raw, mode="r:*") as file,
        Bar(total >> 20, f"unpacking {os.path.basename(archive)}", "MB", show_progress) as bar,
    ):
        done = 0
        for member in file:
            _require_inside(archive, member.name)
            # The filter refuses links that lead out, and devices.
            file.extract(member, directory, filter="data")
            bar.update((raw.tell() >> 20) - (done >> 20))
            done = raw.tell()


def _require_inside(archive: str, name: str) -> None:
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:", name):
        raise UserError(
            f"{archive}: holds {name!r}, which leads out of the directory it is unpacked to; "
            "nothing was unpacked. It is not the published archive: download that"
        )


@contextlib.contextmanager
def _damage_is_an_error(archive: str) -> Iterator[None]:
    try:
        yield
    except tarfile.FilterError as error:
        raise UserError(f"{archive}: is not unpacked, it is not safe: {error}") from error
    except _DAMAGED as error:
        # A system error other than gzip's has a number, and belongs to the disk.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{archive}: is damaged or was not downloaded to its end ({error}); download it again"
        ) from error
