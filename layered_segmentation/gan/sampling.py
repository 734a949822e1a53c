"""Samples of a generator, reproducible from a seed."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from layered_segmentation.gan.composite import Layers
from layered_segmentation.gan.draws import Purpose, generator_draws
from layered_segmentation.gan.generator import LayeredGenerator

BATCH = 64  # scenes computed at once
_FEW = 4  # batches; for so few, tracing costs more than it saves


def sample_layers(
    generator: LayeredGenerator,
    seed: int,
    count: int,
    truncation: float = 1.0,
    mixing: float = 0.0,
    resolution: int | None = None,
    alpha: float = 1.0,
    batch: int = BATCH,
) -> Layers:
    """Draws scenes, a pure function of the arguments and the weights.

    Args:
        generator: Usually the averaged one.
        seed: Seed of the samples.
        count: Number of scenes.
        truncation: ψ in [0, 1]; 1 draws from the whole distribution.
        mixing: Probability of style mixing.
        resolution: A stage's resolution; the final one if None.
        alpha: Weight of the last block's own image.
        batch: Scenes computed at once; part of what determines the samples.

    Returns:
        Layers of numpy arrays, float32 [count, R, R, C].
    """
    indices = range(-(-count // batch))
    batches = layer_batches(generator, seed, indices, truncation, mixing, resolution, alpha, batch)
    return Layers(*(np.concatenate(parts)[:count] for parts in zip(*batches, strict=True)))


def layer_batches(
    generator: LayeredGenerator,
    seed: int,
    indices: Iterable[int],
    truncation: float = 1.0,
    mixing: float = 0.0,
    resolution: int | None = None,
    alpha: float = 1.0,
    batch: int = BATCH,
) -> Iterator[Layers]:
    """Draws the scenes of `sample_layers` batch by batch, so that they need not fit in memory.

    Args:
        generator: Usually the averaged one.
        seed: Seed of the samples.
        indices: Numbers of the batches; batch i holds scenes i * batch … (i + 1) * batch - 1.
        truncation: ψ in [0, 1]; 1 draws from the whole distribution.
        mixing: Probability of style mixing.
        resolution: A stage's resolution; the final one if None.
        alpha: Weight of the last block's own image.
        batch: Scenes per batch.

    Yields:
        Layers of numpy arrays, float32 [batch, R, R, C].
    """
    indices = list(indices)
    draw = sampler(generator, seed, batch, mixing, resolution or generator.resolution)
    draw = draw.python_function if len(indices) <= _FEW else draw
    for index in indices:
        layers = draw(tf.constant(index, tf.int64), tf.constant(truncation), tf.constant(alpha))
        yield Layers(*(np.asarray(part) for part in layers))


@functools.lru_cache(maxsize=8)
def sampler(
    generator: LayeredGenerator, seed: int, batch: int, mixing: float, resolution: int
) -> Any:
    """Returns a compiled function (batch number, truncation, alpha) -> Layers of tensors."""

    def draw(index: tf.Tensor, truncation: tf.Tensor, alpha: tf.Tensor) -> Any:
        draws = generator_draws(
            seed,
            index,
            Purpose.SAMPLE,
            batch,
            resolution,
            generator.latent_dim,
            mixing,
            generator.noise_images,
        )
        return generator(
            draws.latents,
            noise=draws.noise,
            crossover=draws.crossover,
            alpha=alpha,
            resolution=resolution,
            truncation=truncation,
        )

    return tf.function(draw, reduce_retracing=True)
