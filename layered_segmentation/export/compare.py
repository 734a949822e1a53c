"""Compares an exported model with the Keras model: masks, mIoU and speed.

Both exports run these checks before a file gets its final name.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from layered_segmentation import images as photos
from layered_segmentation.choices import Quantization
from layered_segmentation.data import folder
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.data.source import Pair
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import examples, scoring

# Limits on the difference of a mask value, and on the mIoU that the other modes may lose.
TOLERANCE = 1e-4
MAX_DIFFERENCE: dict[str, float] = {Quantization.none: TOLERANCE, Quantization.float16: 1e-2}
MAX_MIOU_LOSS = 0.01

_SCENES = 16  # of each size, where no photos are given
_SCENE_SIDES = (48, 64, 97)

Run = Callable[[np.ndarray], np.ndarray]  # uint8 [1, H, W, 3] -> float [1, h, w, 1]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How closely an exported model follows the Keras model."""

    images: int  # number of images compared
    difference: float  # largest difference of a mask value; inf if one is not finite
    mean_difference: float  # mean absolute difference
    agreement: float  # mIoU between the masks of the two models, both at 0.5
    keras_miou: float | None = None  # mIoU of the Keras model against true masks; None without them
    file_miou: float | None = None  # the same of the exported model

    @property
    def miou_loss(self) -> float:
        """MIoU lost against the true masks or, without them, against the Keras model's masks."""
        if self.keras_miou is None or self.file_miou is None:
            return 1.0 - self.agreement
        return self.keras_miou - self.file_miou


def images_to_compare(
    directory: str = "", limit: int = 32, flag: str = "--images"
) -> list[np.ndarray]:
    """Returns the images to compare on, uint8 [H, W, 3].

    Args:
        directory: Photos; procedural scenes of several sizes if empty.
        limit: Maximum number of photos, spread evenly over the directory.
        flag: The flag that named the directory.

    Raises:
        UserError: The directory is missing or contains no readable image.
    """
    if not directory:
        return [
            image
            for side in _SCENE_SIDES
            for image in Scenes(seed=0, count=_SCENES, split="test").load(side)
        ]
    paths = folder.find_photos(directory, flag)
    images = examples.read_spaced(directory, paths, limit)
    if not images:
        raise UserError(f"{flag}={directory}: holds no readable image")
    return images


def measure(exported: Run, keras: Run, images: Sequence[np.ndarray]) -> Comparison:
    """Compares the masks of an exported and a Keras model on images, uint8 [H, W, 3] each.

    Raises:
        UserError: The shapes of their masks differ.
    """
    largest, means, ious = 0.0, [], []
    for image in images:
        masks, expected = exported(image[None]), keras(image[None])
        if masks.shape != expected.shape:
            raise UserError(
                f"the exported model gives masks of shape {masks.shape}, Keras {expected.shape}"
            )
        largest = max(largest, largest_difference(masks, expected))
        means.append(float(np.abs(masks - expected).mean()))
        ious.append(scoring.iou(masks >= 0.5, expected >= 0.5))
    return Comparison(len(images), largest, float(np.mean(means)), float(np.mean(ious)))


def largest_difference(values: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest absolute difference of two arrays; inf if one is not finite."""
    difference = float(np.abs(values - expected).max())
    return difference if np.isfinite(difference) else float("inf")


def score(run: Run, pairs: Iterable[Pair], side: int) -> float:
    """Returns a model's mIoU on photos squashed to `side` pixels, its input, as by `evaluate`."""

    def predict(images: list[np.ndarray]) -> list[np.ndarray]:
        return [run(photos.to_square(image, side)[None])[0, ..., 0] for image in images]

    return scoring.score(predict, pairs, references=False).miou


def require_close(difference: float, images: int, mode: str = "") -> None:
    """Raises a UserError if masks differ too much from the Keras model's.

    Args:
        difference: Largest difference of a mask value.
        images: Number of images it was measured on.
        mode: A key of `MAX_DIFFERENCE`; empty for a SavedModel.
    """
    limit = MAX_DIFFERENCE[mode] if mode else TOLERANCE
    if not difference <= limit:
        scope = f" for --quantize={mode}" if mode else ""
        raise UserError(
            f"the exported model's masks differ from the Keras model's by {difference:.2g} on "
            f"{images} images (at most {limit:g} is allowed{scope}); nothing was written"
        )


def require_limits(measured: Comparison, mode: str) -> None:
    """Raises a UserError unless a TFLite file is within the limits of its mode of quantization."""
    if mode in MAX_DIFFERENCE:
        require_close(measured.difference, measured.images, mode)
    elif not (measured.miou_loss <= MAX_MIOU_LOSS and np.isfinite(measured.difference)):
        reference = "the Keras model's masks" if measured.file_miou is None else "true masks"
        raise UserError(
            f"the file of --quantize={mode} loses {measured.miou_loss:.4f} of the mIoU against "
            f"{reference} (at most {MAX_MIOU_LOSS:g} is allowed); nothing was written. Give "
            "--images (and --masks, to score against true masks) typical of what the model will "
            "see, give more of them with --representative_data, or use --quantize=float16"
        )


def latency(call: Callable[[], object]) -> tuple[float, float]:
    """Returns the median and the 90th percentile of a call's time, milliseconds."""
    for _ in range(5):  # not counted
        call()
    times = []
    for _ in range(50):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times)), float(np.percentile(times, 90))
