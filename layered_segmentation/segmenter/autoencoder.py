"""The paper's segmenter as a KerasHub backbone: an encoder in front of the frozen generator."""

from typing import Any

import keras
import keras_hub

from layered_segmentation.gan.composite import Layers
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.segmenter.encoder import Encoder


@keras.saving.register_keras_serializable(package="layered_segmentation")
class EncoderGeneratorBackbone(keras_hub.models.Backbone):
    """Photos -> the layers that the generator draws from their codes, G(E(x)) of eq. 7.

    The generator is frozen; its weights are part of the preset, so that nothing of the run that
    trained it is needed.

    Args:
        variant: As of `LayeredGenerator`; it must draw a mask.
        resolution: The generator's, and the side of the photos, pixels.
        latent_dim: The generator's.
        mapping_layers: The generator's.
        max_channels: The generator's.
        fused: The generator's.
        encoder_resolution: Side that the encoder's ResNet works at, pixels.
        encoder_channels: Cap on the ResNet's channels.
        dtype: Keras dtype policy.
        **kwargs: `name`, `trainable`.

    Call:
        Float [B, R, R, 3] in [-1, 1] -> float [B, R, R, 7]: background, foreground, mask logits.
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
        }
        generator = LayeredGenerator(**sizes, dtype=dtype, name="generator")
        if not generator.has_mask:
            raise ValueError(f"variant={variant!r} draws no mask, so it cannot segment")
        generator.trainable = False
        encoder = Encoder(
            generator.codes_shape, encoder_resolution, encoder_channels, dtype=dtype, name="encoder"
        )
        images = keras.Input((resolution, resolution, 3), name="images")
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
            generator: Usually a run's averaged one.
            encoder_resolution: Side that the ResNet works at; 0 takes the generator's resolution.
            encoder_channels: Cap on the ResNet's channels.

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
            dtype="float32",
        )
        backbone.generator.set_weights(generator.get_weights())
        return backbone

    @property
    def resolution(self) -> int:
        """Side of photos and layers, pixels."""
        return self.generator.resolution

    @property
    def stride(self) -> int:
        """What the sides of an input must be multiples of: here, what they must be."""
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
    """Codes -> the generator's outputs, as a layer that a functional model can hold."""

    def __init__(self, generator: LayeredGenerator, **kwargs: Any):
        # The generator's layers cast for themselves; its outputs are float32.
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.generator = generator
        self.built = True

    def call(self, codes: Any) -> Any:
        return self.generator.outputs_from_codes(codes)
