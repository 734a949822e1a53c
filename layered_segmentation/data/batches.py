"""Batches of real images at a stage's resolution (x in eq. 6), from a source of photos.

Photos are decoded once, to `crop_margin` times the resolution of each stage (the paper's section
4), and cached. A batch then permutes, crops at random and mirrors at random. All draws are
stateless functions of the seed and of an image's number in the run, so a run that stops after any
image and is resumed gets the same batches.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from layered_segmentation import stopping
from layered_segmentation.data.cache import Squares, open_cache
from layered_segmentation.data.source import Source
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

_COLUMN, _ROW, _MIRROR = 1, 2, 3  # streams of the stateless hash


class PhotoCache:
    """All photos of a run, at `crop_margin` times the resolution of each of its stages.

    Attributes:
        images: By resolution: uint8 [N, s, s, 3] RGB, s = round(crop_margin * resolution), in
            memory or on disk.
        crop_margin: As in the config.
        failure: The error that ended a dataset of `batches`, or None.
    """

    def __init__(self, images: Mapping[int, Squares], crop_margin: float = 1.125):
        """Wraps photos that are already at the cached sizes.

        Raises:
            ValueError: They are not, or there is not the same number of each.
        """
        self.images = dict(images)
        self.crop_margin = crop_margin
        self.failure: UserError | None = None
        for resolution, array in images.items():
            side = side_at(resolution, crop_margin)
            if array.shape != (len(self), side, side, 3) or array.dtype != np.uint8:
                raise ValueError(
                    f"expected uint8 [{len(self)}, {side}, {side}, 3] for resolution={resolution}, "
                    f"crop_margin={crop_margin}, got {array.dtype} {list(array.shape)}"
                )

    @classmethod
    def open(
        cls,
        source: Source,
        resolutions: Sequence[int],
        crop_margin: float = 1.125,
        memory: int | None = None,
        directory: str = "",
    ) -> "PhotoCache":
        """Decodes all photos of a source once, or finds them on disk; see `cache.open_cache`.

        Args:
            source: The photos.
            resolutions: Of the stages.
            crop_margin: As in the config.
            memory: Bytes that may be held in memory; None is no limit.
            directory: Where caches on disk lie.

        Raises:
            UserError: Photos cannot be used, or the disk is full.
        """
        sides = {resolution: side_at(resolution, crop_margin) for resolution in resolutions}
        arrays = open_cache(source, list(sides.values()), memory, directory)
        return cls({resolution: arrays[side] for resolution, side in sides.items()}, crop_margin)

    def __len__(self) -> int:
        """Returns how many photos there are."""
        return len(next(iter(self.images.values())))

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Raises what ended a dataset of `batches`, not TensorFlow's report of it.

        Raises:
            UserError: Photos on disk cannot be read any more.
        """
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError:
            if self.failure is None:
                raise
            stopping.note_pipeline()  # its destructor would wait for photos that never come
            raise self.failure from None

    def crops(self, resolution: int, seed: int, mirror: bool) -> "Crops":
        """Returns the endless, seeded sequence of this cache's crops for a stage.

        Raises:
            ValueError: There is no such stage.
        """
        if resolution not in self.images:
            raise ValueError(f"resolution={resolution} is not one of {sorted(self.images)}")
        return Crops(self.images[resolution], resolution, seed, mirror)


class Crops:
    """The endless sequence of crops that a run trains on, addressed by image number.

    Image i of the run is the photo at position i % N of the permutation of epoch i // N. Its crop
    offset and whether it is mirrored are hashes of (seed, i).
    """

    def __init__(self, images: Squares, resolution: int, seed: int, mirror: bool):
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
        """Returns the photos of images first_image … first_image + count - 1, int64 [count]."""
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
        is_mirrored = (_draw(self.seed, numbers, _MIRROR, 2) == 1) & self.mirror
        side = self.resolution
        batch = np.empty((count, side, side, 3), np.float32)
        # One slice per image: of photos on disk it reads only these rows.
        for crop, photo, y, x, flip in zip(batch, photos, top, left, is_mirrored, strict=True):
            window = self.images[photo, y : y + side, x : x + side]
            crop[:] = window[:, ::-1] if flip else window
        batch /= np.float32(127.5)
        batch -= np.float32(1)
        return batch


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

    Global batch s begins at image first_image + s * batch. It becomes `replicas` elements of
    batch / replicas images each, replica 0 first, the order in which a `tf.distribute` strategy
    passes the elements of a dataset to its replicas.

    Args:
        cache: The photos.
        resolution: The stage's resolution.
        batch: Images of a global batch.
        mirror: Whether to mirror at random.
        seed: Seed of order, crops and mirroring.
        first_image: Images seen before the first element.
        count: Images to deliver, a whole number of global batches.
        replicas: Replicas that divide a global batch, on all workers.
        local_replicas: The replicas of this worker; all of them if None.

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

    def read(start: int) -> np.ndarray:
        try:
            return crops.batch_at(int(start), share)
        except UserError as error:
            cache.failure = error
            raise

    def element(number: "tf.Tensor") -> "tf.Tensor":
        step, replica = number // len(local), number % len(local)
        first = first_image + step * batch + offsets[replica]
        images = tf.numpy_function(read, [first], tf.float32)
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
    return np.asarray(values ^ (values >> np.uint64(31)))
