"""Distillation: the student learns from pairs that the layered generator draws, without labels.

A pool of scenes is drawn once, since drawing costs more than learning from it. Each step composes
scenes of the pool anew (fresh shift and contrast, eq. 2) and augments the pairs.
"""

import dataclasses
import math
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from layered_segmentation import images as photos
from layered_segmentation.config import Config, SourceName, StudentConfig
from layered_segmentation.data.folder import Folder
from layered_segmentation.data.source import open_source
from layered_segmentation.errors import UserError
from layered_segmentation.gan import composite
from layered_segmentation.gan.composite import Layers
from layered_segmentation.gan.draws import Purpose, student_draws, weights
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.gan.sampling import sampler
from layered_segmentation.progress import Bar
from layered_segmentation.segmenter import segmenter as segmenters
from layered_segmentation.segmenter.augment import augment
from layered_segmentation.segmenter.segmenter import LayeredSegmenter

POOL = 10_000  # scenes
SELF_TRAINED = 8_000  # at most so many photos serve self-training
_POOL_BYTES = 500_000_000
_DRAW_BATCH = 64
_WARM_UP = 50  # steps


@dataclasses.dataclass(frozen=True)
class Pool:
    """Scenes to draw pairs from.

    Attributes:
        layers: Layers of uint8 arrays: images [N, R, R, 3], masks [N, R, R, 1] from 0 to 255.
        shift: δ of eq. 2, fraction of the side, by which foreground and mask are moved.
        contrast_jitter: Half width of the background's contrast factor around 1.
    """

    layers: Layers
    shift: float = 0.0
    contrast_jitter: float = 0.0

    def __len__(self) -> int:
        """Returns how many scenes there are."""
        return len(self.layers.mask)

    @property
    def coverage(self) -> float:
        """Mean of the masks, in [0, 1]."""
        return float(np.mean(self.layers.mask) / 255)

    @classmethod
    def from_pairs(cls, images: np.ndarray, masks: np.ndarray) -> "Pool":
        """Makes a pool of finished images, uint8 [N, R, R, 3], and masks, [N, R, R] in [0, 1]."""
        masks = np.rint(np.asarray(masks, np.float32)[..., None] * 255).astype(np.uint8)
        return cls(Layers(images, images, masks))


@dataclasses.dataclass(frozen=True)
class DistillSummary:
    """How a distillation went.

    Attributes:
        steps: Training steps.
        pairs: Scenes in the pool.
        coverage: Mean of the generator's masks.
        loss: Mean loss of the last steps.
        agreement: IoU of the student's and the generator's masks over the last steps, both at 0.5.
        images_per_second: Pairs learnt from a second, without the first step, which compiles.
        draw_seconds: Time it took to draw the pool.
        seconds: Time of all.
        self_training_rounds: Rounds of self-training that followed.
    """

    steps: int
    pairs: int
    coverage: float
    loss: float
    agreement: float
    images_per_second: float
    draw_seconds: float
    seconds: float
    self_training_rounds: int = 0


def distill(
    generator: LayeredGenerator,
    config: Config,
    seed: int | None = None,
    progress: bool = True,
    photos: np.ndarray | None = None,
) -> tuple[LayeredSegmenter, DistillSummary]:
    """Trains a student on scenes of a generator, then on its own masks of unlabelled photos.

    Args:
        generator: The averaged generator of a run.
        config: Its config; `student`, and `gan`'s mixing, shift and contrast jitter are used.
        seed: Seed of all that is drawn; `config.train.seed` if None.
        progress: Whether a progress bar is shown.
        photos: The training photos for `self_training`, from `training_photos`; None leaves it
            out.

    Returns:
        The segmenter, with averaged weights, and how it went; the summary's loss and agreement
        are those with the generated pairs.

    Raises:
        UserError: The loss is not finite.
    """
    seed = config.train.seed if seed is None else seed
    start = time.perf_counter()
    pool = draw_pool(generator, config, seed, progress)
    drawn = time.perf_counter() - start
    side = pool.layers.mask.shape[1]
    segmenter = segmenters.create(config.student.width, side, config.data.aspect)
    initialise(segmenter, seed)
    summary = fit(segmenter, pool, config.student, seed, progress)
    rounds: list[DistillSummary] = []
    if photos is not None and config.student.self_training:
        from layered_segmentation.segmenter import self_training

        rounds = self_training.self_train(segmenter, photos, config.student, seed, progress)
    return segmenter, dataclasses.replace(
        summary,
        self_training_rounds=len(rounds),
        draw_seconds=drawn,
        seconds=time.perf_counter() - start,
    )


