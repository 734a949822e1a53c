"""Writes the photos of a prepared dataset, and its masks, as files.

Photos are copied byte for byte. A photo that has a file name in the dataset keeps it, including its
directories; others are named NUMBER or NUMBER_KEY after their position in the split, so they stay
in order. Each of several datasets gets a directory. A mask is a PNG of 0 and 255 with the name of
its photo. Run the same command again to resume; existing files are never replaced.

--dataset has the form of data.dataset, NAME[/CONFIG][:VERSION][@SPLIT][[FROM:TO]], several joined
with +. The default split is train.

Example:
  layerseg extract --dataset=lsun_objects/car[:10000] --data_dir=DATA --out=PHOTOS
  layerseg extract --dataset=cub200_segmentation@test --data_dir=DATA --out=PHOTOS --masks_out=MASKS
"""

import sys

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

_DATASET = flags.DEFINE_string(
    "dataset", None, "Prepared TensorFlow datasets, as in lsun_objects/car[:10000].", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Directory of prepared datasets; that of TensorFlow Datasets if empty."
)
_OUT = flags.DEFINE_string(
    "out", None, "Directory to write the photos to, new or empty.", required=True
)
_MASKS_OUT = flags.DEFINE_string(
    "masks_out",
    "",
    "Directory to write the masks to, if the dataset has a feature `mask` or `segmentation_mask`.",
)
_MASK_LABEL = flags.DEFINE_integer(
    "mask_label",
    None,
    "Label of the object, for masks of labels instead of 0 and 1.",
    lower_bound=0,
)
_LIMIT = flags.DEFINE_integer(
    "limit",
    0,
    "Write only the first so many photos, in proportion for several datasets; 0 writes all.",
    lower_bound=0,
)
app.goes_with(_MASK_LABEL, _MASKS_OUT)

RESUME = "the files written so far are complete; run the same command again to resume"

# Names in error messages: settings of training, and what to call them here.
_FLAGS = {
    "data.dataset": "--dataset",
    "data.data_dir": "--data_dir",
    "data.name=tfds": "extract",
}


def main(_: list[str]) -> None:
    """Writes the photos of datasets."""
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
    truth = {"masks": masks_out} if masks_out else {"detector": "MASK_RCNN_SAVED_MODEL"}
    print(app.next_step("evaluate", segmenter="RUN", images=out, **truth))
    print(f"  or: {app.command_line('segment', segmenter='RUN', input=out, out='OUT')}")


if __name__ == "__main__":
    app.run(main)
