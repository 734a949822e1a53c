"""How fast a training step is: fused against unfused, float32 against mixed precision."""

import dataclasses
import statistics
import time
from typing import Any

import numpy as np
import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation.training.gan import LayeredGAN

HEADER = (
    f"{'stage':>6} {'convolutions':>12} {'precision':>15} {'images/s':>9} {'min–max':>15} "
    f"{'ratio':>6} {'GFLOP/image':>12} {'of peak':>8}"
)
_PEAK_SIDE = 2048


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant of one stage.

    Attributes:
        resolution: Image side, pixels.
        fused: Whether resampling convolutions are fused.
        precision: Keras's dtype policy.
        images_per_second: Median over the rounds.
        slowest: The slowest round's images per second.
        fastest: The fastest round's.
        ratio: Median over the rounds of this variant's speed over the unfused float32 one's.
        gflop_per_image: Counted floating-point operations an image of a step, in 1e9.
        peak_share: These operations a second over the machine's float32 matrix-multiply peak.
    """

    resolution: int
    fused: bool
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
            f"{self.resolution:>6} {'fused' if self.fused else 'unfused':>12} "
            f"{self.precision:>15} {self.images_per_second:>9.1f} {spread:>15} "
            f"{self.ratio:>6.2f} {self.gflop_per_image:>12.3f} {self.peak_share:>8.0%}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return dataclasses.asdict(self)


def time_stage(
    resolution: int,
    max_channels: int,
    batch: int,
    latent_dim: int,
    mixed: str,
    steps: int,
    rounds: int,
) -> list[Row]:
    """Times a stage's step in three variants, turn by turn.

    Args:
        resolution: The stage, pixels.
        max_channels: Cap on channels.
        batch: Images a step.
        latent_dim: Length of latents.
        mixed: The mixed precision to time.
        steps: Steps of a round.
        rounds: How often each variant has its turn.

    Returns:
        Unfused float32, fused float32, fused mixed.
    """
    variants = [(False, "float32"), (True, "float32"), (True, mixed)]
    timers = [
        _Timer(resolution, fused, precision, max_channels, batch, latent_dim)
        for fused, precision in variants
    ]
    for timer in timers:
        timer.run(2)  # compiles, then warms up
    speeds: list[list[float]] = [[] for _ in timers]
    peaks = []
    for _ in range(rounds):
        peaks.append(matmul_peak())
        for index, timer in enumerate(timers):
            speeds[index].append(timer.run(steps))
    peak = max(peaks)
    rows = []
    for (fused, precision), timer, own in zip(variants, timers, speeds, strict=True):
        median = statistics.median(own)
        ratios = [speed / first for speed, first in zip(own, speeds[0], strict=True)]
        flops = timer.flops_per_image()
        rows.append(
            Row(
                resolution,
                fused,
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
    """Returns float32 operations a second of a large matrix product on this machine, now."""
    matrix = tf.random.stateless_normal([side, side], [0, 0])
    product = tf.function(lambda x: tf.matmul(x, x))
    product(matrix).numpy()
    start = time.perf_counter()
    for _ in range(3):
        product(matrix).numpy()
    return 3 * 2 * side**3 / (time.perf_counter() - start)


class _Timer:
    """A GAN at one stage and a batch to train it on."""

    def __init__(
        self,
        resolution: int,
        fused: bool,
        precision: str,
        max_channels: int,
        batch: int,
        latent_dim: int,
    ):
        config = configs.load(
            "",
            [
                f"gan.resolution={resolution}",
                f"gan.initial_resolution={resolution}",
                f"gan.max_channels={max_channels}",
                f"gan.latent_dim={latent_dim}",
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
        self._step = self.gan.make_train_function()
        self._seen = 0

    def run(self, steps: int) -> float:
        """Takes steps; returns images a second."""
        batches = [
            (self._real, tf.constant(self._seen + step * self.batch, tf.int64))
            for step in range(steps)
        ]
        self._seen += steps * self.batch
        iterator = iter(batches)
        start = time.perf_counter()
        for _ in range(steps):
            logs = self._step(iterator)
            logs["g_loss"].numpy()
        return steps * self.batch / (time.perf_counter() - start)

    def flops_per_image(self) -> float:
        """Counts the floating-point operations of a step's graph, an image."""
        from tensorflow.python.profiler import model_analyzer, option_builder

        step = tf.function(self.gan.train_step).get_concrete_function(
            (self._real, tf.constant(0, tf.int64))
        )
        builder = option_builder.ProfileOptionBuilder
        options = builder(builder.float_operation()).with_empty_output().build()
        profile = model_analyzer.profile(step.graph, options=options)
        return float(profile.total_float_ops) / self.batch
