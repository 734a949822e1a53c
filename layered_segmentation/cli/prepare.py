"""Prepares a dataset from LSUN's or CUB's archives or a folder of photos.

Images keep their order and their bytes. Up to 5 % may be undecodable; they are left out and
counted. Run the same command again to resume: it continues after the last complete file of 64 MB
and does not unpack an archive twice. A zip of LSUN is unpacked before it is read, which takes as
much disk space again; a directory that was unpacked from it is read in place.

--dataset is lsun_objects/CATEGORY (a zip of http://dl.yf.io/lsun/objects/, or the directory in it),
cub200_segmentation or cub200_segmentation/redo (a directory with CUB_200_2011.tgz and
segmentations.tgz, or with both unpacked), or photo_folder/NAME (a directory of photos). `extract`,
`tfds.load` and the setting data.dataset know it by the same name.

Example:
  layerseg prepare --dataset=lsun_objects/car --source=car.zip --data_dir=DATA --limit=100000
  layerseg prepare --dataset=photo_folder/flowers --source=PHOTOS --data_dir=DATA
"""

import os

from absl import flags, logging

from layered_segmentation import files, quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

_DATASET = flags.DEFINE_string(
    "dataset", None, "lsun_objects/CATEGORY, cub200_segmentation[/redo] or photo_folder[/NAME].",
    required=True,
)  # fmt: skip
_SOURCE = flags.DEFINE_string("source", None, "Archive or directory to read.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Directory of prepared datasets; that of TensorFlow Datasets if empty."
)
_LIMIT = flags.DEFINE_integer(
    "limit", 0, "Use only the first so many images of each split; 0 uses all. No more of an LMDB "
    "is read.",
    lower_bound=0,
)  # fmt: skip
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing dataset.")
shared.define_max_pixels_flag()

RESUME = "complete files are kept; run the same command again to resume"


def main(_: list[str]) -> None:
    """Prepares one dataset."""
    data_dir = os.path.abspath(_DATA_DIR.value) if _DATA_DIR.value else ""
    files.require_directory(_DATA_DIR.value, "--data_dir")
    logging.set_verbosity(logging.ERROR)  # TFDS warns about what is intended here
    quiet.import_tensorflow()
    try:
        from layered_segmentation.data.prepare import prepare
    except ModuleNotFoundError as error:
        if error.name != "tensorflow_datasets":
            raise
        raise UserError(
            "prepare needs TensorFlow Datasets: pip install 'layered-segmentation[tfds]'"
        ) from error

    done = prepare.prepare(_DATASET.value, _SOURCE.value, data_dir, _LIMIT.value, _OVERWRITE.value)
    if done.was_finished:
        print(f"{done.path} is finished; nothing to do.")
    for split, images in done.images.items():
        left_out = f", {done.skipped[split]:,} left out" if done.skipped[split] else ""
        is_cut = done.was_finished and 0 < _LIMIT.value < images
        count = f"{_LIMIT.value:,} images of {images:,}" if is_cut else f"{images:,} images"
        print(f"{split}: {count}{left_out}")
    print(f"{done.size / 1e6:,.1f} MB in {done.path}")
    if done.unpacked:
        print(f"{done.unpacked} may be deleted")
    settings = ["data.name=tfds", f"data.dataset={done.dataset}"]
    if data_dir:
        settings.append(f"data.data_dir={data_dir}")
    config = prepare.config_of(done.dataset)
    print(app.next_step("train", config=config, set=settings, run_dir="RUN"))


if __name__ == "__main__":
    app.run(main)
