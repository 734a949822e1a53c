"""The paper's segmenter of real images: an encoder in front of the frozen generator (eq. 7)."""

import math
from typing import Any

import keras
import keras_hub
from keras import ops

from layered_segmentation.gan.composite import Layers
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.gan.keras_settings import DATA_FORMAT, policy, standard
from layered_segmentation.segmenter.preset_checks import Checked

_FILTERS = (64, 128, 256, 512)
_BLOCKS = (2, 2, 2, 2)


@keras.saving.register_keras_serializable(package="layered_segmentation")
class Encoder(keras.Model):
    """ResNet-18 without global average pooling, then one dense layer to the codes.

    The ResNet is KerasHub's, with random weights. Its input resolution is independent of the
    generator's: photos of a smaller generator are enlarged, those of a larger one averaged down.
    At the paper's 64 px, the ResNet halves the side five times and leaves 2 × 2 features; at 16 px
    it would reduce the whole image to one feature.

    `segmenter.encode` initialises the dense layer's bias to the generator's mean style
    (`LayeredGenerator.mean_codes`) and its kernel to small values, so the first reconstructions
    are close to the mean scene and within what the generator can draw.

    Args:
        codes_shape: Shape of one photo's codes, `LayeredGenerator.codes_shape`.
        input_resolution: Side of the ResNet's input in pixels, at least 8.
        max_channels: Upper bound on the channels of the ResNet's stages, at least 64; 512 is
            ResNet-18.

    Call:
        Float [B, R, R, 3] in [-1, 1] -> float [B, generators, blocks, 2, latent_dim].
    """

    def __init__(
        self,
        codes_shape: tuple[int, ...] = (2, 5, 2, 512),
        input_resolution: int = 64,
        max_channels: int = 512,
        **kwargs: Any,
    ):
        super().__init__(**{**kwargs, "dtype": policy(kwargs.get("dtype"))})
        self.codes_shape = tuple(codes_shape)
        self.input_resolution = input_resolution
        self.max_channels = max_channels
        with standard():
            self.resnet = keras_hub.models.ResNetBackbone(
                input_conv_filters=[64],
                input_conv_kernel_sizes=[7],
                stackwise_num_filters=[min(filters, max_channels) for filters in _FILTERS],
                stackwise_num_blocks=list(_BLOCKS),
                stackwise_num_strides=[1, 2, 2, 2],
                block_type="basic_block",
                image_shape=(input_resolution, input_resolution, 3),
                data_format=DATA_FORMAT,
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
            training: Whether batch norms use the statistics of the batch.

        Returns:
            Float32 [B, generators, blocks, 2, latent_dim].
        """
        features = self.resnet(self._resize(images), training=training)
        codes = self.dense(ops.reshape(features, (-1, math.prod(features.shape[1:]))))
        return ops.reshape(codes, (-1, *self.codes_shape))

    def _resize(self, images: Any) -> Any:
        """Resizes images to the ResNet's input, with operations that all export formats have."""
        side, own = images.shape[1], self.input_resolution
        if side == own:
            return images
        if side % own == 0:
            return ops.average_pool(
                images, side // own, strides=side // own, data_format=DATA_FORMAT
            )
        return ops.image.resize(
            images,
            (own, own),
            interpolation="bilinear",
            antialias=side > own,
            data_format=DATA_FORMAT,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "codes_shape": self.codes_shape,
            "input_resolution": self.input_resolution,
            "max_channels": self.max_channels,
        }


@keras.saving.register_keras_serializable(package="layered_segmentation")
class EncoderGeneratorBackbone(Checked, keras_hub.models.Backbone):
    """Photos -> the layers that the generator draws from their codes, G(E(x)) of eq. 7.

    The generator is frozen. Its weights are part of the preset, so the preset does not depend on
    the run that trained it.

    Args:
        variant: As for `LayeredGenerator`; it must draw a mask.
        resolution: Side of the photos and of the generator's layers, in pixels.
        latent_dim: As for `LayeredGenerator`, like the next three.
        mapping_layers: Likewise.
        max_channels: Likewise.
        fused: Likewise.
        encoder_resolution: Side of the ResNet's input in pixels.
        encoder_channels: Upper bound on the ResNet's channels.
        foreground_layers: K, as for `LayeredGenerator`.
        dtype: Keras dtype policy.
        **kwargs: `name`, `trainable`.

    Call:
        Float [B, R, R, 3] in [-1, 1] -> float [B, R, R, 3 + 4·K]: background, foreground, mask
        logits.
    """

    def __init__(
        self,
        variant: str = "two_generators",
        resolution: int = 64,
        latent_dim: int = 512,
        mapping_layers: int = 8,
        max_channels: int = 512,
        fused: bool = True,
        encoder_resolution: int = 64,
        encoder_channels: int = 512,
        foreground_layers: int = 1,
        dtype: Any = None,
        **kwargs: Any,
    ):
        sizes: dict[str, Any] = {
            "variant": variant,
            "resolution": resolution,
            "latent_dim": latent_dim,
            "mapping_layers": mapping_layers,
            "max_channels": max_channels,
            "fused": fused,
            "foreground_layers": foreground_layers,
        }
        dtype = policy(dtype)
        generator = LayeredGenerator(**sizes, dtype=dtype, name="generator")
        if not generator.has_mask:
            raise ValueError(f"variant={variant!r} draws no mask, so it cannot segment")
        generator.trainable = False
        encoder = Encoder(
            generator.codes_shape, encoder_resolution, encoder_channels, dtype=dtype, name="encoder"
        )
        images = keras.Input((resolution, resolution, 3), dtype="float32", name="images")
        outputs = _Decoder(generator, name="decoder")(encoder(images))
        super().__init__(inputs=images, outputs=outputs, dtype=dtype, **kwargs)
        self.encoder = encoder
        self.generator = generator
        self._sizes = sizes

    @classmethod
    def around(
        cls, generator: LayeredGenerator, encoder_resolution: int = 64, encoder_channels: int = 512
    ) -> "EncoderGeneratorBackbone":
        """Returns an untrained encoder in front of a copy of a generator, in float32.

        Args:
            generator: The generator; usually a run's averaged generator.
            encoder_resolution: Side of the ResNet's input; 0 for the generator's resolution.
            encoder_channels: Upper bound on the ResNet's channels.

        Raises:
            ValueError: The generator draws no mask.
        """
        backbone = cls(
            generator.variant,
            generator.resolution,
            generator.latent_dim,
            generator.mapping_layers,
            generator.max_channels,
            generator.fused,
            encoder_resolution or generator.resolution,
            encoder_channels,
            generator.foreground_layers,
            dtype="float32",
        )
        backbone.generator.set_weights(generator.get_weights())
        return backbone

    @property
    def resolution(self) -> int:
        """Side of photos and layers in pixels."""
        return self.generator.resolution

    @property
    def stride(self) -> int:
        """What the sides of an input must be multiples of; here the only side possible."""
        return self.resolution

    def draw(self, images: Any, training: bool = False) -> Layers:
        """Draws the layers of photos, float [B, R, R, 3] in [-1, 1]; the mask is in [0, 1]."""
        return self.generator.to_layers(self(images, training=training))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self._sizes,
            "encoder_resolution": self.encoder.input_resolution,
            "encoder_channels": self.encoder.max_channels,
        }


class _Decoder(keras.layers.Layer):
    """Codes -> the generator's outputs, as a layer for a functional model."""

    def __init__(self, generator: LayeredGenerator, **kwargs: Any):
        # The generator's layers cast their own inputs; its outputs are float32.
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.generator = generator
        self.built = True

    def call(self, codes: Any) -> Any:
        return self.generator.outputs_from_codes(codes)
