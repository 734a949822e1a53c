"""The paper's encoder: it learns to make the frozen generator draw photos (eq. 7).

What the generator draws for a photo has a mask, and this mask is the photo's segmentation. An
`Autoencoder` trains a data set's encoder, or those of chunks of photos, several at once.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from layered_segmentation.config import Config, SourceName, Variant
from layered_segmentation.data.batches import Crops
from layered_segmentation.data.source import open_source
from layered_segmentation.errors import UserError
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.draws import Purpose, weights
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.segmenter import segmenter as segmenters
from layered_segmentation.segmenter.autoencoder import EncoderGeneratorBackbone
from layered_segmentation.segmenter.encoder_group import EncoderGroup

PHOTOS = 10_000  # a data set's encoder sees at most so many, if nobody asks for more
_CODE_GAIN = 0.1  # of the dense kernel: first codes lie close to the mean style
_EVALUATED = 1_000  # photos, for the loss that a summary states
_BATCH = 100  # photos a pass without gradients


@dataclasses.dataclass(frozen=True)
class EncodeSummary:
    """How the training of one encoder went.

    Attributes:
        photos: Photos it learnt from.
        iterations: Training steps.
        batch: Photos a step.
        together: Encoders that trained at once, this one included.
        first_loss: Eq. 7 at the first step.
        loss: Eq. 7 over the photos (at most 1,000) when it was done, as the segmenter computes.
        pixel_loss: Its first term alone, the mean absolute difference of values in [-1, 1].
        images_per_second: Photos that all encoders together were trained on a second, without the
            first step, which may compile.
        seconds: Time of all; of the training, this encoder's share.
    """

    photos: int
    iterations: int
    batch: int
    together: int
    first_loss: float
    loss: float
    pixel_loss: float
    images_per_second: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Training:
    """What the training of one encoder left, before batch norms and loss are settled.

    Attributes:
        photos: What it learnt from, uint8 [N, R, R, 3].
        weights: The encoder's, as its `get_weights` gives them.
        batch: As of `EncodeSummary`, like all below.
        together: Encoders that trained at once.
        first_loss: Eq. 7 at the first step.
        images_per_second: Photos a second, of all encoders.
        seconds: Its share of the time.
    """

    photos: np.ndarray
    weights: list[np.ndarray]
    batch: int
    together: int
    first_loss: float
    images_per_second: float
    seconds: float


class Autoencoder:
    """Encoders in training, with frozen copies of generator and discriminator, in float32.

    Batch norms take the batch's statistics while training. Afterwards theirs are set to those of
    the photos that were trained on, all of them where it is a chunk: a photo's mask then depends on
    nothing but the photo and the preset, and fits the photos it is made for.

    Attributes:
        segmenter: The `EncoderSegmenter`, with the weights that were settled last.

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
        self.segmenter = segmenters.create_encoder(self._backbone, config.data.aspect)
        _initialise(self._encoder, self._seed)
        self._encoder.dense.bias.assign(ops.reshape(generator.mean_codes(), (-1,)))
        self._first_weights = [np.array(weight) for weight in self._encoder.get_weights()]
        self._group = EncoderGroup(self._backbone, discriminator)

    def train(
        self,
        photos: np.ndarray,
        mirror: bool = False,
        tick: Callable[[str], None] | None = None,
    ) -> EncodeSummary:
        """Trains a new encoder, from the same random weights each time, and settles it.

        Args:
            photos: uint8 [N, R, R, 3].
            mirror: Whether photos are mirrored at random.
            tick: Called after each step with a note for a progress bar.

        Raises:
            UserError: The loss is not finite.
        """
        (training,) = self.train_together([photos], mirror, tick)
        return self.settle(training)

    def train_together(
        self,
        chunks: Sequence[np.ndarray],
        mirror: bool = False,
        tick: Callable[[str], None] | None = None,
        names: Sequence[str] = (),
    ) -> list[Training]:
        """Trains a new encoder for each chunk, all at once; each as it would be trained alone.

        Args:
            chunks: Each uint8 [N, R, R, 3], of sizes of their own.
            mirror: Whether photos are mirrored at random.
            tick: Called after each step of all encoders with a note for a progress bar.
            names: What an error calls each chunk.

        Returns:
            The trainings in the order of the chunks, for `settle`.

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
        return [
            Training(
                photos=photos,
                weights=weights,
                batch=size,
                together=len(chunks),
                first_loss=float(first_loss),
                images_per_second=trained / max(end - compiled, 1e-9),
                seconds=(end - start) / len(chunks),
            )
            for photos, weights, size, first_loss in zip(
                chunks, self._group.weights(), sizes, history[0], strict=True
            )
        ]

    def settle(self, training: Training) -> EncodeSummary:
        """Puts an encoder into the segmenter, with batch norms for its photos, and scores it."""
        start = time.perf_counter()
        self._encoder.set_weights(training.weights)
        photos = training.photos[:_EVALUATED]
        self._settle_norms(photos)
        loss, pixel_loss = self._evaluate(photos)
        return EncodeSummary(
            photos=len(training.photos),
            iterations=self._settings.iterations,
            batch=training.batch,
            together=training.together,
            first_loss=training.first_loss,
            loss=loss,
            pixel_loss=pixel_loss,
            images_per_second=training.images_per_second,
            seconds=training.seconds + time.perf_counter() - start,
        )

    def _settle_norms(self, photos: np.ndarray) -> None:
        """Sets the batch norms' statistics to the mean of theirs over batches of photos."""
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
            (loss,) = self._group.eq7(reconstruction, [images])
            sums += len(batch) * np.array([float(loss), pixel_loss])
        loss, pixel_loss = sums / len(photos)
        return float(loss), float(pixel_loss)


