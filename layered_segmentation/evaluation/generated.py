"""Generated masks against a detector's on the same composites (section 4.1, table 1).

Composites are unshifted, as the generator draws them. Scenes are drawn, shown to the detector and
scored batch by batch; none is kept, since any of them can be drawn again.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from layered_segmentation import sheets
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import examples, scoring
from layered_segmentation.evaluation.detectors import Detector, MaskFolderDetector
from layered_segmentation.evaluation.iou import iou
from layered_segmentation.gan import composite
from layered_segmentation.gan.composite import Layers
from layered_segmentation.images import Pair

REFERENCES = ("full_mask", "centre_box")
_BATCH = 16  # scenes the detector is shown at once
PROTOCOL = (
    "Generated composites, unshifted, at the generator's resolution; generated masks at "
    f"{scoring.THRESHOLD} against the detector's on the composite; miou over the composites in "
    "which something is found. "
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """One generated scene.

    Attributes:
        name: As `layerseg sample --images_out` names its files, less the extension.
        image: The composite, uint8 [R, R, 3].
        mask: Float32 [R, R] in [0, 1].
    """

    name: str
    image: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Generated:
    """The scenes of a generator, numbered; a pure function of weights, seed and truncation.

    Attributes:
        generator: Usually the averaged one.
        seed: Seed of the scenes.
        truncation: ψ in [0, 1]; 1 draws from the whole distribution.
    """

    generator: Any
    seed: int
    truncation: float = 1.0

    def scenes(self, count: int) -> Iterator[Scene]:
        """Yields scenes 0 … count - 1, a batch in memory at a time."""
        return self._scenes(range(count))

    def images(self, count: int, size: int) -> Iterator[np.ndarray]:
        """Yields the composites of scenes 0 … count - 1, uint8 [size or fewer, R, R, 3]."""
        remaining = self.scenes(count)
        while scenes := list(itertools.islice(remaining, size)):
            yield np.stack([scene.image for scene in scenes])

    def some(self, indices: Iterable[int]) -> list[Scene]:
        """Returns chosen scenes, in the order asked for."""
        indices = list(indices)
        drawn = dict(zip(sorted(set(indices)), self._scenes(sorted(set(indices))), strict=True))
        return [drawn[index] for index in indices]

    def layers(self, count: int) -> Layers:
        """Returns the layers of the first scenes, float32 [count, R, R, C]."""
        from layered_segmentation.gan import sampling

        return sampling.sample_layers(self.generator, self.seed, count, self.truncation)

    def _scenes(self, indices: Iterable[int]) -> Iterator[Scene]:
        """Yields scenes in ascending order of their indices."""
        from layered_segmentation.gan import sampling

        places: dict[int, list[int]] = {}
        for index in indices:
            places.setdefault(index // sampling.BATCH, []).append(index % sampling.BATCH)
        batches = sampling.layer_batches(self.generator, self.seed, places, self.truncation)
        for number, layers in zip(places, batches, strict=True):
            images = sheets.to_uint8(composite.compose(layers))
            for place in places[number]:
                name = _name(number * sampling.BATCH + place)
                yield Scene(name, images[place], layers.mask[place, ..., 0])


def score(
    generated: Generated,
    detector: Detector,
    count: int,
    progress: Callable[[int], Any] | None = None,
) -> scoring.Scores:
    """Scores generated masks against a detector's, and as a reference against another scene's.

    A generator that draws one shape in one place, whatever the scene, comes far by the agreement
    of masks with detections alone; what it scores beyond `other_scene` says that masks follow
    their scenes.

    Args:
        generated: The scenes.
        detector: Gives the truth; asked by the scenes' names where it looks masks up.
        count: How many scenes.
        progress: Called after each batch with the number of scenes in it.

    Returns:
        Scores of all scenes; `.detected` are those of table 1.

    Raises:
        UserError: The generator draws no masks, or nothing is found in any scene.
    """
    require_masks(generated.generator)
    if isinstance(detector, MaskFolderDetector):
        detector.require([_name(index) for index in range(count)])
    masks: dict[str, np.ndarray] = {}
    drawn, found = [], []  # bits of the masks and the truths, where something is found

    def pairs() -> Iterator[Pair]:
        remaining = generated.scenes(count)
        while scenes := list(itertools.islice(remaining, _BATCH)):
            names = [scene.name for scene in scenes]
            truths = detector([scene.image for scene in scenes], names)
            for scene, truth in zip(scenes, truths, strict=True):
                masks[scene.name] = scene.mask
                if truth.any():
                    drawn.append(np.packbits(scene.mask >= scoring.THRESHOLD))
                    found.append(np.packbits(truth))
                yield Pair(scene.name, scene.image, truth, None)

    def predict(chunk: list[Pair]) -> list[np.ndarray]:
        return [masks.pop(pair.name) for pair in chunk]

    scores = scoring.score_pairs(predict, pairs(), references=REFERENCES, progress=progress)
    if not scores.detected.rows:
        raise UserError(
            f"the detector finds nothing in any of {count} generated composites, so there is no "
            "score; is --detector_class the kind of thing, is --detector_score too high?"
        )
    return _with_other_scenes(scores, drawn, found)


def _with_other_scenes(
    scores: scoring.Scores, drawn: list[np.ndarray], found: list[np.ndarray]
) -> scoring.Scores:
    """Adds what each mask scores with the next scene in which something is found."""
    if len(found) < 2:
        return scores
    others = (
        iou(np.unpackbits(mask) > 0, np.unpackbits(truth) > 0)
        for mask, truth in zip(drawn, [*found[1:], found[0]], strict=True)
    )
    rows = [
        dataclasses.replace(row, other_scene=next(others)) if row.found else row
        for row in scores.rows
    ]
    return dataclasses.replace(scores, rows=rows)


def require_masks(generator: Any) -> None:
    """Raises a UserError if a generator draws single images without masks."""
    if getattr(generator, "variant", "") == "single_output":
        raise UserError(
            "gan.variant=single_output: this run draws images without layers, so it has no masks "
            "to score; --measure=fid takes it"
        )


def results(scores: scoring.Scores, detector: Detector) -> dict[str, Any]:
    """Returns what goes into results.json: table 1's score first, all images beside it."""
    everything = scores.to_results(split=True)
    return {
        "measure": "generated",
        **scores.detected.summary(),
        "detected": everything["detected"],
        "all": everything["all"],
        "seconds": everything["seconds"],
        "protocol": PROTOCOL + detector.protocol + everything["protocol"],
    }


def sheet(
    generated: Generated, detector: Detector, scores: scoring.Scores, columns: int
) -> np.ndarray:
    """Shows the best, the middle and the worst scenes by agreement, where something is found.

    Returns:
        uint8 [height, width, 3].
    """
    found = scores.detected
    parts = examples.ranked(found, columns).values()
    rows = [found.rows[index] for part in parts for index in part]
    rows = list({row.name: row for row in rows}.values())
    scenes = generated.some(int(row.name) - 1 for row in rows)
    images = [scene.image for scene in scenes]
    truths = detector(images, [scene.name for scene in scenes])
    return sheets.segmentation_sheet(
        images,
        truths,
        [scene.mask for scene in scenes],
        [row.iou for row in rows],
        columns=min(columns, len(rows)),
        labels=("composite", "detected", "generated mask", "cut-out"),
    )


def _name(index: int) -> str:
    return f"{index + 1:06d}"
