"""Lets Keras make weight files in memory: HDF5 crashes the process where the disk is full."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

from keras.src.saving import saving_lib

from layered_segmentation import files


class _Store(saving_lib.H5IOStore):
    """An HDF5 file that is made in memory and written to its path when it is closed."""

    def __init__(self, path: Any, archive: Any = None, mode: str = "r"):
        self._path = None
        if mode == "w" and archive is None and isinstance(path, str | os.PathLike):
            self._path, path = os.fspath(path), io.BytesIO()
        super().__init__(path, archive=archive, mode=mode)

    def close(self) -> None:
        super().close()
        if self._path is not None:
            files.write_bytes(self._path, self.path_or_io.getvalue())
            self._path = None


@contextlib.contextmanager
def weights_in_memory() -> Iterator[None]:
    """Lets `save_weights` raise an OSError in the block where the disk is full."""
    with mock.patch.object(saving_lib, "H5IOStore", _Store):
        yield
