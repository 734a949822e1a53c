"""Photos of one side in a `.npy` file, read part by part."""

import os
import threading
from typing import Any

import numpy as np

from layered_segmentation.errors import UserError


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
