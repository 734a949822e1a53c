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

import numpy as np
import tensorflow as tf

from layered_segmentation.choices import SourceName
from layered_segmentation.config import Config
from layered_segmentation.data.batches import PhotoCache, batches
from layered_segmentation.data.source import open_source
from layered_segmentation.errors import UserError
from layered_segmentation.gan import inputs, strategy
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.segmenter import autoencoder
from layered_segmentation.segmenter.autoencoder import Autoencoder
from layered_segmentation.segmenter.encoder import Encoder, EncoderGeneratorBackbone
from layered_segmentation.segmenter.segmenter import create_encoder_segmenter

PHOTOS = 10_000  # a dataset's encoder learns from at most this many, unless --limit is given
_EVALUATED = 1_000  # photos for batch norm statistics and for the loss in the summary


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

    The encoder of a dataset trains on all devices at once, each with its share of every batch. The
    encoders of chunks train on one device each.

    Attributes:
        segmenter: The `EncoderSegmenter`, with the weights of the encoder finished last.
        devices: Names of the devices that train.

    Args:
        generator: The run's averaged generator.
        discriminator: The run's discriminator.
        config: The run's config: its `encoder` section, `train.seed` and `data.aspect`.
        devices: Devices to train on, such as `GPU:0`; all accelerators if empty.

    Raises:
        UserError: The generator draws no mask, or there is no such device.
    """

    def __init__(
        self,
        generator: LayeredGenerator,
        discriminator: Discriminator,
        config: Config,
        devices: Sequence[str] = (),
    ):
        autoencoder.require_mask(generator.variant)
        self.devices = strategy.devices_to_train_on(devices)
        self._named = devices
        self._settings = config.encoder
        self._seed = config.train.seed
        with tf.device(self.devices[0]):
            backbone = EncoderGeneratorBackbone.around(
                generator, config.encoder.input_resolution, config.encoder.max_channels
            )
            self.segmenter = create_encoder_segmenter(backbone, config.data.aspect)
            first = Autoencoder(
                backbone.generator, discriminator, backbone.encoder, config.encoder.feature_term
            )
            first.compile()
        autoencoder.initialise(first.encoder, generator, self._seed)
        self._first_weights = [np.array(weight) for weight in first.encoder.get_weights()]
        self._learners = [first]  # of the chunks that train at once
        self._step = tf.function(self._step_of_all)

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
            UserError: The loss is not finite, or the devices cannot share a batch.
        """
        size = min(self._settings.batch, len(photos))
        engine = strategy.on_devices(self._named, {"encoder.batch": size})
        replicas = engine.num_replicas_in_sync
        learner = self._learners[0]
        with engine.scope() if replicas > 1 else tf.device(self.devices[0]):
            if replicas > 1:
                learner = _copy(learner)
            data = strategy.distribute(engine, self._batches(photos, size, mirror, replicas))
            iterator, step = iter(data), learner.make_train_function()
            (training,) = self._train(
                [learner], lambda: [step(iterator)["loss"]], [photos], [size], tick
            )
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
        while len(self._learners) < len(chunks):
            self._learners.append(self._next_learner())
        sizes = [min(self._settings.batch, len(photos)) for photos in chunks]
        data = [self._batches(*each, mirror) for each in zip(chunks, sizes, strict=True)]
        iterator = iter(tf.data.Dataset.zip(tuple(data)))
        learners = self._learners[: len(chunks)]
        return self._train(learners, lambda: self._step(next(iterator)), chunks, sizes, tick, names)

    def _next_learner(self) -> Autoencoder:
        """Returns another autoencoder, which shares the frozen networks of its device."""
        number = len(self._learners)
        place = number % len(self.devices)
        with tf.device(self.devices[place]):
            return _copy(self._learners[0], self._learners[place] if place < number else None)

    def _step_of_all(self, shares: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Takes a step of each autoencoder on its device and its photos; returns the losses."""
        each = []
        for number, images in enumerate(shares):
            with tf.device(self.devices[number % len(self.devices)]):
                each.append(self._learners[number].train_step(images)["loss"])
        return each

    def _batches(
        self, photos: np.ndarray, size: int, mirror: bool, replicas: int = 1
    ) -> tf.data.Dataset:
        """Returns the photos of all steps, for each replica."""
        side, count = photos.shape[1], size * self._settings.iterations
        cache = PhotoCache({side: photos}, crop_margin=1.0)
        return batches(cache, side, size, mirror, self._seed, 0, count, replicas)

    def _train(
        self,
        learners: Sequence[Autoencoder],
        step: Callable[[], Sequence[Any]],
        chunks: Sequence[np.ndarray],
        sizes: Sequence[int],
        tick: Callable[[str], None] | None,
        names: Sequence[str] = (),
    ) -> list[Training]:
        """Calls `step`, which trains each learner on its chunk and returns the losses."""
        start = compiled = time.perf_counter()
        settings = self._settings
        for learner in learners:
            self._restart(learner)
        history: list[np.ndarray] = []
        for number in range(settings.iterations):
            history.append(np.array([float(loss) for loss in step()]))
            failed = np.flatnonzero(~np.isfinite(history[-1]))
            if failed.size:
                of = f" of {', '.join(names[int(place)] for place in failed)}" if names else ""
                raise UserError(
                    f"the encoder's loss{of} is not finite at step {number}; lower "
                    f"encoder.learning_rate ({settings.learning_rate!r})"
                )
            if number == 0:
                compiled = time.perf_counter()
            if tick is not None:
                tick(f"loss {np.mean(history[-20:]):.3f}")
        end = time.perf_counter()
        trained = (settings.iterations - 1) * sum(sizes)
        trainings = []
        for learner, photos, size, first_loss in zip(
            learners, chunks, sizes, history[0], strict=True
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
            trainings.append(Training(photos, learner.encoder.get_weights(), summary))
        return trainings

    def _restart(self, learner: Autoencoder) -> None:
        """Resets an encoder to the initial weights, and its optimizer."""
        learner.encoder.set_weights(self._first_weights)
        for variable in learner.optimizer.variables:
            variable.assign(np.zeros(variable.shape))
        learner.optimizer.learning_rate = self._settings.learning_rate

    def finish(self, training: Training) -> EncodeSummary:
        """Puts an encoder into the segmenter, recomputes its batch norms and evaluates it."""
        start = time.perf_counter()
        learner, photos = self._learners[0], training.photos[:_EVALUATED]
        learner.encoder.set_weights(training.weights)
        learner.recompute_norms(photos)
        loss, pixel_loss = self._evaluate(photos)
        seconds = training.summary.seconds + time.perf_counter() - start
        return dataclasses.replace(
            training.summary, loss=loss, pixel_loss=pixel_loss, seconds=seconds
        )

    def _evaluate(self, photos: np.ndarray) -> tuple[float, float]:
        """Returns the means of eq. 7 and of its first term over photos, uint8 [N, R, R, 3]."""
        sums = np.zeros(2)
        for batch in autoencoder.split(photos):
            images = inputs.prepare(batch)
            reconstruction = self.segmenter.reconstruct(batch)
            loss = self._learners[0].reconstruction_loss(reconstruction, images)
            pixel_loss = np.mean(np.abs(reconstruction - images))
            sums += len(batch) * np.array([float(loss), pixel_loss])
        loss, pixel_loss = sums / len(photos)
        return float(loss), float(pixel_loss)


def _copy(model: Autoencoder, frozen: Autoencoder | None = None) -> Autoencoder:
    """Returns a compiled autoencoder of the same sizes; its encoder's weights are arbitrary.

    Args:
        model: The model to copy.
        frozen: The model whose frozen networks the copy shares; None for copies of them.
    """
    if frozen is None:
        copy = Autoencoder.from_config(model.get_config())
        copy.set_weights(model.get_weights())
    else:
        encoder = Encoder.from_config(model.encoder.get_config())
        copy = Autoencoder(frozen.generator, frozen.discriminator, encoder, model.feature_term)
    copy.compile()
    return copy


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
