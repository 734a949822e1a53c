"""Trains the layered GAN on unlabelled photos of one kind of object.

Run the same command again to resume a run that was stopped; the result is the same, bit for bit. A
stop or a crash loses at most the steps since the last checkpoint.

Example:
  layerseg train --config=quickstart_photos --set=data.path=PHOTOS --run_dir=RUN
"""

import sys

from absl import flags

from layered_segmentation import config as configs
from layered_segmentation import quiet
from layered_segmentation.cli import app, shared

_CONFIG, _SET = app.define_config_flags()
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the run.", required=True)
_DEVICES, _LOGICAL_CPUS = app.define_device_flags()
shared.define_max_pixels_flag()

RESUME = "run the same command again to resume from the last checkpoint"


def main(_: list[str]) -> None:
    """Trains one run, or resumes it."""
    config = configs.with_absolute_paths(configs.load(_CONFIG.value, _SET.value))

    quiet.import_tensorflow(_LOGICAL_CPUS.value)
    from layered_segmentation import run_directory
    from layered_segmentation.evaluation import report
    from layered_segmentation.gan import trainer
    from layered_segmentation.segmenter import presets, sanity

    shared.note_few_photos(config)
    run = run_directory.RunDirectory(_RUN_DIR.value)
    summary = trainer.train(
        config, run, devices=_DEVICES.value, load_student=presets.load_background_student
    )
    if summary.already_finished:
        print(f"{run.path} is finished: {summary.images_seen:,} images seen; nothing to do.")
    else:
        print(
            f"trained on {summary.images_seen:,} images in {summary.seconds:,.0f} s, "
            f"{summary.images_per_second:,.1f} images/s"
        )
    if not summary.is_chief:  # the first worker writes the report
        return
    path = report.write_run_report(run)
    if run.finished():
        for line in sanity.of_training(run.read_log(), config):
            print(f"warning: {line}", file=sys.stderr)
    print(f"report: {path}")
    if config.gan.variant.has_mask:
        print(app.next_step("distill", run_dir=run.path))
    else:
        print(app.next_step("sample", run_dir=run.path, out="sheet.png"))


if __name__ == "__main__":
    app.run(main)
