"""Fréchet inception distance between generated composites and real images (table 3)."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import scipy.linalg

from layered_segmentation import sheets
from layered_segmentation.choices import SourceName
from layered_segmentation.config import Config
from layered_segmentation.data import batches as pipeline
from layered_segmentation.data import folder
from layered_segmentation.data.source import open_source
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation.inception import Features

BATCH = 32  # images per call of the feature network
PROTOCOL = (
    "FID (Heusel et al. 2017) of uint8 images; composites unshifted; unbiased covariances. "
    "Real images: each photo once, prepared and cropped at random as for training, at the run's "
    "resolution. "
)


class RealImages:
    """The photos of a run or of a directory, each once, prepared as for training.

    Args:
        config: The run's config.
        count: How many photos to use at most; the first so many.
        directory: Directory of other photos; empty for the run's own.

    Raises:
        UserError: There are no usable photos.
    """

    def __init__(self, config: Config, count: int, directory: str = ""):
        data = config.data
        if directory:
            folder.find_photos(directory, "--images")
            data = dataclasses.replace(data, name=SourceName.folder, path=directory, limit=0)
        limit = min(data.limit, count) if data.limit else count
        source = open_source(dataclasses.replace(data, limit=limit), config.train.seed)
        cache = pipeline.PhotoCache.open(source, [config.gan.resolution], data.crop_margin)
        self._crops = cache.crops(config.gan.resolution, config.train.seed, data.mirror)

    def __len__(self) -> int:
        """Returns the number of photos, without unreadable ones."""
        return len(self._crops.images)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yields each photo once, in batches of uint8 [size or fewer, R, R, 3]."""
        for first in range(0, len(self), size):
            count = min(size, len(self) - first)
            yield sheets.to_uint8(self._crops.batch_at(first, count))


class Moments:
    """Mean and covariance of vectors that arrive in batches (Chan et al. 1979), in float64.

    Args:
        size: Length of a vector.

    Attributes:
        count: Vectors so far.
        mean: Float64 [size].
    """

    def __init__(self, size: int):
        self.count = 0
        self.mean = np.zeros(size)
        self._scatter = np.zeros((size, size))

    def update(self, vectors: np.ndarray) -> None:
        """Adds a batch, float [B, size].

        Raises:
            UserError: A value is not finite.
        """
        vectors = np.asarray(vectors, np.float64)
        if not np.isfinite(vectors).all():
            raise UserError("the features of an image are not finite; is --inception damaged?")
        batch = len(vectors)
        centre = vectors.mean(axis=0)
        deviations = vectors - centre
        offset = centre - self.mean
        total = self.count + batch
        self._scatter += deviations.T @ deviations
        self._scatter += np.outer(offset, offset) * (self.count * batch / total)
        self.mean += offset * (batch / total)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance, float64 [size, size]; of at least two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two vectors, not {self.count}")
        return self._scatter / (self.count - 1)


@dataclasses.dataclass(frozen=True)
class FID:
    """A Fréchet inception distance."""

    value: float  # the distance; smaller is better
    images: int  # number of generated images
    real_images: int  # number of real images
    size: int  # length of a feature vector
    features: str  # name of the features; only distances with the same name are comparable
    seconds: float  # time it took

    @property
    def warning(self) -> str:
        """Why the distance is unreliable, or an empty string."""
        least = min(self.images, self.real_images)
        if least > self.size:
            return ""
        return (
            f"{least:,} images for {self.size:,} features: the covariance is singular and FID is "
            "biased upwards; use more images (the paper uses 10,000)"
        )

    def to_results(self) -> dict[str, Any]:
        """Returns the contents of results.json."""
        return {
            "measure": "fid",
            "fid": self.value,
            "images": self.images,
            "real_images": self.real_images,
            "features": self.features,
            "feature_size": self.size,
            "warning": self.warning,
            "seconds": round(self.seconds, 3),
        }


def measure(
    features: Features,
    generated: Iterable[np.ndarray],
    real: Iterable[np.ndarray],
    progress: Callable[[int], Any] | None = None,
) -> FID:
    """Measures the distance, a batch of images in memory at a time.

    Args:
        features: The feature network.
        generated: Batches of uint8 [B, H, W, 3].
        real: The same for real images; their size may differ.
        progress: Called after each batch with the number of images in it.

    Raises:
        UserError: There are fewer than two generated or real images, or features are not finite.
    """
    started = time.perf_counter()
    a = _moments(features, generated, "generated", progress)
    b = _moments(features, real, "real", progress)
    value = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    seconds = time.perf_counter() - started
    return FID(value, a.count, b.count, len(a.mean), features.name, seconds)


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Returns the squared Fréchet distance of two Gaussians (Dowson and Landau 1982).

    |μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½). The trace of the root is computed from the eigenvalues
    of Σa^½ Σb Σa^½. They equal those of Σa Σb but are real by construction, even if a covariance is
    singular. The root of Σa Σb, which other implementations compute, may not be finite or real
    then, and takes three times as long.

    Args:
        mean_a: Float [D].
        covariance_a: Float [D, D], symmetric.
        mean_b: Float [D].
        covariance_b: Float [D, D], symmetric.
    """
    values, vectors = scipy.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    products = scipy.linalg.eigvalsh(root @ covariance_b @ root)
    trace = np.trace(covariance_a) + np.trace(covariance_b)
    trace -= 2 * np.sqrt(np.maximum(products, 0)).sum()  # rounding leaves some just below 0
    offset = mean_a - mean_b
    return float(offset @ offset + trace)


def _moments(
    features: Features,
    batches: Iterable[np.ndarray],
    kind: str,
    progress: Callable[[int], Any] | None,
) -> Moments:
    moments: Moments | None = None
    for images in batches:
        vectors = features(images)
        if moments is None:
            moments = Moments(vectors.shape[1])
        moments.update(vectors)
        if progress is not None:
            progress(len(images))
    count = 0 if moments is None else moments.count
    if moments is None or count < 2:
        raise UserError(f"FID needs at least two {kind} images, there are {count}; raise --count")
    return moments