def require_mask(variant: Variant) -> None:
    """Refuses a generator that draws no mask.

    Raises:
        UserError: It is a plain StyleGAN.
    """
    if not variant.has_mask:
        raise UserError(
            f"gan.variant={variant!r} draws no mask, so its encoder cannot segment; take a run "
            "of another variant"
        )


def dataset_photos(config: Config, resolution: int, images: str = "", limit: int = 0) -> np.ndarray:
    """Loads the photos that a data set's encoder learns from.

    Args:
        config: The run's config.
        resolution: The generator's, pixels.
        images: A directory of photos instead of the run's own.
        limit: At most so many; 0 for at most 10,000, and a line on stderr if there are more.

    Returns:
        uint8 [N, resolution, resolution, 3].

    Raises:
        UserError: The photos are not there, too many cannot be used, or they take too much memory.
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
                    f"{most:,} of {total:,} photos are taken; --limit={total} takes all",
                    file=sys.stderr,
                )
        return source.load(resolution)
    except MemoryError as error:
        megabytes = len(source) * 3 * resolution**2 / 1e6
        raise UserError(
            f"{len(source):,} photos at {resolution} px take {megabytes:,.0f} MB, more than there "
            "is memory; take fewer with --limit"
        ) from error
    except UserError as error:
        if images:
            raise UserError(f"--images={images}: {error}") from error
        raise UserError(
            f"the encoder learns from the run's training photos ({error}); bring them back, or "
            "name others with --images"
        ) from error


def _split(photos: np.ndarray) -> list[np.ndarray]:
    return np.array_split(photos, -(-len(photos) // _BATCH))


def _to_float(photos: np.ndarray) -> np.ndarray:
    """Converts uint8 to float in [-1, 1]."""
    return photos.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _initialise(encoder: keras.Model, seed: int) -> None:
    """Draws the kernels from the seed alone (He et al.), the codes' small; no global state."""
    convolutions = [layer for layer in encoder.resnet.layers if hasattr(layer, "kernel")]
    for index, layer in enumerate([*convolutions, encoder.dense]):
        shape = layer.kernel.shape
        fan_in = math.prod(shape[:-1])
        deviation = math.sqrt(2.0 / fan_in)
        if layer is encoder.dense:
            deviation = _CODE_GAIN / math.sqrt(fan_in)
        layer.kernel.assign(weights(shape, seed, Purpose.ENCODE, index, deviation))
