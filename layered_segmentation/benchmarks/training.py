"""The speed of a training step: plain TensorFlow, unfused, fused, mixed precision, settings.

The plain variant is the unfused float32 graph with TensorFlow's own choice of threads and kernels.
A process chooses these once, so this variant runs in a second process, in turn with the others.
TensorFlow is imported inside functions: the second process silences its start-up notes first.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from layered_segmentation import quiet

if TYPE_CHECKING:
    from layered_segmentation.gan.step_timer import StepTimer, Turn

HEADER = (
    f"{'stage':>6} {'convolutions':>12} {'precision':>15} {'images/s':>9} {'min–max':>15} "
    f"{'ratio':>6} {'cpu ms/image':>12} {'GFLOP/image':>12} {'of peak':>8}"
)
_PEAK_SIDE = 2048  # of the matrices
# A variant slower than this share of the plain speed gets two turns of one step; it would take
# minutes otherwise.
_SLOW = 0.3


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant of one stage."""

    resolution: int  # image side, pixels
    convolutions: str  # `plain` (unfused, TensorFlow's own threads and kernels), `unfused`, `fused`
    precision: str  # Keras dtype policy
    images_per_second: float  # median over the rounds
    slowest: float  # images per second of the slowest round
    fastest: float  # images per second of the fastest round
    ratio: float  # speed relative to the plain variant, median over the rounds
    # processor milliseconds of an image, median over the rounds; unlike the speed, they hardly
    # depend on what else the machine does
    processor_milliseconds: float
    gflop_per_image: float  # floating-point operations of a step per image, in 1e9
    # operations per second relative to the machine's float32 matrix-multiply peak
    peak_share: float
    operations: int  # in the graph of a step; of the largest one if steps differ
    settings: str = ""  # of the config, in which this variant differs

    def line(self) -> str:
        """Returns the row of the table under `HEADER`."""
        spread = f"{self.slowest:.1f}–{self.fastest:.1f}"
        return (
            f"{self.resolution:>6} {self.convolutions:>12} "
            f"{self.precision:>15} {self.images_per_second:>9.1f} {spread:>15} "
            f"{self.ratio:>6.2f} {self.processor_milliseconds:>12.3f} "
            f"{self.gflop_per_image:>12.3f} {self.peak_share:>8.0%}"
            + (f"  {self.settings}" if self.settings else "")
        )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of the networks and of the batch that a step is timed with."""

    resolution: int  # the stage, pixels
    max_channels: int  # cap on channels
    batch: int  # images per step
    latent_dim: int  # length of latents


def time_stage(
    sizes: Sizes,
    mixed: str,
    steps: int,
    rounds: int,
    chosen: Sequence[str] = (),
    compared: Sequence[str] = (),
) -> list[Row]:
    """Times a stage's step in several variants, in turn.

    Args:
        sizes: Sizes of the step.
        mixed: The mixed precision to time.
        steps: Steps per turn.
        rounds: Turns per variant.
        chosen: Environment variables that the plain variant runs without.
        compared: Settings of further variants, each `section.field=value`, several separated by
            commas.

    Returns:
        Plain float32, unfused float32, fused float32, fused mixed, and fused with each of
        `compared`, in float32 unless it sets `train.precision`.
    """
    variants = [
        ("plain", "float32", ""),
        ("unfused", "float32", ""),
        ("fused", "float32", ""),
        ("fused", mixed, ""),
        *(("fused", "float32", settings) for settings in compared),
    ]
    with _plain_process(sizes, chosen) as plain:
        local = [step_timer(sizes, name == "fused", *others) for name, *others in variants[1:]]
        runs = [plain, *(timer.run for timer in local)]
        for run, warm_up in zip(runs, [1, *(timer.warm_up for timer in local)], strict=True):
            run(warm_up)  # compiles
        first = [run(1).images_per_second for run in runs]
        is_slow = [speed < _SLOW * first[0] for speed in first]
        turns: list[list[Turn]] = [[] for _ in runs]
        peaks = []
        for turn in range(rounds):
            peaks.append(matmul_peak())
            for measured, run, slow in zip(turns, runs, is_slow, strict=True):
                if not slow or turn < 2:
                    measured.append(run(1 if slow else steps))
    peak = max(peaks)
    rows = []
    timers = [local[0], *local]  # the plain variant has the graph of the unfused one
    for (name, precision, settings), timer, measured in zip(variants, timers, turns, strict=True):
        speeds = [turn.images_per_second for turn in measured]
        median = statistics.median(speeds)
        # A slow variant has had fewer turns.
        plain_speeds = [turn.images_per_second for turn in turns[0]]
        ratios = [speed / other for speed, other in zip(speeds, plain_speeds, strict=False)]
        counted = local[1] if precision == mixed else timer  # precision changes none of them
        flops = counted.flops_per_image()
        rows.append(
            Row(
                resolution=sizes.resolution,
                convolutions=name,
                precision=timer.gan.dtype_policy.name,
                images_per_second=median,
                slowest=min(speeds),
                fastest=max(speeds),
                ratio=statistics.median(ratios),
                processor_milliseconds=statistics.median(
                    turn.processor_milliseconds for turn in measured
                ),
                gflop_per_image=flops / 1e9,
                peak_share=flops * median / peak,
                operations=timer.operations(),
                settings=settings,
            )
        )
    return rows


def matmul_peak() -> float:
    """Returns this machine's float32 operations per second in large matrix products, now.

    It is the higher of the rates of one product and of one per core at once: TensorFlow's thread
    settings decide which of the two keeps all cores busy.
    """
    import tensorflow as tf

    matrix = tf.random.stateless_normal([_PEAK_SIDE, _PEAK_SIDE], [0, 0])
    speeds = []
    for copies in {1, os.cpu_count() or 1}:
        inputs = [matrix + float(copy) for copy in range(copies)]
        products = tf.function(lambda parts: [tf.matmul(part, part) for part in parts])
        tf.nest.map_structure(lambda x: x.numpy(), products(inputs))
        start = time.perf_counter()
        for _ in range(3):
            tf.nest.map_structure(lambda x: x.numpy(), products(inputs))
        speeds.append(copies * 3 * 2 * _PEAK_SIDE**3 / (time.perf_counter() - start))
    return max(speeds)


def step_timer(sizes: Sizes, fused: bool, precision: str, settings: str = "") -> "StepTimer":
    """Returns a timer of a GAN at one stage.

    Args:
        sizes: Sizes of the networks and of the batch.
        fused: Whether resampling convolutions are fused.
        precision: Keras dtype policy.
        settings: Other settings, as for `time_stage`.
    """
    from layered_segmentation import config as configs
    from layered_segmentation.gan.layered_gan import LayeredGAN
    from layered_segmentation.gan.step_timer import StepTimer
    from layered_segmentation.segmenter import presets

    own = ["gan.mapping_layers=4", "gan.contrast_jitter=0.3", *filter(None, settings.split(","))]
    config = configs.load("", [*stage_settings(sizes, precision), *own])
    path = config.gan.background_student
    student = presets.load_background_student(path) if path else None
    gan = LayeredGAN.from_run_config(config, fused, student)
    return StepTimer(gan, sizes.batch)


def stage_settings(sizes: Sizes, precision: str) -> list[str]:
    """Returns the settings, `section.field=value`, of a GAN that has one stage."""
    return [
        f"gan.resolution={sizes.resolution}",
        f"gan.initial_resolution={sizes.resolution}",
        f"gan.max_channels={sizes.max_channels}",
        f"gan.latent_dim={sizes.latent_dim}",
        f"schedule.batch.{sizes.resolution}={sizes.batch}",
        f"train.precision={precision}",
    ]


def second_process() -> concurrent.futures.ProcessPoolExecutor:
    """Returns an executor with one process, which ends with this one even if that is killed."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(1, context, _watch_parent)


def _watch_parent() -> None:
    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _plain_process(sizes: Sizes, chosen: Sequence[str]) -> Iterator[Callable[[int], "Turn"]]:
    """Yields `StepTimer.run` of the unfused step in a process without variables `chosen`."""
    with second_process() as pool:
        unset = {name: os.environ.pop(name) for name in chosen if name in os.environ}
        try:
            pool.submit(quiet.import_tensorflow)  # starts the process
        finally:
            os.environ.update(unset)
        yield lambda steps: pool.submit(_run_unfused, sizes, steps).result()


@functools.cache
def _unfused(sizes: Sizes) -> "StepTimer":
    quiet.import_tensorflow()
    return step_timer(sizes, fused=False, precision="float32")


def _run_unfused(sizes: Sizes, steps: int) -> "Turn":
    return _unfused(sizes).run(steps)
