"""Augmentation of image/mask pairs: the same geometry for both, colours for the image alone."""

from typing import Any

from keras import ops

from layered_segmentation.gan.draws import PairAugmentation


def augment(images: Any, masks: Any, augmentation: PairAugmentation) -> tuple[Any, Any]:
    """Moves, turns, scales and mirrors pairs, and changes the images' colours.

    Args:
        images: Float [B, H, W, 3] in [-1, 1].
        masks: Float [B, H, W, 1] in [0, 1].
        augmentation: From `draws.pair_augmentation`.

    Returns:
        Images and masks of the same shapes and ranges. What moves into the frame is filled by
        reflection.
    """
    # Transform one array, so that images and masks stay aligned.
    pairs = ops.concatenate([images, masks], axis=-1)
    pairs = ops.image.affine_transform(
        pairs, augmentation.transforms, interpolation="bilinear", fill_mode="reflect"
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
