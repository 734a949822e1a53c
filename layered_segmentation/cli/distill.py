"""Trains the student segmenter on image/mask pairs that a run's generator draws.

Writes RUN/segmenter/ (a KerasHub preset) and RUN/segmenter_results.json. The student's settings
are the run's; --set=student.FIELD=VALUE changes them for this student.

Example:
  layerseg distill --run_dir=RUN --set=student.steps=4000
"""

import dataclasses
import json
import os

from absl import flags

from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the trained run.", required=True)
_SET = flags.DEFINE_multi_string(
    "set", [], "A student setting, as in --set=student.width=32; may be repeated."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the segmenter that the run has.")

RESUME = "no segmenter was written; run it again"
RESULTS = "segmenter_results.json"


def main(argv: list[str]) -> None:
    """Trains one student."""
    del argv
    from layered_segmentation.training import run_directory

    run = run_directory.RunDirectory.open(_RUN_DIR.value)
    config = run.config_with("student", _SET.value)
    if os.path.lexists(run.segmenter) and not _OVERWRITE.value:
        raise UserError(
            f"--run_dir={run.path}: it has a segmenter already ({run.segmenter}); add "
            "--overwrite to replace it"
        )
    generator = run.load_generator()

    from layered_segmentation.models import model_card
    from layered_segmentation.models import segmenter as segmenters
    from layered_segmentation.training import distill

    side = config.student.resolution or generator.resolution
    photos = distill.training_photos(config, side)
    with run.lock():
        segmenter, summary = distill.distill(generator, config, photos=photos)
        facts = {"steps": summary.steps, "seed": config.train.seed}
        card = model_card.draft(config, segmenter.resolution, segmenter.count_params(), facts)
        segmenters.save(segmenter, run.segmenter, overwrite=_OVERWRITE.value, card=card)
    results = {
        **dataclasses.asdict(summary),
        "parameters": segmenter.count_params(),
        "resolution": segmenter.resolution,
        "seed": config.train.seed,
        "student": dataclasses.asdict(config.student),
    }
    run_directory.write_text(os.path.join(run.path, RESULTS), json.dumps(results, indent=2) + "\n")
    print(
        f"distilled {summary.steps:,} steps in {summary.seconds:,.0f} s, "
        f"{summary.images_per_second:,.1f} images/s; loss {summary.loss:.3f}, agreement with the "
        f"generator's masks {summary.agreement:.3f}"
    )
    print(f"segmenter: {run.segmenter}")
    print(f"next: layerseg segment --segmenter={run.path} --input=PHOTOS --out=MASKS")


if __name__ == "__main__":
    app.run(main)
