"""All randomness of training, distillation and encoding, as pure functions of a seed and a place.

The place is the number of images seen, a batch's number or a step. Nothing has a state, so a
resumed run draws what the uninterrupted one would have drawn. A replica draws for the whole global
batch and keeps its share, so a run does not depend on how many devices take part.

The order, crops and mirroring of photos are stateless too, in `data/batches.py`.
"""

import enum
import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from layered_segmentation.config import GANConfig

# Ranges of the discriminator's augmentation at strength 1 (Zhao et al. 2020).
_BRIGHTNESS = 1.0  # the width, of images in [-1, 1]
_SATURATION = 1.0
_CONTRAST = 0.5
_TRANSLATION = 0.125  # of the side
_CUTOUT = 0.5  # of the side

# Half widths of the student's augmentation at strength 1.
_PAIR_TRANSLATION = 0.125  # of the side
_PAIR_ROTATION = math.radians(15)
_PAIR_LOG_SCALE = 0.2
_PAIR_LOG_ASPECT = 0.1
_PAIR_BRIGHTNESS = 0.2  # of images in [-1, 1]
_PAIR_LOG_CONTRAST = 0.3
_PAIR_LOG_SATURATION = 0.4
_PAIR_CHANNEL_MIX = 0.06
_PAIR_SHARPNESS = 0.6
_PAIR_NOISE = 0.06
_GREY = (0.299, 0.587, 0.114)


class Purpose(enum.IntEnum):
    """What a draw is for; each purpose has its own random stream."""

    DISCRIMINATOR = 0
    GENERATOR = 1
    SAMPLE = 2
    DISTILL = 3
    ENCODE = 4
    EVALUATION = 5
    GENERATOR_WEIGHTS = 100
    DISCRIMINATOR_WEIGHTS = 101


class GeneratorDraws(NamedTuple):
    """What the generator needs."""

    latents: Any  # float [B, 2, latent_dim], N(0, 1)
    # list of float [B, R, R, N] for R = 4, 8, … up to the resolution, N(0, 1); as for
    # `LayeredGenerator`
    noise: list[Any]
    # int [B], the first block that uses the second latent; `len(noise)` where styles are not mixed
    crossover: Any


class StepDraws(NamedTuple):
    """What a composite and its losses need."""

    generator: GeneratorDraws  # the generator's draws
    # int [B, 2], (dx, dy) in pixels, uniform on [-δ, δ]²; [B, K, 2] with K > 1 foreground layers
    shifts: Any
    contrast: Any  # float [B], uniform on 1 ± jitter
    # Float [B, 1, 1, 1], ζ of eq. 6, uniform on [0, 1].
    zeta: Any
    swap: Any = None  # float [B], uniform on [0, 1); of `is_swapped`
    scale: Any = None  # float [B], uniform on [-1, 1); of `scales`


class AugmentationDraws(NamedTuple):
    """How each image that the discriminator sees is augmented."""

    brightness: Any  # float [B, 1, 1, 1], added
    saturation: Any  # float [B, 1, 1, 1], factor of the distance from grey
    contrast: Any  # float [B, 1, 1, 1], factor of the distance from the image's mean
    shifts: Any  # int [B, 2], (dx, dy) in pixels
    kept: Any  # float [B, R, R, 1], 0 in the square that is cut out, 1 elsewhere


class PairAugmentation(NamedTuple):
    """How each image/mask pair that a student learns from is augmented."""

    transforms: Any  # float [B, 8], projective coefficients from output to input pixels
    colours: Any  # float [B, 3, 3], maps RGB (as a row vector, around the image's mean) to RGB
    brightness: Any  # float [B, 1, 1, 3], added
    sharpness: Any  # float [B, 1, 1, 1]: below 0 blurs, above 0 sharpens
    noise: Any  # float [B, R, R, 3], added


class StudentDraws(NamedTuple):
    """What one step of a student's training needs."""

    scenes: Any  # int [B], places in the pool, drawn with replacement
    shifts: Any  # as of `StepDraws`
    contrast: Any  # float [B], uniform on 1 ± jitter
    augmentation: PairAugmentation | None  # of the pairs; None at strength 0
    backgrounds: Any  # int [B], the places of their backgrounds
    scale: Any  # float [B], uniform on [-1, 1); of `scales`


