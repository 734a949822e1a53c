"""Generated masks against a detector's on the same composites (section 4.1, table 1).

Composites are unshifted, as the generator draws them. Scenes are drawn, passed to the detector and
scored batch by batch. None is kept, because any of them can be drawn again.

Scenes are numbered from 000001 whatever their seed and generator, and so are the masks that a
detector writes for them. `layerseg sample` therefore writes a record of its scenes, scenes.json,
with which `check_record` rejects masks of other scenes.
"""

import dataclasses
import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from layered_segmentation import files, sheets
from layered_segmentation import images as photos
from layered_segmentation.data.source import Pair
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import examples, scoring
from layered_segmentation.evaluation.detectors import Detector, MaskFolderDetector
from layered_segmentation.gan import composite
from layered_segmentation.gan.composite import Layers

REFERENCES = ("full_mask", "centre_box")
RECORD = "scenes.json"
PROTOCOL = (
    f"generated masks at {scoring.THRESHOLD} against the detector's on the composite; miou over "
    "the composites in which something is found. "
)
_BATCH = 16  # scenes per call of the detector


@dataclasses.dataclass(frozen=True)
class Scene:
    """One generated scene."""

    name: str  # the name that `layerseg sample --images_out` gives its files, without the extension
    image: np.ndarray  # the composite, uint8 [R, R, 3]
    mask: np.ndarray  # float32 [R, R] in [0, 1], of all foreground layers


