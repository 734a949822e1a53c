"""Samples of a generator, reproducible from a seed."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from layered_segmentation.composite import Layers
from layered_segmentation.models.generator import LayeredGenerator
from layered_segmentation.training.draws import Purpose, generator_draws


def sample_layers(
    generator: LayeredGenerator,
    seed: int,
    count: int,
    truncation: float = 1.0,
    mixing: float = 0.0,
    resolution: int | None = None,
    alpha: float = 1.0,
    batch: int = 64,
) -> Layers:
    """Draws scenes, a pure function of the arguments and the weights.

    Args:
        generator: Usually the averaged one.
        seed: Seed of the samples.
        count: How many.
        truncation: ψ in [0, 1]; 1 draws from the whole distribution.
        mixing: Probability of style mixing.
        resolution: A stage's resolution; the final one if None.
        alpha: Weight of the last block's own image.
        batch: Scenes computed at once; part of what determines the samples.

    Returns:
        Layers of numpy arrays, float32 [count, R, R, C].
    """
    resolution = resolution or generator.resolution
    # Tracing costs more than a few batches gain by it.
    few = count <= 4 * batch
    draw = sampler(generator, seed, batch, mixing, resolution)
    draw = draw.python_function if few else draw
    batches = [
        draw(tf.constant(index, tf.int64), tf.constant(truncation), tf.constant(alpha))
        for index in range(-(-count // batch))
    ]
    return Layers(*(np.concatenate(parts)[:count] for parts in zip(*batches, strict=True)))


def sampler(
    generator: LayeredGenerator, seed: int, batch: int, mixing: float, resolution: int
) -> Any:
    """Returns a compiled function (batch number, truncation, alpha) -> Layers of tensors."""
    return _compiled(generator, seed, batch, mixing, resolution)


@functools.lru_cache(maxsize=8)
def _compiled(
    generator: LayeredGenerator, seed: int, batch: int, mixing: float, resolution: int
) -> Any:
    @tf.function(reduce_retracing=True)
    def draw(index: tf.Tensor, truncation: tf.Tensor, alpha: tf.Tensor) -> Layers:
        draws = generator_draws(
            seed, index, Purpose.SAMPLE, batch, resolution, generator.latent_dim, mixing
        )
        return generator(
            draws.latents,
            noise=draws.noise,
            crossover=draws.crossover,
            alpha=alpha,
            resolution=resolution,
            truncation=truncation,
        )

    return draw
