"""The autoencoder: an encoder learns to make the frozen generator draw photos (eq. 7)."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from layered_segmentation.choices import Aspect, FeatureTerm, Variant
from layered_segmentation.errors import UserError
from layered_segmentation.gan import inputs, losses
from layered_segmentation.gan.composite import Layers, compose
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.distributed_model import DistributedModel
from layered_segmentation.gan.draws import Purpose, weights
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.gan.keras_settings import policy
from layered_segmentation.segmenter.encoder import Encoder, EncoderGeneratorBackbone
from layered_segmentation.segmenter.segmenter import EncoderSegmenter, create_encoder_segmenter

FEATURE_SIDE = 8  # of the discriminator's features in eq. 7
_CODE_GAIN = 0.1  # of the dense kernel: the first codes are close to the mean style
_BATCH = 100  # photos per pass without gradients


@keras.saving.register_keras_serializable(package="layered_segmentation")
class Autoencoder(DistributedModel):
    """An encoder, the generator that draws from its codes, and the discriminator of eq. 7.

    `fit` trains the encoder on photos without labels, float [B, R, R, 3] in [-1, 1] or uint8, where
    R is the generator's resolution. Generator and discriminator stay as they are.

    In training, batch norms use the statistics of the batch, under a `tf.distribute` strategy of
    the global batch. Call `recompute_norms` after `fit`: the layers of a photo then depend only on
    the photo, and fit the photos that the encoder was trained for.

    Args:
        generator: The generator, usually a run's averaged one.
        discriminator: The discriminator it was trained with.
        encoder: The encoder; None for a new one of the paper's size.
        feature_term: How eq. 7 weights features against pixels; see `choices.FeatureTerm`.
        seed: Seed of the initial weights of a new encoder.
        **kwargs: `name`, `dtype` and `trainable`, as of `keras.Model`.

    Call:
        Photos -> `Layers` at the generator's resolution.

    Raises:
        UserError: The generator draws no mask.

    Example:
        ```python
        autoencoder = Autoencoder(gan.average, gan.discriminator)
        autoencoder.compile()
        autoencoder.fit(photos, batch_size=32, epochs=100)
        autoencoder.recompute_norms(photos)
        segmenter = autoencoder.segmenter()
        ```
    """

    def __init__(
        self,
        generator: LayeredGenerator,
        discriminator: Discriminator,
        encoder: Encoder | None = None,
        feature_term: str = FeatureTerm.sum,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **{**kwargs, "dtype": policy(kwargs.get("dtype"))})
        require_mask(generator.variant)
        self.generator = generator
        self.discriminator = discriminator
        self.feature_term = FeatureTerm(feature_term)
        if encoder is None:
            encoder = Encoder(generator.codes_shape)
            initialise(encoder, generator, seed)
        self.encoder = encoder
        for norm in self._norms:
            norm.synchronized = self._replicas > 1
        self.built = True

    def default_optimizers(self) -> tuple[keras.optimizers.Optimizer]:
        return (keras.optimizers.Adam(1e-4, beta_1=0.9, beta_2=0.999, epsilon=1e-8),)

    def trained_networks(self) -> tuple[Encoder]:
        return (self.encoder,)

    def compile(
        self,
        optimizer: Any = None,
        jit_compile: bool = False,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        **refused: Any,
    ) -> None:
        """Chooses the optimizer; the loss is that of eq. 7.

        Args:
            optimizer: A Keras optimizer, its name or its config; by default the paper's Adam.
            jit_compile: Whether XLA compiles the step.
            run_eagerly: Whether steps run without a graph, for debugging.
            steps_per_execution: Steps from one call of the callbacks to the next. More are faster
                where steps are small; the result is the same.
            **refused: Nothing else can be set.

        Raises:
            UserError: An argument that has no meaning here.
        """
        self._compile(
            {"optimizer": optimizer}, jit_compile, run_eagerly, steps_per_execution, refused
        )

    def check_batch(self, data: Any) -> None:
        inputs.check(data, self.generator.resolution)

    def call(self, images: Any, training: bool = False) -> Layers:
        """Draws the layers of photos.

        Args:
            images: Float [B, R, R, 3] in [-1, 1], or uint8.
            training: Whether batch norms use the statistics of the batch.
        """
        codes = self.encoder(inputs.prepare(images), training=training)
        return self.generator.from_codes(codes)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Takes a step of the encoder; returns this replica's share of the losses before it."""
        variables = self.encoder.trainable_variables
        loss, logs, _ = self._minimise(lambda: self._compute(data, True), variables, self.optimizer)
        return {"loss": loss, **logs}

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Returns this replica's share of the losses of the encoder as it predicts."""
        loss, logs = self._compute(data, False)
        return {"loss": loss / self._replicas, **logs}

    def _compute(self, data: Any, training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        images = inputs.prepare(data)
        reconstruction = compose(self(images, training=training))
        pixel_loss = ops.mean(ops.abs(reconstruction - images))
        return self.reconstruction_loss(reconstruction, images), {
            "pixel_loss": pixel_loss / self._replicas
        }

    def reconstruction_loss(self, reconstruction: Any, images: Any) -> Any:
        """Returns eq. 7 of photos and their reconstructions, each float [B, R, R, 3]."""
        drawn, features = (
            self.discriminator.features(batch, side=FEATURE_SIDE)
            for batch in (reconstruction, images)
        )
        return losses.encoder(reconstruction, images, drawn, features, self.feature_term)

    def recompute_norms(self, photos: np.ndarray) -> None:
        """Sets the moving statistics of batch norms to the mean of those of batches of photos.

        Args:
            photos: uint8 or float [N, R, R, 3], as for `fit`.
        """
        momenta = [norm.momentum for norm in self._norms]
        for count, batch in enumerate(split(photos)):
            for norm in self._norms:
                norm.momentum = count / (count + 1)
            self.encoder(inputs.prepare(batch), training=True)
        for norm, momentum in zip(self._norms, momenta, strict=True):
            norm.momentum = momentum

    @property
    def _norms(self) -> list[keras.layers.BatchNormalization]:
        return [
            layer
            for layer in self.encoder.resnet.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        ]

    def segmenter(self, aspect: str = Aspect.squash) -> EncoderSegmenter:
        """Returns a segmenter with copies of encoder and generator.

        Args:
            aspect: How photos become square, as in `data.aspect`.
        """
        encoder = self.encoder
        backbone = EncoderGeneratorBackbone.around(
            self.generator, encoder.input_resolution, encoder.max_channels
        )
        backbone.encoder.set_weights(encoder.get_weights())
        return create_encoder_segmenter(backbone, aspect)

    def get_config(self) -> dict[str, Any]:
        networks = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "encoder": self.encoder,
        }
        serialised = {k: keras.saving.serialize_keras_object(v) for k, v in networks.items()}
        return {**super().get_config(), **serialised, "feature_term": str(self.feature_term)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Autoencoder":
        networks = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("generator", "discriminator", "encoder")
        }
        return cls(**{**config, **networks})


