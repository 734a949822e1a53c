"""Scores masks against the truth: IoU per image, mean and spread, and reference methods."""

import csv
import dataclasses
import io
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from layered_segmentation import files
from layered_segmentation.data.source import Pair
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import baselines
from layered_segmentation.evaluation.baselines import DEFAULT_GRABCUT, GrabCutSettings
from layered_segmentation.segmenter import pipeline, sanity
from layered_segmentation.segmenter.refine import refine as refine_mask

REFERENCES = ("full_mask", "centre_box", "grabcut")
OTHER_SCENE = "other_scene"  # for generated masks only, see `generated.score`
THRESHOLD = 0.5
_ADVICE = "look at the sheet: the photos may be unlike those of training, or training has failed"
_LEAST = 0.005  # share of the pixels: a mask that covers less is as good as empty
PROTOCOL = (
    "Predictions resized bilinearly to the image's own size, refined there if asked for, threshold "
    f"{THRESHOLD}; IoU per image over the pixels that are not ignored, 1 where prediction and "
    "truth are both empty; mean and standard deviation (of the population) over images. "
)
OBJECTS_PROTOCOL = (
    f"objects: the masks of the layers, unrefined, threshold {THRESHOLD}, each against what is "
    "visible of one object; mean IoU over the objects that are visible, in the best matching. "
)
SPLIT_PROTOCOL = (
    "detected: images whose true mask is not empty; all: every image, including those with an "
    "empty true mask. "
)

