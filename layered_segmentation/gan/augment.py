"""Differentiable augmentation of what the discriminator sees, real and generated alike.

Colour, translation and cutout as Zhao et al., Differentiable Augmentation for Data-Efficient GAN
Training (2020), section 4. The discriminator then cannot learn a small data set by heart, and the
generator, through whose images the gradient passes, does not learn to draw augmented ones.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from layered_segmentation.gan.composite import shift
from layered_segmentation.gan.draws import Purpose, Seeds

# At strength 1, the paper's.
_BRIGHTNESS = 1.0  # the width, of images in [-1, 1]
_SATURATION = 1.0
_CONTRAST = 0.5
_TRANSLATION = 0.125  # of the side
_CUTOUT = 0.5  # of the side

_FIRST_SEED = 200  # `step_draws` uses those before


class AugmentationDraws(NamedTuple):
    """What is done to each image of a batch.

    Attributes:
        brightness: Float [B, 1, 1, 1], added.
        saturation: Float [B, 1, 1, 1], factor of the distance from grey.
        contrast: Float [B, 1, 1, 1], factor of the distance from the image's mean.
        shifts: Int [B, 2], (dx, dy) in pixels.
        kept: Float [B, R, R, 1], 0 in the square that is cut out, 1 elsewhere.
    """

    brightness: Any
    saturation: Any
    contrast: Any
    shifts: Any
    kept: Any


def draw(
    seed: int, images_seen: Any, purpose: Purpose, batch: int, side: int, strength: float
) -> tuple[AugmentationDraws, AugmentationDraws]:
    """Draws the augmentations of a step's real and generated images.

    Args:
        seed: The run's seed.
        images_seen: Scalar int.
        purpose: Discriminator's or generator's step.
        batch: Global batch size.
        side: Image side, pixels.
        strength: 1 is the paper's; it scales all ranges.
    """
    seeds = Seeds(seed, images_seen, purpose, first=_FIRST_SEED)

    def one() -> AugmentationDraws:
        def around(middle: float, width: float) -> Any:
            low, high = middle - strength * width, middle + strength * width
            return tf.random.stateless_uniform([batch, 1, 1, 1], seeds.next(), low, high)

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

    return one(), one()


def augment(images: Any, draws: AugmentationDraws) -> Any:
    """Augments images, float [B, R, R, 3] in [-1, 1]; what is cut out or uncovered is 0, grey."""
    images = images + draws.brightness
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    images = grey + draws.saturation * (images - grey)
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    images = mean + draws.contrast * (images - mean)
    return shift(images, draws.shifts) * draws.kept