@dataclasses.dataclass(frozen=True)
class GeneratedScenes:
    """The numbered scenes of a generator: a pure function of weights, seed and truncation."""

    generator: Any  # a `LayeredGenerator`, usually the averaged one
    seed: int  # seed of the scenes
    truncation: float = 1.0  # ψ in [0, 1]; 1 draws from the whole distribution
    # Side in pixels that composites and masks are resized to, bilinearly; 0 for the generator's
    # resolution. For a detector that needs larger images.
    size: int = 0

    @property
    def side(self) -> int:
        """Side of composites and masks, pixels."""
        return int(self.size or self.generator.resolution)

    def first(self, count: int) -> Iterator[Scene]:
        """Yields scenes 0 … count - 1, with one batch in memory at a time."""
        return self._draw(range(count))

    def images(self, count: int, size: int) -> Iterator[np.ndarray]:
        """Yields the composites of scenes 0 … count - 1, uint8 [size or fewer, R, R, 3]."""
        remaining = self.first(count)
        while scenes := list(itertools.islice(remaining, size)):
            yield np.stack([scene.image for scene in scenes])

    def select(self, indices: Iterable[int]) -> list[Scene]:
        """Returns the scenes of these indices, in the given order."""
        indices = list(indices)
        distinct = sorted(set(indices))
        drawn = dict(zip(distinct, self._draw(distinct), strict=True))
        return [drawn[index] for index in indices]

    def layers(self, count: int) -> Layers:
        """Returns the layers of scenes 0 … count - 1, float32 [count, R, R, C]."""
        from layered_segmentation.gan import sampling

        return sampling.sample_layers(self.generator, self.seed, count, self.truncation)

    def identity(self) -> dict[str, Any]:
        """Returns what determines the scenes: seed, truncation and a hash of the weights."""
        digest = hashlib.sha256()
        for weight in self.generator.get_weights():  # a file of the same weights may differ
            digest.update(np.ascontiguousarray(weight).tobytes())
        return {
            "seed": self.seed,
            "truncation": self.truncation,
            "generator": digest.hexdigest()[:12],
        }

    def _draw(self, indices: Iterable[int]) -> Iterator[Scene]:
        """Yields the scenes of ascending indices."""
        from layered_segmentation.gan import sampling

        places: dict[int, list[int]] = {}
        for index in indices:
            places.setdefault(index // sampling.BATCH, []).append(index % sampling.BATCH)
        batches = sampling.layer_batches(self.generator, self.seed, places, self.truncation)
        for number, layers in zip(places, batches, strict=True):
            images = sheets.to_uint8(composite.compose(layers))
            masks = composite.union_mask(layers.mask)
            for place in places[number]:
                name = _name(number * sampling.BATCH + place)
                image, mask = images[place], masks[place, ..., 0]
                if self.side != self.generator.resolution:
                    image, mask = (
                        photos.to_square(image, self.side),
                        photos.to_square(mask, self.side),
                    )
                yield Scene(name, image, mask)


def score(
    scenes: GeneratedScenes,
    detector: Detector,
    count: int,
    progress: Callable[[int], Any] | None = None,
) -> scoring.Scores:
    """Scores generated masks against a detector's, and against its masks of another scene.

    A generator that draws the same shape in the same place in every scene can score well. The
    margin over `other_scene` shows how far masks follow their scenes.

    Args:
        scenes: The scenes.
        detector: Provides the true masks. A directory of masks is searched by scene name.
        count: Number of scenes.
        progress: Called after each batch with the number of scenes in it.

    Returns:
        Scores of all scenes; `.detected` are those of table 1.

    Raises:
        UserError: The generator draws no masks, or nothing is found in any scene.
    """
    require_masks(scenes.generator)
    if isinstance(detector, MaskFolderDetector):
        detector.require([_name(index) for index in range(count)])
    masks: dict[str, np.ndarray] = {}
    drawn, found = [], []  # packed bits of generated and true masks where something is found

    def pairs() -> Iterator[Pair]:
        remaining = scenes.first(count)
        while batch := list(itertools.islice(remaining, _BATCH)):
            names = [scene.name for scene in batch]
            truths = detector([scene.image for scene in batch], names)
            for scene, truth in zip(batch, truths, strict=True):
                masks[scene.name] = scene.mask
                if truth.any():
                    drawn.append(np.packbits(scene.mask >= scoring.THRESHOLD))
                    found.append(np.packbits(truth))
                yield Pair(scene.name, scene.image, truth, None)

    def predict(batch: list[Pair]) -> list[np.ndarray]:
        return [masks.pop(pair.name) for pair in batch]

    scores = scoring.score_pairs(predict, pairs(), references=REFERENCES, progress=progress)
    if not scores.detected.rows:
        raise UserError(
            f"the detector finds nothing in any of {count} generated composites, so there is no "
            "score; check that --detector_class is the right class and lower --detector_score"
        )
    return _with_other_scenes(scores, drawn, found)


def _with_other_scenes(
    scores: scoring.Scores, drawn: list[np.ndarray], found: list[np.ndarray]
) -> scoring.Scores:
    """Adds the IoU of each mask with the detection in the next scene that has one."""
    if len(found) < 2:
        return scores
    others = (
        scoring.iou(np.unpackbits(mask) > 0, np.unpackbits(truth) > 0)
        for mask, truth in zip(drawn, [*found[1:], found[0]], strict=True)
    )
    rows = [
        dataclasses.replace(row, other_scene=next(others)) if row.found else row
        for row in scores.rows
    ]
    return dataclasses.replace(scores, rows=rows)


def require_masks(generator: Any) -> None:
    """Raises a UserError if a generator draws single images without masks."""
    if not generator.has_mask:
        raise UserError(
            f"gan.variant={generator.variant}: this run draws images without layers, so it "
            "has no masks to score; `layerseg fid` measures its images"
        )


def results(scenes: GeneratedScenes, scores: scoring.Scores, detector: Detector) -> dict[str, Any]:
    """Returns the contents of results.json: the score of table 1, then that of all images."""
    everything = scores.to_results(split=True)
    resolution = scenes.generator.resolution
    size = f"at {resolution} px, the generator's resolution"
    if scenes.side != resolution:
        size = f"resized bilinearly, like their masks, from {resolution} to {scenes.side} px"
    return {
        "measure": "generated",
        "resolution": resolution,
        **scores.detected.summary(),
        "detected_share": scores.detected.images / scores.images,
        "detected": everything["detected"],
        "all": everything["all"],
        "seconds": everything["seconds"],
        "protocol": f"Generated composites, unshifted, {size}; {PROTOCOL}"
        + detector.protocol
        + everything["protocol"],
    }


def sheet(
    scenes: GeneratedScenes, detector: Detector, scores: scoring.Scores, columns: int
) -> sheets.Sheet:
    """Shows the best, median and worst scenes by IoU among those in which something is found."""
    found = scores.detected
    parts = examples.ranked(found, columns).values()
    rows = [found.rows[index] for part in parts for index in part]
    rows = list({row.name: row for row in rows}.values())
    shown = scenes.select(int(row.name) - 1 for row in rows)
    images = [scene.image for scene in shown]
    truths = detector(images, [scene.name for scene in shown])
    return sheets.segmentation_sheet(
        images,
        truths,
        [scene.mask for scene in shown],
        [row.iou for row in rows],
        columns=min(columns, len(rows)),
        labels=("composite", "detected", "generated mask", "cut-out"),
    )


def write_record(directory: str, scenes: GeneratedScenes, count: int, run: str) -> None:
    """Writes the record of a run's scenes 0 … count - 1 next to their images/ and masks/."""
    name = os.path.basename(os.path.abspath(run))
    record = {"run": name, **scenes.identity(), "size": scenes.side, "count": count}
    files.sync(directory)  # the scenes, before the record that vouches for them
    files.write_json(os.path.join(directory, RECORD), record)


def check_record(masks: str, scenes: GeneratedScenes) -> None:
    """Rejects masks of other scenes than those to be scored; without a record, prints a note.

    The record may be in the directory of masks or next to it.

    Raises:
        UserError: The masks are of other scenes, or the record cannot be read.
    """
    parent = os.path.dirname(os.path.abspath(masks))
    for path in (os.path.join(masks, RECORD), os.path.join(parent, RECORD)):
        if os.path.isfile(path):
            _require_same(path, scenes, masks)
            return
    print(
        f"--detector={masks}: assuming masks of this run's scenes with --seed={scenes.seed}; copy "
        f"the {RECORD} of `layerseg sample --images_out` next to them to have that checked",
        file=sys.stderr,
    )


def _require_same(path: str, scenes: GeneratedScenes, masks: str) -> None:
    expected = scenes.identity()
    try:
        record = files.read_json(path)
        found = {key: record[key] for key in expected}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--detector={masks}: {path} is not a record of `layerseg sample --images_out` "
            f"({type(error).__name__}: {error}); copy it again, or remove it"
        ) from error
    if found["generator"] != expected["generator"]:
        raise UserError(
            f"--detector={masks}: the masks are of scenes of another generator, of the run "
            f"{record.get('run')!r} with weights {found['generator']} ({path}); this run's weights "
            f"are {expected['generator']}. Name that run with --run_dir, or detect on this run's "
            "scenes"
        )
    if found["seed"] != expected["seed"]:
        raise UserError(
            f"--detector={masks}: the masks are of the scenes of --seed={found['seed']} ({path}), "
            f"not of --seed={expected['seed']}; give --seed={found['seed']}"
        )
    size = record.get("size", scenes.side)  # version 0.1.0 recorded none
    if size != scenes.side:
        raise UserError(
            f"--detector={masks}: the masks are of scenes of {size} px ({path}), but scenes of "
            f"{scenes.side} px are scored; give --detector_size={size}, or detect on scenes that "
            f"`layerseg sample` draws with --detector_size={scenes.side}"
        )
    if found["truncation"] != expected["truncation"]:
        raise UserError(
            f"--detector={masks}: the masks are of scenes of --truncation={found['truncation']} "
            f"({path}), but those of {expected['truncation']} are scored; detect on scenes that "
            "`layerseg sample` draws without --truncation"
        )


def _name(index: int) -> str:
    return f"{index + 1:06d}"
