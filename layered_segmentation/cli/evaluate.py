"""Scores masks against true ones, generated masks against a detector's, or images by FID.

--measure=segmentation scores a segmenter, or masks that any program wrote (--predictions), beside
full mask, centre box and GrabCut. The truth are the masks of --masks, matched by name, or what a
--detector finds; a run on procedural scenes needs neither, and no --images: it is scored on the
held-out scenes. --measure=generated scores the masks that a run's generator draws against what a
--detector finds on the composites. --measure=fid compares composites with real images through an
Inception network (--inception).

Masks that a program wrote for the scenes of `layerseg sample --images_out` are matched by number,
the same for any seed and run: copy its scenes.json into their directory, or keep this directory
beside it, and masks of scenes of another seed or generator are refused.

Writes results.json, and but for FID per_image.csv and sheet.png (the best, the middle and the
worst of those in which something is to be found), to --out; by default into the run, where
`layerseg table` looks for it.

Example:
  layerseg evaluate --segmenter=RUN --images=TEST_PHOTOS --masks=TEST_MASKS --refine=guided
  layerseg evaluate --predictions=MASKS --images=PHOTOS --detector=MASK_RCNN_SAVED_MODEL
  layerseg evaluate --measure=generated --run_dir=RUN --detector=MASK_RCNN_SAVED_MODEL
  layerseg evaluate --measure=fid --run_dir=RUN --inception=classify_image_graph_def.pb
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app
from layered_segmentation.config import Refinement
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from layered_segmentation.data.source import Pair
    from layered_segmentation.evaluation.detectors import Detector
    from layered_segmentation.evaluation.generated import GeneratedScenes
    from layered_segmentation.evaluation.scoring import PredictPairs, Scores

_MEASURE = flags.DEFINE_enum(
    "measure", "segmentation", ["segmentation", "generated", "fid"], "What is measured."
)
_SEGMENTER = flags.DEFINE_string(
    "segmenter", "", "Run directory, preset directory, hf://… or kaggle://…."
)
_PREDICTIONS = flags.DEFINE_string(
    "predictions", "", "Directory of masks to score, named like the photos, instead of --segmenter."
)
_IMAGES = flags.DEFINE_string(
    "images", "", "Directory of photos; with --measure=fid real ones, if not the run's own."
)
_MASKS = flags.DEFINE_string("masks", "", "Directory of their true masks.")
_IGNORE = flags.DEFINE_string(
    "ignore", "", "Directory of masks of the pixels to leave out of the score, with --masks."
)
_REFINE = flags.DEFINE_enum(
    "refine",
    Refinement.none,
    list(Refinement),
    "How the mask is fitted to the photo's edges at the photo's own size.",
)
_LOOKS = flags.DEFINE_integer(
    "looks", 1, "2: what is found is segmented again from a crop around it.", 1, 2
)
_MARGIN = flags.DEFINE_float(
    "grabcut_margin", 0.05, "GrabCut reference: share of each side outside its box.", 0.0, 0.45
)
_ITERATIONS = flags.DEFINE_integer("grabcut_iterations", 5, "GrabCut reference: iterations.", 1)
_SIDE = flags.DEFINE_integer(
    "grabcut_side", 256, "GrabCut reference: longest side it works at, pixels.", 8
)
_DETECTOR = flags.DEFINE_string(
    "detector",
    "",
    "Whose masks count as true: a directory of masks (0 where nothing is found; with "
    "--measure=generated, with a copy of scenes.json of `layerseg sample`), a TensorFlow detection "
    "SavedModel with masks, or a run or preset of ours.",
)
_CLASS = flags.DEFINE_integer(
    "detector_class", 3, "Kind of thing, in a SavedModel's own numbers; 3 is COCO's car.", 0
)
_SCORE = flags.DEFINE_float(
    "detector_score", 0.5, "Least score of a SavedModel's detection.", 0.0, 1.0
)
_INSTANCES = flags.DEFINE_enum(
    "detector_instances", "union", ["union", "largest"], "Of several that a SavedModel finds."
)
_RUN_DIR = flags.DEFINE_string("run_dir", "", "The run, with --measure=generated or fid.")
_COUNT = flags.DEFINE_integer(
    "count", 10_000, "How many composites, with --measure=generated or fid.", 2
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of those composites.", 0, 2**31 - 1)
_INCEPTION = flags.DEFINE_string(
    "inception",
    "",
    "Feature network of FID: classify_image_graph_def.pb, or weights of Keras's InceptionV3.",
)
_OUT = flags.DEFINE_string(
    "out",
    "",
    "Directory to write to; if empty `evaluation` in the run, or `evaluation_generated` or "
    "`evaluation_fid`.",
)
_LIMIT = flags.DEFINE_integer("limit", 0, "Score only the first so many photos; 0 scores all.", 0)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the results that --out holds.")

RESUME = "nothing was written; run it again"
RESULTS, TABLE, SHEET, LAYERS = "results.json", "per_image.csv", "sheet.png", "layers.png"
_SHOWN = 4  # photos of each kind on the sheet
_SCENES = 10  # on the sheet of layers


def main(argv: list[str]) -> None:
    """Measures one thing."""
    del argv
    _refuse_other_flags()
    _refuse_flags_without_their_partner()
    quiet.import_tensorflow()
    if _MEASURE.value == "segmentation":
        _measure_segmentation()
    elif _MEASURE.value == "generated":
        _measure_generated()
    else:
        _measure_fid()


def _measure_segmentation() -> None:
    if bool(_SEGMENTER.value) == bool(_PREDICTIONS.value):
        raise UserError("name what to score: either --segmenter or --predictions")
    out = _OUT.value or default_out(_SEGMENTER.value, _PREDICTIONS.value)
    _require_free(out, [RESULTS, TABLE, SHEET])

    pairs, protocol = _open_pairs()
    count = min(_LIMIT.value or len(pairs), len(pairs))

    from layered_segmentation.evaluation import examples, scoring
    from layered_segmentation.evaluation.baselines import GrabCutSettings
    from layered_segmentation.progress import Bar
    from layered_segmentation.segmenter import looks

    predict = _open_method(pairs, count)
    with Bar(count, "scoring", "photo") as bar:
        scores = scoring.score_pairs(
            predict,
            (pairs[index] for index in range(count)),
            refine=_REFINE.value,
            progress=bar.update,
            grabcut=GrabCutSettings(_MARGIN.value, _ITERATIONS.value, _SIDE.value),
        )
    results = scores.to_results(split=bool(_DETECTOR.value))
    protocol += looks.PROTOCOL if _LOOKS.value == 2 else ""
    results = {"measure": "segmentation", **results, "protocol": protocol + results["protocol"]}
    sheet = examples.overview_sheet(predict, pairs, scores, _SHOWN)
    _write(out, results, scores, {SHEET: sheet})
    print("\n".join(scores.lines(split=bool(_DETECTOR.value))))
    print(f"  {scores.grabcut.protocol}")
    print(f"results: {os.path.join(out, RESULTS)}, {TABLE}, {SHEET}")


def _measure_generated() -> None:
    _require_flags({"run_dir": _RUN_DIR.value, "detector": _DETECTOR.value})
    out = _OUT.value or os.path.join(_RUN_DIR.value, "evaluation_generated")
    _require_free(out, [RESULTS, TABLE, SHEET, LAYERS])
    scenes, _ = _open_generated()

    from layered_segmentation import sheets
    from layered_segmentation.evaluation import detectors, generated
    from layered_segmentation.progress import Bar

    detector = _open_detector()
    if isinstance(detector, detectors.MaskFolderDetector):
        generated.check_record(_DETECTOR.value, scenes)
    with Bar(_COUNT.value, "scoring", "scene") as bar:
        scores = generated.score(scenes, detector, _COUNT.value, progress=bar.update)
    first = scenes.layers(min(_SCENES, _COUNT.value))
    pictures = {
        SHEET: generated.sheet(scenes, detector, scores, _SHOWN),
        LAYERS: sheets.layers_sheet(first, columns=_SCENES),
    }
    _write(out, generated.results(scores, detector), scores, pictures)
    found = scores.detected
    print(
        f"mIoU {found.miou:.3f} ± {found.miou_std:.3f} over {found.images:,} of {scores.images:,} "
        "composites in which something is found"
    )
    print("\n".join(found.reference_lines()))
    print(f"results: {os.path.join(out, RESULTS)}, {TABLE}, {SHEET}, {LAYERS}")


def _measure_fid() -> None:
    _require_flags({"run_dir": _RUN_DIR.value})
    out = _OUT.value or os.path.join(_RUN_DIR.value, "evaluation_fid")
    _require_free(out, [RESULTS])

    from layered_segmentation.evaluation import fid, inception
    from layered_segmentation.progress import Bar

    scenes, config = _open_generated()
    features = inception.open_features(_INCEPTION.value)
    real = fid.RealImages(config, _COUNT.value, _IMAGES.value)
    with Bar(_COUNT.value + len(real), "features", "image") as bar:
        measured = fid.measure(
            features,
            scenes.images(_COUNT.value, fid.BATCH),
            real.batches(fid.BATCH),
            progress=bar.update,
        )
    protocol = fid.PROTOCOL + features.protocol
    _write(out, {**measured.to_results(), "protocol": protocol}, None, {})
    print(
        f"FID {measured.value:.2f} ({measured.features}), {measured.images:,} composites against "
        f"{measured.real_images:,} real images"
    )
    if measured.warning:
        print(f"warning: {measured.warning}")
    print(f"results: {os.path.join(out, RESULTS)}")


def default_out(segmenter: str, predictions: str = "") -> str:
    """Returns where a segmentation's results go if nobody says: RUN/evaluation.

    An encoder's go to RUN/evaluation_encoder, those of predicted masks beside their directory.

    Raises:
        UserError: The segmenter is not on this machine, so there is no place beside it.
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
    """Opens photos with their truth, and says what they are."""
    if not (_IMAGES.value or _MASKS.value or _DETECTOR.value):
        from layered_segmentation.evaluation import scoring

        pairs, about = scoring.test_set_of(_SEGMENTER.value, _LIMIT.value)
        if not pairs:
            raise UserError(
                "--images is needed, with --masks or --detector (layerseg evaluate --help)"
            )
        return pairs, about
    _require_flags({"images": _IMAGES.value})
    if bool(_MASKS.value) == bool(_DETECTOR.value):
        raise UserError("name the truth: either --masks or --detector")
    if _DETECTOR.value:
        from layered_segmentation.evaluation.detectors import DetectedFolder

        detector = _open_detector()
        return DetectedFolder(_IMAGES.value, detector), detector.protocol

    from layered_segmentation.data import folder

    return folder.PairFolder(_IMAGES.value, _MASKS.value, _IGNORE.value), ""


