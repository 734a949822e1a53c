"""Trains a detector that sees no colour, to score generated procedural scenes.

It learns from other scenes and their true masks. It takes the place of Mask R-CNN in the paper's
table 1 and is used for scoring alone.

Example:
  layerseg grey_detector --out=grey_detector
  layerseg evaluate_generated --run_dir=RUN --detector=grey_detector
"""

import os

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

_OUT = flags.DEFINE_string("out", None, "Preset directory to write.", required=True)
_RESOLUTION = flags.DEFINE_integer("resolution", 16, "Side of the scenes, pixels.", lower_bound=8)
_STEPS = flags.DEFINE_integer("steps", 2_000, "Training steps, of 64 scenes each.", lower_bound=1)
_SCENES = flags.DEFINE_integer("scenes", 20_000, "Scenes to learn from.", lower_bound=1)

_HELD_OUT = 500  # scenes to score it on


def main(_: list[str]) -> None:
    """Trains a detector, scores it on held-out scenes and writes it."""
    out, side = _OUT.value, _RESOLUTION.value
    if os.path.lexists(out):
        raise UserError(f"--out={out}: it exists; name another directory")
    if side % 8:
        raise UserError(f"--resolution={side}: it must be a multiple of 8")

    quiet.import_tensorflow()
    from layered_segmentation.data.scenes import Scenes
    from layered_segmentation.evaluation import detectors, scoring
    from layered_segmentation.segmenter import presets

    detector = detectors.train_grey(side, _STEPS.value, _SCENES.value)
    scenes = Scenes(detectors.GREY_SEED, _HELD_OUT, split="test")
    scores = scoring.score(detector.predict_masks, scenes.pairs(side), references=False)
    presets.save(detector, out)
    score = f"mIoU {scores.miou:.3f} ± {scores.miou_std:.3f}"
    print(f"{score} on {scores.images} held-out scenes\ndetector: {out}")
    print(app.next_step("evaluate_generated", run_dir="RUN", detector=out))


if __name__ == "__main__":
    app.run(main)
