"""TensorBoard's event files of a run: one writer, and nothing twice after a resume."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from layered_segmentation import files

_FRAME = 16  # bytes around a record of a TFRecord file: its length and two checksums


class Events:
    """Writes scalars and images for TensorBoard.

    TensorBoard reads the files of a directory one after the other and never goes back to an
    earlier one, so all of a process's callbacks share one writer and with it one file.

    Args:
        directory: Made with the first record.
    """

    def __init__(self, directory: str):
        self.directory = directory
        self._writer: Any = None

    def write_scalars(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Writes scalars by name, on disk when this returns."""
        with self._open().as_default(step=images_seen):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def write_image(self, images_seen: int, name: str, image: np.ndarray) -> None:
        """Writes a uint8 image [H, W, 3], on disk when this returns."""
        with self._open().as_default(step=images_seen):
            tf.summary.image(name, image[None])
        self._writer.flush()

    def truncate(self, images_seen: int) -> None:
        """Drops what was written after a checkpoint, so that a resumed run shows nothing twice.

        Call it before the first record. A TensorBoard that is open shows the dropped records until
        it is started again.

        Args:
            images_seen: Images seen at the checkpoint that training goes on from.
        """
        if not os.path.isdir(self.directory):
            return
        for name in sorted(os.listdir(self.directory)):
            if ".tfevents." in name:
                self._truncate(os.path.join(self.directory, name), images_seen)

    def _truncate(self, path: str, images_seen: int) -> None:
        with open(path, "rb") as file:
            content = file.read()
        kept, start = [], 0
        with contextlib.suppress(tf.errors.DataLossError):  # killed while it wrote the last record
            for record in tf.data.TFRecordDataset(path):
                event = record.numpy()
                end = start + len(event) + _FRAME
                if tf.compat.v1.Event.FromString(event).step <= images_seen:
                    kept.append(content[start:end])
                start = end
        remaining = b"".join(kept)
        if remaining != content:
            files.write_bytes(path, remaining)

    def _open(self) -> Any:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self.directory)
        return self._writer