def _open_method(pairs: "Sequence[Pair]", count: int) -> "PredictPairs":
    """Opens what is scored, a segmenter or masks of the first `count` photos."""
    if not _PREDICTIONS.value:
        from layered_segmentation.segmenter import looks, presets

        predict = presets.load(_SEGMENTER.value).predict_masks
        return lambda chunk: looks.predict_masks(
            predict, [pair.image for pair in chunk], _LOOKS.value
        )

    from layered_segmentation.data.folder import MaskFolder

    predicted = MaskFolder(_PREDICTIONS.value, "--predictions")
    names = getattr(pairs, "files", None) or [pair.name for pair in pairs]
    predicted.require(names[:count])
    return lambda chunk: [predicted.read(pair.name) for pair in chunk]


def _open_detector() -> "Detector":
    from layered_segmentation.evaluation import detectors

    return detectors.open_detector(_DETECTOR.value, _CLASS.value, _SCORE.value, _INSTANCES.value)


def _open_generated() -> "tuple[GeneratedScenes, Any]":
    """Opens the scenes of a run's generator; also returns the run's config."""
    from layered_segmentation.run_directory import RunDirectory

    run = RunDirectory.open(_RUN_DIR.value)

    from layered_segmentation.evaluation.generated import GeneratedScenes

    return GeneratedScenes(run.load_generator(), _SEED.value), run.config()


