"""Writes segmenters as TFLite files for `lite`, with TensorFlow's converter."""

import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from layered_segmentation import files
from layered_segmentation.choices import Quantization
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.segmenter import lite, preset_files

TOLERANCE = 1e-4  # of a mask value, between the file and the Keras model
MEAN_TOLERANCE = 1e-2  # of the mean over mask values, if the file's weights are quantized

_SCENE_SIDES = (48, 97)  # of the images that a preset's file is compared on
_SCENES = 4  # of each side


def convert(
    segmenter: Any,
    side: int,
    quantize: str = Quantization.none,
    samples: Sequence[np.ndarray] = (),
) -> bytes:
    """Returns the segmenter as a TFLite flatbuffer, unchecked.

    Args:
        segmenter: A `LayeredSegmenter`.
        side: Side of the file's input, pixels.
        quantize: A `Quantization`.
        samples: Typical input, which `int8` derives its ranges from: float32 [S, S, 3], 0 to 255.
    """
    import tensorflow as tf

    scale = segmenter.preprocessor.image_converter.scale
    offset = segmenter.preprocessor.image_converter.offset

    def serving_default(images: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = segmenter.named_masks(
            segmenter(images * scale + offset, training=False)
        )
        return outputs

    archive = keras.export.ExportArchive()
    archive.track(segmenter)
    specification = tf.TensorSpec((1, side, side, 3), tf.float32, name="images")
    archive.add_endpoint("serving_default", serving_default, [specification])
    with tempfile.TemporaryDirectory() as directory:
        archive.write_out(directory, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            directory, signature_keys=["serving_default"]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        _quantize(converter, quantize, samples)
        content: bytes = converter.convert()
    return content


def add_to_preset(segmenter: Any, preset: str, quantize: Quantization = Quantization.none) -> None:
    """Writes a preset's TFLite file if its masks are the Keras model's; else says why not.

    With another backend than TensorFlow there is none.

    Args:
        segmenter: The `LayeredSegmenter` that was saved.
        preset: The preset's directory.
        quantize: How to store the file's weights.
    """
    if keras.backend.backend() != "tensorflow":
        return
    try:
        content = lite.add_aspect(
            convert(segmenter, segmenter.resolution, quantize),
            segmenter.preprocessor.image_converter.aspect,
        )
        is_exact = quantize == Quantization.none
        of, most = (np.max, TOLERANCE) if is_exact else (np.mean, MEAN_TOLERANCE)
        difference = of(_differences(lite.LiteSegmenter(content), segmenter))
        if not difference <= most:
            raise ValueError(f"its masks differ by {difference:.2g}, more than {most:g}")
    except Exception as error:  # of the converter; the preset is whole without the file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(
            f"warning: {preset}: no {preset_files.TFLITE} was written ({reason}); `layerseg "
            "segment` needs TensorFlow for it",
            file=sys.stderr,
        )
        return
    files.write_bytes(os.path.join(preset, preset_files.TFLITE), content)


def remove(preset: str) -> None:
    """Removes what a preset has of other weights: its TFLite file and its statistics."""
    for name in (preset_files.TFLITE, preset_files.DOMAIN):
        files.remove(os.path.join(preset, name))


def _differences(written: lite.LiteSegmenter, segmenter: Any) -> np.ndarray:
    """Returns the differences of mask values from the Keras model's, of whole photos."""
    images = [
        image[: 2 * side // 3]
        for side in _SCENE_SIDES
        for image in Scenes(seed=0, count=_SCENES, split="test").load(side)
    ]
    pairs = zip(written.predict_masks(images), segmenter.predict_masks(images), strict=True)
    return np.concatenate([np.abs(mask - expected).ravel() for mask, expected in pairs])


def _quantize(converter: Any, mode: str, samples: Sequence[np.ndarray]) -> None:
    import tensorflow as tf

    if mode == Quantization.none:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == Quantization.float16:
        converter.target_spec.supported_types = [tf.float16]
    elif mode == Quantization.int8:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8
        converter.representative_dataset = lambda: (
            ("serving_default", {"images": sample[None]}) for sample in _with_full_range(samples)
        )


def _with_full_range(samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Adds a black and a white pixel, so that quantized input equals the photo's own bytes."""
    first = samples[0].copy()
    first[0, 0], first[0, 1] = 0, 255
    return [first, *samples[1:]]
