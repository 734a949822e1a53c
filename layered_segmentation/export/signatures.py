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

# Of one photo. A file of some kilobytes can hold a picture that does not fit into memory.
MOST_PIXELS = 1 << 26


class Signature(NamedTuple):
    """One signature."""

    function: Callable[[Any], dict[str, Any]]  # maps the input to a dictionary of outputs
    specification: Any  # the input's shape, type and name


def build(segmenter: LayeredSegmenter) -> dict[str, Signature]:
    """Returns a segmenter's signatures by name; `layers` only if a generator draws the masks.

    Clients depend on the names of the inputs (`images`, `bytes`) and of the outputs. `masks` has
    one channel; a segmenter of several masks has their union there, and all in `object_masks`.
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
    """uint8 [B, H, W, 3] -> masks of the same size."""

    def serving_default(images: Any) -> dict[str, Any]:
        _require_photos(images)
        masks = segmenter(_prepare(segmenter, images), training=False)
        height, width = tf.unstack(tf.shape(images)[1:3])

        def restore(masks: Any) -> Any:
            # Does what `segmenter.restore` does; keras.ops cannot resize to a size that only the
            # running graph knows.
            if segmenter.preprocessor.image_converter.pads:
                side = tf.maximum(height, width)
                masks = crop_from_square(resize(masks, side, side), height, width)
            else:
                masks = resize(masks, height, width)
            return tf.clip_by_value(masks, 0.0, 1.0)

        return {name: restore(one) for name, one in segmenter.named_masks(masks).items()}

    return serving_default


def _masks_of_files(segmenter: LayeredSegmenter) -> Callable[[Any], dict[str, Any]]:
    """Encoded images, string [B] -> masks of the whole images, each squashed to R × R.

    A server may batch the images of several clients. An image that cannot be decoded must not fail
    the others, so `valid`, bool [B], is false for it and its mask is 0. An image alone is an error.
    """
    side = segmenter.resolution

    def prepare(encoded: Any) -> tuple[Any, Any, Any]:
        image = _decode(encoded)
        return _prepare(segmenter, image[None])[0], tf.shape(image)[:2], True

    def squash(mask_and_size: tuple[Any, Any]) -> Any:
        mask, size = mask_and_size
        height, width = crop_size(size[0], size[1], side)
        square = resize(mask[None], _OVERSAMPLING * side, _OVERSAMPLING * side)
        return resize(crop_from_square(square, height, width), side, side)[0]

    def prepare_all(encoded: Any) -> tuple[Any, Any, Any]:
        """Prepares each image; where that fails, there are zeros."""
        blank = tf.zeros((side, side, 3)), tf.ones(2, tf.int32), False
        blanks = tf.data.Dataset.from_tensors(blank)

        def one(encoded: Any) -> Any:
            # Only datasets can catch an error inside a graph.
            prepared = tf.data.Dataset.from_tensors(encoded).map(prepare).ignore_errors()
            return prepared.concatenate(blanks).take(1)

        prepared = tf.data.Dataset.from_tensor_slices(encoded).flat_map(one)
        count = tf.shape(encoded, out_type=tf.int64)[0]
        images, sizes, valid = prepared.batch(count).get_single_element()
        return images, sizes, valid

    def prepare_alone(encoded: Any) -> tuple[Any, Any, Any]:
        image, size, _ = prepare(encoded[0])
        return image[None], size[None], tf.constant([True])

    def image_bytes(bytes: Any) -> dict[str, Any]:  # clients depend on the input's name
        count = tf.shape(bytes)[0]
        _require(count > 0, "bytes: the batch is empty; send at least one image")
        prepared, sizes, valid = tf.cond(
            tf.equal(count, 1), lambda: prepare_alone(bytes), lambda: prepare_all(bytes)
        )
        prepared = tf.ensure_shape(prepared, (None, side, side, 3))
        outputs = segmenter.named_masks(segmenter(prepared, training=False))
        for name, masks in outputs.items():
            if segmenter.preprocessor.image_converter.pads:
                shape = tf.TensorSpec((side, side, masks.shape[-1]), tf.float32)
                masks = tf.map_fn(squash, (masks, sizes), fn_output_signature=shape)
            outputs[name] = tf.where(valid[:, None, None, None], masks, 0.0)
        return {**outputs, "valid": valid}

    return image_bytes


def _decode(encoded: Any) -> Any:
    """Decodes an image to uint8 [H, W, 3], a JPEG to exactly the values that Pillow gives.

    By default TensorFlow decodes JPEG with a faster transform that is off by some levels.
    """
    is_jpeg = tf.io.is_jpeg(encoded)
    pixels = tf.cond(
        is_jpeg,
        lambda: tf.reduce_prod(
            tf.cast(tf.io.extract_jpeg_shape(encoded, output_type=tf.int32)[:2], tf.int64)
        ),
        lambda: _pixels(encoded),
    )
    _require(pixels <= MOST_PIXELS, f"bytes: an image has more than {MOST_PIXELS:,} pixels")
    image = tf.cond(
        is_jpeg,
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    image.set_shape([None, None, 3])
    return image


def _pixels(encoded: Any) -> Any:
    """Returns the pixels that the header of a PNG or GIF states; 0 for other files.

    A BMP is as large as its pixels, and a WebP has at most 16,383 × 16,383 of them.
    """
    head = tf.strings.substr(encoded, 0, 24)
    padded = tf.strings.substr(tf.strings.join([head, 24 * chr(0)]), 0, 24)
    values = tf.cast(tf.io.decode_raw(padded, tf.uint8), tf.int64)
    png = tf.reduce_sum(tf.reshape(values[16:24], (2, 4)) * (1 << 24, 1 << 16, 1 << 8, 1), axis=1)
    gif = tf.reduce_sum(tf.reshape(values[6:10], (2, 2)) * (1, 1 << 8), axis=1)
    is_png = tf.equal(tf.strings.substr(padded, 1, 3), b"PNG")
    is_gif = tf.equal(tf.strings.substr(padded, 0, 3), b"GIF")
    sides = tf.where(is_gif, gif, png)
    is_known = tf.logical_or(is_png, is_gif)
    return tf.where(is_known, tf.reduce_prod(sides), 0)


def _require_photos(images: Any) -> None:
    """Refuses a batch, uint8 [B, H, W, 3], without pixels or with far too many."""
    shape = tf.shape(images, out_type=tf.int64)
    _require(tf.reduce_all(shape > 0), "images: the batch is empty; send [B, H, W, 3] with pixels")
    _require(
        shape[1] * shape[2] <= MOST_PIXELS, f"images: a photo has more than {MOST_PIXELS:,} pixels"
    )


def _require(condition: Any, message: str) -> None:
    """Fails in the running graph; without `tf.cond`, which other runtimes may lack."""
    tf.raw_ops.Assert(condition=condition, data=[message])


def _layers(segmenter: EncoderSegmenter) -> Callable[[Any], dict[str, Any]]:
    """uint8 [B, H, W, 3] -> the generator's layers, [B, R, R, C], and their composite (eq. 1)."""

    def layers(images: Any) -> dict[str, Any]:
        _require_photos(images)
        drawn = segmenter.backbone.draw(_prepare(segmenter, images))
        return {**drawn._asdict(), "composite": compose(drawn)}

    return layers
