"""Training of the paper's encoder: it learns to make the frozen generator draw photos (eq. 7).

The layers that the generator draws for a photo include a mask, which segments the photo. An
`EncoderTrainer` trains the encoder of a dataset, or the encoders of several chunks at once.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from layered_segmentation.config import Config, FeatureTerm, SourceName, Variant
from layered_segmentation.data.batches import Crops
from layered_segmentation.data.source import open_source
from layered_segmentation.errors import UserError
from layered_segmentation.gan import composite, losses
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.draws import Purpose, weights
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.segmenter.encoder import Encoder, EncoderGeneratorBackbone
from layered_segmentation.segmenter.segmenter import create_encoder_segmenter

PHOTOS = 10_000  # a dataset's encoder learns from at most this many, unless --limit is given
FEATURE_SIDE = 8  # of the discriminator's features in eq. 7
_CODE_GAIN = 0.1  # of the dense kernel: the first codes are close to the mean style
_EVALUATED = 1_000  # photos for batch norm statistics and for the loss in the summary
_BATCH = 100  # photos per pass without gradients


@dataclasses.dataclass(frozen=True)
class EncodeSummary:
    """The result of training one encoder."""

    photos: int  # photos it learned from
    iterations: int  # training steps
    batch: int  # photos per step
    together: int  # encoders that trained at once, including this one
    # Eq. 7 at the first step.
    first_loss: float
    # Eq. 7 of the final segmenter over at most 1,000 of the photos.
    loss: float
    pixel_loss: float  # its first term alone, the mean absolute difference of values in [-1, 1]
    # training speed of all encoders together, without the first step, which may compile
    images_per_second: float
    seconds: float  # duration; of the joint training, this encoder's share


@dataclasses.dataclass(frozen=True)
class Training:
    """A trained encoder whose batch norms and loss are still to be computed, by `finish`."""

    photos: np.ndarray  # the photos it learned from, uint8 [N, R, R, 3]
    weights: list[np.ndarray]  # its weights, as `get_weights` returns them
    summary: EncodeSummary  # its summary, with losses of NaN


class EncoderTrainer:
    """Trains encoders with frozen copies of a generator and a discriminator, in float32.

    In training, batch norms use the statistics of the batch. Afterwards their moving statistics
    are recomputed over the training photos. A photo's mask then depends only on the photo and the
    preset, and fits the photos it was trained for.

    Attributes:
        segmenter: The `EncoderSegmenter`, with the weights of the encoder finished last.

    Args:
        generator: The run's averaged generator.
        discriminator: The run's discriminator.
        config: The run's config: its `encoder` section, `train.seed` and `data.aspect`.

    Raises:
        UserError: The generator draws no mask.
    """

    def __init__(self, generator: LayeredGenerator, discriminator: Discriminator, config: Config):
        require_mask(generator.variant)
        self._settings = config.encoder
        self._seed = config.train.seed
        self._backbone = EncoderGeneratorBackbone.around(
            generator, config.encoder.input_resolution, config.encoder.max_channels
        )
        self._encoder = self._backbone.encoder
        self.segmenter = create_encoder_segmenter(self._backbone, config.data.aspect)
        _initialise(self._encoder, self._seed)
        self._encoder.dense.bias.assign(ops.reshape(generator.mean_codes(), (-1,)))
        self._first_weights = [np.array(weight) for weight in self._encoder.get_weights()]
        self._group = _EncoderGroup(self._backbone, discriminator, config.encoder.feature_term)

    def train(
        self,
        photos: np.ndarray,
        mirror: bool = False,
        tick: Callable[[str], None] | None = None,
    ) -> EncodeSummary:
        """Trains a new encoder and finishes it. Its initial weights are the same in every call.

        Args:
            photos: uint8 [N, R, R, 3].
            mirror: Whether to mirror photos at random.
            tick: Called after each step with a note for a progress bar.

        Raises:
            UserError: The loss is not finite.
        """
        (training,) = self.train_together([photos], mirror, tick)
        return self.finish(training)

    def train_together(
        self,
        chunks: Sequence[np.ndarray],
        mirror: bool = False,
        tick: Callable[[str], None] | None = None,
        names: Sequence[str] = (),
    ) -> list[Training]:
        """Trains a new encoder for each chunk, all at once. Each is as if trained alone.

        Args:
            chunks: Photos, each uint8 [N, R, R, 3]; N may differ.
            mirror: Whether to mirror photos at random.
            tick: Called after each step of all encoders with a note for a progress bar.
            names: The chunks' names, for error messages.

        Returns:
            The trainings in the order of the chunks, for `finish`.

        Raises:
            UserError: A loss is not finite.
        """
        start = compiled = time.perf_counter()
        settings, side = self._settings, self._backbone.resolution
        self._group.begin(len(chunks), self._first_weights, settings.learning_rate)
        sizes = [min(settings.batch, len(photos)) for photos in chunks]
        crops = [Crops(photos, side, self._seed, mirror) for photos in chunks]
        history: list[np.ndarray] = []
        for step in range(settings.iterations):
            batches = [crop.batch_at(step * n, n) for crop, n in zip(crops, sizes, strict=True)]
            history.append(self._group.step(batches))
            failed = np.flatnonzero(~np.isfinite(history[-1]))
            if failed.size:
                of = f" of {', '.join(names[int(place)] for place in failed)}" if names else ""
                raise UserError(
                    f"the encoder's loss{of} is not finite at step {step}; lower "
                    f"encoder.learning_rate ({settings.learning_rate!r})"
                )
            if step == 0:
                compiled = time.perf_counter()
            if tick is not None:
                tick(f"loss {np.mean(history[-20:]):.3f}")
        end = time.perf_counter()
        trained = (settings.iterations - 1) * sum(sizes)
        trainings = []
        for photos, trained_weights, size, first_loss in zip(
            chunks, self._group.weights(), sizes, history[0], strict=True
        ):
            summary = EncodeSummary(
                photos=len(photos),
                iterations=settings.iterations,
                batch=size,
                together=len(chunks),
                first_loss=float(first_loss),
                loss=math.nan,
                pixel_loss=math.nan,
                images_per_second=trained / max(end - compiled, 1e-9),
                seconds=(end - start) / len(chunks),
            )
            trainings.append(Training(photos, trained_weights, summary))
        return trainings

    def finish(self, training: Training) -> EncodeSummary:
        """Puts an encoder into the segmenter, recomputes its batch norms and evaluates it."""
        start = time.perf_counter()
        self._encoder.set_weights(training.weights)
        photos = training.photos[:_EVALUATED]
        self._recompute_norms(photos)
        loss, pixel_loss = self._evaluate(photos)
        seconds = training.summary.seconds + time.perf_counter() - start
        return dataclasses.replace(
            training.summary, loss=loss, pixel_loss=pixel_loss, seconds=seconds
        )

    def _recompute_norms(self, photos: np.ndarray) -> None:
        """Sets the moving statistics of batch norms to the mean of those of batches of photos."""
        norms = [
            layer
            for layer in self._encoder.resnet.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        momenta = [norm.momentum for norm in norms]
        for count, batch in enumerate(_split(photos)):
            for norm in norms:
                norm.momentum = count / (count + 1)
            self._encoder(_to_float(batch), training=True)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def _evaluate(self, photos: np.ndarray) -> tuple[float, float]:
        """Returns the means of eq. 7 and of its first term over photos, uint8 [N, R, R, 3]."""
        sums = np.zeros(2)
        for batch in _split(photos):
            images, reconstruction = _to_float(batch), self.segmenter.reconstruct(batch)
            pixel_loss = np.mean(np.abs(reconstruction - images))
            (loss,) = self._group.reconstruction_losses(reconstruction, [images])
            sums += len(batch) * np.array([float(loss), pixel_loss])
        loss, pixel_loss = sums / len(photos)
        return float(loss), float(pixel_loss)


class _EncoderGroup:
    """Encoders that train at once, in one graph: each has its own loss, batch norms and Adam.

    Only the frozen networks are shared. They treat each image alone, so the codes of all encoders
    pass through them as one batch. The encoders run in parallel and use cores that one encoder
    leaves idle. The results are the same as if each encoder trained alone.

    Args:
        backbone: Its encoder is the first of the group; its generator draws for all.
        discriminator: Computes the features of eq. 7.
        feature_term: How eq. 7 weights them.
    """

    def __init__(
        self,
        backbone: EncoderGeneratorBackbone,
        discriminator: Discriminator,
        feature_term: FeatureTerm,
    ):
        self._generator = backbone.generator
        self._discriminator = discriminator
        self._feature_term = feature_term
        self._learners = [_Learner(backbone.encoder)]
        self._count = 1
        self._step = tf.function(self._train_step)

    def begin(self, count: int, weights: Sequence[np.ndarray], learning_rate: float) -> None:
        """Resets `count` encoders to the initial weights, and their optimizers."""
        while len(self._learners) < count:
            first = self._learners[0].encoder
            self._learners.append(_Learner(Encoder.from_config(first.get_config())))
        self._count = count
        for learner in self._learners[:count]:
            learner.reset(weights, learning_rate)

    def step(self, batches: Sequence[np.ndarray]) -> np.ndarray:
        """Trains each encoder on its batch; returns the losses before the step, float [K].

        Args:
            batches: Float [B, R, R, 3] in [-1, 1] for each encoder; B may differ.
        """
        each: np.ndarray = self._step([tf.constant(images) for images in batches]).numpy()
        return each

    def weights(self) -> list[list[np.ndarray]]:
        """Returns the weights of each encoder, as `get_weights` returns them."""
        return [learner.encoder.get_weights() for learner in self._learners[: self._count]]

    def reconstruction_losses(self, reconstruction: Any, batches: Sequence[Any]) -> list[Any]:
        """Returns eq. 7 of each batch of photos.

        Args:
            reconstruction: Float [N, R, R, 3], the reconstructions of all batches in order.
            batches: Each float [B, R, R, 3].
        """
        images = ops.concatenate(batches)
        compared = (
            reconstruction,
            images,
            self._discriminator.features(reconstruction, side=FEATURE_SIDE),
            self._discriminator.features(images, side=FEATURE_SIDE),
        )
        parts = [tf.split(values, [batch.shape[0] for batch in batches]) for values in compared]
        return [
            losses.encoder(drawn, photos, drawn_features, features, self._feature_term)
            for drawn, photos, drawn_features, features in zip(*parts, strict=True)
        ]

    def _train_step(self, batches: list[tf.Tensor]) -> tf.Tensor:
        learners = self._learners[: len(batches)]
        variables = [learner.encoder.trainable_variables for learner in learners]
        with tf.GradientTape() as tape:
            codes = [
                learner.encoder(images, training=True)
                for learner, images in zip(learners, batches, strict=True)
            ]
            layers = self._generator.from_codes(ops.concatenate(codes))
            each = self.reconstruction_losses(composite.compose(layers), batches)
        # The gradient is that of the sum of the losses; only an encoder's own loss depends on it.
        for learner, gradients in zip(learners, tape.gradient(each, variables), strict=True):
            learner.optimizer.apply(gradients, learner.encoder.trainable_variables)
        return tf.stack(each)


class _Learner:
    """An encoder and its Adam."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self.optimizer = keras.optimizers.Adam(beta_1=0.9, beta_2=0.999, epsilon=1e-8)
        self.optimizer.build(encoder.trainable_variables)

    def reset(self, weights: Sequence[np.ndarray], learning_rate: float) -> None:
        self.encoder.set_weights(weights)
        for variable in self.optimizer.variables:
            variable.assign(ops.zeros_like(variable))
        self.optimizer.learning_rate = learning_rate


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


