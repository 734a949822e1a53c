"""From photos to what the segmenters' networks take; one pair of classes for each backbone.

KerasHub finds a converter and a preprocessor by the backbone that a preset holds.
"""

from typing import Any

import keras
import keras_hub
import numpy as np

from layered_segmentation.models.autoencoder import EncoderGeneratorBackbone
from layered_segmentation.models.unet import UNetBackbone


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredSegmenterImageConverter(keras_hub.layers.ImageConverter):
    """Squashes uint8 RGB images of any size to the network's square, in [-1, 1]."""

    backbone_cls: Any = UNetBackbone

    def call(self, inputs: Any) -> Any:
        """Resizes and scales one image, a batch or a list; float at once, so nothing is rounded."""
        return super().call(keras.tree.map_structure(self._as_float, inputs))

    def _as_float(self, images: Any) -> Any:
        if isinstance(images, np.ndarray):
            return images.astype(np.float32)
        return self._convert_types(images, images, "float32")[0]

    @classmethod
    def for_side(cls, side: int) -> "LayeredSegmenterImageConverter":
        """Returns a converter to squares of a side, pixels."""
        return cls(
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
