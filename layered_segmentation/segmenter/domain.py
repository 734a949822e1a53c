"""The domain of a segmenter: the photos that it learnt from, and how unlike them others are.

A photo and its mask become 24 numbers: the mask's shape and place, and colours and textures of
object and background. The numbers are transformed so that, on the training photos, each has mean 0
and variance 1 and none depends linearly on another. The mean over a set of other photos is then
near 0 if they are like the training photos. One photo can hardly be judged; ten can.

The statistics are a small file of the preset. They need NumPy only, so both runtimes use them.
"""

import dataclasses
import json
import os
from collections.abc import Sequence

import numpy as np

from layered_segmentation import files, images, records
from layered_segmentation.segmenter import preset_files

Arrays = Sequence[np.ndarray] | np.ndarray
PHOTOS = 2000  # of the training photos, from which the statistics are computed

_SIDE = 32  # at which photos and masks are described
_NUMBERS = 24  # of `describe`
_LEAST = 5 * _NUMBERS  # photos; of fewer, no statistics are computed
_CONSTANT = 1e-3  # standard deviation; a number that varies less in training is ignored
_MOST = 3.0  # standard deviations; so a single photo cannot decide about a set
_SHRINK = 0.02  # is added to the eigenvalues of the correlations, so that all are above 0
_DIGITS = 4  # significant digits of what is stored


def limit(photos: int) -> float:
    """Returns the squared distance from which so many photos are unlike the training photos.

    It was chosen on the packaged segmenters, of four kinds of objects. The constant term allows
    for the same kind of object in photos from another collection.
    """
    return 3 + 25 / photos + 20 / photos**2


def describe(photos: Arrays, masks: Arrays) -> np.ndarray:
    """Describes photos and their masks by numbers that do not depend on the photos' size.

    Args:
        photos: uint8 [H, W, 3] of any sizes.
        masks: Float [H, W] in [0, 1] each.

    Returns:
        Float64 [N, 24]. Areas and lengths as logarithms.
    """
    small = [images.to_square(np.asarray(photo), _SIDE) for photo in photos]
    found = [images.to_square(np.asarray(mask, np.float32), _SIDE) for mask in masks]
    rgb, mask = np.stack(small) / 255.0, np.clip(np.stack(found).astype(np.float64), 0, 1)
    parts = [*_shape(mask), *_place(mask)]
    red, green, blue = np.moveaxis(rgb, -1, 0)
    channels = (rgb.mean(axis=-1), red - green, blue - (red + green) / 2)
    texture = _laplacian(channels[0])
    for part in (mask, 1 - mask):
        moments = [_moments(channel, part) for channel in channels]
        parts += [mean for mean, _ in moments] + [deviation for _, deviation in moments]
        parts.append(_log(_moments(texture, part[:, 1:-1, 1:-1])[0]))
    return np.stack(parts, axis=1)


@dataclasses.dataclass(frozen=True)
class Domain:
    """Statistics of training photos, of D = 24 numbers each."""

    mean: np.ndarray  # [D]
    transform: np.ndarray  # [D, D], to uncorrelated coordinates of variance 1

    @classmethod
    def of_training(cls, photos: Arrays, masks: Arrays) -> "Domain | None":
        """Computes the statistics of training photos and the segmenter's own masks of them.

        Args:
            photos: As of `describe`.
            masks: As of `describe`.

        Returns:
            The statistics, or None if there are too few photos.
        """
        if len(photos) < _LEAST:
            return None
        numbers = describe(photos, masks)
        mean, deviation = numbers.mean(axis=0), numbers.std(axis=0)
        deviation[deviation < _CONSTANT] = np.inf
        scaled = (numbers - mean) / deviation
        values, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
        scales = np.sqrt(np.maximum(values, 0) + _SHRINK)
        return cls(mean, vectors / deviation[:, None] / scales)

    def coordinates(self, photos: Arrays, masks: Arrays) -> np.ndarray:
        """Returns where photos lie among those of training.

        Args:
            photos: As of `describe`.
            masks: The segmenter's masks of them, not refined; as of `describe`.

        Returns:
            Float64 [N, D] in [-3, 3]; on the training photos with mean 0 and variance about 1.
        """
        coordinates = (describe(photos, masks) - self.mean) @ self.transform
        clipped: np.ndarray = np.clip(coordinates, -_MOST, _MOST)
        return clipped

    def text(self) -> str:
        """Returns the statistics as JSON, rounded."""
        values = {
            "mean": [_rounded(value) for value in self.mean],
            "transform": [[_rounded(value) for value in row] for row in self.transform],
        }
        return json.dumps(values) + "\n"

    def save(self, preset: str) -> None:
        """Writes the statistics to a preset's directory and updates its checksums."""
        files.write_text(os.path.join(preset, preset_files.DOMAIN), self.text())
        preset_files.write_checksums(preset)


