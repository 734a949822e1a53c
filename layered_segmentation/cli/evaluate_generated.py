"""Scores the masks that a run's generator draws against a detector's (table 1).

The detector sees the generated composites, unshifted. The score is mean IoU over the composites in
which it finds something, next to three references: full mask, centre box, and the detection in
another scene. A directory of masks is matched by scene number; with a copy of the scenes.json of
`layerseg sample --images_out` next to the masks, masks of other scenes are refused.

Writes results.json, per_image.csv, sheet.png (the best, median and worst scenes) and layers.png to
--out, by default RUN/evaluation_generated, where `layerseg table` finds them.

Example:
  layerseg evaluate_generated --run_dir=RUN --detector=MASK_RCNN_SAVED_MODEL
  layerseg evaluate_generated --run_dir=RUN --stage=64 --detector_size=128 --detector=DETECTED
"""

import os

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.cli.shared import RESULTS, SHEET, TABLE

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the trained run.", required=True)
_STAGE = shared.define_stage_flag()
_COUNT = flags.DEFINE_integer("count", 10_000, "Number of composites.", 2)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the composites.", 0, 2**31 - 1)
_DETECTOR = shared.DetectorFlags(required=True)
_SIZE = shared.define_detector_size_flag()
_OUT = flags.DEFINE_string("out", "", "Directory to write to; RUN/evaluation_generated if empty.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the results in --out.")

LAYERS = "layers.png"
_SHOWN = 4  # scenes of each kind on the sheet
_SCENES = 10  # on the sheet of layers


def main(_: list[str]) -> None:
    """Scores one run's generated masks."""
    _DETECTOR.check()
    run = shared.open_run(_RUN_DIR.value, _STAGE.value)
    out = _OUT.value or os.path.join(run.path, "evaluation_generated")
    shared.require_free(out, [RESULTS, TABLE, SHEET, LAYERS], _OVERWRITE.value)

    quiet.import_tensorflow()
    from layered_segmentation import sheets
    from layered_segmentation.evaluation import detectors, generated
    from layered_segmentation.gan import networks
    from layered_segmentation.progress import Bar

    generator = networks.load_generator(run)
    scenes = generated.GeneratedScenes(generator, _SEED.value, size=_SIZE.value)
    detector = _DETECTOR.open()
    if isinstance(detector, detectors.MaskFolderDetector):
        generated.check_record(_DETECTOR.path, scenes)
    with Bar(_COUNT.value, "scoring", "scene") as bar:
        scores = generated.score(scenes, detector, _COUNT.value, progress=bar.update)
    first = scenes.layers(min(_SCENES, _COUNT.value))
    pictures = {
        SHEET: generated.sheet(scenes, detector, scores, _SHOWN),
        LAYERS: sheets.layers_sheet(first, columns=_SCENES),
    }
    results = {**generated.results(scenes, scores, detector), "settings": app.settings(main)}
    shared.write_results(out, results, scores, pictures)
    found = scores.detected
    print(
        f"mIoU {found.miou:.3f} ± {found.miou_std:.3f} over {found.images:,} of {scores.images:,} "
        f"composites in which something is found ({found.images / scores.images:.1%})"
    )
    print("\n".join(found.reference_lines()))
    print(f"results: {os.path.join(out, RESULTS)}, {TABLE}, {SHEET}, {LAYERS}")


if __name__ == "__main__":
    app.run(main)
