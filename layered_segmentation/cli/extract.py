"""Writes a prepared dataset's photos, and its masks, as files.

Photos keep their bytes. One that has a file name in the dataset keeps it, with its directories; all
others are called NUMBER or NUMBER_KEY, from the position in the split, and so stay in order. Of
several datasets each gets a directory. A mask is a PNG of 0 and 255 under its photo's name. A
stopped run goes on with the same command; files that are there are never replaced.

--dataset is written as data.dataset of `layerseg train`, without a split it is train:
NAME[/CONFIG][:VERSION][@SPLIT][[FROM:TO]], several joined with +.

Example:
  layerseg extract --dataset=lsun_objects/car[:10000] --data_dir=DATA --out=PHOTOS
  layerseg extract --dataset=cub200_segmentation@test --data_dir=DATA --out=PHOTOS --masks_out=MASKS
"""

import os
import shlex
import sys

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

_DATASET = flags.DEFINE_string(
    "dataset", None, "Prepared TensorFlow datasets, as in lsun_objects/car[:10000].", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Directory of prepared datasets; TensorFlow Datasets' own if not given."
)
_OUT = flags.DEFINE_string(
    "out", None, "Directory to write the photos to: a new or an empty one.", required=True
)
_MASKS_OUT = flags.DEFINE_string(
    "masks_out",
    "",
    "Directory to write the masks to, of datasets with a feature `mask` or `segmentation_mask`.",
)
_MASK_LABEL = flags.DEFINE_integer(
    "mask_label", None, "Where masks hold labels, not 0 and 1: that of the object.", lower_bound=0
)
_LIMIT = flags.DEFINE_integer(
    "limit",
    0,
    "Take only the first so many photos, of several datasets in proportion; 0 takes all.",
    lower_bound=0,
)

RESUME = "the files written so far are whole; the same command goes on"

# What the settings of training, which errors name, are called here.
_FLAGS = {
    "data.dataset": "--dataset",
    "data.data_dir": "--data_dir",
    "data.name=tfds": "extract",
}


def main(argv: list[str]) -> None:
    """Writes the photos of datasets."""
    del argv
    if _MASK_LABEL.value is not None and not _MASKS_OUT.value:
        raise UserError(f"--mask_label={_MASK_LABEL.value}: it goes with --masks_out; name both")

    quiet.import_tensorflow()
    from layered_segmentation.data.prepare import extract
    from layered_segmentation.data.source import first_few

    out, masks_out = _OUT.value, _MASKS_OUT.value
    try:
        done = extract.extract(
            _DATASET.value, _DATA_DIR.value, out, masks_out, _LIMIT.value, _MASK_LABEL.value
        )
    except UserError as error:
        message = str(error)
        for setting, flag in _FLAGS.items():
            message = message.replace(setting, flag)
        raise UserError(message) from error
    if not done.written:
        print(f"{out} is finished; nothing to do.")
    print(f"{done.photos:,} photos in {out}")
    if masks_out:
        print(f"{done.masks:,} masks in {masks_out}")
    if done.skipped:
        total = done.photos + len(done.skipped)
        print(
            f"left out {len(done.skipped):,} of {total:,}: {first_few(done.skipped)}",
            file=sys.stderr,
        )
    images, masks = (shlex.quote(os.fspath(path)) for path in (out, masks_out))
    truth = f"--masks={masks}" if masks_out else "--detector=MASK_RCNN_SAVED_MODEL"
    print(f"next: layerseg evaluate --segmenter=RUN --images={images} {truth}")
    print(f"  or: layerseg segment --segmenter=RUN --input={images} --out=OUT")


if __name__ == "__main__":
    app.run(main)
