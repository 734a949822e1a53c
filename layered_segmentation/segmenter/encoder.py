"""The encoder: photos -> codes of the layered generator (the paper's section on real images)."""

import math
from typing import Any

import keras
import keras_hub
from keras import ops

_FILTERS = (64, 128, 256, 512)
_BLOCKS = (2, 2, 2, 2)


@keras.saving.register_keras_serializable(package="layered_segmentation")
class Encoder(keras.Model):
    """ResNet-18 without global average pooling, then one dense layer to the codes.

    The ResNet is KerasHub's, with random weights. It works at a side of its own: at the paper's 64
    px it halves the side five times and leaves 2 × 2 features, so photos of a smaller generator
    are enlarged and those of a larger one averaged down. At 16 px it would see the whole image
    through one feature.

    `training.autoencode` starts the dense layer's bias at the generator's mean style
    (`LayeredGenerator.mean_codes`) and its kernel small: the first reconstructions are then the
    mean scene, and not scenes far from all that the generator has learnt to draw.

    Args:
        codes_shape: Shape of one photo's codes, `LayeredGenerator.codes_shape`.
        input_resolution: Side that the ResNet works at, pixels, from 8.
        max_channels: Cap on the channels of the ResNet's stages; 512 is ResNet-18, 64 the least.
    """

    def __init__(
        self,
        codes_shape: tuple[int, ...] = (2, 5, 2, 512),
        input_resolution: int = 64,
        max_channels: int = 512,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.codes_shape = tuple(codes_shape)
        self.input_resolution = input_resolution
        self.max_channels = max_channels
        self.resnet = keras_hub.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[min(filters, max_channels) for filters in _FILTERS],
            stackwise_num_blocks=list(_BLOCKS),
            stackwise_num_strides=[1, 2, 2, 2],
            block_type="basic_block",
            image_shape=(input_resolution, input_resolution, 3),
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="resnet",
        )
        # Styles are float32 also under mixed precision.
        self.dense = keras.layers.Dense(math.prod(self.codes_shape), dtype="float32", name="codes")
        self.dense.build((None, math.prod(self.resnet.output_shape[1:])))
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Encodes photos.

        Args:
            images: Float [B, R, R, 3] in [-1, 1].
            training: Whether batch norms take the batch's statistics.

        Returns:
            Float32 [B, generators, blocks, 2, latent_dim].
        """
        features = self.resnet(self._resize(images), training=training)
        codes = self.dense(ops.reshape(features, (-1, math.prod(features.shape[1:]))))
        return ops.reshape(codes, (-1, *self.codes_shape))

    def _resize(self, images: Any) -> Any:
        """Brings images to the ResNet's side, with operations that every export knows."""
        side, own = images.shape[1], self.input_resolution
        if side == own:
            return images
        if side % own == 0:
            return ops.average_pool(images, side // own, strides=side // own)
        return ops.image.resize(images, (own, own), interpolation="bilinear", antialias=side > own)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "codes_shape": self.codes_shape,
            "input_resolution": self.input_resolution,
            "max_channels": self.max_channels,
        }