def dataset_photos(config: Config, resolution: int, images: str = "", limit: int = 0) -> np.ndarray:
    """Loads the photos that a dataset's encoder learns from.

    Args:
        config: The run's config.
        resolution: The generator's resolution in pixels.
        images: A directory of photos to use instead of the run's training photos.
        limit: Most photos to use; 0 for 10,000, with a note on stderr if there are more.

    Returns:
        uint8 [N, resolution, resolution, 3].

    Raises:
        UserError: The photos cannot be found or read, or do not fit into memory.
    """
    data = config.data
    if images:
        data = dataclasses.replace(data, name=SourceName.folder, path=images, limit=0)
    try:
        source = open_source(data, config.train.seed)
        most = limit or PHOTOS
        if (total := len(source)) > most:
            data = dataclasses.replace(data, limit=most)
            source = open_source(data, config.train.seed)
            if not limit:
                print(
                    f"using {most:,} of {total:,} photos; --limit={total} uses all",
                    file=sys.stderr,
                )
        return source.load(resolution)
    except MemoryError as error:
        megabytes = len(source) * 3 * resolution**2 / 1e6
        raise UserError(
            f"{len(source):,} photos at {resolution} px take {megabytes:,.0f} MB, which does not "
            "fit into memory; use fewer with --limit"
        ) from error
    except UserError as error:
        if images:
            raise UserError(f"--images={images}: {error}") from error
        raise UserError(
            f"the encoder learns from the run's training photos ({error}); restore them, or name "
            "others with --images"
        ) from error


def _split(photos: np.ndarray) -> list[np.ndarray]:
    return np.array_split(photos, -(-len(photos) // _BATCH))


def _to_float(photos: np.ndarray) -> np.ndarray:
    """Converts uint8 to float in [-1, 1]."""
    return photos.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _initialise(encoder: keras.Model, seed: int) -> None:
    """Draws the kernels (He et al.; that of the codes small) as a function of the seed alone."""
    convolutions = [layer for layer in encoder.resnet.layers if hasattr(layer, "kernel")]
    for index, layer in enumerate([*convolutions, encoder.dense]):
        shape = layer.kernel.shape
        fan_in = math.prod(shape[:-1])
        deviation = math.sqrt(2.0 / fan_in)
        if layer is encoder.dense:
            deviation = _CODE_GAIN / math.sqrt(fan_in)
        layer.kernel.assign(weights(shape, seed, Purpose.ENCODE, index, deviation))
