"""Trains the student segmenter on image/mask pairs that a run's generator draws.

Writes RUN/segmenter/ (a KerasHub preset) and RUN/segmenter_results.json. With --out=DIR, the preset
is written there and its results next to it, for students of several sizes from one run. Settings
are those of the run; a config's section `student` and --set=student.FIELD=VALUE change them.

Example:
  layerseg distill --run_dir=RUN --set=student.steps=4000
  layerseg distill --run_dir=RUN --config=students/w8_64 --out=STUDENTS/w8_64
"""

import os

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the trained run.", required=True)
_STAGE = shared.define_stage_flag()
_SET = flags.DEFINE_multi_string(
    "set", [], "A student setting, as in --set=student.width=32; may be repeated."
)
_CONFIG = flags.DEFINE_string(
    "config", "", "A config whose section `student` overrides the run's, such as students/w8_64."
)
_OUT = flags.DEFINE_string("out", "", "The preset's directory; RUN/segmenter if empty.")
_DEVICES, _LOGICAL_CPUS = app.define_device_flags()
_FLOAT16 = flags.DEFINE_bool(
    "float16", False, "Store the weights as 16-bit numbers: a preset of 2 MB instead of 5."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing segmenter.")
shared.define_max_pixels_flag()

RESUME = "no segmenter was written; run it again"


def main(_: list[str]) -> None:
    """Trains one student."""
    from layered_segmentation import config as configs
    from layered_segmentation import files
    from layered_segmentation.run_directory import STUDENT_MASKS, STUDENT_RESULTS

    run = shared.open_run(_RUN_DIR.value, _STAGE.value)
    sized = configs.section_overrides(_CONFIG.value, "student") if _CONFIG.value else []
    config = run.config_with("student", [*sized, *_SET.value])
    if not config.gan.variant.has_mask:
        raise UserError(
            f"--run_dir={run.path}: gan.variant={config.gan.variant!r} draws no mask, so "
            "there is nothing for a student to learn; use a run of another variant"
        )
    out = os.path.normpath(_OUT.value or run.segmenter)
    if os.path.lexists(out) and not _OVERWRITE.value:
        raise UserError(
            f"--run_dir={run.path}: there is a segmenter already ({out}); add --overwrite to "
            "replace it, or name another --out"
        )
    files.require_directory(out)
    written = out, out + STUDENT_RESULTS, out + STUDENT_MASKS
    quiet.import_tensorflow(_LOGICAL_CPUS.value)
    from layered_segmentation.evaluation import quality, report
    from layered_segmentation.segmenter import distill

    if config.student.self_training:
        shared.note_changed_photos(run)
    with run.lock(), files.undoing(*written):
        segmenter, summary = distill.distill_run(
            run, config, out, _OVERWRITE.value, _DEVICES.value, _FLOAT16.value
        )
    print(
        f"distilled {summary.steps:,} steps in {summary.seconds:,.0f} s, "
        f"{summary.images_per_second:,.1f} images/s; loss {summary.loss:.3f}, agreement with the "
        f"generator's masks {summary.agreement:.3f}"
    )
    if not _OUT.value:
        quality.measure_if_possible(run, config, segmenter)
        print(f"report: {report.write_run_report(run)}")
    print(f"segmenter: {out}")
    segmenter_name = out if _OUT.value else run.path
    print(app.next_step("segment", segmenter=segmenter_name, input="PHOTOS", out="MASKS"))


if __name__ == "__main__":
    app.run(main)
