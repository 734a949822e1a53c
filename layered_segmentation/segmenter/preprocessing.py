"""From photos to the inputs of the segmenters' networks.

There is a converter and a preprocessor for each backbone, because KerasHub finds these classes by
the backbone of a preset.
"""

from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops
from keras_hub.src.utils.tensor_utils import preprocessing_function

from layered_segmentation.choices import Aspect
from layered_segmentation.errors import UserError
from layered_segmentation.gan.keras_settings import DATA_FORMAT
from layered_segmentation.segmenter.encoder import EncoderGeneratorBackbone
from layered_segmentation.segmenter.unet import UNetBackbone


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredSegmenterImageConverter(keras_hub.layers.ImageConverter):
    """Converts uint8 RGB images of any size to square images in [-1, 1].

    Args:
        aspect: `data.aspect` of the training: `squash` changes the aspect ratio; `pad` keeps it
            and repeats the edges. `centre_crop` does the same as `pad`, because the parts that
            training cropped need a mask too.
        **kwargs: The arguments of `keras_hub.layers.ImageConverter`.
    """

    backbone_cls: Any = UNetBackbone

    def __init__(self, *, aspect: str = Aspect.squash, **kwargs: Any):
        super().__init__(**{"data_format": DATA_FORMAT, "dtype": "float32", **kwargs})
        self.aspect = str(aspect)

    @property
    def pads(self) -> bool:
        """Whether images are padded to a square, which keeps their aspect ratio."""
        return self.aspect != Aspect.squash

    def call(self, inputs: Any) -> Any:
        """Resizes and scales one image, a batch or a list, in float: nothing is rounded."""
        if self.pads:
            inputs = keras.tree.map_structure(pad_to_square, inputs)
        return super().call(keras.tree.map_structure(self._as_float, inputs))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "aspect": self.aspect}

    def _as_float(self, images: Any) -> Any:
        if isinstance(images, np.ndarray):
            return images.astype(np.float32)
        return self._convert_types(images, images, "float32")[0]

    @classmethod
    def for_side(cls, side: int, aspect: str = Aspect.squash) -> "LayeredSegmenterImageConverter":
        """Returns a converter to squares with a side of `side` pixels."""
        return cls(
            aspect=aspect,
            image_size=(side, side),
            scale=1 / 127.5,
            offset=-1.0,
            crop_to_aspect_ratio=False,
            antialias=True,
        )


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredSegmenterPreprocessor(keras_hub.models.ImageSegmenterPreprocessor):
    """KerasHub's preprocessor with this converter, for `fit` and `from_preset`.

    Masks for `fit` become squares of the network's resolution as the photos do. They are float in
    [0, 1], bool, or whole numbers from 0 to 1 or 255; [B, H, W, 1] or [B, H, W].
    """

    backbone_cls: Any = UNetBackbone
    image_converter_cls = LayeredSegmenterImageConverter

    @preprocessing_function  # type: ignore[untyped-decorator]
    def call(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Prepares photos, and masks if there are any."""
        converter = self.image_converter
        if converter is not None and y is not None:
            y = _to_targets(y, len(x.shape), converter)
        return super().call(x, y, sample_weight)


@keras.saving.register_keras_serializable(package="layered_segmentation")
class EncoderSegmenterImageConverter(LayeredSegmenterImageConverter):
    """The converter of `EncoderSegmenter`."""

    backbone_cls = EncoderGeneratorBackbone


@keras.saving.register_keras_serializable(package="layered_segmentation")
class EncoderSegmenterPreprocessor(LayeredSegmenterPreprocessor):
    """The preprocessor of `EncoderSegmenter`."""

    backbone_cls = EncoderGeneratorBackbone
    image_converter_cls = EncoderSegmenterImageConverter


def _to_targets(masks: Any, rank: int, converter: LayeredSegmenterImageConverter) -> Any:
    """Returns masks at the network's resolution; they are unchanged if they have it.

    Args:
        masks: [B, H, W, 1], [B, H, W] or, of one photo, [H, W, 1] or [H, W].
        rank: That of the photos, 4 or 3.
        converter: What prepares the photos.

    Returns:
        Float [B, R, R, 1], or [R, R, 1].
    """
    if len(masks.shape) == rank - 1:
        masks = masks[..., None]
    size = tuple(converter.image_size)
    if tuple(masks.shape[-3:-1]) == size:
        return masks
    dtype = keras.backend.standardize_dtype(masks.dtype)
    masks = ops.cast(masks, "float32")
    if "int" in dtype:
        masks = masks / ops.where(ops.max(masks) > 1, 255.0, 1.0)
    if converter.pads:
        masks = pad_to_square(masks)
    return ops.image.resize(masks, size, interpolation="bilinear", antialias=True)


def pad_to_square(images: Any) -> Any:
    """Pads images to a square by repeating their edges, [B, H, W, C] -> [B, S, S, C].

    S is the larger of H and W. One image, [H, W, C], is padded likewise.
    """
    height, width = ops.shape(images)[-3:-1]
    side = _larger(height, width)
    steps = ops.arange(side)
    for axis, length in ((-3, height), (-2, width)):
        places = ops.clip(steps - (side - length) // 2, 0, length - 1)
        images = ops.take(images, places, axis=axis)
    return images


def crop_from_square(masks: Any, height: Any, width: Any) -> Any:
    """The inverse of `pad_to_square`: [B, S, S, C] -> [B, height, width, C]."""
    side = _larger(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return masks[:, top : top + height, left : left + width]


def _larger(height: Any, width: Any) -> Any:
    if isinstance(height, int) and isinstance(width, int):
        return max(height, width)
    return ops.maximum(height, width)  # tensors in a graph


def union(masks: Any) -> Any:
    """Returns the union of a segmenter's masks, float [..., K] -> float [..., 1].

    They are visible parts, of which each pixel belongs to one; so the union is their sum.
    """
    if masks.shape[-1] == 1:
        return masks
    if isinstance(masks, np.ndarray):
        return np.minimum(masks.sum(axis=-1, keepdims=True), 1.0)
    return ops.minimum(ops.sum(masks, axis=-1, keepdims=True), 1.0)


def resize_masks(masks: Any, height: Any, width: Any) -> Any:
    """Resizes masks bilinearly, float [B, h, w, K] -> float [B, height, width, K]."""
    resized = ops.image.resize(
        masks, (height, width), interpolation="bilinear", antialias=True, data_format=DATA_FORMAT
    )
    return ops.clip(resized, 0.0, 1.0)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Converts a uint8 image to RGB: grey is repeated, alpha is dropped.

    Raises:
        UserError: It is not a uint8 image.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
        levels = "255 * image" if high <= 1 else "image"
        levels = "127.5 * (image + 1)" if low < 0 else levels
        raise UserError(
            f"an image has values of type {image.dtype}, from {low:g} to {high:g}; the segmenter "
            f"takes uint8, 0 to 255. Convert it with `np.rint({levels}).astype(np.uint8)`"
        )
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise UserError(f"an image has the shape {image.shape}; it must be [H, W, 3]")
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
