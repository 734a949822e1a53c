"""The signatures of the exported SavedModel.

Every signature accepts any batch size. Decoding, resizing and scaling are part of the graph.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from layered_segmentation.gan.composite import compose
from layered_segmentation.segmenter.preprocessing import crop_from_square, pad_to_square
from layered_segmentation.segmenter.segmenter import EncoderSegmenter, LayeredSegmenter

# Masks of padded photos are cropped at this multiple of the network's resolution, so that the crop
# is exact to a quarter of a mask pixel.
_OVERSAMPLING = 4


class Signature(NamedTuple):
    """One signature."""

    function: Callable[[Any], dict[str, Any]]  # maps the input to a dictionary of outputs
    specification: Any  # the input's shape, type and name


def build(segmenter: LayeredSegmenter) -> dict[str, Signature]:
    """Returns a segmenter's signatures by name; `layers` only if a generator draws the masks.

    Clients depend on the names of the inputs (`images`, `bytes`) and of the outputs.
    """
    images = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")
    encoded = tf.TensorSpec((None,), tf.string, name="bytes")
    signatures = {
        "serving_default": Signature(_masks(segmenter), images),
        "image_bytes": Signature(_masks_of_files(segmenter), encoded),
    }
    if isinstance(segmenter, EncoderSegmenter):
        signatures["layers"] = Signature(_layers(segmenter), images)
    return signatures


def crop_size(height: Any, width: Any, side: int) -> tuple[Any, Any]:
    """Returns the size at which `image_bytes` crops the mask of a padded photo.

    Args:
        height: Of the photo, pixels.
        width: Of the photo, pixels.
        side: The network's resolution, pixels.
    """
    longest = tf.maximum(height, width)
    target = _OVERSAMPLING * side
    return tf.maximum(1, target * height // longest), tf.maximum(1, target * width // longest)


def resize(images: Any, height: Any, width: Any) -> Any:
    """Resizes as `tf.image.resize(images, [height, width], antialias=True)` does.

    TensorFlow's operator, ScaleAndTranslate, is missing in other runtimes and has no GPU kernel.
    A resize along one axis is a product with a matrix of weights, so here it is two products.

    Args:
        images: Float [B, H, W, C].
        height: Pixels; may be a tensor.
        width: Pixels; may be a tensor.

    Returns:
        Float [B, height, width, C].
    """
    shape = tf.shape(images)
    batch, channels = shape[0], images.shape[-1]
    lines = tf.reshape(images, [batch, shape[1], shape[2] * channels])
    lines = tf.linalg.matmul(_resize_weights(shape[1], height), lines)
    # Channels first, so that all lines of all images are one product.
    lines = tf.transpose(tf.reshape(lines, [batch, height, shape[2], channels]), [0, 1, 3, 2])
    lines = tf.reshape(lines, [batch * height * channels, shape[2]])
    resized = tf.linalg.matmul(lines, _resize_weights(shape[2], width), transpose_b=True)
    return tf.transpose(tf.reshape(resized, [batch, height, channels, width]), [0, 1, 3, 2])


def _resize_weights(source: Any, target: Any) -> Any:
    """Returns [target, source] weights: triangles as wide as two pixels of the coarser grid."""
    scale = tf.cast(source, tf.float32) / tf.cast(target, tf.float32)
    centres = (tf.range(target, dtype=tf.float32) + 0.5) * scale
    positions = tf.range(source, dtype=tf.float32) + 0.5
    distances = tf.abs(positions[None] - centres[:, None]) / tf.maximum(scale, 1.0)
    weights = tf.maximum(1.0 - distances, 0.0)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def _prepare(segmenter: LayeredSegmenter, images: Any) -> Any:
    """Does what `segmenter.prepare` does, with operators that every runtime has."""
    converter = segmenter.preprocessor.image_converter
    if converter.pads:
        images = pad_to_square(images)
    side = segmenter.resolution
    return resize(tf.cast(images, tf.float32), side, side) * converter.scale + converter.offset


def _masks(segmenter: LayeredSegmenter) -> Callable[[Any], dict[str, Any]]:
    """uint8 [B, H, W, 3] -> masks [B, H, W, 1]."""

    def serving_default(images: Any) -> dict[str, Any]:
        masks = segmenter(_prepare(segmenter, images), training=False)
        # Does what `segmenter.restore` does; keras.ops cannot resize to a size that only the
        # running graph knows.
        height, width = tf.unstack(tf.shape(images)[1:3])
        if segmenter.preprocessor.image_converter.pads:
            side = tf.maximum(height, width)
            masks = crop_from_square(resize(masks, side, side), height, width)
        else:
            masks = resize(masks, height, width)
        return {"masks": tf.clip_by_value(masks, 0.0, 1.0)}

    return serving_default


def _masks_of_files(segmenter: LayeredSegmenter) -> Callable[[Any], dict[str, Any]]:
    """Encoded images, string [B] -> masks of the whole images, each squashed to [R, R, 1]."""
    side = segmenter.resolution

    def prepare(encoded: Any) -> tuple[Any, Any]:
        image = _decode(encoded)
        return _prepare(segmenter, image[None])[0], tf.shape(image)[:2]

    def squash(mask_and_size: tuple[Any, Any]) -> Any:
        mask, size = mask_and_size
        height, width = crop_size(size[0], size[1], side)
        square = resize(mask[None], _OVERSAMPLING * side, _OVERSAMPLING * side)
        return resize(crop_from_square(square, height, width), side, side)[0]

    def image_bytes(bytes: Any) -> dict[str, Any]:  # clients depend on the input's name
        prepared_and_size = (
            tf.TensorSpec((side, side, 3), tf.float32),
            tf.TensorSpec((2,), tf.int32),
        )
        prepared, sizes = tf.map_fn(prepare, bytes, fn_output_signature=prepared_and_size)
        masks = segmenter(prepared, training=False)
        if segmenter.preprocessor.image_converter.pads:
            shape = tf.TensorSpec((side, side, 1), tf.float32)
            masks = tf.map_fn(squash, (masks, sizes), fn_output_signature=shape)
        return {"masks": masks}

    return image_bytes


def _decode(encoded: Any) -> Any:
    """Decodes an image to uint8 [H, W, 3], a JPEG to exactly the values that Pillow gives.

    By default TensorFlow decodes JPEG with a faster transform that is off by some levels.
    """
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    image.set_shape([None, None, 3])
    return image


def _layers(segmenter: EncoderSegmenter) -> Callable[[Any], dict[str, Any]]:
    """uint8 [B, H, W, 3] -> the generator's layers, [B, R, R, C], and their composite (eq. 1)."""

    def layers(images: Any) -> dict[str, Any]:
        drawn = segmenter.backbone.draw(_prepare(segmenter, images))
        return {**drawn._asdict(), "composite": compose(drawn)}

    return layers