def _write(
    out: str, results: dict[str, Any], scores: "Scores | None", pictures: "dict[str, np.ndarray]"
) -> None:
    """Writes what was measured, results.json last."""
    from layered_segmentation import files, sheets

    os.makedirs(out, exist_ok=True)
    if scores is not None:
        scores.write_csv(os.path.join(out, TABLE))
    for name, picture in pictures.items():
        sheets.save_png(picture, os.path.join(out, name))
    settings = {flag.name: flag.value for flag in _SETTINGS[_MEASURE.value]}
    content = {**results, "settings": settings}
    files.write_json(os.path.join(out, RESULTS), content, ensure_ascii=False)


def _refuse_other_flags() -> None:
    """Refuses flags that the measure does not look at, since their user expects that it does."""
    used = {flag.name for flag in _SETTINGS[_MEASURE.value]}
    known = {flag.name for chosen in _SETTINGS.values() for flag in chosen}
    for name in sorted(known - used):
        if flags.FLAGS[name].present:
            raise UserError(
                f"--{name}: has no effect with --measure={_MEASURE.value}; leave it out"
            )


def _refuse_flags_without_their_partner() -> None:
    """Refuses flags that nothing looks at for want of another, or because of its value."""
    if _IGNORE.value and not _MASKS.value:
        raise UserError(
            f"--ignore={_IGNORE.value}: it goes with --masks; name them, or leave it out"
        )
    if _LOOKS.value != 1 and _PREDICTIONS.value:
        raise UserError(f"--looks={_LOOKS.value}: it goes with --segmenter, not --predictions")
    chosen = [flag.name for flag in _OF_SAVED_MODEL if flags.FLAGS[flag.name].present]
    if not chosen:
        return
    if not _DETECTOR.value:
        raise UserError(f"--{chosen[0]}: it goes with --detector; name one, or leave it out")
    from layered_segmentation.evaluation import detectors

    kind = detectors.kind_of(_DETECTOR.value)
    if kind != detectors.SAVED_MODEL:
        raise UserError(
            f"--{chosen[0]}: it goes with a SavedModel, and --detector={_DETECTOR.value} is "
            f"{kind}; leave it out"
        )


