"""Scores a segmenter, or masks that any program wrote, against true masks.

The score is mean IoU, next to that of three references: full mask, centre box and GrabCut. True
masks are those of --masks, matched by name, or what a --detector finds. Without --images, a run is
scored on its own test set: the held-out scenes if it was trained on procedural scenes, else
data.test_path with data.test_masks. Masks of --predictions are matched by name too. A segmenter of
several masks is scored by their union; on held-out scenes of several objects also object by object.

Writes results.json, per_image.csv and sheet.png (the best, median and worst photos) to --out, by
default RUN/evaluation, where `layerseg table` finds them.

Example:
  layerseg evaluate --segmenter=RUN --images=TEST_PHOTOS --masks=TEST_MASKS --refine=grabcut
  layerseg evaluate --predictions=MASKS --images=PHOTOS --detector=MASK_RCNN_SAVED_MODEL
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.cli.shared import RESULTS, SHEET, TABLE
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.data.source import Pair
    from layered_segmentation.evaluation.scoring import PredictPairs
    from layered_segmentation.segmenter import domain

_SEGMENTER = flags.DEFINE_string(
    "segmenter", "", "Run directory, preset directory, hf://… or kaggle://…."
)
_STAGE = shared.define_stage_flag()
_PREDICTIONS = flags.DEFINE_string(
    "predictions", "", "Directory of masks to score, named like the photos, instead of --segmenter."
)
_IMAGES = flags.DEFINE_string("images", "", "Directory of photos; the run's test set if empty.")
_MASKS = flags.DEFINE_string("masks", "", "Directory of their true masks.")
_IGNORE = flags.DEFINE_string(
    "ignore", "", "Directory of masks of the pixels to leave out of the score."
)
_MASK_VALUE = shared.define_value_flag("mask_value", "--masks")
_PREDICTION_VALUE = shared.define_value_flag("prediction_value", "--predictions")
_REFINE = shared.define_refine_flag()
_LOOKS = shared.define_looks_flag()
_MARGIN = flags.DEFINE_float(
    "grabcut_margin", 0.05, "GrabCut reference: share of each side outside its box.", 0.0, 0.45
)
_ITERATIONS = flags.DEFINE_integer("grabcut_iterations", 5, "GrabCut reference: iterations.", 1)
_SIDE = flags.DEFINE_integer(
    "grabcut_side", 256, "GrabCut reference: longest side it works at, pixels.", 8
)
_DETECTOR = shared.DetectorFlags(required=False)
_LIMIT = flags.DEFINE_integer("limit", 0, "Score only the first so many photos; 0 scores all.", 0)
_OUT = flags.DEFINE_string(
    "out", "", "Directory to write to; `evaluation` in the run or next to --predictions if empty."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the results in --out.")
shared.define_max_pixels_flag()
app.goes_with(_IGNORE, _MASKS)
app.goes_with(_MASK_VALUE, _MASKS)
app.goes_with(_PREDICTION_VALUE, _PREDICTIONS)
app.goes_with(_STAGE, _SEGMENTER)
app.goes_with(_LOOKS, _SEGMENTER)

_SHOWN = 4  # photos of each kind on the sheet


def main(_: list[str]) -> None:
    """Scores one method."""
    if bool(_SEGMENTER.value) == bool(_PREDICTIONS.value):
        raise UserError("name what to score: either --segmenter or --predictions")
    _DETECTOR.check()
    out = _OUT.value or default_out(_segmenter(), _PREDICTIONS.value)
    shared.require_free(out, [RESULTS, TABLE, SHEET], _OVERWRITE.value)

    quiet.import_tensorflow()
    from layered_segmentation.evaluation import examples, scoring
    from layered_segmentation.evaluation.baselines import GrabCutSettings
    from layered_segmentation.progress import Bar
    from layered_segmentation.segmenter import domain, looks

    pairs, protocol = _open_pairs()
    count = min(_LIMIT.value or len(pairs), len(pairs))
    watch = domain.Watch(None if _PREDICTIONS.value else domain.of_segmenter(_segmenter()))
    predict = _open_method(pairs, count, watch)
    with Bar(count, "scoring", "photo") as bar:
        scores = scoring.score_pairs(
            predict,
            (pairs[index] for index in range(count)),
            refine=_REFINE.value,
            progress=bar.update,
            grabcut=GrabCutSettings(_MARGIN.value, _ITERATIONS.value, _SIDE.value),
        )
    verdict = scores.verdict()
    if warning := watch.warning():
        verdict.append(f"warning: {warning}")
    is_split = bool(_DETECTOR.path)
    results = scores.to_results(split=is_split)
    protocol += looks.PROTOCOL if _LOOKS.value == 2 else ""
    results = {
        "measure": "segmentation",
        **results,
        "verdict": verdict,
        "protocol": protocol + results["protocol"],
        "settings": app.settings(main),
    }
    sheet = examples.overview_sheet(
        lambda batch: [scoring.combined(mask) for mask in predict(batch)], pairs, scores, _SHOWN
    )
    shared.write_results(out, results, scores, {SHEET: sheet})
    print("\n".join(scores.lines(split=is_split)))
    print("\n".join(f"verdict: {line}" for line in verdict))
    print(f"  {scores.grabcut.protocol}")
    print(f"results: {os.path.join(out, RESULTS)}, {TABLE}, {SHEET}")


def _segmenter() -> str:
    return shared.segmenter_at(_SEGMENTER.value, _STAGE.value)


def default_out(segmenter: str, predictions: str = "") -> str:
    """Returns where results are written by default.

    That is RUN/evaluation for a student, RUN/evaluation_encoder for an encoder, and `evaluation`
    next to a directory of predictions.

    Raises:
        UserError: The segmenter is not a local directory.
    """
    from layered_segmentation.segmenter import preset_files

    if predictions:
        return os.path.join(os.path.dirname(os.path.abspath(predictions)), "evaluation")
    if "://" in segmenter:
        raise UserError(f"--segmenter={segmenter}: is not a local directory, so --out is needed")
    if not os.path.isdir(segmenter) and segmenter in preset_files.names():
        raise UserError(f"--segmenter={segmenter}: comes with the package, so --out is needed")
    if os.path.isdir(os.path.join(segmenter, "segmenter")):
        return os.path.join(segmenter, "evaluation")
    parent, preset = os.path.split(os.path.abspath(segmenter))
    return os.path.join(parent, "evaluation_encoder" if preset == "encoder" else "evaluation")


def _open_pairs() -> "tuple[Sequence[Pair], str]":
    """Opens photos with their true masks; also returns a sentence that describes them."""
    if not (_IMAGES.value or _MASKS.value or _DETECTOR.path):
        from layered_segmentation.evaluation import test_sets

        pairs, about = test_sets.of_run(_segmenter(), _LIMIT.value)
        if pairs:
            return pairs, about
    if not _IMAGES.value:
        raise UserError("--images is needed, with --masks or --detector (layerseg evaluate --help)")
    if bool(_MASKS.value) == bool(_DETECTOR.path):
        raise UserError("name the true masks: either --masks or --detector")
    if _DETECTOR.path:
        from layered_segmentation.evaluation.detectors import DetectedFolder

        detector = _DETECTOR.open()
        return DetectedFolder(_IMAGES.value, detector), detector.protocol

    from layered_segmentation.data import folder

    return folder.PairFolder(_IMAGES.value, _MASKS.value, _IGNORE.value, _MASK_VALUE.value), ""


def _open_method(pairs: "Sequence[Pair]", count: int, watch: "domain.Watch") -> "PredictPairs":
    """Opens the segmenter, or the directory of masks after checking the first `count` photos.

    `watch` is given the photos and the segmenter's own masks.
    """
    if not _PREDICTIONS.value:
        from layered_segmentation.segmenter import looks, presets

        segmenter = presets.load(_segmenter())
        if segmenter.num_masks > 1 and _LOOKS.value == 1:
            return lambda batch: segmenter.predict([pair.image for pair in batch])
        predict = segmenter.predict_masks
        return lambda batch: looks.predict_masks(
            predict, [pair.image for pair in batch], _LOOKS.value, watch
        )

    from layered_segmentation.data.folder import MaskFolder

    predicted = MaskFolder(_PREDICTIONS.value, "--predictions", _PREDICTION_VALUE.value)
    names = getattr(pairs, "files", None) or [pair.name for pair in pairs]
    predicted.require(names[:count])
    return lambda batch: [predicted.read(pair.name) for pair in batch]


if __name__ == "__main__":
    app.run(main)
