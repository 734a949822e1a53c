"""Measures the speed of the input pipeline, stage by stage.

The photos of a prepared dataset are decoded and resized for all stages, as training does before its
first step. Then the batches of each stage are timed in turn with its training step (float32). The
ratio is the number of trainings that the pipeline could feed. The reported memory is that of the
process that decodes.

Example:
  layerseg benchmark_data --dataset=lsun_objects/car[:10000] --data_dir=DIR --out=data.json
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags, logging

from layered_segmentation import files, quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.config import DataConfig

_DATASET = flags.DEFINE_string(
    "dataset", "", "As data.dataset; if empty, photos are drawn and prepared first."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "As data.data_dir.")
_IMAGES = flags.DEFINE_integer(
    "images", 0, "Number of photos; if 0 all, or 10,000 drawn ones.", lower_bound=0
)
_MEMORY = flags.DEFINE_integer(
    "cache_memory", 2_000, "As data.cache_memory, MB; 0 caches on disk.", lower_bound=0
)
_RESOLUTIONS = flags.DEFINE_list(
    "resolutions", ["8", "16", "32", "64", "128"], "Stages to time, pixels."
)
_BATCH = flags.DEFINE_integer(
    "batch", 0, "Images per step; 0 is the stage's default.", lower_bound=0
)
_CHANNELS = flags.DEFINE_integer(
    "max_channels", 64, "Cap on channels of the training step.", lower_bound=1
)
_LATENT = flags.DEFINE_integer(
    "latent_dim", 128, "Length of latents of the training step.", lower_bound=1
)
_SPEEDS = flags.DEFINE_list(
    "training_speeds",
    [],
    "Images per second of training, one per stage, instead of timing training steps.",
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds; the median is reported.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "JSON file to write the results to.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")

_DRAWN = 10_000  # photos


def main(_: list[str]) -> None:
    """Times every stage and prints a table."""
    resolutions = shared.parse_resolutions(_RESOLUTIONS.value)
    speeds = _speeds(resolutions)
    shared.require_new_file(_OUT.value, _OVERWRITE.value)
    quiet.import_tensorflow()
    logging.set_verbosity(logging.ERROR)  # TFDS warns about what is intended here

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
    if _OUT.value:
        results = {"cache": dataclasses.asdict(reader.cache), "stages": rows}
        files.write_json(_OUT.value, results)


@contextlib.contextmanager
def _photos() -> "Iterator[DataConfig]":
    """Yields the dataset to read, drawn if none is named; its caches are removed afterwards."""
    from layered_segmentation.choices import SourceName
    from layered_segmentation.config import DataConfig

    with tempfile.TemporaryDirectory(prefix="layerseg-") as directory:
        dataset, data_dir = _DATASET.value, _DATA_DIR.value
        if not dataset:
            from layered_segmentation.benchmarks import data as data_benchmark

            data_dir = os.path.join(directory, "data")
            dataset = data_benchmark.prepare_drawn(_IMAGES.value or _DRAWN, data_dir)
        yield DataConfig(
            name=SourceName.tfds,
            dataset=dataset,
            data_dir=data_dir,
            limit=_IMAGES.value,
            cache_memory=_MEMORY.value,
            cache_dir=os.path.join(directory, "cache"),
        )


def _speeds(resolutions: list[int]) -> list[float]:
    if not _SPEEDS.value:
        return []
    for flag in (_CHANNELS, _LATENT):
        if flags.FLAGS[flag.name].present:
            raise UserError(f"--{flag.name}: has no effect with --training_speeds; leave it out")
    try:
        speeds = [float(text) for text in _SPEEDS.value]
    except ValueError:
        speeds = []
    if len(speeds) != len(resolutions) or not all(0 < speed < 1e9 for speed in speeds):
        raise UserError(
            f"--training_speeds={','.join(_SPEEDS.value)}: one positive number per stage is "
            f"needed, {len(resolutions)} for {','.join(map(str, resolutions))}"
        )
    return speeds


if __name__ == "__main__":
    app.run(main)
