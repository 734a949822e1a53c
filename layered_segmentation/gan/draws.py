"""Everything random in a training step, as pure functions of (seed, images seen).

Stateless, so that a resumed run draws what the uninterrupted one would have drawn. A replica
draws for the whole global batch and keeps its share: the draws, and so the run, do not depend on
how many devices take part.
"""

import enum
from typing import Any, NamedTuple

import tensorflow as tf


class Purpose(enum.IntEnum):
    """What a draw is for; each purpose has its own random stream."""

    DISCRIMINATOR = 0
    GENERATOR = 1
    SAMPLE = 2
    DISTILL = 3
    ENCODE = 4


class GeneratorDraws(NamedTuple):
    """What the generator needs.

    Attributes:
        latents: Float [B, 2, latent_dim], N(0, 1).
        noise: List of float [B, R, R, 1] for R = 4, 8, … up to the resolution, N(0, 1).
        crossover: Int [B], the block from which on the second latent is used; `len(noise)` where
            styles are not mixed.
    """

    latents: Any
    noise: list[Any]
    crossover: Any


class StepDraws(NamedTuple):
    """What a composite and its losses need.

    Attributes:
        generator: The generator's draws.
        shifts: Int [B, 2], (dx, dy) in pixels, uniform on [-δ, δ]².
        contrast: Float [B], uniform on 1 ± jitter.
        zeta: Float [B, 1, 1, 1], ζ of eq. 6, uniform on [0, 1].
    """

    generator: GeneratorDraws
    shifts: Any
    contrast: Any
    zeta: Any


def generator_draws(
    seed: int,
    index: Any,
    purpose: Purpose,
    batch: int,
    resolution: int,
    latent_dim: int,
    mixing: float,
) -> GeneratorDraws:
    """Draws latents, noise and crossovers.

    Args:
        seed: The run's seed.
        index: Scalar int: images seen, or a batch's number.
        purpose: The random stream.
        batch: Samples.
        resolution: Image side, pixels.
        latent_dim: Length of a latent.
        mixing: Probability of style mixing; the crossover is then uniform over the blocks after
            the first.
    """
    blocks = resolution.bit_length() - 2
    seeds = Seeds(seed, index, purpose)
    latents = tf.random.stateless_normal([batch, 2, latent_dim], seeds.next())
    noise = []
    for block in range(blocks):
        side = 4 * 2**block
        noise.append(tf.random.stateless_normal([batch, side, side, 1], seeds.next()))
    mixed = tf.random.stateless_uniform([batch], seeds.next()) < mixing
    crossover = tf.random.stateless_uniform([batch], seeds.next(), 1, blocks, dtype=tf.int32)
    return GeneratorDraws(latents, noise, tf.where(mixed, crossover, blocks))


def step_draws(
    seed: int,
    images_seen: Any,
    purpose: Purpose,
    batch: int,
    resolution: int,
    latent_dim: int,
    mixing: float,
    shift: float,
    contrast_jitter: float,
) -> StepDraws:
    """Draws one step's randomness for the global batch.

    Args:
        seed: The run's seed.
        images_seen: Scalar int.
        purpose: Discriminator's or generator's step.
        batch: Global batch size.
        resolution: Image side, pixels.
        latent_dim: Length of a latent.
        mixing: Probability of style mixing.
        shift: δ, fraction of the image side.
        contrast_jitter: Half width of the contrast factor around 1.
    """
    generator = generator_draws(seed, images_seen, purpose, batch, resolution, latent_dim, mixing)
    seeds = Seeds(seed, images_seen, purpose, first=100)
    delta = round(shift * resolution)
    shifts = tf.random.stateless_uniform(
        [batch, 2], seeds.next(), -delta, delta + 1, dtype=tf.int32
    )
    contrast = tf.random.stateless_uniform(
        [batch], seeds.next(), 1.0 - contrast_jitter, 1.0 + contrast_jitter
    )
    zeta = tf.random.stateless_uniform([batch, 1, 1, 1], seeds.next())
    return StepDraws(generator, shifts, contrast, zeta)


def replica_share(draws: Any, replica: Any, replicas: int) -> Any:
    """Returns a replica's equal share of every draw, along the batch axis."""
    if replicas == 1:
        return draws

    def share(draw: Any) -> Any:
        size = draw.shape[0] // replicas
        return tf.slice(
            draw,
            [replica * size] + [0] * (len(draw.shape) - 1),
            [size, *draw.shape[1:]],
        )

    return tf.nest.map_structure(share, draws)


class Seeds:
    """Hands out seeds of a random stream, one a draw."""

    def __init__(self, seed: int, index: Any, purpose: Purpose, first: int = 0):
        self.key = tf.constant(seed, tf.int64) * 1000 + int(purpose)
        self.index = tf.cast(index, tf.int64) * 1000 + first

    def next(self) -> Any:
        """Returns the next seed, int64 [2]."""
        seed = tf.stack([self.key, self.index])
        self.index += 1
        return seed
