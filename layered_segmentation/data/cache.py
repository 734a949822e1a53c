"""Photos at every stage's size, resized once: in memory where they fit, else on disk.

On disk, a cache is a directory with one `.npy` file per side and a record of its
inputs. Its name is a hash of the inputs, and it gets it only when it is complete. Runs that train
on the same photos at the same sides may share it.
"""

import contextlib
import errno
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from layered_segmentation import files, records, versions
from layered_segmentation.data.source import Source
from layered_segmentation.errors import UserError

RECORD = "cache.json"

_FORMAT = 1  # increment when the same source gives other squares
_VERSIONS = ("pillow", "numpy", "opencv-contrib-python-headless")  # that squares depend on
_RECORD = {
    "fingerprint": records.is_text,
    "count": records.is_count,
    "bytes": records.table(records.is_count),
    "skipped": [records.is_text],
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoredSquares:
    """A file of photos that is read like an array, uint8 [N, side, side, 3], and never written.

    Not a memory map: to read beyond the end of a mapped file that was truncated since kills the
    process (SIGBUS). Here it is an error.

    Attributes:
        shape: N, side, side, 3.
        dtype: uint8.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: str):
        """Opens a file; it stays open, so that it can be renamed or deleted.

        Raises:
            OSError: It cannot be opened.
            ValueError: It is not such a file.
        """
        self._path = path
        self._lock = threading.Lock()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  as long as this object
        np.lib.format.read_magic(self._file)
        self.shape, _, dtype = np.lib.format.read_array_header_1_0(self._file)
        self._start = self._file.tell()
        if dtype != self.dtype or len(self.shape) != 4:
            raise ValueError(f"{path}: holds {dtype} {list(self.shape)}, no photos")

    def __len__(self) -> int:
        """Returns N."""
        return int(self.shape[0])

    def __getitem__(self, key: tuple[Any, slice, slice]) -> np.ndarray:
        """Reads a window of a photo: `squares[photo, top:bottom, left:right]`.

        Raises:
            UserError: The file was truncated, or cannot be read.
        """
        photo, rows, columns = key
        top, bottom, _ = rows.indices(self.shape[1])
        part = self._read(int(photo) * self.shape[1] + top, bottom - top)
        return part[:, columns]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all photos."""
        everything = self._read(0, self.shape[0] * self.shape[1]).reshape(self.shape)
        return everything.astype(dtype or self.dtype, copy=False)

    def _read(self, first: int, count: int) -> np.ndarray:
        """Reads rows, counted over all photos, uint8 [count, side, 3]."""
        rows = np.empty((count, *self.shape[2:]), np.uint8)
        view, width = rows.reshape(-1).data, self.shape[2] * self.shape[3]
        problem = "was truncated"
        with self._lock:
            try:
                self._file.seek(self._start + first * width)
                done = 0
                while done < len(view) and (more := self._file.readinto(view[done:])):
                    done += more
            except OSError as error:
                done, problem = -1, f"cannot be read ({error.strerror})"
        if done != len(view):
            raise UserError(
                f"{self._path}: {problem} while it was in use; run the same command again to "
                f"decode the photos again, or remove {os.path.dirname(self._path)} first"
            )
        return rows


Squares = np.ndarray | StoredSquares  # uint8 [N, side, side, 3], in memory or on disk


def open_cache(
    source: Source, sides: Sequence[int], memory: int | None = None, directory: str = ""
) -> Mapping[int, Squares]:
    """Returns all photos at all sides; each photo is decoded once at most.

    Args:
        source: The photos. Afterwards its `skipped` is known, also if nothing was decoded.
        sides: Of the squares, pixels.
        memory: Bytes that may be held in memory; None is no limit.
        directory: Where caches on disk lie, if they take more than `memory`.

    Returns:
        By side: uint8 [N, side, side, 3], the same N for all.

    Raises:
        UserError: Photos cannot be used, or the disk is full or not writable.
    """
    sides = sorted(set(sides))
    if memory is None or bytes_of(len(source), sides) <= memory:
        return _in_memory(source, sides)
    return _on_disk(source, sides, directory)


def bytes_of(count: int, sides: Sequence[int]) -> int:
    """Returns the bytes of `count` photos at all sides."""
    return count * sum(3 * side * side for side in sides)


def _in_memory(source: Source, sides: Sequence[int]) -> dict[int, np.ndarray]:
    arrays = [np.empty((len(source), side, side, 3), np.uint8) for side in sides]
    count = 0
    for squares in source.squares(sides):
        for array, square in zip(arrays, squares, strict=True):
            array[count] = square
        count += 1
    return {side: array[:count] for side, array in zip(sides, arrays, strict=True)}


def _on_disk(source: Source, sides: Sequence[int], directory: str) -> dict[int, StoredSquares]:
    made_from = [
        f"format {_FORMAT}",
        f"sides {list(sides)}",
        *(f"{package} {versions.of(package)}" for package in _VERSIONS),
        *source.identity(),
    ]
    fingerprint = files.digest("\n".join(made_from))
    path = os.path.join(directory, fingerprint[:16])
    with _refusals_named(directory, bytes_of(len(source), sides)):
        os.makedirs(directory, exist_ok=True)
        waiting = f"{path}: another process is writing it; waiting"
        with files.Lock(f"{path}.lock", waiting, wait=True):
            record = _read_record(path, fingerprint)
            if record is None:
                record = _build(source, sides, path, fingerprint)
    source.skipped = record["skipped"]
    print(f"photos at {', '.join(map(str, sides))} px: {path}", flush=True)
    return {side: StoredSquares(_file(path, side)) for side in sides}


def _build(source: Source, sides: Sequence[int], path: str, fingerprint: str) -> dict[str, Any]:
    """Writes a cache; returns its record."""
    files.remove(path)  # damaged
    with files.replacing_directory(path) as partial:
        needed, free = bytes_of(len(source), sides), shutil.disk_usage(partial).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free")
        with contextlib.ExitStack() as stack:
            rows = [stack.enter_context(_Rows(_file(partial, side), side)) for side in sides]
            for squares in source.squares(sides):
                for file, square in zip(rows, squares, strict=True):
                    file.append(square)
        record = {
            "fingerprint": fingerprint,
            "count": rows[0].count,
            "sides": list(sides),
            "bytes": {str(side): os.path.getsize(_file(partial, side)) for side in sides},
            "skipped": source.skipped,
        }
        files.write_json(os.path.join(partial, RECORD), record)
    return record


class _Rows:
    """Writes a `.npy` file image by image; a context, after which it is complete."""

    def __init__(self, path: str, side: int):
        self.count = 0
        self._side = side
        self._file = open(path, "wb")  # noqa: SIM115  this object is the context
        self._write_header()

    def append(self, image: np.ndarray) -> None:
        """Adds a uint8 [side, side, 3]."""
        self._file.write(np.ascontiguousarray(image).data)
        self.count += 1

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with contextlib.closing(self._file):
            if kind is None:
                self._file.seek(0)
                self._write_header()  # as long as before: NumPy leaves room for the count

    def _write_header(self) -> None:
        shape = (self.count, self._side, self._side, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


def _read_record(path: str, fingerprint: str) -> dict[str, Any] | None:
    """Returns a complete cache's record; None where there is none, or a damaged one."""
    if not os.path.isdir(path):
        return None
    record: dict[str, Any] | None = records.read(os.path.join(path, RECORD), _RECORD)
    with contextlib.suppress(OSError, ValueError):
        if record is not None and record["fingerprint"] == fingerprint:
            stored = {int(side): size for side, size in record["bytes"].items()}
            sizes = {side: os.path.getsize(_file(path, side)) for side in stored}
            shapes = {side: StoredSquares(_file(path, side)).shape for side in stored}
            whole = {side: (record["count"], side, side, 3) for side in stored}
            if (sizes, shapes) == (stored, whole):
                return record
    print(f"{path}: damaged; the photos are decoded again", file=sys.stderr)
    return None


@contextlib.contextmanager
def _refusals_named(directory: str, needed: int) -> Iterator[None]:
    """Turns errors of the file system into one that names the setting."""
    try:
        yield
    except OSError as error:
        name = f"data.cache_dir={directory}"
        if error.errno in _FULL:
            raise UserError(
                f"{name}: no space left on the disk: the resized photos take "
                f"{needed / 1e6:,.0f} MB ({error.strerror}); free some, name a directory on "
                f"another disk with --set=data.cache_dir=, or keep them in memory with "
                f"--set=data.cache_memory={-(-needed // 1_000_000)}"
            ) from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or (
            error.errno == errno.EROFS
        ):
            raise UserError(
                f"{name}: the resized photos cannot be written there ({error.strerror}); name "
                "another directory with --set=data.cache_dir="
            ) from error
        raise


def _file(path: str, side: int) -> str:
    return os.path.join(path, f"{side:04d}.npy")
