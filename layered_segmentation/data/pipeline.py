"""From a source of photos to batches at a stage's resolution.

Photos are decoded once, at `crop_margin` times the resolution, and cached; a batch is then a
gather: permute, crop at random, mirror at random. Everything drawn here is a stateless function of
the seed and of an image's place in the run, so a run that stops after any image and starts again
meets the same batches (eq. 6's real images; the margin is the paper's, section 4).
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from layered_segmentation.config import DataConfig
from layered_segmentation.data import shapes
from layered_segmentation.data.folder import Folder
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

_COLUMN, _ROW, _MIRROR = 1, 2, 3  # streams of the stateless hash


class Source(Protocol):
    """Where photos come from: `folder.Folder`, `shapes.Shapes`.

    Attributes:
        name: For logs and reports.
        skipped: Names of the files that could not be used; filled by `load`.
    """

    name: str
    skipped: list[str]

    def __len__(self) -> int:
        """Returns how many photos there are; `load` may find some of them unusable."""
        ...

    def load(self, side: int) -> np.ndarray:
        """Returns the photos, uint8 [N, side, side, 3] RGB."""
        ...

    def inventory(self) -> list[str]:
        """Returns, after `load`, a line for each photo in use; none where the config says it."""
        ...


def open_source(config: DataConfig, seed: int) -> Source:
    """Opens the training photos that a config names.

    Args:
        config: The `data` section.
        seed: Seed of procedural scenes; photos do not depend on it.

    Raises:
        UserError: The path is missing or empty, or the kind of source is not available.
    """
    if config.name == "folder":
        return Folder(config.path, config.limit, config.aspect, config.crop_margin)
    if config.name == "shapes":
        return shapes.Shapes(seed, config.limit or shapes.DEFAULT_COUNT)
    raise UserError(
        f"data.name={config.name} is not available in this version; export the data set's images "
        "to a directory and use data.name=folder with data.path"
    )


class PhotoCache:
    """All photos of a run, decoded once at `crop_margin` times the final resolution.

    Attributes:
        images: uint8 [N, size, size, 3] RGB; any array-like, a memory map too.
        size: Side of the cached photos, `round(crop_margin * resolution)`.
        resolution: The run's final resolution.
        crop_margin: As in the config.
    """

    def __init__(self, images: np.ndarray, resolution: int, crop_margin: float = 1.125):
        """Wraps photos that are already at the cached size.

        Raises:
            ValueError: They are not.
        """
        self.images = images
        self.resolution = resolution
        self.crop_margin = crop_margin
        self.size = side_at(resolution, crop_margin)
        if images.shape[1:] != (self.size, self.size, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"expected uint8 [N, {self.size}, {self.size}, 3] for resolution={resolution}, "
                f"crop_margin={crop_margin}, got {images.dtype} {list(images.shape)}"
            )
        self._smaller: dict[int, np.ndarray] = {}

    @classmethod
    def open(cls, source: Source, resolution: int, crop_margin: float = 1.125) -> "PhotoCache":
        """Decodes all photos of a source."""
        return cls(source.load(side_at(resolution, crop_margin)), resolution, crop_margin)

    def __len__(self) -> int:
        """Returns how many photos there are."""
        return len(self.images)

    def at(self, resolution: int) -> np.ndarray:
        """Returns the photos for a stage, uint8 [N, s, s, 3], s = round(crop_margin * resolution).

        Smaller ones are averaged down from the cached size and kept.

        Raises:
            ValueError: `resolution` is larger than the run's.
        """
        if resolution == self.resolution:
            return self.images
        if resolution > self.resolution:
            raise ValueError(f"resolution={resolution} is larger than {self.resolution}")
        if resolution not in self._smaller:
            side = side_at(resolution, self.crop_margin)
            smaller = np.empty((len(self), side, side, 3), np.uint8)
            for index in range(len(self)):
                smaller[index] = cv2.resize(
                    self.images[index], (side, side), interpolation=cv2.INTER_AREA
                )
            self._smaller[resolution] = smaller
        return self._smaller[resolution]

    def crops(self, resolution: int, seed: int, mirror: bool) -> "Crops":
        """Returns the endless, seeded sequence of this cache's crops for a stage."""
        return Crops(self.at(resolution), resolution, seed, mirror)


