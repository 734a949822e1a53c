"""Real images as a run's discriminator sees them, for FID."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from layered_segmentation import sheets
from layered_segmentation.config import Config
from layered_segmentation.data import batches as pipeline
from layered_segmentation.data import folder

PROTOCOL = (
    "Real images: each photo once, prepared and cropped at random as for training, at the run's "
    "resolution. "
)


class RealImages:
    """Photos of a run or of a directory, each once, prepared as for training.

    Args:
        config: The run's config.
        count: How many at most; the first so many photos.
        directory: Of other photos; empty for the run's own.

    Raises:
        UserError: There are no usable photos.
    """

    def __init__(self, config: Config, count: int, directory: str = ""):
        data = config.data
        if directory:
            folder.find_images(directory, "--images", excluded=[folder.MASKS])
            data = dataclasses.replace(data, name="folder", path=directory, limit=0)
        limit = min(data.limit, count) if data.limit else count
        source = pipeline.open_source(dataclasses.replace(data, limit=limit), config.train.seed)
        cache = pipeline.PhotoCache.open(source, [config.gan.resolution], data.crop_margin)
        self._crops = cache.crops(config.gan.resolution, config.train.seed, data.mirror)

    def __len__(self) -> int:
        """Returns how many there are, unreadable ones left out."""
        return len(self._crops.images)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yields them once, uint8 [size or fewer, R, R, 3]."""
        for first in range(0, len(self), size):
            count = min(size, len(self) - first)
            yield sheets.to_uint8(self._crops.batch_at(first, count))
