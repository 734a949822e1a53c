"""Augmentation of image/mask pairs: the same geometry for both, colours for the image alone.

Draws are pure functions of a seed, `augment` is a pure function of pairs and draws.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops

# Half widths at strength 1.
_TRANSLATION = 0.125  # of the side
_ROTATION = math.radians(15)
_LOG_SCALE = 0.2
_LOG_ASPECT = 0.1
_BRIGHTNESS = 0.2  # of images in [-1, 1]
_LOG_CONTRAST = 0.3
_LOG_SATURATION = 0.4
_CHANNEL_MIX = 0.06
_SHARPNESS = 0.6
_NOISE = 0.06

_GREY = (0.299, 0.587, 0.114)


class Augmentation(NamedTuple):
    """What is done to each pair of a batch.

    Attributes:
        transforms: Float [B, 8], projective coefficients from output to input pixels.
        colours: Float [B, 3, 3], maps RGB (as a row vector, around the image's mean) to RGB.
        brightness: Float [B, 1, 1, 3], added.
        sharpness: Float [B, 1, 1, 1]: below 0 blurs, above 0 sharpens.
        noise: Float [B, H, W, 3], added.
    """

    transforms: Any
    colours: Any
    brightness: Any
    sharpness: Any
    noise: Any


def draw(seed: Any, batch: int, side: int, strength: float) -> Augmentation:
    """Draws a batch's augmentation.

    Args:
        seed: Int [2]; the same seed gives the same draws.
        batch: Pairs.
        side: Image side, pixels.
        strength: 0 leaves pairs as they are, 1 is the default.
    """
    seeds = iter(tf.unstack(tf.random.split(tf.cast(seed, tf.int32), num=13)))

    def uniform(*shape: int, width: float = 1.0) -> Any:
        return tf.random.stateless_uniform(
            [batch, *shape], next(seeds), -strength * width, strength * width
        )

    transforms = _transforms(
        side,
        translation=tf.round(uniform(2, width=_TRANSLATION * side)),
        angle=uniform(width=_ROTATION),
        scale=tf.exp(uniform(width=_LOG_SCALE)),
        aspect=tf.exp(uniform(width=_LOG_ASPECT)),
        # Interpolation blurs, so half of the pairs are only moved by whole pixels and mirrored.
        warp=tf.random.stateless_uniform([batch], next(seeds)) < 0.5,
        mirror=tf.random.stateless_uniform([batch], next(seeds)) < 0.5 * min(1.0, strength),
    )
    contrast = tf.exp(uniform(1, 1, width=_LOG_CONTRAST))
    saturation = tf.exp(uniform(1, 1, width=_LOG_SATURATION))
    grey = tf.tile(tf.constant(_GREY)[:, None], [1, 3])
    colours = contrast * (saturation * tf.eye(3) + (1 - saturation) * grey)
    colours += uniform(3, 3, width=_CHANNEL_MIX)
    amount = tf.abs(uniform(1, 1, 1, width=_NOISE))
    noise = tf.random.stateless_normal([batch, side, side, 3], next(seeds)) * amount
    return Augmentation(
        transforms=transforms,
        colours=colours,
        brightness=uniform(1, 1, 3, width=_BRIGHTNESS),
        sharpness=uniform(1, 1, 1, width=min(_SHARPNESS, 1 / max(strength, 1e-6))),
        noise=noise,
    )


def augment(images: Any, masks: Any, augmentation: Augmentation) -> tuple[Any, Any]:
    """Moves, turns, scales and mirrors pairs, and changes the images' colours.

    Args:
        images: Float [B, H, W, 3] in [-1, 1].
        masks: Float [B, H, W, 1] in [0, 1].
        augmentation: From `draw`.

    Returns:
        Images and masks of the same shapes and ranges; what the frame uncovers is mirrored in.
    """
    pairs = ops.concatenate([images, masks], axis=-1)  # one array: they cannot come apart
    pairs = ops.image.affine_transform(
        pairs, augmentation.transforms, interpolation="bilinear", fill_mode="reflect"
    )
    images, masks = pairs[..., :3], ops.clip(pairs[..., 3:], 0.0, 1.0)
    images = images + augmentation.sharpness * (images - _blur(images))
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    images = ops.einsum("bhwc,bcd->bhwd", images - mean, augmentation.colours)
    images = images + mean + augmentation.brightness + augmentation.noise
    return ops.clip(images, -1.0, 1.0), masks


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


def _blur(images: Any) -> Any:
    """Smooths with [1, 2, 1] along both axes, edges repeated, [B, H, W, C] -> the same shape."""
    padded = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
    padded = padded[:, :-1] + padded[:, 1:]
    padded = padded[:, :-1] + padded[:, 1:]
    padded = padded[:, :, :-1] + padded[:, :, 1:]
    padded = padded[:, :, :-1] + padded[:, :, 1:]
    return padded / 16.0