def training_photos(config: Config, resolution: int) -> np.ndarray | None:
    """Loads the photos that self-training learns from, or None where it is off.

    Args:
        config: The run's config.
        resolution: The student's, pixels.

    Returns:
        uint8 [N, S, S, 3], S = `self_training.photo_side(…)`.

    Raises:
        UserError: The photos are not where they were.
    """
    if not config.student.self_training:
        return None
    from layered_segmentation.segmenter import self_training

    side = self_training.photo_side(config.student, resolution)
    # What was large enough to train on is enlarged here where it must be.
    margin = max(config.data.crop_margin, side / config.gan.resolution)
    data = dataclasses.replace(config.data, crop_margin=margin)
    if data.name != SourceName.folder:
        data = dataclasses.replace(data, limit=min(data.limit or SELF_TRAINED, SELF_TRAINED))
    try:
        source = open_source(data, config.train.seed)
        if isinstance(source, Folder) and len(source) > SELF_TRAINED:  # some of every sub-directory
            places = np.linspace(0, len(source) - 1, SELF_TRAINED).round().astype(int)
            source.files = [source.files[place] for place in places]
        # What `self_train` reduces again stays sharp by the bicubic filter.
        return source.load(side, photos.TRIANGLE if side == resolution else photos.BICUBIC)
    except UserError as error:
        raise UserError(
            f"self-training needs the training photos ({error}); bring them back, or leave it "
            "out with --set=student.self_training=0"
        ) from error


