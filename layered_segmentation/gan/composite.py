"""Layers of a scene: perturbing and compositing them (eq. 1 and 2)."""

from typing import Any, NamedTuple

import keras
from keras import ops


class Layers(NamedTuple):
    """The layers of a batch of scenes: a background, and K foreground layers over it.

    The paper has one foreground layer. Of several, each lies over those before it.

    Attributes:
        background: Float [B, H, W, 3] in about [-1, 1].
        foreground: Float [B, H, W, 3·K] in about [-1, 1].
        mask: Float [B, H, W, K] in [0, 1]; 1 is foreground.
    """

    background: Any
    foreground: Any
    mask: Any


def compose(layers: Layers) -> Any:
    """Lays the foreground over the background (eq. 1), of several layers one after the other.

    Args:
        layers: The layers, each [B, H, W, C].

    Returns:
        The composite, float [B, H, W, 3].
    """
    image = layers.background
    for foreground, mask in foreground_layers(layers):
        image = image + mask * (foreground - image)
    return image


def foreground_layers(layers: Layers) -> list[tuple[Any, Any]]:
    """Returns the images, [B, H, W, 3], and masks, [B, H, W, 1], of the K foreground layers."""
    count = layers.mask.shape[-1]
    if count == 1:
        return [(layers.foreground, layers.mask)]
    return [
        (layers.foreground[..., 3 * k : 3 * k + 3], layers.mask[..., k : k + 1])
        for k in range(count)
    ]


def visible_masks(masks: Any) -> Any:
    """Returns what later layers leave of each layer's mask, m_k · Π_{j>k} (1 - m_j).

    Args:
        masks: Float [B, H, W, K] in [0, 1].

    Returns:
        Float [B, H, W, K]. The sum over the layers is `union_mask`.
    """
    last = masks.shape[-1] - 1
    visible, free = [masks[..., last:]], 1.0
    for k in reversed(range(last)):
        free = free * (1.0 - masks[..., k + 1 : k + 2])
        visible.insert(0, masks[..., k : k + 1] * free)
    return _joined(visible)


def union_mask(masks: Any) -> Any:
    """Returns 1 - Π (1 - m_k), the mask of all layers together: [B, H, W, K] -> [B, H, W, 1]."""
    union = masks[..., :1]
    for k in range(1, masks.shape[-1]):
        union = union + masks[..., k : k + 1] * (1.0 - union)
    return union


def shift(images: Any, shifts: Any) -> Any:
    """Moves each image by whole pixels; uncovered pixels are 0.

    Args:
        images: Float [B, H, W, C].
        shifts: Int [B, 2], (dx, dy) in pixels; positive is right and down.

    Returns:
        Float [B, H, W, C].
    """
    height, width = images.shape[1], images.shape[2]
    shifts = ops.cast(shifts, "int32")
    # A shift along an axis is a product with a shifted identity. Products with 0 and 1 are exact,
    # and unlike a gather their gradient is again a product, fast on every backend.
    columns = _shifted_identity(shifts[:, 0], width, images.dtype)
    rows = _shifted_identity(shifts[:, 1], height, images.dtype)
    return ops.einsum("bij,bjkc,blk->bilc", rows, images, columns)


def contrast_jitter(images: Any, factors: Any) -> Any:
    """Scales each channel around its own mean, clipped to that channel's own range.

    Setting (d) of the paper perturbs the background so; the clip is from the reference code.

    Args:
        images: Float [B, H, W, C].
        factors: Float [B], 1 leaves an image as it is.

    Returns:
        Float [B, H, W, C].
    """
    factors = ops.cast(ops.reshape(factors, (-1, 1, 1, 1)), images.dtype)
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    least = ops.min(images, axis=(1, 2), keepdims=True)
    most = ops.max(images, axis=(1, 2), keepdims=True)
    return ops.minimum(ops.maximum(mean + factors * (images - mean), least), most)


def scale(images: Any, shifts: Any, scales: Any) -> Any:
    """Scales each image around its centre, then moves it; what comes from outside is 0.

    Images are interpolated linearly along each axis, those that shrink with a kernel that is wider
    by the same factor. A scale of 1 is exactly `shift`.

    Args:
        images: Float [B, H, W, C].
        shifts: Int [B, 2], (dx, dy) in pixels of the result.
        scales: Float [B], above 1 enlarges.

    Returns:
        Float [B, H, W, C].
    """
    height, width = images.shape[1], images.shape[2]
    columns = _scaling(shifts[:, 0], scales, width, images.dtype)
    rows = _scaling(shifts[:, 1], scales, height, images.dtype)
    return ops.einsum("bij,bjkc,blk->bilc", rows, images, columns)


def perturb(layers: Layers, shifts: Any, contrast: Any = None, scales: Any = None) -> Layers:
    """Shifts foreground and mask together (eq. 2) and jitters the background's contrast.

    Args:
        layers: The layers, each [B, H, W, C].
        shifts: Int [B, 2], (dx, dy) in pixels, or [B, K, 2], one for each foreground layer.
        contrast: Float [B] factors, or None to leave the background as it is.
        scales: Float [B] factors of the size of foreground and mask, or None for the size they
            have. The paper only shifts.
    """
    moved = []
    for k, layer in enumerate(foreground_layers(layers)):
        both = ops.concatenate(layer, axis=-1)
        by = shifts if len(shifts.shape) == 2 else shifts[:, k]
        moved.append(shift(both, by) if scales is None else scale(both, by, scales))
    background = layers.background
    if contrast is not None:
        background = contrast_jitter(background, contrast)
    foregrounds, masks = [part[..., :3] for part in moved], [part[..., 3:] for part in moved]
    return Layers(background, _joined(foregrounds), _joined(masks))


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)


def _shifted_identity(offsets: Any, size: int, dtype: Any) -> Any:
    """Returns [B, size, size] matrices that move a signal by `offsets` pixels, zero filled."""
    target = ops.arange(size, dtype="int32")[None, :, None]
    source = ops.arange(size, dtype="int32")[None, None, :]
    moved = ops.equal(target - source, offsets[:, None, None])
    return ops.cast(moved, keras.backend.standardize_dtype(dtype))


def _scaling(offsets: Any, scales: Any, size: int, dtype: Any) -> Any:
    """Returns [B, size, size] matrices that scale a signal around its centre, then move it."""
    scales = ops.cast(ops.reshape(scales, (-1, 1, 1)), "float32")
    offsets = ops.cast(ops.reshape(offsets, (-1, 1, 1)), "float32")
    centre, margin = (size - 1) / 2, 2  # of the frame; samples that a kernel reaches beyond it
    target = ops.arange(size, dtype="float32")[None, :, None]
    source = ops.arange(-margin, size + margin, dtype="float32")[None, None, :]
    places = (target - offsets - centre) / scales + centre
    narrow = ops.minimum(scales, 1.0)
    weights = ops.maximum(1.0 - ops.abs(places - source) * narrow, 0.0)
    # Rows sum to 1 before what lies beyond the frame is cut off. Rows far outside are 0.
    weights /= ops.maximum(ops.sum(weights, axis=2, keepdims=True), 0.5)
    return ops.cast(weights[:, :, margin:-margin], keras.backend.standardize_dtype(dtype))
