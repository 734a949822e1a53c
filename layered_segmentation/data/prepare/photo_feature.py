"""A feature of TensorFlow Datasets that keeps a photo's file as it is and decodes it as we do."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from layered_segmentation import images


class Photo(tfds.features.Image):
    """The bytes of an image file; read, uint8 [H, W, 3] RGB.

    TFDS's own `Image` keeps the bytes too, but decodes through TensorFlow: WebP comes out with a
    leading axis for frames, TIFF not at all, 16 bits and transparency cut off, and photos lying
    on their side. This decodes with `photos.open_rgb`, as training does.

    `decoders={"image": tfds.decode.SkipDecoding()}` gives the bytes.
    """

    def decode_example(self, example: Any) -> Any:
        """Decodes the bytes, a string tensor, in the graph."""
        import tensorflow as tf

        image = tf.numpy_function(decode, [example], tf.uint8, stateful=False)
        image.set_shape((None, None, 3))
        return image

    def decode_example_np(self, example: bytes) -> np.ndarray:
        """Decodes the bytes outside of TensorFlow."""
        return decode(example)


def decode(file: bytes, name: str = "") -> np.ndarray:
    """Decodes an image file's bytes, uint8 [H, W, 3] RGB, upright.

    Args:
        file: The bytes.
        name: What a message calls them.

    Raises:
        photos.UnreadableImage: They are not, or not wholly, an image.
    """
    return images.read(file, name)


def damage(file: bytes) -> str:
    """Returns why an image file's bytes cannot be decoded, or an empty text."""
    try:
        decode(file, "it")
    except images.UnreadableImage as error:
        return str(error).removeprefix("it: ")
    return ""
