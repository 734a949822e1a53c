"""How fast a training step is: plain TensorFlow, unfused, fused, mixed precision.

The plain row is the unfused float32 graph under TensorFlow's own choice of threads and kernels.
These are chosen once a process, so it is timed in a second process, turn by turn with the others.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation.benchmarks.process import RemoteTimer, plain_timer
from layered_segmentation.gan.layered_gan import LayeredGAN

HEADER = (
    f"{'stage':>6} {'convolutions':>12} {'precision':>15} {'images/s':>9} {'min–max':>15} "
    f"{'ratio':>6} {'GFLOP/image':>12} {'of peak':>8}"
)
_PEAK_SIDE = 2048
_SLOW = 0.3  # of the plain speed: a slower variant has two turns of one step, or it takes minutes


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant of one stage.

    Attributes:
        resolution: Image side, pixels.
        convolutions: `plain` (unfused, TensorFlow's own threads and kernels), `unfused`, `fused`.
        precision: Keras's dtype policy.
        images_per_second: Median over the rounds.
        slowest: The slowest round's images per second.
        fastest: The fastest round's.
        ratio: Median over the rounds of this variant's speed over the plain one's.
        gflop_per_image: Counted floating-point operations an image of a step, in 1e9.
        peak_share: These operations a second over the machine's float32 matrix-multiply peak.
    """

    resolution: int
    convolutions: str
    precision: str
    images_per_second: float
    slowest: float
    fastest: float
    ratio: float
    gflop_per_image: float
    peak_share: float

    def line(self) -> str:
        """Returns the row of the table that `HEADER` heads."""
        spread = f"{self.slowest:.1f}–{self.fastest:.1f}"
        return (
            f"{self.resolution:>6} {self.convolutions:>12} "
            f"{self.precision:>15} {self.images_per_second:>9.1f} {spread:>15} "
            f"{self.ratio:>6.2f} {self.gflop_per_image:>12.3f} {self.peak_share:>8.0%}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a stage's step is timed with.

    Attributes:
        resolution: The stage, pixels.
        max_channels: Cap on channels.
        batch: Images a step.
        latent_dim: Length of latents.
    """

    resolution: int
    max_channels: int
    batch: int
    latent_dim: int


def time_stage(
    sizes: Sizes, mixed: str, steps: int, rounds: int, chosen: Sequence[str] = ()
) -> list[Row]:
    """Times a stage's step in four variants, turn by turn.

    Args:
        sizes: The step.
        mixed: The mixed precision to time.
        steps: Steps of a turn.
        rounds: How often each variant has its turn.
        chosen: Environment variables that the plain variant runs without.

    Returns:
        Plain float32, unfused float32, fused float32, fused mixed.
    """
    variants = [
        ("plain", "float32"),
        ("unfused", "float32"),
        ("fused", "float32"),
        ("fused", mixed),
    ]
    with plain_timer(sizes, chosen) as plain:
        local = [Timer(sizes, name == "fused", precision) for name, precision in variants[1:]]
        timers: list[RemoteTimer | Timer] = [plain, *local]
        for timer in timers:
            timer.run(1)  # compiles
        first = [timer.run(1) for timer in timers]
        is_slow = [speed < _SLOW * first[0] for speed in first]
        speeds: list[list[float]] = [[] for _ in timers]
        peaks = []
        for turn in range(rounds):
            peaks.append(matmul_peak())
            for own, timer, slow in zip(speeds, timers, is_slow, strict=True):
                if not slow:
                    own.append(timer.run(steps))
                elif turn < 2:
                    own.append(timer.run(1))
    unfused, fused = (timer.flops_per_image() for timer in local[:2])
    peak = max(peaks)
    rows = []
    for (name, precision), own in zip(variants, speeds, strict=True):
        median = statistics.median(own)
        ratios = [speed / other for speed, other in zip(own, speeds[0], strict=False)]
        flops = fused if name == "fused" else unfused
        rows.append(
            Row(
                sizes.resolution,
                name,
                precision,
                median,
                min(own),
                max(own),
                statistics.median(ratios),
                flops / 1e9,
                flops * median / peak,
            )
        )
    return rows


def matmul_peak(side: int = _PEAK_SIDE) -> float:
    """Returns float32 operations a second of large matrix products on this machine, now.

    The better of one product and of one for each core at once: which of them keeps all cores busy
    depends on TensorFlow's thread settings.
    """
    matrix = tf.random.stateless_normal([side, side], [0, 0])
    speeds = []
    for copies in {1, os.cpu_count() or 1}:
        inputs = [matrix + float(copy) for copy in range(copies)]
        products = tf.function(lambda parts: [tf.matmul(part, part) for part in parts])
        tf.nest.map_structure(lambda x: x.numpy(), products(inputs))
        start = time.perf_counter()
        for _ in range(3):
            tf.nest.map_structure(lambda x: x.numpy(), products(inputs))
        speeds.append(copies * 3 * 2 * side**3 / (time.perf_counter() - start))
    return max(speeds)


class Timer:
    """A GAN at one stage and a batch to train it on."""

    def __init__(self, sizes: Sizes, fused: bool, precision: str):
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
        self.gan = LayeredGAN(config, fused=fused)
        self.gan.set_stage(self.gan.run_stages[0])
        real = np.random.default_rng(0).uniform(-1, 1, (batch, resolution, resolution, 3))
        self._real = tf.constant(real, tf.float32)
        self._step = tf.function(self.gan.train_step)
        self._seen = 0

    def run(self, steps: int) -> float:
        """Takes steps; returns images a second."""
        start = time.perf_counter()
        for _ in range(steps):
            logs = self._step((self._real, tf.constant(self._seen, tf.int64)))
            logs["g_loss"].numpy()
            self._seen += self.batch
        return steps * self.batch / (time.perf_counter() - start)

    def flops_per_image(self) -> float:
        """Counts the floating-point operations of a step's graph, an image."""
        from tensorflow.python.profiler import model_analyzer, option_builder

        step = self._step.get_concrete_function((self._real, tf.constant(0, tf.int64)))
        builder = option_builder.ProfileOptionBuilder
        options = builder(builder.float_operation()).with_empty_output().build()
        profile = model_analyzer.profile(step.graph, options=options)
        return float(profile.total_float_ops) / self.batch
