"""The speed of the input pipeline compared with that of the training step it feeds.

The pipeline runs in a process of its own, so that the networks' memory is not counted with its own.
Stage by stage it takes turns with the training step, so that a machine that slows down slows both.
"""

import concurrent.futures
import contextlib
import dataclasses
import io
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from layered_segmentation import quiet, schedule
from layered_segmentation.benchmarks import memory, training
from layered_segmentation.config import DataConfig, ScheduleConfig

if TYPE_CHECKING:
    from layered_segmentation.data.batches import PhotoCache

HEADER = (
    f"{'stage':>6} {'batch':>6} {'pipeline images/s':>18} {'training images/s':>18} {'ratio':>7}"
)
_SECONDS = 0.5  # that a turn of the pipeline takes

_PHOTO_SIDES = (256, 341)  # as LSUN's: the shorter side is 256
_OCTAVES = (4, 8, 16, 32, 64, 128)  # cells across the frame

_opened: "list[PhotoCache]" = []  # in the process that reads photos


@dataclasses.dataclass(frozen=True)
class CacheReport:
    """The cost of decoding and resizing the photos for all stages."""

    dataset: str  # as in `data.dataset`
    images: int  # number of photos
    sides: list[int]  # sides of the cached squares, pixels
    bytes: int  # size of the cache
    place: str  # `memory` or `disk`
    seconds: float  # time to decode and resize all photos
    megabytes_before: float  # resident memory of the process before, libraries included
    megabytes_most: float  # peak resident memory of the process until all photos were cached

    def line(self) -> str:
        """Returns the report as a sentence."""
        where = "in memory" if self.place == "memory" else "on disk"
        return (
            f"{self.images:,} photos at {', '.join(map(str, self.sides))} px: "
            f"{self.bytes / 1e6:,.1f} MB {where}, cached in {self.seconds:,.0f} s "
            f"({self.images / self.seconds:,.0f} photos/s); resident memory "
            f"{self.megabytes_before:,.0f} MB before, {self.megabytes_most:,.0f} MB at most"
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """One stage."""

    resolution: int  # image side, pixels
    batch: int  # images per step
    pipeline: float  # images per second of the pipeline alone, median over the rounds
    # images per second of the training step alone, median over the rounds or as given
    training: float
    ratio: float  # median over the rounds of pipeline over training

    def line(self) -> str:
        """Returns the row of the table under `HEADER`."""
        return (
            f"{self.resolution:>6} {self.batch:>6} {self.pipeline:>18,.0f} "
            f"{self.training:>18,.1f} {self.ratio:>7,.0f}"
        )


class PipelineProcess:
    """A process of its own that has cached the photos of all stages and reads them."""

    def __init__(
        self, pool: concurrent.futures.Executor, data: DataConfig, resolutions: Sequence[int]
    ):
        """Caches the photos in the one process of `pool`."""
        self._pool = pool
        self.cache = pool.submit(_open, data, resolutions).result()

    def images_per_second(self, resolution: int, batch: int) -> float:
        """Returns the pipeline's speed at a stage, measured for half a second."""
        return self._pool.submit(_read_opened, resolution, batch).result()

    def memory_line(self) -> str:
        """Returns a sentence on the memory of the process so far."""
        most, anonymous = self._pool.map(memory.megabytes, ("VmHWM", "RssAnon"))
        mapped = f", {anonymous:,.0f} MB now without the pages of mapped files" if anonymous else ""
        return f"all stages read: resident memory {most:,.0f} MB at most{mapped}"


@contextlib.contextmanager
def pipeline_process(data: DataConfig, resolutions: Sequence[int]) -> Iterator[PipelineProcess]:
    """Starts a process that caches the photos for all stages; it ends with the context.

    Raises:
        UserError: The photos cannot be used.
    """
    with training.second_process() as pool:
        yield PipelineProcess(pool, data, resolutions)


def time_stage(
    reader: PipelineProcess,
    resolution: int,
    batch: int,
    rounds: int,
    networks: tuple[int, int] | None,
    speed: float = 0.0,
) -> Row:
    """Times the pipeline of a stage and its training step in turn.

    Args:
        reader: The pipeline.
        resolution: Image side of the stage, pixels.
        batch: Images per step; 0 uses the schedule's default.
        rounds: Turns of each.
        networks: Cap on channels and length of latents of the networks to train.
        speed: Images per second of training to compare with, if there are no networks.
    """
    batch = batch or schedule.batch_size(ScheduleConfig(), resolution)
    trainer = None
    if networks:
        sizes = training.Sizes(resolution, networks[0], batch, networks[1])
        trainer = training.step_timer(sizes, fused=True, precision="float32")
        trainer.run(1)  # compiles
    read, trained = [], []
    for _ in range(rounds):
        read.append(reader.images_per_second(resolution, batch))
        trained.append(trainer.run(1).images_per_second if trainer else speed)
    ratios = [reading / step for reading, step in zip(read, trained, strict=True)]
    median = statistics.median
    return Row(resolution, batch, median(read), median(trained), median(ratios))


def prepare_drawn(count: int, data_dir: str) -> str:
    """Draws photos and prepares them as a TensorFlow dataset; returns its `data.dataset`."""
    from layered_segmentation.data.prepare import prepare

    with tempfile.TemporaryDirectory(prefix="layerseg-") as directory:
        for number in range(count):
            with open(os.path.join(directory, f"{number:06}.jpg"), "wb") as file:
                file.write(draw_photo(number))
        return prepare.prepare("photo_folder/drawn", directory, data_dir).dataset


def draw_photo(number: int) -> bytes:
    """Draws a photo, a JPEG file of 256 × 341 pixels, as a pure function of its number.

    Its spectrum, and roughly its size in bytes and decoding time, are those of photos.
    """
    random = np.random.Generator(np.random.Philox(key=number))
    height, width = _PHOTO_SIDES
    image = np.zeros((height, width, 3), np.float32)
    for cells in _OCTAVES:
        coarse = random.standard_normal((cells, cells, 3), np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / cells**0.7
    levels = np.clip(127.5 + 120 * image, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="JPEG", quality=90)
    return file.getvalue()


def _open(data: DataConfig, resolutions: Sequence[int]) -> CacheReport:
    quiet.import_tensorflow()
    cache, report = _cache_photos(data, resolutions)
    _opened.append(cache)
    return report


def _read_opened(resolution: int, batch: int) -> float:
    return _read(_opened[0], resolution, batch)


def _cache_photos(data: DataConfig, resolutions: Sequence[int]) -> "tuple[PhotoCache, CacheReport]":
    from layered_segmentation.data import batches
    from layered_segmentation.data.cache import bytes_of
    from layered_segmentation.data.source import open_source

    # Loads what a dataset of any length needs, so that it counts as memory before.
    first = open_source(dataclasses.replace(data, limit=1), seed=0)
    for _ in first.squares([8]):
        pass
    source = open_source(data, seed=0)
    budget = data.cache_memory * 1_000_000
    before, start = memory.megabytes("VmRSS"), time.perf_counter()
    cache = batches.PhotoCache.open(
        source, resolutions, data.crop_margin, memory=budget, directory=data.cache_dir
    )
    seconds = time.perf_counter() - start
    sides = [batches.side_at(resolution, data.crop_margin) for resolution in resolutions]
    report = CacheReport(
        dataset=data.dataset,
        images=len(cache),
        sides=sides,
        bytes=bytes_of(len(cache), sides),
        place="memory" if bytes_of(len(source), sides) <= budget else "disk",
        seconds=seconds,
        megabytes_before=before,
        megabytes_most=memory.megabytes("VmHWM"),
    )
    return cache, report


def _read(cache: "PhotoCache", resolution: int, batch: int) -> float:
    """Takes batches as training does; returns images per second."""
    from layered_segmentation.data import batches

    endless = 10**9 // batch * batch
    elements = iter(batches.batches(cache, resolution, batch, True, 0, 0, endless))
    next(elements)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        next(elements)
        count += batch
    return count / (time.perf_counter() - start)
