"""Measures the speed of training, stage by stage, or of the input pipeline.

Each row is a full step: discriminator with gradient penalty, generator, average. All variants are
timed in turn in one run, several times over, so that a machine that slows down slows all of them;
compare the ratios. `plain` is the unfused graph with TensorFlow's own threads and kernels; the
others run as in `layerseg train`. The last column relates the operations per second of the step to
the peak of the machine's matrix multiplication, measured in the same run.

With --data, the photos of a prepared dataset are decoded and resized for all stages, as before the
first step of a training, and the batches of each stage are timed in turn with its training step
(float32). The ratio is the number of trainings that the pipeline could feed. The memory reported is
that of the process that decodes.

Example:
  layerseg benchmark --resolutions=8,16,32 --max_channels=64 --batch=32 --out=benchmark.json
  layerseg benchmark --data --dataset=lsun_objects/car[:10000] --data_dir=DIR --out=data.json
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags, logging

from layered_segmentation import quiet
from layered_segmentation.cli import app
from layered_segmentation.config import Precision, SourceName
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.config import DataConfig

_RESOLUTIONS = flags.DEFINE_list(
    "resolutions", [], "Stages to time, pixels; if empty 8,16,32, with --data up to 128."
)
_CHANNELS = flags.DEFINE_integer("max_channels", 64, "Cap on channels.", lower_bound=1)
_BATCH = flags.DEFINE_integer(
    "batch", 0, "Images per step; if 0, 32, with --data the stage's default.", lower_bound=0
)
_LATENT = flags.DEFINE_integer("latent_dim", 128, "Length of latents.", lower_bound=1)
_PRECISION = flags.DEFINE_enum(
    "mixed",
    Precision.mixed_bfloat16,
    [Precision.mixed_bfloat16, Precision.mixed_float16],
    "The mixed precision to time.",
)
_STEPS = flags.DEFINE_integer("steps", 4, "Steps of a round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds; the median is reported.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "JSON file to write the figures to.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")
_DATA = flags.DEFINE_bool("data", False, "Time the input pipeline.")
_DATASET = flags.DEFINE_string(
    "dataset", "", "With --data: as data.dataset; if empty, photos are drawn and prepared first."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "With --data: as data.data_dir.")
_IMAGES = flags.DEFINE_integer(
    "images", 0, "With --data: number of photos; if 0 all, or 10,000 drawn ones.", lower_bound=0
)
_MEMORY = flags.DEFINE_integer(
    "cache_memory", 2_000, "With --data: as data.cache_memory, MB; 0 caches on disk.", lower_bound=0
)
_SPEEDS = flags.DEFINE_list(
    "training_speeds",
    [],
    "With --data: images per second of training, one per stage, instead of timing steps here.",
)


def main(argv: list[str]) -> None:
    """Times every stage and prints a table."""
    del argv
    _refuse_other_flags()
    resolutions = _resolutions()
    if _OUT.value and os.path.exists(_OUT.value) and not _OVERWRITE.value:
        raise UserError(f"--out={_OUT.value}: it exists; name another file or add --overwrite")
    quiet.import_tensorflow()
    figures = _time_data(resolutions) if _DATA.value else _time_training(resolutions)
    if _OUT.value:
        from layered_segmentation import files

        files.write_json(_OUT.value, figures)


def _time_training(resolutions: list[int]) -> object:
    from layered_segmentation.benchmarks import training

    rows = []
    print(training.HEADER, flush=True)
    for resolution in resolutions:
        timed = training.time_stage(
            training.Sizes(resolution, _CHANNELS.value, _BATCH.value or 32, _LATENT.value),
            mixed=_PRECISION.value,
            steps=_STEPS.value,
            rounds=_ROUNDS.value,
            chosen=app.CHOSEN,
        )
        for row in timed:
            print(row.line(), flush=True)
        rows += timed
    return [dataclasses.asdict(row) for row in rows]


def _time_data(resolutions: list[int]) -> object:
    speeds = _speeds(resolutions)
    logging.set_verbosity(logging.ERROR)  # TFDS warns of what is intended here

    from layered_segmentation.benchmarks import data as data_benchmark

    rows = []
    networks = None if speeds else (_CHANNELS.value, _LATENT.value)
    with (
        _photos() as data,
        data_benchmark.pipeline_process(data, resolutions) as reader,
    ):
        print(reader.cache.line(), flush=True)
        print(data_benchmark.HEADER, flush=True)
        for index, resolution in enumerate(resolutions):
            row = data_benchmark.time_stage(
                reader,
                resolution,
                _BATCH.value,
                _ROUNDS.value,
                networks,
                speeds[index] if speeds else 0.0,
            )
            print(row.line(), flush=True)
            rows.append(dataclasses.asdict(row))
        print(reader.memory_line(), flush=True)
    return {"cache": dataclasses.asdict(reader.cache), "stages": rows}


@contextlib.contextmanager
def _photos() -> "Iterator[DataConfig]":
    """Yields the dataset to read, drawn if none is named; its caches end with the context."""
    from layered_segmentation.config import DataConfig

    with tempfile.TemporaryDirectory(prefix="layerseg-") as directory:
        dataset, data_dir = _DATASET.value, _DATA_DIR.value
        if not dataset:
            from layered_segmentation.benchmarks import data as data_benchmark

            data_dir = os.path.join(directory, "data")
            dataset = data_benchmark.prepare_drawn(_IMAGES.value or 10_000, data_dir)
        yield DataConfig(
            name=SourceName.tfds,
            dataset=dataset,
            data_dir=data_dir,
            limit=_IMAGES.value,
            cache_memory=_MEMORY.value,
            cache_dir=os.path.join(directory, "cache"),
        )


def _resolutions() -> list[int]:
    default = ["8", "16", "32", "64", "128"] if _DATA.value else ["8", "16", "32"]
    resolutions = []
    for text in _RESOLUTIONS.value or default:
        side = int(text) if text.isdigit() else 0
        if side < 8 or side & (side - 1):
            raise UserError(f"--resolutions={text}: a resolution is a power of two from 8")
        resolutions.append(side)
    return resolutions


def _speeds(resolutions: list[int]) -> list[float]:
    try:
        speeds = [float(text) for text in _SPEEDS.value]
    except ValueError:
        speeds = [0.0]
    if speeds and (len(speeds) != len(resolutions) or not all(0 < speed < 1e9 for speed in speeds)):
        raise UserError(
            f"--training_speeds={','.join(_SPEEDS.value)}: one positive number per stage, "
            f"{len(resolutions)} for {','.join(map(str, resolutions))}"
        )
    return speeds


def _refuse_other_flags() -> None:
    """Refuses flags that would have no effect."""
    of_data = (_DATASET, _DATA_DIR, _IMAGES, _MEMORY, _SPEEDS)
    for flag in (_PRECISION, _STEPS) if _DATA.value else of_data:
        if flags.FLAGS[flag.name].present:
            where = "with" if _DATA.value else "without"
            raise UserError(f"--{flag.name}: has no effect {where} --data; leave it out")
    for flag in (_CHANNELS, _LATENT) if _SPEEDS.value else ():
        if flags.FLAGS[flag.name].present:
            raise UserError(f"--{flag.name}: has no effect with --training_speeds; leave it out")


if __name__ == "__main__":
    app.run(main)
