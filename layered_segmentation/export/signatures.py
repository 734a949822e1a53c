"""The signatures of the SavedModel: what each takes, gives and computes.

All are free in the batch dimension; decoding, resizing and scaling are in the graph.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from layered_segmentation.export.resizing import resize

if TYPE_CHECKING:
    from layered_segmentation.segmenter.segmenter import LayeredSegmenter

UNCROPPED = 4  # finely enough to cut continued edges off to a quarter of a mask's pixel


class Signature(NamedTuple):
    """One signature.

    Attributes:
        function: Takes the input, returns the outputs by name.
        specification: The input's shape, type and name.
    """

    function: Callable[[Any], dict[str, Any]]
    specification: Any


def of(segmenter: "LayeredSegmenter") -> dict[str, Signature]:
    """Returns a segmenter's signatures by name; `layers` only where a generator stands behind it.

    The inputs' names (`images`, `bytes`) and the outputs' are a contract with clients.
    """
    import tensorflow as tf

    from layered_segmentation.segmenter.segmenter import EncoderSegmenter

    images = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")
    encoded = tf.TensorSpec((None,), tf.string, name="bytes")
    signatures = {
        "serving_default": Signature(_masks(segmenter), images),
        "image_bytes": Signature(_masks_of_files(segmenter), encoded),
    }
    if isinstance(segmenter, EncoderSegmenter):
        signatures["layers"] = Signature(_layers(segmenter), images)
    return signatures


def uncropped(height: Any, width: Any, side: int) -> tuple[Any, Any]:
    """Returns a photo's size where its longer side is `UNCROPPED` times the network's."""
    import tensorflow as tf

    most, longest = UNCROPPED * side, tf.maximum(height, width)
    return tf.maximum(1, most * height // longest), tf.maximum(1, most * width // longest)


def _prepare(segmenter: "LayeredSegmenter", images: Any) -> Any:
    """As `segmenter.prepare`, of operators that every runtime has."""
    import tensorflow as tf

    from layered_segmentation.segmenter.preprocessing import pad_to_square

    converter = segmenter.preprocessor.image_converter
    if converter.pads:
        images = pad_to_square(images)
    side = segmenter.resolution
    return resize(tf.cast(images, tf.float32), side, side) * converter.scale + converter.offset


def _masks(segmenter: "LayeredSegmenter") -> Callable[[Any], dict[str, Any]]:
    """uint8 [B, H, W, 3] -> masks [B, H, W, 1]."""
    import tensorflow as tf

    from layered_segmentation.segmenter.preprocessing import crop_from_square

    def serving_default(images: Any) -> dict[str, Any]:
        masks = segmenter(_prepare(segmenter, images), training=False)
        # As `segmenter.restore` does; keras.ops does not resize to a size known only at run time.
        height, width = tf.unstack(tf.shape(images)[1:3])
        if segmenter.preprocessor.image_converter.pads:
            side = tf.maximum(height, width)
            masks = crop_from_square(resize(masks, side, side), height, width)
        else:
            masks = resize(masks, height, width)
        return {"masks": tf.clip_by_value(masks, 0.0, 1.0)}

    return serving_default


def _masks_of_files(segmenter: "LayeredSegmenter") -> Callable[[Any], dict[str, Any]]:
    """Encoded images, string [B] -> masks of the whole images, each squashed to [R, R, 1]."""
    import tensorflow as tf

    from layered_segmentation.segmenter.preprocessing import crop_from_square

    side = segmenter.resolution

    def prepare(encoded: Any) -> tuple[Any, Any]:
        image = _decode(encoded)
        return _prepare(segmenter, image[None])[0], tf.shape(image)[:2]

    def squash(mask_and_size: tuple[Any, Any]) -> Any:
        mask, size = mask_and_size
        height, width = uncropped(size[0], size[1], side)
        full = resize(mask[None], UNCROPPED * side, UNCROPPED * side)
        return resize(crop_from_square(full, height, width), side, side)[0]

    def image_bytes(bytes: Any) -> dict[str, Any]:  # the input's name is a contract
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
    """Decodes an image to uint8 [H, W, 3], JPEG to the very values that Pillow gives.

    Left to itself, TensorFlow decodes JPEG by a faster transform that is some levels off.
    """
    import tensorflow as tf

    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    image.set_shape([None, None, 3])
    return image


def _layers(segmenter: Any) -> Callable[[Any], dict[str, Any]]:
    """uint8 [B, H, W, 3] -> what the generator draws, [B, R, R, C], and its composite (eq. 1)."""
    from layered_segmentation.gan.composite import compose

    def layers(images: Any) -> dict[str, Any]:
        drawn = segmenter.backbone.draw(_prepare(segmenter, images))
        return {**drawn._asdict(), "composite": compose(drawn)}

    return layers
