"""Unpacks zip and tar archives: completely or not at all, never outside of their directory.

Only regular files and directories are written. Links and devices are refused, since a link lets a
later member leave the directory whatever its own name is (CVE-2025-4517).
"""

import contextlib
import errno
import functools
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from layered_segmentation import files
from layered_segmentation.errors import UserError
from layered_segmentation.progress import Bar

_STAMP = ".unpacked.json"  # records the archive of the files next to it
_CHUNK = 1 << 22
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    OSError,
    RuntimeError,  # an encrypted member, an unknown method of compression
    ValueError,  # headers with impossible numbers
)
_ABOUT_THE_NEXT = (  # members that only describe the next one, by a long name, say
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_LONGEST_HEADER = 1 << 20  # bytes
_MOST_TIMES, _FEW_BYTES = 200, 1 << 26  # how much larger than the archive its files may be
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


class _Member(NamedTuple):
    """An entry of an archive."""

    name: str  # its path in the archive
    kind: str  # `directory`, `file`, or any other kind, such as `link`
    open: Callable[[], IO[bytes] | None]  # opens the content of a file


class _Header(tarfile.TarInfo):
    """A header of a tar, which tarfile reads whole: some kilobytes of gzip can be gigabytes."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _ABOUT_THE_NEXT and self.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def is_archive(path: str) -> bool:
    """Whether a file's name is that of an archive that `unpack` reads."""
    return path.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def fingerprint_of_archives(*archives: str) -> str:
    """Returns a text that depends on the archives' sizes: a second download has the same."""
    return "archives:" + ",".join(str(os.path.getsize(archive)) for archive in archives)


def fingerprints_differ(one: str, other: str) -> bool:
    """Returns whether two sources are known to differ; two kinds cannot be compared."""
    same_kind = one.partition(":")[0] == other.partition(":")[0]
    return bool(one and other and same_kind and one != other)


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
        size: Bytes of the published archive, if known.
        sha256: Its digest, if known.

    Returns:
        `directory`.

    Raises:
        UserError: The archive is damaged or not the published one; it holds a link or a device, a
            name that leads out of the directory, that is too long, or that occurs twice.
        OSError: The disk is full, or may not be written to.
    """
    stamp = _stamp(archive)
    if files.read_json(os.path.join(directory, _STAMP)) == stamp:
        return directory
    _require_published(archive, show_progress, size, sha256)
    files.remove(directory)
    unpack_members = _unzip if archive.lower().endswith(".zip") else _untar
    with files.replacing_directory(directory) as partial:
        unpack_members(archive, partial, show_progress)
        files.write_json(os.path.join(partial, _STAMP), stamp)
    return directory


def _require_published(archive: str, show_progress: bool, size: int, sha256: str) -> None:
    """Requires the published size, if it is known, and then the published digest."""
    found = os.path.getsize(archive)
    problem = ""
    if size and found != size:
        problem = f"it has {found:,} bytes, that one {size:,}"
    elif sha256:
        with Bar(found >> 20, f"checking {os.path.basename(archive)}", "MB", show_progress) as bar:
            digest = files.digest_of_files(archive, progress=_megabytes(bar))
        if digest != sha256:
            problem = f"its SHA-256 is {digest}, that of the other {sha256}"
    if problem:
        raise UserError(
            f"{archive}: is not the published archive, or was not downloaded to its end: {problem}"
            ". Download it again; to use an archive of your own, unpack it and name its directory"
        )


def _megabytes(bar: Bar) -> Callable[[int], None]:
    """Returns a function that counts bytes on a bar of megabytes."""
    done = 0

    def update(count: int) -> None:
        nonlocal done
        bar.update(((done + count) >> 20) - (done >> 20))
        done += count

    return update


def _bounded(
    archive: str, progress: Callable[[int], None] = lambda count: None
) -> Callable[[int], None]:
    """Returns a function that counts bytes and refuses too many: some kilobytes can fill a disk."""
    left = _FEW_BYTES + _MOST_TIMES * os.path.getsize(archive)

    def count(written: int) -> None:
        nonlocal left
        left -= written
        if left < 0:
            raise UserError(
                f"{archive}: its files are more than {_MOST_TIMES} times larger than itself; "
                "nothing was unpacked. It is not the published archive: download that"
            )
        progress(written)

    return count


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
        for info in members:  # before the first is written
            _require_safe(archive, info.filename, _kind_in_zip(info))
        total = sum(info.file_size for info in members)
        _bounded(archive)(total)
        free = shutil.disk_usage(directory).free
        if total > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory)
        with Bar(total >> 20, f"unpacking {os.path.basename(archive)}", "MB", show_progress) as bar:
            update = _bounded(archive, _megabytes(bar))
            for info in members:
                content = functools.partial(file.open, info)
                member = _Member(info.filename, _kind_in_zip(info), content)
                _write(archive, member, directory, update)


def _kind_in_zip(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16  # Unix's; 0 where the archive was made elsewhere
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "link" if stat.S_ISLNK(mode) else "device"
    return "directory" if info.filename.endswith("/") else "file"


def _untar(archive: str, directory: str, show_progress: bool) -> None:
    total = os.path.getsize(archive)
    with (
        _damage_is_an_error(archive),
        open(archive, "rb") as raw,
        tarfile.open(fileobj=raw, mode="r:*", tarinfo=_Header) as file,
        Bar(total >> 20, f"unpacking {os.path.basename(archive)}", "MB", show_progress) as bar,
    ):
        update, done = _megabytes(bar), 0
        count = _bounded(archive)
        for info in file:
            content = functools.partial(file.extractfile, info)
            member = _Member(info.name, _kind_in_tar(info), content)
            _require_safe(archive, member.name, member.kind)
            _write(archive, member, directory, count)
            update(raw.tell() - done)
            done = raw.tell()


def _kind_in_tar(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "directory"
    if info.issparse():  # a few bytes that stand for terabytes of zeros
        return "sparse file"
    if info.isreg():
        return "file"
    return "link" if info.issym() or info.islnk() else "device"


def _write(archive: str, member: _Member, directory: str, progress: Callable[[int], None]) -> None:
    """Writes a member below a directory."""
    path = os.path.join(directory, member.name)
    root = os.path.join(os.path.realpath(directory), "")
    if not os.path.join(os.path.realpath(path), "").startswith(root):
        raise _unsafe(archive, member.name, "leads out of the directory it is unpacked to")
    try:
        if member.kind == "directory":
            os.makedirs(path, exist_ok=True)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # Exclusive: neither a file nor a link of this name is written to.
        target = open(path, "xb")  # noqa: SIM115
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            raise _unsafe(archive, member.name, "occurs twice") from error
        if error.errno == errno.ENAMETOOLONG:
            raise _unsafe(archive, member.name, "is too long for this disk") from error
        raise
    source = member.open()
    assert source is not None
    with source, target:
        while chunk := source.read(_CHUNK):  # the end of a zip's member checks its CRC
            target.write(chunk)
            progress(len(chunk))


def _require_safe(archive: str, name: str, kind: str) -> None:
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise _unsafe(archive, name, "leads out of the directory it is unpacked to")
    if any(len(os.fsencode(part)) > files.LONGEST_NAME for part in parts):
        raise _unsafe(
            archive, name, f"has more than {files.LONGEST_NAME} bytes in a part of its path"
        )
    if kind not in ("file", "directory"):
        raise _unsafe(archive, name, f"is a {kind}, not a file or a directory")


def _unsafe(archive: str, name: str, reason: str) -> UserError:
    shown = name if len(name) <= 200 else f"{name[:200]}…"
    return UserError(
        f"{archive}: holds {shown!r}, which {reason}; nothing was unpacked. It is not the "
        "published archive: download that"
    )


@contextlib.contextmanager
def _damage_is_an_error(archive: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except _DAMAGED as error:
        # A system error other than gzip's has a number, and belongs to the disk.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{archive}: is damaged or was not downloaded to its end ({error}); download it again"
        ) from error
