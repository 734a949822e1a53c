"""From photos to what the segmenters' networks take; one pair of classes for each backbone.

KerasHub finds a converter and a preprocessor by the backbone that a preset holds.
"""

from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

from layered_segmentation.segmenter.autoencoder import EncoderGeneratorBackbone
from layered_segmentation.segmenter.unet import UNetBackbone


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredSegmenterImageConverter(keras_hub.layers.ImageConverter):
    """Makes uint8 RGB images of any size the network's square, in [-1, 1].

    Args:
        aspect: As in `data.aspect`, how the network was shown photos in training: `squash` changes
            the aspect ratio; `pad` keeps it and continues the edges. So does `centre_crop`: what
            training cut off must get a mask too.
        **kwargs: What `keras_hub.layers.ImageConverter` takes.
    """

    backbone_cls: Any = UNetBackbone

    def __init__(self, *, aspect: str = "squash", **kwargs: Any):
        super().__init__(**kwargs)
        self.aspect = aspect

    @property
    def pads(self) -> bool:
        """Whether images are continued to a square, so that their aspect ratio stays."""
        return self.aspect != "squash"

    def call(self, inputs: Any) -> Any:
        """Resizes and scales one image, a batch or a list; float at once, so nothing is rounded."""
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
    def for_side(cls, side: int, aspect: str = "squash") -> "LayeredSegmenterImageConverter":
        """Returns a converter to squares of a side, pixels."""
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
    """The converter as KerasHub's preprocessor, so that `fit` and `from_preset` find it."""

    backbone_cls: Any = UNetBackbone
    image_converter_cls = LayeredSegmenterImageConverter


@keras.saving.register_keras_serializable(package="layered_segmentation")
class EncoderSegmenterImageConverter(LayeredSegmenterImageConverter):
    """The same for the encoder."""

    backbone_cls = EncoderGeneratorBackbone


@keras.saving.register_keras_serializable(package="layered_segmentation")
class EncoderSegmenterPreprocessor(LayeredSegmenterPreprocessor):
    """The same for the encoder."""

    backbone_cls = EncoderGeneratorBackbone
    image_converter_cls = EncoderSegmenterImageConverter


def pad_to_square(images: Any) -> Any:
    """Continues the edges of images to a square about them, [B, H, W, C] -> [B, S, S, C].

    One image, [H, W, C], will do as well. S is the larger of H and W.
    """
    height, width = ops.shape(images)[-3:-1]
    side = _larger(height, width)
    steps = ops.arange(side)
    for axis, length in ((-3, height), (-2, width)):
        places = ops.clip(steps - (side - length) // 2, 0, length - 1)
        images = ops.take(images, places, axis=axis)
    return images


def crop_from_square(masks: Any, height: Any, width: Any) -> Any:
    """Undoes `pad_to_square`: [B, S, S, C] -> [B, height, width, C]."""
    side = _larger(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return masks[:, top : top + height, left : left + width]


def _larger(height: Any, width: Any) -> Any:
    if isinstance(height, int) and isinstance(width, int):
        return max(height, width)
    return ops.maximum(height, width)  # known only when the graph runs
