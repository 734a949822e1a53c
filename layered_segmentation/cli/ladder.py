r"""Compares students of several sizes as TFLite files: mIoU, time, size.

Each segmenter is converted to float32 and to int8. All files are timed in turn, one image at a
time on one thread with XNNPACK, in several rounds, so that a slowdown of the machine
affects all; the median round is reported. The mIoU is that of the file's masks, scored as by
`layerseg evaluate`. Writes OUT/ladder.md and OUT/ladder.json.

Example:
  layerseg ladder --segmenters=STUDENTS/w8_64,STUDENTS/w24_64 --out=LADDER \
      --representative_data=PHOTOS --images=TEST_PHOTOS --masks=TEST_MASKS
"""

import os

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

_SEGMENTERS = flags.DEFINE_list(
    "segmenters", None, "Run or preset directories, with commas between.", required=True
)
_REPRESENTATIVE = flags.DEFINE_string(
    "representative_data", None, "Photos from which int8 derives its ranges.", required=True
)
_IMAGES = flags.DEFINE_string("images", None, "Photos to score on.", required=True)
_MASKS = flags.DEFINE_string("masks", None, "Their true masks.", required=True)
_IGNORE = flags.DEFINE_string("ignore", "", "Masks of pixels that are not scored.")
_MASK_VALUE = shared.define_value_flag("mask_value", "--masks")
_OUT = flags.DEFINE_string("out", None, "Directory to write to.", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace existing tables.")
shared.define_max_pixels_flag()


def main(_: list[str]) -> None:
    """Measures the students and writes the tables."""
    quiet.import_tensorflow()
    from layered_segmentation.benchmarks import ladder
    from layered_segmentation.data import folder
    from layered_segmentation.segmenter import presets

    shared.require_free(_OUT.value, [ladder.TABLE, ladder.JSON], _OVERWRITE.value)
    loaded = {
        os.path.basename(os.path.normpath(path)): presets.load(path) for path in _SEGMENTERS.value
    }
    if len(loaded) < len(_SEGMENTERS.value):
        raise UserError("--segmenters: two of them have the same name; rename a directory")
    pairs = list(folder.PairFolder(_IMAGES.value, _MASKS.value, _IGNORE.value, _MASK_VALUE.value))
    rows = ladder.measure(loaded, _REPRESENTATIVE.value, pairs)
    ladder.write(rows, _OUT.value)
    print(f"{ladder.table(rows)}table: {os.path.join(_OUT.value, ladder.TABLE)}, {ladder.JSON}")


if __name__ == "__main__":
    app.run(main)
