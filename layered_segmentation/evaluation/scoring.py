"""Scores masks against the truth: IoU per image, mean and spread, beside what costs nothing."""

import csv
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from layered_segmentation.data.photos import Pair
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import baselines
from layered_segmentation.evaluation.iou import iou
from layered_segmentation.evaluation.refine import refine as refine_mask

REFERENCES = ("full_mask", "centre_box", "grabcut")
THRESHOLD = 0.5
PROTOCOL = (
    "Predictions resized bilinearly to the photo's own size, refined there if asked for, threshold "
    f"{THRESHOLD}; IoU per image over the pixels that are not ignored, 1 where prediction and "
    "truth are both empty; mean and standard deviation (of the population) over images. "
)

Predict = Callable[[list[np.ndarray]], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One image's IoUs; those of the references are None where they were not asked for."""

    name: str
    iou: float
    full_mask: float | None = None
    centre_box: float | None = None
    grabcut: float | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of one method on one set of images.

    Attributes:
        rows: One an image, in the order of the pairs.
        seconds: All of it: reading, predicting, refining, references.
        predict_seconds: Predicting and refining only.
        refine: The refinement that was applied.
    """

    rows: list[Row]
    seconds: float
    predict_seconds: float
    refine: str

    @property
    def images(self) -> int:
        """How many images were scored."""
        return len(self.rows)

    @property
    def miou(self) -> float:
        """Mean IoU over images."""
        return float(np.mean([row.iou for row in self.rows]))

    @property
    def miou_std(self) -> float:
        """Standard deviation of IoU over images."""
        return float(np.std([row.iou for row in self.rows]))

    @property
    def references(self) -> dict[str, float]:
        """Mean IoU of each reference; empty if none was asked for."""
        means = {}
        for name in REFERENCES:
            values = [getattr(row, name) for row in self.rows]
            if None not in values:
                means[name] = float(np.mean(values))
        return means

    def ranked(self) -> list[int]:
        """Returns the images' indices from the lowest IoU to the highest."""
        return sorted(range(self.images), key=lambda index: (self.rows[index].iou, index))

    def to_results(self) -> dict[str, Any]:
        """Returns what goes into results.json."""
        return {
            "miou": self.miou,
            "miou_std": self.miou_std,
            "images": self.images,
            "references": self.references,
            "refine": self.refine,
            "seconds": round(self.seconds, 3),
            "predict_seconds_per_image": round(self.predict_seconds / self.images, 6),
            "protocol": PROTOCOL + (baselines.PROTOCOL if self.references else ""),
        }

    def write_csv(self, path: str) -> None:
        """Writes one line an image, beside `path` first, then renamed."""
        partial = f"{path}.partial"
        names = [field.name for field in dataclasses.fields(Row)]
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            for row in self.rows:
                values = dataclasses.astuple(row)
                writer.writerow(
                    f"{value:.6f}" if isinstance(value, float) else value for value in values
                )
        os.replace(partial, path)


def score(
    predict: Predict,
    pairs: Iterable[Pair],
    refine: str = "none",
    references: bool = True,
    batch: int = 16,
    progress: Callable[[int], Any] | None = None,
) -> Scores:
    """Scores a segmenter on photos with true masks, a batch of photos at a time.

    Args:
        predict: Takes photos, uint8 [H, W, 3] of any sizes; returns as many masks, float in
            [0, 1], each [h, w] of its photo's size or smaller.
        pairs: Photos and masks; read once, in order, never held all at once.
        refine: `none`, `guided` or `grabcut`, at each photo's own size.
        references: Whether to score full mask, centre box and GrabCut too.
        batch: Photos a call of `predict`.
        progress: Called after each batch with the number of photos in it.

    Raises:
        UserError: There is no pair.
        ValueError: `predict` returns another number of masks.
    """
    started = time.perf_counter()
    predict_seconds = 0.0
    rows: list[Row] = []
    remaining = iter(pairs)
    while chunk := list(itertools.islice(remaining, batch)):
        before = time.perf_counter()
        images = [pair.image for pair in chunk]
        masks = list(predict(images))
        if len(masks) != len(chunk):
            raise ValueError(f"{len(masks)} masks for {len(chunk)} photos")
        masks = [binary(image, mask, refine) for image, mask in zip(images, masks, strict=True)]
        predict_seconds += time.perf_counter() - before
        rows += [_row(pair, mask, references) for pair, mask in zip(chunk, masks, strict=True)]
        if progress is not None:
            progress(len(chunk))
    if not rows:
        raise UserError("there is nothing to score: no photo with a mask")
    return Scores(rows, time.perf_counter() - started, predict_seconds, refine)


def binary(image: np.ndarray, mask: np.ndarray, refine: str = "none") -> np.ndarray:
    """Brings a predicted mask to its photo's size, refines it there and thresholds it.

    Args:
        image: uint8 [H, W, 3].
        mask: float [h, w] or [h, w, 1] in [0, 1].
        refine: A method of `evaluation.refine`.

    Returns:
        bool [H, W].
    """
    height, width = image.shape[:2]
    mask = np.asarray(mask, np.float32)
    mask = mask[..., 0] if mask.ndim == 3 else mask
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return refine_mask(image, mask, refine) >= THRESHOLD


def _row(pair: Pair, mask: np.ndarray, references: bool) -> Row:
    own = iou(mask, pair.mask, pair.ignore)
    if not references:
        return Row(pair.name, own)
    height, width = pair.mask.shape
    return Row(
        pair.name,
        own,
        full_mask=iou(baselines.full_mask(height, width), pair.mask, pair.ignore),
        centre_box=iou(baselines.centre_box(height, width), pair.mask, pair.ignore),
        grabcut=iou(baselines.grabcut(pair.image), pair.mask, pair.ignore),
    )
