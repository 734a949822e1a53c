"""Trains, scores and exports a segmenter with one command.

Without --images, it learns from built-in procedural scenes and is scored on 500
held-out ones. With --images, it learns from your own photos of one kind of object; masks are only
ever used for scoring. OUT/report.html shows the outcome, OUT/results.json holds the scores,
OUT/run/ is the trained run, OUT/export/ has the exported files. Run the same command again to
resume a chain that was stopped.

Example:
  layerseg quickstart --out=quickstart
  layerseg quickstart --images=PHOTOS --out=OUT
  layerseg quickstart --images=PHOTOS --test_images=DIR --test_masks=DIR --out=OUT
"""

import dataclasses
import os

from absl import flags

from layered_segmentation import choices, quiet
from layered_segmentation import config as configs
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

_OUT = flags.DEFINE_string("out", None, "Directory to write everything to.", required=True)
_IMAGES = flags.DEFINE_string(
    "images", "", "Directory of photos of one kind of object; procedural scenes if empty."
)
_TEST_IMAGES = flags.DEFINE_string("test_images", "", "Directory of photos to test on.")
_TEST_MASKS = flags.DEFINE_string("test_masks", "", "Directory of their true masks, to score.")
_MASK_VALUE = shared.define_value_flag("mask_value", "--test_masks")
_TEST_IGNORE = flags.DEFINE_string(
    "test_ignore", "", "Directory of masks of the pixels to leave out of the score."
)
_TRIES = flags.DEFINE_integer(
    "tries",
    1,
    "Number of runs to train, each with another seed; the best by a score that needs no true masks "
    "is kept.",
    1,
)
_CONFIG, _SET = app.define_config_flags()
_DEVICES, _LOGICAL_CPUS = app.define_device_flags()
shared.define_max_pixels_flag()

RESUME = "run the same command again to resume"


def main(_: list[str]) -> None:
    """Runs the remaining phases of the chain."""
    config = configs.with_absolute_student(_load_config())

    quiet.import_tensorflow(_LOGICAL_CPUS.value)
    from layered_segmentation.cli import chain as chains

    test = chains.TestSet(
        _TEST_IMAGES.value or config.data.test_path,
        _TEST_MASKS.value or config.data.test_masks,
        _TEST_IGNORE.value,
        tuple(_MASK_VALUE.value),
    )
    chain = chains.Chain(_OUT.value, config, test)
    results = chains.run(chain, _DEVICES.value, _TRIES.value)
    if results["already_finished"]:
        print(f"{chain.out} is finished; nothing to do.")
    else:
        speed = results["images_per_second"]["train"]
        print(f"done in {results['seconds'] / 60:.1f} min; training {speed:,.1f} images/s")
    if results["miou"] is not None:
        references = ", ".join(f"{name} {v:.3f}" for name, v in results["references"].items())
        print(f"mIoU {results['miou']:.3f} ± {results['miou_std']:.3f} ({references})")
    print(f"report: {chain.path('report.html')}")
    print(f"results: {chain.path('results.json')}")


def _load_config() -> configs.Config:
    if not _IMAGES.value:
        config = configs.load(_CONFIG.value or "quickstart", _SET.value)
        if config.data.name == choices.SourceName.folder and not config.data.path:
            raise UserError(f"--config={_CONFIG.value}: it needs photos; name them with --images")
        return config
    overrides = ["data.name=folder", *_SET.value]
    config = configs.load(_CONFIG.value or "quickstart_photos", overrides)
    # An absolute path, so that the command finds the same photos from any directory.
    path = os.path.abspath(_IMAGES.value)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=path))


if __name__ == "__main__":
    app.run(main)
