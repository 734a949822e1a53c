"""How fast photos come out of the pipeline, beside how fast a training step takes them.

The pipeline runs in a process of its own, so that its memory is measured without the networks';
stage by stage it takes turns with the training step, so that a machine that slows down slows both.
"""

import contextlib
import dataclasses
import io
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from layered_segmentation.config import DataConfig, ScheduleConfig
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.data.batches import PhotoCache

HEADER = (
    f"{'stage':>6} {'batch':>6} {'pipeline images/s':>18} {'training images/s':>18} {'ratio':>7}"
)
_SECONDS = 0.5  # of a turn of the pipeline


@dataclasses.dataclass(frozen=True)
class Made:
    """How the photos of all stages were made.

    Attributes:
        dataset: As in `data.dataset`.
        images: How many photos.
        sides: Of their squares, pixels.
        bytes: What they take.
        place: `memory` or `disk`.
        seconds: Time to decode and resize all of them.
        megabytes_before: Resident memory of the process before, libraries and all.
        megabytes_most: The most it had until all were made.
    """

    dataset: str
    images: int
    sides: list[int]
    bytes: int
    place: str
    seconds: float
    megabytes_before: float
    megabytes_most: float

    def line(self) -> str:
        """Returns a sentence."""
        where = "in memory" if self.place == "memory" else "on disk"
        return (
            f"{self.images:,} photos at {', '.join(map(str, self.sides))} px: "
            f"{self.bytes / 1e6:,.1f} MB {where}, made in {self.seconds:,.0f} s "
            f"({self.images / self.seconds:,.0f} photos/s); resident memory "
            f"{self.megabytes_before:,.0f} MB before, {self.megabytes_most:,.0f} MB at most"
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """One stage.

    Attributes:
        resolution: Image side, pixels.
        batch: Images a step.
        pipeline: Images a second of the pipeline alone, median over the rounds.
        training: Images a second of the training step alone, likewise, or as it was given.
        ratio: The former over the latter.
    """

    resolution: int
    batch: int
    pipeline: float
    training: float
    ratio: float

    def line(self) -> str:
        """Returns the row of the table that `HEADER` heads."""
        return (
            f"{self.resolution:>6} {self.batch:>6} {self.pipeline:>18,.0f} "
            f"{self.training:>18,.1f} {self.ratio:>7,.0f}"
        )


class PipelineProcess:
    """A process that reads photos."""

    def __init__(self, connection: Any):
        self._connection = connection
        self.made = Made(**self._receive())

    def images_per_second(self, resolution: int, batch: int) -> float:
        """Takes batches of a stage for a while."""
        self._connection.send((resolution, batch))
        return float(self._receive())

    def memory_line(self) -> str:
        """Returns a sentence on the memory of the process that reads, so far."""
        self._connection.send(None)
        most, own = self._receive()
        mapped = f", {own:,.0f} MB now without the pages of mapped files" if own else ""
        return f"all stages read: resident memory {most:,.0f} MB at most{mapped}"

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError("the process that reads photos has died") from None
        if isinstance(answer, UserError):
            raise answer
        return answer


@contextlib.contextmanager
def pipeline_process(data: DataConfig, resolutions: Sequence[int]) -> Iterator[PipelineProcess]:
    """Starts a process that makes the photos of all stages; it ends with the context.

    Args:
        data: The photos, and where to keep those of the stages.
        resolutions: Of the stages.

    Raises:
        UserError: The photos cannot be used.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, dataclasses.asdict(data), list(resolutions))
    process = context.Process(target=_serve, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        yield PipelineProcess(ours)
    finally:
        ours.close()
        process.join()


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
        resolution: The stage.
        batch: Images a step; 0 is the batch of the schedule's defaults.
        rounds: How often each has its turn.
        networks: Cap on channels and length of latents of the networks to train.
        speed: Images a second of training to compare with, if there are no networks.
    """
    from layered_segmentation import schedule

    batch = batch or schedule.batch_size(ScheduleConfig(), resolution)
    trainer = None
    if networks:
        from layered_segmentation.benchmarks import training as benchmark

        sizes = benchmark.Sizes(resolution, networks[0], batch, networks[1])
        trainer = benchmark.Timer(sizes, fused=True, precision="float32")
        trainer.run(1)  # compiles
    reading, training = [], []
    for _ in range(rounds):
        reading.append(reader.images_per_second(resolution, batch))
        training.append(trainer.run(1) if trainer else speed)
    ratios = [ours / theirs for ours, theirs in zip(reading, training, strict=True)]
    middle = statistics.median
    return Row(resolution, batch, middle(reading), middle(training), middle(ratios))


def prepare_drawn(count: int, data_dir: str) -> str:
    """Draws photos and prepares them as a dataset; returns its name."""
    from layered_segmentation.benchmarks import drawn_photos

    builder = drawn_photos.DrawnPhotos(count=count, data_dir=data_dir, show_progress=True)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces it in colours
        builder.download_and_prepare()
    return drawn_photos.NAME


def _serve(connection: Any, settings: dict[str, Any], resolutions: list[int]) -> None:
    """Makes the photos, says how, then answers each stage with the images a second."""
    from layered_segmentation import quiet

    quiet.import_tensorflow()
    try:
        data = DataConfig(**settings)
        cache, made = _make(data, resolutions)
    except UserError as error:
        connection.send(error)
        return
    connection.send(dataclasses.asdict(made))
    with contextlib.suppress(EOFError):
        while True:
            request = connection.recv()
            if request is None:
                connection.send((_megabytes("VmHWM"), _megabytes("RssAnon")))
            else:
                connection.send(_read(cache, *request))


def _make(data: DataConfig, resolutions: list[int]) -> "tuple[PhotoCache, Made]":
    from layered_segmentation.data import batches
    from layered_segmentation.data.cache import bytes_of
    from layered_segmentation.data.source import open_source

    # TensorFlow and the first photo of the dataset: what every length of it has to hold.
    first = open_source(dataclasses.replace(data, limit=1), seed=0)
    for _ in first.squares([8]):
        pass
    source = open_source(data, seed=0)
    memory = data.cache_memory * 1_000_000
    before, start = _megabytes("VmRSS"), time.perf_counter()
    cache = batches.PhotoCache.open(
        source, resolutions, data.crop_margin, memory=memory, directory=data.cache_dir
    )
    seconds = time.perf_counter() - start
    sides = [batches.side_at(resolution, data.crop_margin) for resolution in resolutions]
    made = Made(
        dataset=data.dataset,
        images=len(cache),
        sides=sides,
        bytes=bytes_of(len(cache), sides),
        place="memory" if bytes_of(len(source), sides) <= memory else "disk",
        seconds=seconds,
        megabytes_before=before,
        megabytes_most=_megabytes("VmHWM"),
    )
    return cache, made


def _read(cache: "PhotoCache", resolution: int, batch: int) -> float:
    """Takes batches as training does; returns images a second."""
    from layered_segmentation.data import batches

    endless = 10**9 // batch * batch
    elements = iter(batches.batches(cache, resolution, batch, True, 0, 0, endless))
    next(elements)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        next(elements)
        count += batch
    return count / (time.perf_counter() - start)


def _megabytes(field: str) -> float:
    """Returns this process's resident memory, now (`VmRSS`) or at most (`VmHWM`).

    `RssAnon` is what it has now without the pages of files, which may go at any time; 0 where
    nobody can say.
    """
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status", encoding="utf-8") as file:
            values = dict(line.split(":", 1) for line in file)
        return int(values[field].split()[0]) / 1000
    if field == "RssAnon" or sys.platform == "win32":
        return 0.0
    import resource  # Windows has none

    # Elsewhere only the most is to be had, in bytes on macOS.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1000)