def draw_pool(
    generator: LayeredGenerator, config: Config, seed: int, progress: bool = True
) -> Pool:
    """Draws scenes at the student's resolution, with style mixing and noise as in training."""
    side = config.student.resolution or generator.resolution
    needed = config.student.steps * config.student.batch
    count = min(POOL, needed, _POOL_BYTES // (7 * side * side))
    draw = sampler(generator, seed, _DRAW_BATCH, config.gan.mixing, generator.resolution)
    images = np.empty((2, count, side, side, 3), np.uint8)
    masks = np.empty((count, side, side, 1), np.uint8)
    with Bar(count, "drawing scenes", "scene", progress) as bar:
        for first in range(0, count, _DRAW_BATCH):
            layers = draw(
                tf.constant(first // _DRAW_BATCH, tf.int64),
                tf.constant(config.student.truncation),
                tf.constant(1.0),
            )
            rows = slice(first, min(first + _DRAW_BATCH, count))
            size = rows.stop - rows.start
            background, foreground, mask = (_resize(part[:size], side) for part in layers)
            images[0, rows] = _to_uint8(background * 0.5 + 0.5)
            images[1, rows] = _to_uint8(foreground * 0.5 + 0.5)
            masks[rows] = _to_uint8(mask)
            bar.update(size)
    layers = Layers(images[0], images[1], masks)
    return Pool(layers, config.gan.shift, config.gan.contrast_jitter)


def fit(
    segmenter: LayeredSegmenter,
    pool: Pool,
    settings: StudentConfig,
    seed: int,
    progress: bool = True,
) -> DistillSummary:
    """Trains a segmenter on pairs of a pool; it ends with averaged weights.

    Args:
        segmenter: Its resolution must be the pool's.
        pool: Where pairs come from.
        settings: Steps, batch, learning rate, strength of augmentation.
        seed: Seed of the order, the shifts and the augmentation.
        progress: Whether a progress bar is shown.

    Raises:
        UserError: The loss is not finite.
    """
    optimizer = _optimizer(settings)
    variables = segmenter.trainable_variables
    optimizer.build(variables)
    layers = Layers(*(tf.constant(part) for part in pool.layers))

    @tf.function
    def train_step(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, masks = _pairs(pool, layers, settings, seed, step)
        with tf.GradientTape() as tape:
            logits = segmenter.logits(images, training=True)
            loss = mask_loss(masks, logits)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss, _agreement(masks > 0.5, logits > 0)

    start = compiled = time.perf_counter()
    history = []
    with Bar(settings.steps, "distilling", "step", progress) as bar:
        for step in range(settings.steps):
            history.append([float(value) for value in train_step(tf.constant(step))])
            if not math.isfinite(history[-1][0]):
                raise UserError(
                    f"distillation: the loss is not finite at step {step}; lower "
                    f"student.learning_rate ({settings.learning_rate!r})"
                )
            if step == 0:
                compiled = time.perf_counter()
            loss, agreement = np.mean(history[-20:], axis=0)
            bar.update(note=f"loss {loss:.3f}, agreement {agreement:.3f}")
    end = time.perf_counter()
    optimizer.finalize_variable_values(variables)
    loss, agreement = np.mean(history[-50:], axis=0)
    pairs_after_first = (settings.steps - 1) * settings.batch
    return DistillSummary(
        steps=settings.steps,
        pairs=len(pool),
        coverage=pool.coverage,
        loss=float(loss),
        agreement=float(agreement),
        images_per_second=pairs_after_first / max(end - compiled, 1e-9),
        draw_seconds=0.0,
        seconds=end - start,
    )


def mask_loss(masks: Any, logits: Any) -> Any:
    """Binary cross-entropy plus soft Dice, which minds small objects.

    Args:
        masks: Float [B, H, W, 1] in [0, 1], the generator's.
        logits: Float [B, H, W, 1], the student's.

    Returns:
        Scalar float32.
    """
    cross_entropy = ops.mean(ops.binary_crossentropy(masks, logits, from_logits=True))
    probabilities = ops.sigmoid(logits)
    overlap = ops.sum(masks * probabilities, axis=(1, 2, 3))
    total = ops.sum(masks + probabilities, axis=(1, 2, 3))
    dice = ops.mean(1.0 - (2.0 * overlap + 1.0) / (total + 1.0))
    return cross_entropy + dice


def _pairs(
    pool: Pool, layers: Layers, settings: StudentConfig, seed: int, step: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws augmented images and masks, a pure function of the seed and the step."""
    drawn = student_draws(
        seed,
        step,
        settings.batch,
        layers.mask.shape[1],
        len(pool),
        pool.shift,
        pool.contrast_jitter,
        settings.augment,
    )
    scenes = Layers(*(tf.cast(tf.gather(part, drawn.scenes), tf.float32) for part in layers))
    scenes = Layers(
        scenes.background / 127.5 - 1.0, scenes.foreground / 127.5 - 1.0, scenes.mask / 255.0
    )
    contrast = drawn.contrast if pool.contrast_jitter else None
    scenes = composite.perturb(scenes, drawn.shifts, contrast)
    images, masks = composite.compose(scenes), scenes.mask
    if drawn.augmentation is None:
        return images, masks
    return augment(images, masks, drawn.augmentation)


def _optimizer(settings: StudentConfig) -> keras.optimizers.Optimizer:
    warm_up = min(_WARM_UP, settings.steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warm_up else settings.learning_rate,
        decay_steps=max(1, settings.steps - warm_up),
        alpha=0.01,
        warmup_target=settings.learning_rate if warm_up else None,
        warmup_steps=warm_up,
    )
    # The average reaches back over the last twentieth of the training.
    momentum = min(0.995, max(0.5, 1 - 20 / settings.steps))
    return keras.optimizers.Adam(rate, clipnorm=5.0, use_ema=True, ema_momentum=momentum)


def _agreement(ours: tf.Tensor, theirs: tf.Tensor) -> tf.Tensor:
    """Returns the mean IoU of two batches of boolean masks, [B, H, W, 1]."""
    overlap = tf.reduce_sum(tf.cast(ours & theirs, tf.float32), axis=(1, 2, 3))
    union = tf.reduce_sum(tf.cast(ours | theirs, tf.float32), axis=(1, 2, 3))
    return tf.reduce_mean(tf.math.divide_no_nan(overlap, union))


def _resize(images: Any, side: int) -> Any:
    if images.shape[1] == side:
        return images
    return ops.image.resize(images, (side, side), interpolation="bilinear", antialias=True)


def _to_uint8(images: Any) -> np.ndarray:
    """Converts float in [0, 1]; what lies outside is clipped."""
    return np.rint(np.clip(np.asarray(images), 0, 1) * 255).astype(np.uint8)


def initialise(segmenter: LayeredSegmenter, seed: int) -> None:
    """Draws the kernels from the seed alone (He et al.), leaving no global state."""
    for index, layer in enumerate([*segmenter.backbone.layers, segmenter.head]):
        if not hasattr(layer, "kernel"):
            continue
        height, width, fan_in, fan_out = layer.kernel.shape
        if isinstance(layer, keras.layers.Conv2DTranspose):
            fan_in, height, width = fan_out, 1, 1  # its kernel is [2, 2, out, in], one tap each
        deviation = math.sqrt(2.0 / (height * width * fan_in))
        shape = layer.kernel.shape
        layer.kernel.assign(weights(shape, seed, Purpose.DISTILL, index, deviation))