def initialise(encoder: Encoder, generator: LayeredGenerator, seed: int) -> None:
    """Draws an encoder's kernels (He et al.); its first codes lie around the mean style.

    Args:
        encoder: The encoder.
        generator: The generator that draws from its codes.
        seed: The run's seed.
    """
    convolutions = [layer for layer in encoder.resnet.layers if hasattr(layer, "kernel")]
    for index, layer in enumerate([*convolutions, encoder.dense]):
        shape = layer.kernel.shape
        fan_in = math.prod(shape[:-1])
        deviation = math.sqrt(2.0 / fan_in)
        if layer is encoder.dense:
            deviation = _CODE_GAIN / math.sqrt(fan_in)
        layer.kernel.assign(weights(shape, seed, Purpose.ENCODE, index, deviation))
    encoder.dense.bias.assign(ops.reshape(generator.mean_codes(), (-1,)))


def require_mask(variant: Variant) -> None:
    """Refuses a generator that draws no mask.

    Raises:
        UserError: It is a plain StyleGAN.
    """
    if not variant.has_mask:
        raise UserError(
            f"gan.variant={variant!r} draws no mask, so its encoder cannot segment; use a run of "
            "another variant"
        )


def split(photos: np.ndarray) -> list[np.ndarray]:
    """Splits photos into batches for passes without gradients, of about equal size."""
    return np.array_split(photos, -(-len(photos) // _BATCH))