Predict = Callable[[list[np.ndarray]], Sequence[np.ndarray]]
PredictPairs = Callable[[list[Pair]], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Row:
    """The IoUs of one image with its true mask; None for a reference that was not requested."""

    name: str  # name of the image
    iou: float  # IoU of the prediction
    full_mask: float | None = None  # IoU of a mask of every pixel
    centre_box: float | None = None  # IoU of a centred box
    grabcut: float | None = None  # IoU of GrabCut
    found: bool = True  # whether the true mask has any pixel
    other_scene: float | None = None  # IoU of the prediction with the true mask of another scene
    covered: float | None = None  # share of the pixels that the prediction covers
    inverted: float | None = None  # IoU of the inverted prediction
    objects: float | None = None  # mean IoU of the objects, of `object_iou`
    # The prediction at a small side, for `sanity.of_masks`.
    small: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of one method on one set of images."""

    rows: list[Row]  # one per image, in the order of the pairs
    seconds: float  # total time: reading, prediction, refinement, references
    predict_seconds: float  # time of prediction and refinement alone
    refine: str
    grabcut: GrabCutSettings = DEFAULT_GRABCUT

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
        """Mean IoU of each reference; empty if none was requested."""
        return {name: float(np.mean(values)) for name, values in self._reference_ious().items()}

    @property
    def references_std(self) -> dict[str, float]:
        """Standard deviation of each reference's IoU over images."""
        return {name: float(np.std(values)) for name, values in self._reference_ious().items()}

    @property
    def detected(self) -> "Scores":
        """The scores of the images whose true mask is not empty; there may be none."""
        return dataclasses.replace(self, rows=[row for row in self.rows if row.found])

    @property
    def objects(self) -> dict[str, float]:
        """Mean and standard deviation of the objects' IoU over images; empty if not scored."""
        ious = [row.objects for row in self.rows if row.objects is not None]
        return {"miou": float(np.mean(ious)), "miou_std": float(np.std(ious))} if ious else {}

    def ranked(self) -> list[int]:
        """Returns the images' indices from the lowest IoU to the highest."""
        return sorted(range(self.images), key=lambda index: (self.rows[index].iou, index))

    def summary(self) -> dict[str, Any]:
        """Returns means, standard deviations and the number of images; None without images."""
        return {
            "miou": self.miou if self.rows else None,
            "miou_std": self.miou_std if self.rows else None,
            "images": self.images,
            "references": self.references,
            "references_std": self.references_std,
        }

    def reference_lines(self) -> list[str]:
        """Returns the scores of the references as lines of text."""
        std = self.references_std
        return [f"  {name} {m:.3f} ± {std[name]:.3f}" for name, m in self.references.items()]

    def lines(self, split: bool = False) -> list[str]:
        """Returns the scores as lines of text; `split` as for `to_results`."""
        seconds = self.predict_seconds / self.images
        lines = [
            f"mIoU {self.miou:.3f} ± {self.miou_std:.3f} over {self.images} photos "
            f"(refine: {self.refine}, {1 / seconds:,.1f} images/s)",
            *self.reference_lines(),
        ]
        if objects := self.objects:
            lines.append(f"objects: mIoU {objects['miou']:.3f} ± {objects['miou_std']:.3f}")
        found = self.detected
        if split or found.images < self.images:
            means = f"mIoU {found.miou:.3f} ± {found.miou_std:.3f} " if found.images else ""
            lines.append(f"detected: {means}over {found.images} photos in which something is found")
            lines += found.reference_lines()
        return lines

    def verdict(self) -> list[str]:
        """Returns lines that compare the masks with the references, and name masks that are wrong.

        A difference counts from two standard errors of its mean over images.
        """
        lines = []
        own = np.array([row.iou for row in self.rows])
        for name, values in self._reference_ious().items():
            difference = own - np.array(values)
            mean, error = float(difference.mean()), float(difference.std() / len(own) ** 0.5)
            word = "no better or worse than"
            if abs(mean) > 2 * error:
                word = "better than" if mean > 0 else "worse than"
            lines.append(f"{word} {name}: {mean:+.3f} ± {error:.3f}")
        covered = [row.covered for row in self.rows if row.covered is not None]
        constant = sum(not _LEAST < share < 1 - _LEAST for share in covered)
        if constant > len(covered) / 2:
            lines.append(
                f"warning: {constant} of {len(covered)} masks are empty or cover everything; the "
                "photos may be unlike those of training"
            )
        else:
            masks = [row.small for row in self.rows if row.small is not None]
            lines += [f"warning: {line}" for line in sanity.of_masks(masks, _ADVICE)]
        inverted = [row.inverted for row in self.rows if row.inverted is not None]
        if inverted and np.mean(inverted) > self.miou:
            lines.append(
                f"warning: inverted, the masks would score {np.mean(inverted):.3f}: they may show "
                "the background, or the true masks may be inverted"
            )
        return lines

    def to_results(self, split: bool = False) -> dict[str, Any]:
        """Returns the contents of results.json.

        Args:
            split: Whether to report `detected` and `all` separately, as in table 2. They always
                are if a true mask is empty.
        """
        split = split or not all(row.found for row in self.rows)
        references = [_reference_protocol(name, self.grabcut) for name in self.references]
        parts = {"detected": self.detected.summary(), "all": self.summary()} if split else {}
        if objects := self.objects:
            parts["objects"] = objects
            references.append(OBJECTS_PROTOCOL)
        return {
            **self.summary(),
            **parts,
            "refine": self.refine,
            "seconds": round(self.seconds, 3),
            "predict_seconds_per_image": round(self.predict_seconds / self.images, 6),
            "protocol": PROTOCOL + (SPLIT_PROTOCOL if split else "") + "".join(references),
            "verdict": self.verdict(),
        }

    def write_csv(self, path: str) -> None:
        """Writes one line per image."""
        names = [field.name for field in dataclasses.fields(Row)]
        names = [name for name in names if name not in ("covered", "inverted", "small")]
        for name in (OTHER_SCENE, "objects"):
            if all(getattr(row, name) is None for row in self.rows):
                names.remove(name)
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(names)
        for row in self.rows:
            values = [getattr(row, name) for name in names]
            writer.writerow(
                f"{value:.6f}" if isinstance(value, float) else value for value in values
            )
        files.write_text(path, text.getvalue())

    def _reference_ious(self) -> dict[str, list[float]]:
        """Returns the IoUs of each reference that was requested; none without images."""
        names = (*REFERENCES, OTHER_SCENE)
        columns = {name: [getattr(row, name) for row in self.rows] for name in names}
        return {name: ious for name, ious in columns.items() if ious and None not in ious}


def iou(prediction: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Returns the intersection over union of two binary masks, in [0, 1].

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].
        ignore: bool [H, W], true on pixels that are left out; None leaves out none.

    Returns:
        |prediction ∩ truth| / |prediction ∪ truth| over the remaining pixels; 1 if both are empty,
        because they agree.

    Raises:
        ValueError: The masks are not boolean, or differ in shape.
    """
    for mask in (prediction, truth) if ignore is None else (prediction, truth, ignore):
        if mask.dtype != bool or mask.shape != prediction.shape:
            raise ValueError(
                f"expected bool {list(prediction.shape)}, got {mask.dtype} {list(mask.shape)}"
            )
    intersection, union = prediction & truth, prediction | truth
    if ignore is not None:
        intersection, union = intersection & ~ignore, union & ~ignore
    total = np.count_nonzero(union)
    return np.count_nonzero(intersection) / total if total else 1.0


def object_iou(pair: Pair, masks: np.ndarray) -> float | None:
    """Returns the mean IoU of a photo's objects in the best matching of masks to objects.

    Args:
        pair: The photo. Objects of which nothing is visible are left out.
        masks: Float [h, w, K] in [0, 1], of the photo's size or smaller.

    Returns:
        The mean over the objects, an object without a mask counting as 0. None if the objects' true
        masks are unknown, or there is only one mask or no visible object.
    """
    if pair.objects is None or masks.ndim != 3 or masks.shape[-1] == 1:
        return None
    truths = [truth for truth in pair.objects if truth.any()]
    if not truths:
        return None
    found = [binary(pair.image, masks[..., k]) for k in range(masks.shape[-1])]
    ious = np.array([[iou(mask, truth) for mask in found] for truth in truths])
    best = linear_sum_assignment(ious, maximize=True)
    return float(ious[best].sum() / len(truths))


def score(predict: Predict, pairs: Iterable[Pair], **options: Any) -> Scores:
    """Scores a segmenter on photos with true masks.

    Args:
        predict: Maps photos, uint8 [H, W, 3] of any sizes, to as many masks, float in [0, 1],
            each [h, w] of its photo's size or smaller, or [h, w, K] of a segmenter of K masks.
        pairs: Photos and masks.
        **options: As for `score_pairs`, which also describes the exceptions.
    """

    def predict_pairs(chunk: list[Pair]) -> Sequence[np.ndarray]:
        return predict([pair.image for pair in chunk])

    return score_pairs(predict_pairs, pairs, **options)


def score_pairs(
    predict: PredictPairs,
    pairs: Iterable[Pair],
    refine: str = "none",
    references: bool | Sequence[str] = True,
    batch: int = 16,
    progress: Callable[[int], Any] | None = None,
    grabcut: GrabCutSettings = DEFAULT_GRABCUT,
) -> Scores:
    """Scores a method on photos with true masks, a batch of photos at a time.

    Args:
        predict: Maps pairs, so that it may look masks up by name, to as many masks, float in
            [0, 1], each [h, w] of its photo's size or smaller, or [h, w, K].
        pairs: Photos and masks; read once, in order, one batch in memory at a time, of few photos
            if they are large.
        refine: A method of `segmenter.refine`.
        references: Which of `REFERENCES` to score too; True for all, False for none.
        batch: Photos per call of `predict`.
        progress: Called after each batch with the number of photos in it.
        grabcut: Settings of the GrabCut reference.

    Raises:
        UserError: There are no pairs.
        ValueError: `predict` returns another number of masks than it was given photos.
    """
    started = time.perf_counter()
    predict_seconds = 0.0
    rows: list[Row] = []
    wanted = (REFERENCES if references else ()) if isinstance(references, bool) else references
    sized = ((pair, pair.mask.size) for pair in pairs)
    for chunk, _ in pipeline.batches(sized, batch, pipeline.PIXELS):
        before = time.perf_counter()
        masks = list(predict(chunk))
        if len(masks) != len(chunk):
            raise ValueError(f"{len(masks)} masks for {len(chunk)} photos")
        each = [object_iou(pair, mask) for pair, mask in zip(chunk, masks, strict=True)]
        masks = [binary(pair.image, mask, refine) for pair, mask in zip(chunk, masks, strict=True)]
        predict_seconds += time.perf_counter() - before
        rows += [
            dataclasses.replace(_row(pair, mask, wanted, grabcut), objects=objects)
            for pair, mask, objects in zip(chunk, masks, each, strict=True)
        ]
        if progress is not None:
            progress(len(chunk))
    if not rows:
        raise UserError("there is nothing to score: no photo with a mask")
    return Scores(rows, time.perf_counter() - started, predict_seconds, refine, grabcut)


def binary(image: np.ndarray, mask: np.ndarray, refine: str = "none") -> np.ndarray:
    """Resizes a predicted mask to its photo's size, refines it there and thresholds it.

    Args:
        image: uint8 [H, W, 3].
        mask: float [h, w] in [0, 1], or [h, w, K], of which the union is taken.
        refine: A method of `segmenter.refine`.

    Returns:
        bool [H, W].
    """
    height, width = image.shape[:2]
    mask = combined(mask)
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return refine_mask(image, mask, refine) >= THRESHOLD


def combined(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, float [h, w], or the union of K visible parts, [h, w, K] -> [h, w]."""
    mask = np.asarray(mask, np.float32)
    if mask.ndim == 3:
        mask = mask[..., 0] if mask.shape[-1] == 1 else np.minimum(mask.sum(axis=-1), 1.0)
    return mask


def _row(pair: Pair, mask: np.ndarray, references: Sequence[str], grabcut: GrabCutSettings) -> Row:
    height, width = pair.mask.shape
    masks: dict[str, Callable[[], np.ndarray]] = {
        "full_mask": lambda: baselines.full_mask(height, width),
        "centre_box": lambda: baselines.centre_box(height, width),
        "grabcut": lambda: baselines.grabcut(pair.image, grabcut),
    }
    scored = {name: iou(masks[name](), pair.mask, pair.ignore) for name in references}
    counted = pair.mask if pair.ignore is None else pair.mask & ~pair.ignore
    return Row(
        pair.name,
        iou(mask, pair.mask, pair.ignore),
        **scored,
        found=bool(counted.any()),
        covered=float(mask.mean()),
        inverted=iou(~mask, pair.mask, pair.ignore),
        small=sanity.small(mask),
    )


def _reference_protocol(name: str, grabcut: GrabCutSettings) -> str:
    return {
        "full_mask": baselines.FULL_MASK_PROTOCOL,
        "centre_box": baselines.CENTRE_BOX_PROTOCOL,
        "grabcut": grabcut.protocol,
        OTHER_SCENE: "other_scene: the mask against the detection in another scene, which is the "
        "score of masks that do not depend on their scene. ",
    }[name]