def generator_draws(
    seed: int,
    index: Any,
    purpose: Purpose,
    batch: int,
    resolution: int,
    latent_dim: int,
    mixing: float,
    noise_images: int = 1,
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
        noise_images: N, noise images per block; `LayeredGenerator.noise_images`.
    """
    blocks = resolution.bit_length() - 2
    seeds = _Seeds(seed, index, purpose)
    latents = tf.random.stateless_normal([batch, 2, latent_dim], seeds.next())
    noise = []
    for block in range(blocks):
        side = 4 * 2**block
        noise.append(tf.random.stateless_normal([batch, side, side, noise_images], seeds.next()))
    mixed = tf.random.stateless_uniform([batch], seeds.next()) < mixing
    crossover = tf.random.stateless_uniform([batch], seeds.next(), 1, blocks, dtype=tf.int32)
    return GeneratorDraws(latents, noise, tf.where(mixed, crossover, blocks))


def step_draws(
    seed: int,
    images_seen: Any,
    purpose: Purpose,
    batch: int,
    resolution: int,
    gan: GANConfig,
    noise_images: int,
) -> StepDraws:
    """Draws the randomness of one step for the global batch.

    Args:
        seed: The run's seed.
        images_seen: Scalar int.
        purpose: Discriminator's or generator's step.
        batch: Global batch size.
        resolution: Image side of the step's stage, pixels.
        gan: Latents, mixing, shift, contrast and the number of foreground layers.
        noise_images: Noise images per block.
    """
    generator = generator_draws(
        seed, images_seen, purpose, batch, resolution, gan.latent_dim, gan.mixing, noise_images
    )
    seeds = _Seeds(seed, images_seen, purpose, first=100)
    shifts = _shifts(batch, seeds.next(), round(gan.shift * resolution), gan.layers)
    contrast = tf.random.stateless_uniform(
        [batch], seeds.next(), 1.0 - gan.contrast_jitter, 1.0 + gan.contrast_jitter
    )
    zeta = tf.random.stateless_uniform([batch, 1, 1, 1], seeds.next())
    swap = tf.random.stateless_uniform([batch], seeds.next())
    scale = tf.random.stateless_uniform([batch], seeds.next(), -1.0, 1.0)
    return StepDraws(generator, shifts, contrast, zeta, swap, scale)


def is_swapped(swap: Any, probability: float) -> Any:
    """Returns which scenes get another scene's background, bool [B]."""
    return swap < probability


def scales(scale: Any, largest: float) -> Any:
    """Returns factors between 1 / largest and largest, uniform in their logarithm, float [B]."""
    return tf.exp(scale * math.log(largest))


def replica_share(draws: Any, replica: Any, replicas: int) -> Any:
    """Returns a replica's equal share of every draw, along the batch axis."""
    if replicas == 1:
        return draws

    def share(draw: Any) -> Any:
        size = (draw.shape[0] or tf.shape(draw)[0]) // replicas
        return tf.slice(
            draw,
            [replica * size] + [0] * (len(draw.shape) - 1),
            [size, *draw.shape[1:]],
        )

    return tf.nest.map_structure(share, draws)


def augmentation_draws(
    seed: int, images_seen: Any, purpose: Purpose, batch: int, side: int, strength: float
) -> tuple[AugmentationDraws, AugmentationDraws]:
    """Draws the augmentations of a step's real and generated images.

    Args:
        seed: The run's seed.
        images_seen: Scalar int.
        purpose: Discriminator's or generator's step.
        batch: Global batch size.
        side: Image side, pixels.
        strength: Scales all ranges; 1 is the published strength.
    """
    seeds = _Seeds(seed, images_seen, purpose, first=200)

    def around(middle: float, width: float) -> Any:
        low, high = middle - strength * width, middle + strength * width
        return tf.random.stateless_uniform([batch, 1, 1, 1], seeds.next(), low, high)

    def of_batch() -> AugmentationDraws:
        colours = around(0.0, _BRIGHTNESS / 2), around(1.0, _SATURATION), around(1.0, _CONTRAST)
        most = round(strength * _TRANSLATION * side)
        shifts = tf.random.stateless_uniform([batch, 2], seeds.next(), -most, most + 1, tf.int32)
        hole = round(strength * _CUTOUT * side)
        centres = tf.random.stateless_uniform([batch, 2], seeds.next(), 0, side + 1, tf.int32)
        first = centres[:, :, None] - hole // 2
        places = tf.range(side)[None, None]
        inside = tf.cast((places >= first) & (places < first + hole), tf.float32)
        kept = 1.0 - inside[:, 0, :, None, None] * inside[:, 1, None, :, None]
        return AugmentationDraws(*colours, shifts, kept)

    return of_batch(), of_batch()


def student_draws(
    seed: int,
    step: Any,
    batch: int,
    side: int,
    scenes: int,
    shift: float,
    contrast_jitter: float,
    strength: float,
    background_swap: float = 0.0,
    layers: int = 1,
) -> StudentDraws:
    """Draws one step of a student's training.

    Args:
        seed: The seed of the distillation.
        step: Scalar int32, the step's number.
        batch: Pairs a step.
        side: Image side, pixels.
        scenes: Size of the pool.
        shift: δ, fraction of the image side.
        contrast_jitter: Half width of the contrast factor around 1.
        strength: Of the augmentation; 0 is none.
        background_swap: Probability that a scene gets another scene's background.
        layers: K, foreground layers.
    """
    # Fold the purpose in, so that these draws share nothing with the training's.
    key = tf.random.fold_in(tf.stack([tf.constant(seed), step]), int(Purpose.DISTILL))
    seeds = tf.unstack(tf.random.split(key, num=4))
    later = tf.unstack(tf.random.split(tf.random.fold_in(key, 1), num=2))
    places = tf.random.stateless_uniform([batch], seeds[0], 0, scenes, dtype=tf.int32)
    swap = tf.random.stateless_uniform([batch], later[0])
    return StudentDraws(
        places,
        _shifts(batch, seeds[1], round(shift * side), layers),
        tf.random.stateless_uniform(
            [batch], seeds[2], 1.0 - contrast_jitter, 1.0 + contrast_jitter
        ),
        pair_augmentation(seeds[3], batch, side, strength) if strength else None,
        tf.where(is_swapped(swap, background_swap), tf.roll(places, 1, axis=0), places),
        tf.random.stateless_uniform([batch], later[1], -1.0, 1.0),
    )


def pair_augmentation(seed: Any, batch: int, side: int, strength: float) -> PairAugmentation:
    """Draws the augmentation of a batch of image/mask pairs.

    Args:
        seed: Int [2]; the same seed gives the same draws.
        batch: Pairs.
        side: Image side, pixels.
        strength: Scales all ranges; 0 leaves pairs as they are.
    """
    seeds = iter(tf.unstack(tf.random.split(tf.cast(seed, tf.int32), num=13)))

    def uniform(*shape: int, width: float = 1.0) -> Any:
        return tf.random.stateless_uniform(
            [batch, *shape], next(seeds), -strength * width, strength * width
        )

    transforms = _transforms(
        side,
        translation=tf.round(uniform(2, width=_PAIR_TRANSLATION * side)),
        angle=uniform(width=_PAIR_ROTATION),
        scale=tf.exp(uniform(width=_PAIR_LOG_SCALE)),
        aspect=tf.exp(uniform(width=_PAIR_LOG_ASPECT)),
        # Interpolation blurs, so half of the pairs are only moved by whole pixels and mirrored.
        warp=tf.random.stateless_uniform([batch], next(seeds)) < 0.5,
        mirror=tf.random.stateless_uniform([batch], next(seeds)) < 0.5 * min(1.0, strength),
    )
    contrast = tf.exp(uniform(1, 1, width=_PAIR_LOG_CONTRAST))
    saturation = tf.exp(uniform(1, 1, width=_PAIR_LOG_SATURATION))
    grey = tf.tile(tf.constant(_GREY)[:, None], [1, 3])
    colours = contrast * (saturation * tf.eye(3) + (1 - saturation) * grey)
    colours += uniform(3, 3, width=_PAIR_CHANNEL_MIX)
    amount = tf.abs(uniform(1, 1, 1, width=_PAIR_NOISE))
    noise = tf.random.stateless_normal([batch, side, side, 3], next(seeds)) * amount
    return PairAugmentation(
        transforms=transforms,
        colours=colours,
        brightness=uniform(1, 1, 3, width=_PAIR_BRIGHTNESS),
        sharpness=uniform(1, 1, 1, width=min(_PAIR_SHARPNESS, 1 / max(strength, 1e-6))),
        noise=noise,
    )


def mean_style_latents(seed: int, latent_dim: int) -> Any:
    """Draws latents for the centre of truncation, their mean style: float [10_000, latent_dim]."""
    return tf.random.stateless_normal([10_000, latent_dim], tf.constant([seed, 1], tf.int64))


def subset(seed: int, count: int, size: int) -> np.ndarray:
    """Draws `size` of `count` places without replacement, int64 [size], in ascending order."""
    return np.sort(np.random.default_rng(seed).choice(count, size, replace=False))


def initialise(network: keras.Model, seed: int, purpose: Purpose) -> None:
    """Draws the weights of a network with equalised learning rate, each from N(0, 1).

    Args:
        network: The generator or the discriminator; biases and strengths stay as they are.
        seed: The run's seed.
        purpose: The random stream.
    """
    for index, variable in enumerate(network.trainable_variables):
        if variable.name in ("kernel", "constant"):
            variable.assign(weights(variable.shape, seed, purpose, index))


def weights(
    shape: tuple[int, ...], seed: int, purpose: Purpose, index: int, deviation: float = 1.0
) -> Any:
    """Draws the initial weights of a layer, N(0, deviation²).

    Args:
        shape: Of the weights.
        seed: The run's seed.
        purpose: The random stream.
        index: Place of the layer in its network.
        deviation: Standard deviation.
    """
    seeds = tf.constant([seed * 1000 + int(purpose), index], tf.int64)
    return tf.random.stateless_normal(shape, seeds, stddev=deviation)


def _shifts(batch: Any, seed: Any, delta: int, layers: int) -> Any:
    """Draws a shift for each foreground layer, int [B, K, 2]; [B, 2] if there is one."""
    shape = [batch, 2] if layers == 1 else [batch, layers, 2]
    return tf.random.stateless_uniform(shape, seed, -delta, delta + 1, dtype=tf.int32)


class _Seeds:
    """The seeds of a random stream, one per draw."""

    def __init__(self, seed: int, index: Any, purpose: Purpose, first: int = 0):
        self.key = tf.constant(seed, tf.int64) * 1000 + int(purpose)
        self.index = tf.cast(index, tf.int64) * 1000 + first

    def next(self) -> Any:
        """Returns the next seed, int64 [2]."""
        seed = tf.stack([self.key, self.index])
        self.index += 1
        return seed


def _transforms(
    side: int, translation: Any, angle: Any, scale: Any, aspect: Any, warp: Any, mirror: Any
) -> Any:
    """Returns float [B, 8]: input x = a·x + b·y + c, input y = d·x + e·y + f, around the centre."""
    one, zero = tf.ones_like(angle), tf.zeros_like(angle)
    angle = tf.where(warp, angle, zero)
    horizontal = tf.where(warp, scale * aspect, one) * tf.where(mirror, -one, one)
    vertical = tf.where(warp, scale / aspect, one)
    a, b = horizontal * tf.cos(angle), -vertical * tf.sin(angle)
    d, e = horizontal * tf.sin(angle), vertical * tf.cos(angle)
    centre = (side - 1) / 2
    c = centre - a * centre - b * centre + translation[:, 0]
    f = centre - d * centre - e * centre + translation[:, 1]
    return tf.stack([a, b, c, d, e, f, zero, zero], axis=-1)
