"""How well a TFLite file does what the Keras model does, and how fast; and what is allowed."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from layered_segmentation.data.source import Pair
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation.iou import iou

# Largest difference of a mask value for float files; for the others what the IoU may lose.
MOST_DIFFERENCE = {"none": 1e-4, "float16": 1e-2}
MOST_LOSS = 0.01

Run = Callable[[np.ndarray], np.ndarray]  # uint8 [1, S, S, 3] -> float [1, S, S, 1]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A file beside the Keras model, on the same images.

    Attributes:
        images: How many.
        largest: Largest difference of a mask value; inf for a NaN.
        mean: Mean absolute difference.
        agreement: mIoU of the file's masks with Keras's, both at 0.5.
        keras_miou: mIoU of Keras's masks with true ones; None without true ones.
        file_miou: Likewise of the file's.
    """

    images: int
    largest: float
    mean: float
    agreement: float
    keras_miou: float | None = None
    file_miou: float | None = None

    @property
    def loss(self) -> float:
        """What the IoU loses: against true masks, or else the distance of `agreement` from 1."""
        if self.keras_miou is None or self.file_miou is None:
            return 1.0 - self.agreement
        return self.keras_miou - self.file_miou


def measure(file: Run, keras: Run, images: Sequence[np.ndarray]) -> Agreement:
    """Compares masks at the network's own size.

    Args:
        file: The exported file.
        keras: The Keras model.
        images: uint8 [S, S, 3], at the network's input size.

    Raises:
        UserError: The shapes differ.
    """
    largest, means, ious = 0.0, [], []
    for image in images:
        ours, theirs = file(image[None]), keras(image[None])
        if ours.shape != theirs.shape:
            raise UserError(
                f"the exported model gives masks of shape {ours.shape}, Keras {theirs.shape}"
            )
        difference = np.abs(ours - theirs)
        highest = float(difference.max())
        largest = max(largest, highest if np.isfinite(highest) else float("inf"))
        means.append(float(difference.mean()))
        ious.append(iou(ours >= 0.5, theirs >= 0.5))
    return Agreement(len(images), largest, float(np.mean(means)), float(np.mean(ious)))


def with_truth(
    measured: Agreement, file: Run, keras: Run, pairs: Iterable[Pair], side: int
) -> Agreement:
    """Adds scores against true masks."""
    return dataclasses.replace(
        measured, keras_miou=score(keras, pairs, side), file_miou=score(file, pairs, side)
    )


def score(run: Run, pairs: Iterable[Pair], side: int) -> float:
    """Returns the mIoU of squashed photos' masks, by the protocol of `layerseg evaluate`."""
    from layered_segmentation.evaluation import scoring
    from layered_segmentation.export.quantize import squashed

    def predict(photos: list[np.ndarray]) -> list[np.ndarray]:
        return [run(squashed(photo, side)[None])[0, ..., 0] for photo in photos]

    return scoring.score(predict, pairs, references=False).miou


def require(measured: Agreement, mode: str) -> None:
    """Refuses a file that is over its mode's limit.

    Raises:
        UserError: It is.
    """
    most = MOST_DIFFERENCE.get(mode)
    if most is not None:
        if not measured.largest <= most:
            raise UserError(
                "the exported model's masks differ from the Keras model's by "
                f"{measured.largest:.2g} on {measured.images} images (at most {most:g} is allowed "
                f"for --quantize={mode}); nothing was written"
            )
    elif not (measured.loss <= MOST_LOSS and np.isfinite(measured.largest)):
        against = "the Keras model's masks" if measured.file_miou is None else "true masks"
        raise UserError(
            f"the file of --quantize={mode} loses {measured.loss:.4f} of the mIoU against "
            f"{against} (at most {MOST_LOSS:g} is allowed); nothing was written. Name photos like "
            "those to come with --images (and --masks, to compare with the truth), more of them "
            "with --representative_data, or take --quantize=float16"
        )


def latency(call: Callable[[], object], repeats: int = 50) -> tuple[float, float]:
    """Returns the median and the 90th percentile of a call's time, milliseconds."""
    for _ in range(5):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), float(np.percentile(times, 90))
