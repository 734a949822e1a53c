"""Measures the memory of a training run or an exported SavedModel over time.

With --run_dir, a second process trains and is stopped after --minutes; the run can be resumed. With
--saved_model, this process predicts --masks masks. Either way the memory is sampled, and a line is
fitted to the samples after the warm-up: it should be flat.

Example:
  layerseg benchmark_memory --config=quickstart_photos --set=data.path=PHOTOS --run_dir=RUN
  layerseg benchmark_memory --saved_model=OUT/1 --images=PHOTOS
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from layered_segmentation import config as configs
from layered_segmentation import files, progress, quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.benchmarks.memory import Sample

_CONFIG, _SET = app.define_config_flags()
_RUN_DIR = flags.DEFINE_string("run_dir", "", "Directory of a run to train or to resume.")
_MINUTES = flags.DEFINE_float("minutes", 60.0, "How long to train.", lower_bound=0.1)
_SAVED_MODEL = flags.DEFINE_string("saved_model", "", "Version directory of a SavedModel.")
_IMAGES = flags.DEFINE_string("images", "", "Photos for the SavedModel: JPEG, PNG, GIF or BMP.")
_MASKS = flags.DEFINE_integer("masks", 10_000, "Masks to predict.", lower_bound=1)
_WARMUP = flags.DEFINE_float(
    "warmup", 0.5, "Share of the time that the line leaves out.", lower_bound=0, upper_bound=0.9
)
_OUT = flags.DEFINE_string("out", "", "JSON file to write the samples to.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")

_EVERY = 10.0  # seconds between samples of a training
_SAMPLES = 200  # of a SavedModel


def main(_: list[str]) -> None:
    """Measures one of the two and prints samples and slope."""
    if bool(_RUN_DIR.value) == bool(_SAVED_MODEL.value):
        raise UserError("name --run_dir to train, or --saved_model to predict masks: one of them")
    if _SAVED_MODEL.value and not _IMAGES.value:
        raise UserError("--images is needed with --saved_model: a directory of photos")
    shared.require_new_file(_OUT.value, _OVERWRITE.value)

    from layered_segmentation.benchmarks import memory

    memory.require_proc()
    unit = "images" if _RUN_DIR.value else "masks"
    samples = list(_training() if _RUN_DIR.value else _predicting())
    print(memory.table(samples, unit))
    line = memory.slope(samples, _WARMUP.value)
    print(
        f"slope after the first {_WARMUP.value:.0%} of the time: {line.per_hour:+.2f} MB an hour, "
        f"{line.per_thousand:+.4f} MB per 1,000 {unit} (scatter {line.scatter:.2f} MB, "
        f"{line.samples} samples)"
    )
    if _OUT.value:
        rows = [dataclasses.asdict(sample) for sample in samples]
        files.write_json(_OUT.value, {"slope": dataclasses.asdict(line), "samples": rows})


def _training() -> "Iterator[Sample]":
    from layered_segmentation.benchmarks import memory
    from layered_segmentation.run_directory import RunDirectory

    configs.load(_CONFIG.value, _SET.value)  # refuses before a process is started
    run = RunDirectory(_RUN_DIR.value)
    arguments = [f"--config={_CONFIG.value}", f"--run_dir={_RUN_DIR.value}"]
    arguments += [f"--set={text}" for text in _SET.value]

    def images_seen() -> int:
        return max((int(row.get("images_seen", 0)) for row in run.read_log()), default=0)

    yield from memory.watch_training(arguments, _MINUTES.value, _EVERY, images_seen)


def _predicting() -> "Iterator[Sample]":
    quiet.import_tensorflow()
    import tensorflow as tf

    from layered_segmentation.benchmarks import memory
    from layered_segmentation.data import folder

    names = folder.find_photos(_IMAGES.value, "--images")
    photos = []
    for name in names[:1_000]:
        with open(os.path.join(_IMAGES.value, name), "rb") as file:
            photos.append(file.read())
    loaded = tf.saved_model.load(_SAVED_MODEL.value)
    every = max(1, _MASKS.value // _SAMPLES)
    samples = memory.watch_masks(loaded, photos, _MASKS.value, every)
    done = 0
    with progress.Bar(_MASKS.value, "segmenting", "mask") as bar:
        for sample in samples:
            bar.update(sample.done - done)
            done = sample.done
            yield sample


if __name__ == "__main__":
    app.run(main)
