"""Segmenters as TFLite files: photos to masks by LiteRT, without TensorFlow and Keras.

A preset of a student has one, `preset_files.TFLITE`, with the same masks. It starts in a tenth of a
second, where importing TensorFlow takes several.
"""

import io
import os
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from layered_segmentation import files, quiet
from layered_segmentation.choices import Aspect
from layered_segmentation.errors import UserError
from layered_segmentation.images import TRIANGLE, to_square
from layered_segmentation.segmenter import preset_files

SUFFIX = ".tflite"

_ASPECT = "aspect.txt"  # in the archive at the end of a file, unless photos are squashed
_THREADS = 1  # a student takes milliseconds; more threads cost more than they save


class LiteSegmenter:
    """Segments photos by a TFLite file.

    Args:
        content: The file, as `layerseg export --format=tflite` writes it; of any quantization.
        place: Its name in messages.

    Raises:
        UserError: It is no TFLite file, or not of a segmenter.
    """

    def __init__(self, content: bytes, place: str = "the file"):
        try:
            with quiet.without_notes():
                self._run, self.resolution = _open(content)
                self._run(np.zeros((1, self.resolution, self.resolution, 3), np.float32))
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(
                f"{place}: is not a TFLite file of a segmenter ({error}); write one with "
                "`layerseg export --format=tflite`"
            ) from error
        self._pads = _aspect_of(content) != Aspect.squash

    def predict_masks(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Segments photos, uint8 [H, W, 3] of any sizes -> float32 [H, W] in [0, 1] each."""
        return [self._predict(image) for image in images]

    def _predict(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        top, left = 0, 0
        if self._pads:  # as `preprocessing.pad_to_square`
            side = max(height, width)
            top, left = (side - height) // 2, (side - width) // 2
            ends = ((top, side - height - top), (left, side - width - left), (0, 0))
            image = np.pad(image, ends, mode="edge")
        # In float: nothing is rounded, as in the preprocessor.
        channels = [
            to_square(np.asarray(image[..., channel], np.float32), self.resolution)
            for channel in range(3)
        ]
        mask = self._run(np.stack(channels, axis=-1)[None])[0, ..., 0]
        enlarged = Image.fromarray(mask).resize(image.shape[1::-1], TRIANGLE)
        clipped: np.ndarray = np.clip(np.asarray(enlarged), 0, 1)
        return clipped[top : top + height, left : left + width]


def find(path: str, flag: str = "--segmenter") -> str:
    """Returns the TFLite file of a segmenter; empty if it has none.

    Args:
        path: A TFLite file, or as of `preset_files.find`.
        flag: The command-line flag that gave the path, for error messages.

    Raises:
        UserError: There is no segmenter, or a file of its preset was changed after it was saved.
    """
    if path.endswith(SUFFIX) and not os.path.isdir(path):
        if not os.path.isfile(path):
            raise UserError(f"{flag}={path}: there is no such file")
        return path
    if "://" in path:
        return ""
    preset = preset_files.find(path, flag)
    # A file that has no checksum may be of another network.
    checksums = files.read_json(os.path.join(preset, preset_files.CHECKSUMS))
    is_known = isinstance(checksums, dict) and preset_files.TFLITE in checksums
    return os.path.join(preset, preset_files.TFLITE) if is_known else ""


def load(path: str) -> LiteSegmenter:
    """Loads a file of `find`.

    Raises:
        UserError: It is not a TFLite file of a segmenter.
    """
    with open(path, "rb") as file:
        return LiteSegmenter(file.read(), path)


def interpreter(
    content: bytes, threads: int, name: str = "masks"
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs a flatbuffer.

    Args:
        content: The flatbuffer.
        threads: Threads to use.
        name: Of the output.

    Returns:
        [1, S, S, 3] of 0 to 255 -> float [1, S, S, C].

    Raises:
        ValueError: It is no flatbuffer of a model, or has no such signature.
    """
    from ai_edge_litert.interpreter import Interpreter

    runtime = Interpreter(model_content=content, num_threads=threads)
    signature = runtime.get_signature_runner("serving_default")
    dtype = signature.get_input_details()["images"]["dtype"]
    output = signature.get_output_details()[name]
    scale, zero = output["quantization"]

    def run(images: np.ndarray) -> np.ndarray:
        if dtype == np.uint8:
            images = np.rint(images)
        masks: np.ndarray = signature(images=images.astype(dtype))[name]
        if output["dtype"] != np.float32:
            masks = (masks.astype(np.float32) - zero) * np.float32(scale)
        return masks

    return run


def add_aspect(content: bytes, aspect: str) -> bytes:
    """Returns a TFLite file that says how photos become square, for `LiteSegmenter`."""
    return content if aspect == Aspect.squash else append(content, _ASPECT, str(aspect))


def append(content: bytes, name: str, text: str) -> bytes:
    """Returns a TFLite file with a text added to the archive at its end."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        # With a fixed date, the same segmenter gives the same file.
        archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return file.getvalue()


def _open(content: bytes) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Returns what runs a file, and the side of its input."""
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(model_content=content).get_signature_runner("serving_default")
    shape = signature.get_input_details()["images"]["shape"].tolist()
    if len(shape) != 4 or shape != [1, shape[1], shape[1], 3]:
        raise ValueError(f"its input has the shape {shape}")
    return interpreter(content, _THREADS), shape[1]


def _aspect_of(content: bytes) -> str:
    file = io.BytesIO(content)
    if not zipfile.is_zipfile(file):
        return Aspect.squash
    with zipfile.ZipFile(file) as archive:
        if _ASPECT not in archive.namelist():
            return Aspect.squash
        return archive.read(_ASPECT).decode(errors="replace").strip()