class Crops:
    """The endless sequence of crops that a run trains on, addressed by image number.

    Image i of the run is the photo at place i % N of epoch i // N's permutation; its crop offset
    and whether it is mirrored are hashes of (seed, i).
    """

    def __init__(self, images: np.ndarray, resolution: int, seed: int, mirror: bool):
        """Wraps photos, uint8 [N, s, s, 3] with s >= resolution."""
        if len(images) == 0:
            raise ValueError("no images")
        if min(images.shape[1:3]) < resolution:
            raise ValueError(f"images {list(images.shape)} are smaller than {resolution}")
        self.images = images
        self.resolution = resolution
        self.seed = seed
        self.mirror = mirror

    def photos_at(self, first_image: int, count: int) -> np.ndarray:
        """Returns which photos images first_image … first_image + count - 1 are, int64 [count]."""
        numbers = np.arange(first_image, first_image + count)
        epochs, places = np.divmod(numbers, len(self.images))
        chosen = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            order = _permutation(self.seed, int(epoch), len(self.images))
            chosen[of_epoch] = order[places[of_epoch]]
        return chosen

    def batch_at(self, first_image: int, count: int) -> np.ndarray:
        """Returns images first_image … first_image + count - 1 of the run.

        Returns:
            float32 [count, resolution, resolution, 3] in [-1, 1].
        """
        photos = self.photos_at(first_image, count)
        numbers = np.arange(first_image, first_image + count, dtype=np.uint64)
        height, width = self.images.shape[1:3]
        top = _draw(self.seed, numbers, _ROW, height - self.resolution + 1)
        left = _draw(self.seed, numbers, _COLUMN, width - self.resolution + 1)
        steps = np.arange(self.resolution)
        rows = top[:, None] + steps
        columns = left[:, None] + steps
        if self.mirror:
            is_mirrored = _draw(self.seed, numbers, _MIRROR, 2) == 1
            columns = np.where(is_mirrored[:, None], columns[:, ::-1], columns)
        crops = self.images[photos[:, None, None], rows[:, :, None], columns[:, None, :]]
        return crops.astype(np.float32) / np.float32(127.5) - np.float32(1)


def batches(
    cache: PhotoCache,
    resolution: int,
    batch: int,
    mirror: bool,
    seed: int,
    first_image: int,
    count: int,
    replicas: int = 1,
    local_replicas: Sequence[int] | None = None,
) -> "tf.data.Dataset":
    """Wraps `Crops.batch_at` as a prefetched dataset of per-replica batches, in order.

    Global batch s begins at image first_image + s * batch and is dealt out as `replicas` elements
    of batch / replicas images each, replica 0 first, which is the order in which a
    `tf.distribute` strategy hands elements of a dataset to its replicas.

    Args:
        cache: The photos.
        resolution: The stage's resolution.
        batch: Images of a global batch.
        mirror: Whether to mirror at random.
        seed: Seed of order, crops and mirroring.
        first_image: Images seen before the first element.
        count: Images to deliver, a whole number of global batches.
        replicas: Replicas that share a global batch, on all workers.
        local_replicas: Those that this worker feeds; all of them if None.

    Returns:
        A finite dataset of float32 [batch / replicas, resolution, resolution, 3] in [-1, 1].

    Raises:
        ValueError: `batch` does not divide among the replicas, or `count` into batches.
    """
    import tensorflow as tf

    if batch < 1 or batch % replicas:
        raise ValueError(f"batch={batch} is not a multiple of replicas={replicas}")
    if count % batch:
        raise ValueError(f"count={count} is not a multiple of batch={batch}")
    crops = cache.crops(resolution, seed, mirror)
    share = batch // replicas
    local = range(replicas) if local_replicas is None else local_replicas
    offsets = tf.constant([replica * share for replica in local], tf.int64)

    def element(number: "tf.Tensor") -> "tf.Tensor":
        step, replica = number // len(local), number % len(local)
        first = first_image + step * batch + offsets[replica]
        images = tf.numpy_function(
            lambda start: crops.batch_at(int(start), share), [first], tf.float32
        )
        return tf.ensure_shape(images, [share, resolution, resolution, 3])

    numbers = tf.data.Dataset.range(count // batch * len(local))
    return numbers.map(element).prefetch(4 * len(local))


def side_at(resolution: int, crop_margin: float) -> int:
    """Returns the side at which photos are kept for a resolution, pixels."""
    return round(crop_margin * resolution)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def _draw(seed: int, numbers: np.ndarray, stream: int, choices: int) -> np.ndarray:
    """Returns a whole number in [0, choices) for each image number, int64, stateless."""
    start = _mix(np.array([seed], np.uint64) * np.uint64(8) + np.uint64(stream))
    bits = _mix(start ^ _mix(numbers)) >> np.uint64(32)
    return ((bits * np.uint64(choices)) >> np.uint64(32)).astype(np.int64)


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's output function (Steele et al. 2014) on uint64, elementwise; it wraps."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