class Watch:
    """Collects photos while they are segmented, for a warning at the end.

    Args:
        domain: The segmenter's; with None, there never is a warning.
    """

    def __init__(self, domain: Domain | None = None):
        self._domain = domain
        self._total = np.zeros(_NUMBERS)
        self._photos = 0

    def __call__(self, photos: Arrays, masks: Arrays) -> None:
        """Adds photos with the segmenter's own masks of them, as of `Domain.coordinates`."""
        if self._domain is not None and len(photos):
            self._total += self._domain.coordinates(photos, masks).sum(axis=0)
            self._photos += len(photos)

    def distance(self) -> float:
        """Returns the squared distance of the photos' mean from that of the training photos.

        What so many training photos would have by chance is subtracted.
        """
        mean = self._total / max(1, self._photos)
        return float(mean @ mean) - _NUMBERS / max(1, self._photos)

    def warning(self) -> str:
        """Returns what to tell the user about the photos so far; empty if they are as expected."""
        if not self._photos or self.distance() <= limit(self._photos):
            return ""
        these = "This photo looks" if self._photos == 1 else f"These {self._photos:,} photos look"
        return f"{these} unlike the photos that this segmenter learnt from. Its masks may be wrong."


_SHAPE = {"mean": [records.is_number], "transform": [[records.is_number]]}


def of_segmenter(path: str) -> Domain | None:
    """Returns the statistics of a segmenter, or None if it has none.

    Args:
        path: As of `preset_files.find`, which must find it; TFLite files and segmenters from a hub
            have none.
    """
    is_preset = "://" not in path and not os.path.isfile(path)
    return load(preset_files.find(path)) if is_preset else None


def load(preset: str) -> Domain | None:
    """Returns the statistics of a local preset; None if it has none, or others than these."""
    values = records.read(os.path.join(preset, preset_files.DOMAIN), _SHAPE)
    if values is None or {len(row) for row in values["transform"]} != {_NUMBERS}:
        return None
    domain = Domain(np.array(values["mean"]), np.array(values["transform"]))
    is_right = domain.mean.shape == (_NUMBERS,) and domain.transform.shape == (_NUMBERS,) * 2
    return domain if is_right else None


def _shape(mask: np.ndarray) -> list[np.ndarray]:
    """Returns area, coverage of the frame's edge, certainty, compactness and edges of masks."""
    area = mask.mean(axis=(1, 2))
    frame = np.concatenate([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]], axis=1)
    across = np.abs(np.diff(mask, axis=2)).sum(axis=(1, 2)) / _SIDE
    along = np.abs(np.diff(mask, axis=1)).sum(axis=(1, 2)) / _SIDE
    return [
        _log(area),
        frame.mean(axis=1),
        _log(np.abs(2 * mask - 1).mean(axis=(1, 2))),
        np.log((across + along) ** 2 / (area + 0.004) + 0.1),
        np.log((across + 0.06) / (along + 0.06)),
        _log(((mask > 0.1) & (mask < 0.9)).mean(axis=(1, 2))),
    ]


def _place(mask: np.ndarray) -> list[np.ndarray]:
    """Returns centre and extent of masks along each side."""
    weights = mask + 1e-4
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    at = (np.arange(_SIDE) + 0.5) / _SIDE
    centres, extents = [], []
    for axis in (1, 2):
        profile = weights.sum(axis=axis)
        centre = profile @ at
        variance = (profile * (at - centre[:, None]) ** 2).sum(axis=1)
        centres.append(centre)
        extents.append(_log(np.sqrt(variance)))
    return centres + extents


def _moments(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation of images, [N, H, W], where their weights are."""
    weights = weights / (weights.sum(axis=(1, 2), keepdims=True) + 1e-3 * _SIDE)
    mean = (values * weights).sum(axis=(1, 2))
    variance = ((values - mean[:, None, None]) ** 2 * weights).sum(axis=(1, 2))
    return mean, np.sqrt(variance)


def _laplacian(grey: np.ndarray) -> np.ndarray:
    """Returns how much each pixel inside the frame differs from its four neighbours."""
    centre, left, right = grey[:, 1:-1, 1:-1], grey[:, 1:-1, :-2], grey[:, 1:-1, 2:]
    texture = 4 * centre - left - right - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1]
    strength: np.ndarray = np.abs(texture)
    return strength


def _log(values: np.ndarray) -> np.ndarray:
    logarithms: np.ndarray = np.log(values + 0.005)
    return logarithms


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
