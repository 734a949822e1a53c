"""The speed of a training step: plain TensorFlow, unfused, fused, mixed precision.

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

import numpy as np

from layered_segmentation import quiet

HEADER = (
    f"{'stage':>6} {'convolutions':>12} {'precision':>15} {'images/s':>9} {'min–max':>15} "
    f"{'ratio':>6} {'GFLOP/image':>12} {'of peak':>8}"
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
    gflop_per_image: float  # floating-point operations of a step per image, in 1e9
    # operations per second relative to the machine's float32 matrix-multiply peak
    peak_share: float

    def line(self) -> str:
        """Returns the row of the table under `HEADER`."""
        spread = f"{self.slowest:.1f}–{self.fastest:.1f}"
        return (
            f"{self.resolution:>6} {self.convolutions:>12} "
            f"{self.precision:>15} {self.images_per_second:>9.1f} {spread:>15} "
            f"{self.ratio:>6.2f} {self.gflop_per_image:>12.3f} {self.peak_share:>8.0%}"
        )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of the networks and of the batch that a step is timed with."""

    resolution: int  # the stage, pixels
    max_channels: int  # cap on channels
    batch: int  # images per step
    latent_dim: int  # length of latents


def time_stage(
    sizes: Sizes, mixed: str, steps: int, rounds: int, chosen: Sequence[str] = ()
) -> list[Row]:
    """Times a stage's step in four variants, in turn.

    Args:
        sizes: Sizes of the step.
        mixed: The mixed precision to time.
        steps: Steps per turn.
        rounds: Turns per variant.
        chosen: Environment variables that the plain variant runs without.

    Returns:
        Plain float32, unfused float32, fused float32, fused mixed.
    """
    names = ("plain", "unfused", "fused", "fused")
    variants = list(zip(names, ("float32", "float32", "float32", mixed), strict=True))
    with _plain_process(sizes, chosen) as plain:
        local = [Timer(sizes, name == "fused", precision) for name, precision in variants[1:]]
        runs = [plain, *(timer.run for timer in local)]
        for run in runs:
            run(1)  # compiles
        first = [run(1) for run in runs]
        is_slow = [speed < _SLOW * first[0] for speed in first]
        speeds: list[list[float]] = [[] for _ in runs]
        peaks = []
        for turn in range(rounds):
            peaks.append(matmul_peak())
            for measured, run, slow in zip(speeds, runs, is_slow, strict=True):
                if not slow or turn < 2:
                    measured.append(run(1 if slow else steps))
    unfused, fused = (timer.flops_per_image() for timer in local[:2])
    peak = max(peaks)
    rows = []
    for (name, precision), measured in zip(variants, speeds, strict=True):
        median = statistics.median(measured)
        # A slow variant has had fewer turns.
        ratios = [speed / other for speed, other in zip(measured, speeds[0], strict=False)]
        flops = fused if name == "fused" else unfused
        rows.append(
            Row(
                resolution=sizes.resolution,
                convolutions=name,
                precision=precision,
                images_per_second=median,
                slowest=min(measured),
                fastest=max(measured),
                ratio=statistics.median(ratios),
                gflop_per_image=flops / 1e9,
                peak_share=flops * median / peak,
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


class Timer:
    """A GAN at one stage and a batch to train it on."""

    def __init__(self, sizes: Sizes, fused: bool, precision: str):
        import tensorflow as tf

        from layered_segmentation import config as configs
        from layered_segmentation.gan.layered_gan import LayeredGAN

        resolution, batch = sizes.resolution, sizes.batch
        config = configs.load(
            "",
            [
                f"gan.resolution={resolution}",
                f"gan.initial_resolution={resolution}",
                f"gan.max_channels={sizes.max_channels}",
                f"gan.latent_dim={sizes.latent_dim}",
                "gan.mapping_layers=4",
                "gan.contrast_jitter=0.3",
                f"schedule.batch.{resolution}={batch}",
                f"train.precision={precision}",
            ],
        )
        self.batch = batch
        self.gan = LayeredGAN.from_run_config(config, fused=fused)
        self.gan.set_stage(self.gan.stages[0])
        real = np.random.default_rng(0).uniform(-1, 1, (batch, resolution, resolution, 3))
        self._real = tf.constant(real, tf.float32)
        self._step = tf.function(self.gan.train_step)

    def run(self, steps: int) -> float:
        """Takes steps; returns images per second."""
        start = time.perf_counter()
        for _ in range(steps):
            logs = self._step(self._real)
            logs["g_loss"].numpy()
        return steps * self.batch / (time.perf_counter() - start)

    def flops_per_image(self) -> float:
        """Counts the floating-point operations of a step's graph, per image."""
        from tensorflow.python.profiler import model_analyzer, option_builder

        step = self._step.get_concrete_function(self._real)
        builder = option_builder.ProfileOptionBuilder
        options = builder(builder.float_operation()).with_empty_output().build()
        profile = model_analyzer.profile(step.graph, options=options)
        return float(profile.total_float_ops) / self.batch


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
def _plain_process(sizes: Sizes, chosen: Sequence[str]) -> Iterator[Callable[[int], float]]:
    """Yields `Timer.run` of the unfused float32 step in a process without variables `chosen`."""
    with second_process() as pool:
        unset = {name: os.environ.pop(name) for name in chosen if name in os.environ}
        try:
            pool.submit(quiet.import_tensorflow)  # starts the process
        finally:
            os.environ.update(unset)
        yield lambda steps: pool.submit(_run_unfused, sizes, steps).result()


@functools.cache
def _unfused(sizes: Sizes) -> "Timer":
    quiet.import_tensorflow()
    return Timer(sizes, fused=False, precision="float32")


def _run_unfused(sizes: Sizes, steps: int) -> float:
    return _unfused(sizes).run(steps)
