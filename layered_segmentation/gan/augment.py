"""Augmentation of what the discriminator sees, and of the pairs that a student learns from."""

from typing import Any

import tensorflow as tf
from keras import ops

from layered_segmentation.gan.composite import shift
from layered_segmentation.gan.draws import AugmentationDraws, PairAugmentation
from layered_segmentation.gan.keras_settings import DATA_FORMAT


def augment(images: Any, draws: AugmentationDraws) -> Any:
    """Augments images, real or generated, for the discriminator, differentiably.

    Colour, translation and cutout as in Zhao et al., Differentiable Augmentation for Data-Efficient
    GAN Training (2020), section 4. The discriminator then cannot memorise a small data set, and the
    generator, which receives the gradient through the augmentation, does not learn to draw
    augmented images.

    Args:
        images: Float [B, R, R, 3] in [-1, 1].
        draws: From `draws.augmentation_draws`.

    Returns:
        The same shape; cut-out and uncovered pixels are grey.
    """
    images = images + draws.brightness
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    images = grey + draws.saturation * (images - grey)
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    images = mean + draws.contrast * (images - mean)
    return shift(images, draws.shifts) * draws.kept


def augment_pairs(images: Any, masks: Any, augmentation: PairAugmentation) -> tuple[Any, Any]:
    """Moves, turns, scales and mirrors pairs for a student, and changes the images' colours.

    Args:
        images: Float [B, H, W, 3] in [-1, 1].
        masks: Float [B, H, W, C] in [0, 1]: masks, perhaps with the weights of their pixels.
        augmentation: From `draws.pair_augmentation`.

    Returns:
        Images and masks of the same shapes and ranges. What moves into the frame is filled by
        reflection.
    """
    # Transform one array, so that images and masks stay aligned.
    pairs = ops.concatenate([images, masks], axis=-1)
    pairs = ops.image.affine_transform(
        pairs,
        augmentation.transforms,
        interpolation="bilinear",
        fill_mode="reflect",
        data_format=DATA_FORMAT,
    )
    images, masks = pairs[..., :3], ops.clip(pairs[..., 3:], 0.0, 1.0)
    images = images + augmentation.sharpness * (images - _blur(images))
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    images = ops.einsum("bhwc,bcd->bhwd", images - mean, augmentation.colours)
    images = images + mean + augmentation.brightness + augmentation.noise
    return ops.clip(images, -1.0, 1.0), masks


def _blur(images: Any) -> Any:
    """Smooths with [1, 2, 1] along both axes, edges repeated, [B, H, W, C] -> the same shape."""
    padded = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
    padded = padded[:, :-1] + padded[:, 1:]
    padded = padded[:, :-1] + padded[:, 1:]
    padded = padded[:, :, :-1] + padded[:, :, 1:]
    padded = padded[:, :, :-1] + padded[:, :, 1:]
    return padded / 16.0
