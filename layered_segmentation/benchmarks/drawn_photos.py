"""A TensorFlow Datasets builder that draws its photos: to measure reading without a download."""

import io
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from layered_segmentation.data.prepare.builder import Entries, Photo, PhotoBuilder

NAME = "drawn_photos"

_SIDES = (256, 341)  # as LSUN's: the shorter side is 256
_BYTES = 30_000  # of a file, about
_OCTAVES = (4, 8, 16, 32, 64, 128)  # cells across the frame


class DrawnPhotos(PhotoBuilder, skip_registration=True):  # type: ignore[call-arg]
    """`drawn_photos`: the feature `image`, JPEG files of 256 × 341 pixels, and the split `train`.

    What is drawn has the spectrum of photos, and so about their cost to decode and their bytes.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012

    def __init__(self, *, count: int, **options: Any):
        """Describes the dataset; draws nothing.

        Args:
            count: How many photos.
            **options: As for `PhotoBuilder`.
        """
        self._count = count
        super().__init__(source=NAME, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self._photo_info({"image": Photo()}, description="Drawn photos.")

    def fingerprint(self, source: str) -> str:
        """Returns how many are drawn."""
        del source
        return f"drawn:{self._count}"

    def _open(self, source: str, unpacked: str) -> dict[str, Entries]:
        del source, unpacked
        return {"train": Entries(self._count, self._count * _BYTES, range, _example)}


def draw(number: int) -> bytes:
    """Draws a photo, a pure function of its number; returns the bytes of a JPEG file."""
    random = np.random.Generator(np.random.Philox(key=number))
    height, width = _SIDES
    image = np.zeros((height, width, 3), np.float32)
    for cells in _OCTAVES:
        coarse = random.standard_normal((cells, cells, 3), np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / cells**0.7
    levels = np.clip(127.5 + 120 * image, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="JPEG", quality=90)
    return file.getvalue()


def _example(number: int) -> dict[str, Any]:
    return {"image": draw(number)}
