"""The quality of a run without true masks: what its generator draws, and what its student finds.

A measure alone can be deceived: masks that are the same everywhere agree perfectly. Each is
therefore given next to its value for two different scenes or photos, and the margin counts.
"""

import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from layered_segmentation import files, images, records
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import scoring
from layered_segmentation.segmenter import sanity, self_training

if TYPE_CHECKING:
    from layered_segmentation.run_directory import RunDirectory

COUNT = 256  # scenes, and photos
FILE = "quality.json"
_SEED = 4242  # of the scenes; no training draws them
_ADVICE = (
    "look at the generated scenes in report.html: if their masks are right, raise student.steps, "
    "else train the GAN again with another train.seed or gan.mask_size"
)
_OFFSET = 4  # two crops of a photo are 1 / _OFFSET of the side apart


@dataclasses.dataclass(frozen=True)
class Quality:
    """How well masks fit together, each a mean in [0, 1]."""

    coverage: float  # generated masks
    edge: float  # generated masks at the edge of the frame
    alike: float  # IoU of two generated masks after the shift that makes them most alike
    agreement: float  # IoU of the student's masks of generated composites with the generated masks
    other_scene: float  # the same with the mask of another scene
    stability: float  # IoU of the student's masks of two crops of a photo, where they overlap
    other_photo: float  # the same for crops of two photos
    photo_coverage: float  # the student's masks of photos

    @property
    def margins(self) -> tuple[float, float]:
        """Agreement and stability beyond those of two different scenes or photos."""
        return self.agreement - self.other_scene, self.stability - self.other_photo

    @property
    def score(self) -> float:
        """Ranks runs on the same photos, higher is better.

        It is the mean of the two margins, less what masks cover of the frame's edge.
        """
        return sum(self.margins) / 2 - self.edge

    def lines(self) -> list[tuple[str, str]]:
        """Returns (name, value) pairs for people."""
        return [
            ("Score without true masks", f"{self.score:.2f}"),
            (
                "Student's agreement with generated masks",
                f"{self.agreement:.2f}, with another scene's {self.other_scene:.2f}",
            ),
            (
                "Student's stability on shifted images",
                f"{self.stability:.2f}, of two images {self.other_photo:.2f}",
            ),
        ]


def measure(generator: Any, segmenter: Any, photos: np.ndarray, shift: float) -> Quality:
    """Measures a generator and its student.

    Args:
        generator: The averaged `LayeredGenerator`.
        segmenter: Its student, of resolution R.
        photos: uint8 [N, S, S, 3] with S = `photo_side(R)`, at least 2 of them.
        shift: δ as a fraction of the side.
    """
    from layered_segmentation import sheets
    from layered_segmentation.gan import collapse, composite, sampling

    layers = sampling.sample_layers(generator, _SEED, COUNT)
    union = composite.union_mask(layers.mask)
    generated = collapse.statistics(union, shift)
    side = segmenter.resolution
    composites = sheets.to_uint8(composite.compose(layers))
    masks = np.stack([images.to_square(mask, side) for mask in union[..., 0]]) >= 0.5
    drawn = np.stack([images.to_square(image, side) for image in composites])
    crops = photos[:, :side, :side], photos[:, -side:, -side:]
    segmented = _found(segmenter, np.concatenate([drawn, *crops]))
    found, first, second = np.split(segmented, [len(drawn), len(drawn) + len(photos)])
    offset = photos.shape[1] - side
    overlap, again = first[:, offset:, offset:], second[:, :-offset, :-offset]
    return Quality(
        coverage=generated.mask_coverage,
        edge=generated.mask_edge,
        alike=generated.mask_alike,
        agreement=_mean_iou(found, masks),
        other_scene=_mean_iou(found, np.roll(masks, 1, axis=0)),
        stability=_mean_iou(overlap, again),
        other_photo=_mean_iou(overlap, np.roll(again, 1, axis=0)),
        photo_coverage=float(first.mean()),
    )


def measure_run(run: "RunDirectory", config: Config, segmenter: Any) -> Quality:
    """Measures a run and its student, and keeps the result in RUN/quality.json.

    The file also has what `sanity.of_masks` finds in the student's masks of photos.

    Raises:
        UserError: The run has no generator, or its photos cannot be read.
    """
    from layered_segmentation.gan import networks

    side = photo_side(segmenter.resolution)
    photos = self_training.load_photos(config, side, COUNT, images.TRIANGLE)
    quality = measure(networks.load_generator(run), segmenter, photos, config.gan.shift)
    whole = np.stack([images.to_square(photo, segmenter.resolution) for photo in photos])
    warnings = sanity.of_masks(list(map(sanity.small, _found(segmenter, whole))), _ADVICE)
    kept = {**dataclasses.asdict(quality), "warnings": warnings}
    files.write_json(os.path.join(run.path, FILE), kept)
    return quality


def measure_if_possible(run: "RunDirectory", config: Config, segmenter: Any) -> Quality | None:
    """Measures a run as `measure_run` does and prints the result, or why it cannot be measured."""
    try:
        quality = measure_run(run, config, segmenter)
    except UserError as error:
        print(f"quality not measured: {error}", flush=True)
        return None
    print("\n".join(f"{name}: {value}" for name, value in quality.lines()), flush=True)
    for line in read_warnings(run):
        print(f"warning: {line}", file=sys.stderr)
    return quality


def read(run: "RunDirectory") -> Quality | None:
    """Returns what `measure_run` has kept, or None."""
    names = [field.name for field in dataclasses.fields(Quality)]
    shape = {name: records.is_number for name in names}
    found = records.read(os.path.join(run.path, FILE), shape)
    return None if found is None else Quality(**{name: found[name] for name in names})


def read_warnings(run: "RunDirectory") -> list[str]:
    """Returns what `measure_run` has found wrong with the student's masks; empty if unknown."""
    shape = {"warnings": [records.is_text]}
    found = records.read(os.path.join(run.path, FILE), shape)
    return found["warnings"] if found else []


def _found(segmenter: Any, photos: np.ndarray) -> np.ndarray:
    """Returns the masks of photos, of several masks the union, bool [N, R, R]."""
    masks = self_training.probabilities(segmenter, photos)
    return (masks if masks.ndim == 3 else masks.sum(axis=-1)) >= 0.5


def photo_side(resolution: int) -> int:
    """Returns the side of the photos from which crops of a student's resolution are taken."""
    return resolution + resolution // _OFFSET


def _mean_iou(masks: np.ndarray, others: np.ndarray) -> float:
    """Returns the mean IoU of pairs of masks, bool [N, H, W]."""
    return float(np.mean([scoring.iou(*pair) for pair in zip(masks, others, strict=True)]))