def _require_flags(given: dict[str, str]) -> None:
    for name, value in given.items():
        if not value:
            raise UserError(
                f"--{name} is needed with --measure={_MEASURE.value} (layerseg evaluate --help)"
            )


def _require_free(out: str, names: list[str]) -> None:
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"--out={out}: a file has this name; name a directory")
    taken = [name for name in names if os.path.exists(os.path.join(out, name))]
    if taken and not _OVERWRITE.value:
        raise UserError(
            f"--out={out}: holds {', '.join(taken)} of an earlier evaluation; name another --out "
            "or add --overwrite"
        )


# What results.json says of the flags.
_OF_SAVED_MODEL = (_CLASS, _SCORE, _INSTANCES)
_DETECTION = (_DETECTOR, *_OF_SAVED_MODEL)
_SETTINGS = {
    "segmentation": (
        _SEGMENTER, _PREDICTIONS, _IMAGES, _MASKS, _IGNORE, _REFINE, _LOOKS, _LIMIT,
        _MARGIN, _ITERATIONS, _SIDE, *_DETECTION,
    ),
    "generated": (_RUN_DIR, _COUNT, _SEED, *_DETECTION),
    "fid": (_RUN_DIR, _COUNT, _SEED, _IMAGES, _INCEPTION),
}  # fmt: skip


if __name__ == "__main__":
    app.run(main)
