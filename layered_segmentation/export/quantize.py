"""Quantization of a TFLite file: float32, float16, int8 weights, or int8 throughout."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from layered_segmentation.errors import UserError
from layered_segmentation.export import compare
from layered_segmentation.images import to_square

MODES = ("none", "float16", "dynamic", "int8")
SAMPLES = 200  # representative photos; more hardly change the ranges


def configure(converter: Any, mode: str, samples: Sequence[np.ndarray]) -> None:
    """Sets the quantization of a `tf.lite.TFLiteConverter`.

    Args:
        converter: The converter, whose only input is `images`.
        mode: `none`; `float16`: weights in half precision; `dynamic`: int8 weights, computed in
            float; `int8`: int8 weights and activations, with uint8 `images` and `masks`.
        samples: Typical input, which `int8` derives its ranges from: float32 [S, S, 3], 0 to 255.
    """
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
    """Returns the photos from which `int8` derives its ranges.

    Args:
        directory: Photos like those the segmenter will see; at most `SAMPLES` are used, spread
            evenly over the directory.
        side: Side of the model's input, pixels.

    Returns:
        float32 [side, side, 3], whole numbers from 0 to 255.

    Raises:
        UserError: No directory is given, it is missing, or it contains no readable image.
    """
    flag = "--representative_data"
    if not directory:
        raise UserError(
            f"{flag} is needed with --quantize=int8: name a directory of some hundred photos like "
            "those the segmenter will see"
        )
    if os.path.isfile(directory):
        raise UserError(f"{flag}={directory}: is a file; name a directory of photos")
    images = compare.images_to_compare(directory, SAMPLES, flag)
    return [to_square(image, side).astype(np.float32) for image in images]


def _with_full_range(samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Adds a black and a white pixel, so that quantized input equals the photo's own bytes."""
    first = samples[0].copy()
    first[0, 0], first[0, 1] = 0, 255
    return [first, *samples[1:]]
