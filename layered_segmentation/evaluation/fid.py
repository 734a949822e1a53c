"""Fréchet inception distance between generated composites and real images (table 3)."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import scipy.linalg

from layered_segmentation.errors import UserError
from layered_segmentation.evaluation.inception import Features

BATCH = 32  # images the feature network sees at once
PROTOCOL = "FID (Heusel et al. 2017) of uint8 images; composites unshifted; unbiased covariances. "


class Moments:
    """Mean and covariance of vectors that pass by in batches (Chan et al. 1979), in float64.

    Args:
        size: Length of a vector.

    Attributes:
        count: Vectors seen.
        mean: Float64 [size].
    """

    def __init__(self, size: int):
        self.count = 0
        self.mean = np.zeros(size)
        self._scatter = np.zeros((size, size))

    def update(self, vectors: np.ndarray) -> None:
        """Takes a batch, float [B, size].

        Raises:
            UserError: Some value is not finite.
        """
        vectors = np.asarray(vectors, np.float64)
        if not np.isfinite(vectors).all():
            raise UserError("the features of some image are not finite; is --inception damaged?")
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
    """A distance and what it is of.

    Attributes:
        value: The distance; smaller is better.
        images: Generated images.
        real_images: Real images.
        size: Length of a feature vector.
        features: Which features; only the same compare.
        seconds: Of all.
    """

    value: float
    images: int
    real_images: int
    size: int
    features: str
    seconds: float

    @property
    def warning(self) -> str:
        """What makes the figure doubtful, or an empty text."""
        least = min(self.images, self.real_images)
        if least > self.size:
            return ""
        return (
            f"{least:,} images for {self.size:,} features: the covariance is singular and FID "
            "biased upwards; take more images (the paper took 10,000)"
        )

    def to_results(self) -> dict[str, Any]:
        """Returns what goes into results.json."""
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
        real: Likewise; sizes may differ.
        progress: Called after each batch with the number of images in it.

    Raises:
        UserError: There are fewer than two images of a kind, or features are not finite.
    """
    started = time.perf_counter()
    ours = _moments(features, generated, "generated", progress)
    theirs = _moments(features, real, "real", progress)
    value = frechet_distance(ours.mean, ours.covariance, theirs.mean, theirs.covariance)
    return FID(
        value, ours.count, theirs.count, len(ours.mean), features.name,
        time.perf_counter() - started,
    )  # fmt: skip


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Returns the squared Fréchet distance of two Gaussians (Dowson and Landau 1982).

    |μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½). The trace of the root is taken from the eigenvalues of
    Σa^½ Σb Σa^½, which are those of Σa Σb, but real by construction, also where a covariance is
    singular; the root of the product itself, as other implementations take it, may have none that
    is finite or real, and takes three times as long.

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
    what: str,
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
        raise UserError(f"FID needs at least two {what} images, there are {count}; raise --count")
    return moments
