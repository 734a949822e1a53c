"""How a TFLite file's numbers are kept: as they are, in half precision, or as whole numbers."""

import os
from typing import Any

import numpy as np

from layered_segmentation.errors import UserError

MODES = ("none", "float16", "dynamic", "int8")
SAMPLES = 200  # representative images: more change the ranges hardly


def configure(converter: Any, mode: str, samples: list[np.ndarray]) -> None:
    """Sets a `tf.lite.TFLiteConverter` to a mode.

    Args:
        converter: The converter, whose one input is `images`.
        mode: `none`; `float16`, weights in half precision; `dynamic`, weights as int8, computed
            in float; `int8`, all as int8, with uint8 `images` and `masks`.
        samples: For `int8`, what typical input looks like: float32 [S, S, 3], 0 to 255.
    """
    import tensorflow as tf

    if mode == "none":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif mode == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8
        converter.representative_dataset = lambda: (
            ("serving_default", {"images": sample[None]}) for sample in _with_full_range(samples)
        )


def representative_samples(directory: str, side: int) -> list[np.ndarray]:
    """Returns what `int8` takes its ranges from.

    Args:
        directory: Photos like those the segmenter will see; at most `SAMPLES` are taken, spread
            evenly over the directory.
        side: Of the input, pixels.

    Returns:
        float32 [side, side, 3] of whole numbers from 0 to 255.

    Raises:
        UserError: No directory is named, it is missing, or holds no readable image.
    """
    from layered_segmentation.export import compare

    flag = "--representative_data"
    if not directory:
        raise UserError(
            f"{flag} is needed with --quantize=int8: name a directory of some hundred photos like "
            "those the segmenter will see"
        )
    if os.path.isfile(directory):
        raise UserError(f"{flag}={directory}: is a file; name a directory of photos")
    images = compare.images_to_compare(directory, SAMPLES, flag)
    return [squashed(image, side).astype(np.float32) for image in images]


def squashed(photo: np.ndarray, side: int) -> np.ndarray:
    """Returns a photo at the input's size, whole numbers from 0 to 255 as a phone has them."""
    from layered_segmentation.images import to_square

    return to_square(photo, side)


def _with_full_range(samples: list[np.ndarray]) -> list[np.ndarray]:
    """Lets black and white occur, so that a quantised input is the photo's own bytes."""
    first = samples[0].copy()
    first[0, 0], first[0, 1] = 0, 255
    return [first, *samples[1:]]
