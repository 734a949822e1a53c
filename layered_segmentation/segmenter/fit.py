"""The training loop of the student: a segmenter learns from pairs of an image and a mask.

Each step composes new pairs from a pool of scenes, with a new shift and contrast (eq. 2), and
augments them.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from layered_segmentation.choices import Precision
from layered_segmentation.config import StudentConfig
from layered_segmentation.errors import UserError
from layered_segmentation.gan import composite, precision, strategy
from layered_segmentation.gan.augment import augment_pairs
from layered_segmentation.gan.composite import Layers
from layered_segmentation.gan.draws import Purpose, replica_share, scales, student_draws, weights
from layered_segmentation.gan.keras_settings import standard
from layered_segmentation.gan.step_timer import Turn
from layered_segmentation.images import to_uint8_mask
from layered_segmentation.progress import Bar
from layered_segmentation.segmenter.segmenter import LayeredSegmenter
from layered_segmentation.segmenter.student_events import EVERY, StudentEvents

_WARM_UP = 50  # steps
_POINTS = 40  # of a summary's curve


@dataclasses.dataclass(frozen=True)
class Pool:
    """Scenes from which training pairs are composed."""

    layers: Layers  # uint8 arrays: images [N, R, R, C], masks [N, R, R, K] from 0 to 255
    shift: float = 0.0  # δ of eq. 2 as a fraction of the side
    contrast_jitter: float = 0.0  # half width of the background's contrast factor around 1
    background_swap: float = 0.0  # probability that a scene gets another scene's background
    scale: float = 1.0  # largest factor by which foreground and mask are enlarged or reduced
    weights: np.ndarray | None = None  # of the pixels, uint8 [N, R, R, 1]; None for all alike
    # Maps the layers' masks, float [B, R, R, K] in [0, 1], to those that the student learns.
    target: Callable[[Any], Any] = composite.union_mask

    def __len__(self) -> int:
        """Returns the number of scenes."""
        return len(self.layers.mask)

    @property
    def coverage(self) -> float:
        """Mean of the layers' masks, in [0, 1]."""
        return float(np.mean(self.layers.mask) / 255)

    @classmethod
    def from_pairs(
        cls, images: np.ndarray, masks: np.ndarray, weights: np.ndarray | None = None
    ) -> "Pool":
        """Creates a pool from images, masks and perhaps weights of their pixels.

        Args:
            images: uint8 [N, R, R, 3].
            masks: Float or bool [N, R, R] in [0, 1], or several masks an image, [N, R, R, K].
            weights: Float [N, R, R] in [0, 1], or None.
        """
        if weights is not None:
            weights = to_uint8_mask(weights[..., None])
        masks = to_uint8_mask(masks[..., None] if masks.ndim == 3 else masks)
        # Each foreground is the image itself, which no mask then changes.
        foreground = images if masks.shape[-1] == 1 else np.tile(images, masks.shape[-1])
        layers = Layers(images, foreground, masks)
        return cls(layers, weights=weights, target=lambda masks: masks)


@dataclasses.dataclass(frozen=True)
class FitSummary:
    """The result of training on a pool."""

    steps: int  # training steps
    pairs: int  # scenes in the pool
    coverage: float  # mean of the pool's masks
    loss: float  # mean loss of the last steps
    # IoU of the student's masks and the pool's at threshold 0.5, over the last steps
    agreement: float
    images_per_second: float  # training speed, without the first step, which compiles
    seconds: float  # duration
    # Step, mean loss and mean agreement since the point before, at most `_POINTS` times.
    curve: tuple[tuple[int, float, float], ...] = ()


class _Steps:
    """The training steps of a segmenter on a pool."""

    def __init__(
        self, segmenter: LayeredSegmenter, pool: Pool, settings: StudentConfig, seed: int
    ) -> None:
        self._engine = tf.distribute.get_strategy()
        self._segmenter, self._variables = segmenter, segmenter.trainable_variables
        self._pool, self._settings, self._seed = pool, settings, seed
        self._layers = Layers(*(tf.constant(part) for part in pool.layers))
        self._weights = None if pool.weights is None else tf.constant(pool.weights)
        replicas = self._engine.num_replicas_in_sync
        self._parts = settings.parts if replicas == 1 else 1  # replicas are parts already
        self._optimizer = _optimizer(settings, replicas)
        self._optimizer.build(self._variables)
        _synchronise_norms(segmenter, replicas)
        has_replicas = tf.distribute.has_strategy()
        self._step = tf.function(self._of_all if has_replicas else self._of_replica)

    def take(self, step: int) -> list[float]:
        """Takes a step; returns loss and agreement."""
        return [float(value) for value in self._step(tf.constant(step))]

    def finish(self) -> None:
        """Sets the averaged weights."""
        self._optimizer.finalize_variable_values(self._variables)
        _synchronise_norms(self._segmenter, 1)

    def _of_replica(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        drawn = _pairs(self._pool, self._layers, self._weights, self._settings, self._seed, step)
        # Parts do not wait for each other, so they keep several cores busy.
        cut = [[None] * self._parts if x is None else tf.split(x, self._parts) for x in drawn]
        losses, gradients, agreements = zip(*map(self._of_part, *cut), strict=True)
        self._optimizer.apply([tf.add_n(parts) for parts in zip(*gradients, strict=True)])
        return tf.add_n(losses), tf.add_n(agreements)

    def _of_part(
        self, images: tf.Tensor, masks: tf.Tensor, counts: tf.Tensor | None
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        """Returns the loss, the gradients and the agreement, as shares of all parts' sums."""
        count = self._parts * self._engine.num_replicas_in_sync
        with tf.GradientTape() as tape:
            logits = self._segmenter.logits(images, training=True)
            # Keras sums gradients over the replicas.
            loss = mask_loss(masks, logits, counts) / count
        gradients = tape.gradient(loss, self._variables)
        if counts is not None:
            masks, logits = (tf.where(counts > 0.5, part, -1.0) for part in (masks, logits))
        return loss, gradients, _agreement(masks > 0.5, logits > 0) / count

    def _of_all(self, step: tf.Tensor) -> list[tf.Tensor]:
        parts = self._engine.run(self._of_replica, args=(step,))
        return [self._engine.reduce(tf.distribute.ReduceOp.SUM, part, axis=None) for part in parts]


class _Timer:
    """Times steps of a copy of a segmenter in a precision."""

    def __init__(
        self, segmenter: LayeredSegmenter, pool: Pool, settings: StudentConfig, policy: Precision
    ) -> None:
        self._steps = _Steps(_copy(segmenter, policy), pool, settings, 0)
        self.batch, self.warm_up = settings.batch, 1

    def run(self, steps: int) -> Turn:
        """Takes steps."""
        start, processor = time.perf_counter(), time.process_time()
        for step in range(steps):
            self._steps.take(step)
        images = steps * self.batch
        return Turn(
            images / (time.perf_counter() - start),
            1e3 * (time.process_time() - processor) / images,
        )


@standard()
def with_precision(
    segmenter: LayeredSegmenter, pool: Pool, settings: StudentConfig
) -> StudentConfig:
    """Returns settings with the precision that `auto` stands for, and prints it.

    Args:
        segmenter: A segmenter with the pool's resolution; it is not changed.
        pool: Scenes to take the measured steps on.
        settings: The student's settings. If they give a precision, nothing is measured.
    """
    if settings.precision != Precision.auto:
        return settings
    device = strategy.first_device(tf.distribute.get_strategy())
    chosen, reason = Precision.float32, "this device is not known to have fast bfloat16"
    if precision.mixed_precision(device) == Precision.mixed_bfloat16:
        mixed = Precision.mixed_bfloat16
        layers = Layers(*(part[: settings.batch] for part in pool.layers))  # copies are small
        few = dataclasses.replace(pool, layers=layers, weights=None)
        both = [_Timer(segmenter, few, settings, name) for name in (Precision.float32, mixed)]
        gain, plain, other = precision.compare(both)
        chosen = mixed if gain >= precision.LEAST_GAIN else chosen
        reason = (
            f"the student learns {plain:,.1f} images/s in float32 and {other:,.1f} in {mixed} "
            f"({gain:.2f} times as fast; {precision.LEAST_GAIN:g} is the least for {mixed})"
        )
    print(f"student.precision=auto: {chosen}, since {reason}", flush=True)
    return dataclasses.replace(settings, precision=chosen)


@standard()
def fit(
    segmenter: LayeredSegmenter,
    pool: Pool,
    settings: StudentConfig,
    seed: int,
    events: StudentEvents | None = None,
    title: str = "distilling",
) -> FitSummary:
    """Trains a segmenter on pairs of a pool. It ends with averaged weights.

    In the scope of a `tf.distribute` strategy in which the segmenter was created, all replicas
    train, each on its share of every batch.

    Args:
        segmenter: A segmenter with the pool's resolution; trained in place.
        pool: The scenes.
        settings: Steps, batch, learning rate, precision and strength of augmentation.
        seed: Seed of the order, the shifts and the augmentation.
        events: Where loss and agreement are written during training.
        title: Of the progress bar.

    Raises:
        UserError: The loss is not finite.
        ValueError: The precision is `auto`, for which `with_precision` chooses.
    """
    if settings.precision == Precision.auto:
        raise ValueError("precision=auto: choose one, as `with_precision` does")
    events = events or StudentEvents()
    trained = segmenter
    if segmenter.backbone.dtype_policy.name != settings.precision:
        trained = _copy(segmenter, settings.precision)
    steps = _Steps(trained, pool, settings, seed)
    start = compiled = time.perf_counter()
    history = []
    with Bar(settings.steps, title, "step") as bar:
        for step in range(settings.steps):
            history.append(steps.take(step))
            if not math.isfinite(history[-1][0]):
                raise UserError(
                    f"distillation: the loss is not finite at step {step}; lower "
                    f"student.learning_rate ({settings.learning_rate!r})"
                )
            if step == 0:
                compiled = time.perf_counter()
            loss, agreement = np.mean(history[-20:], axis=0)
            bar.update(note=f"loss {loss:.3f}, agreement {agreement:.3f}")
            if (step + 1) % EVERY == 0:
                events.write(step + 1, loss=loss, agreement=agreement)
    end = time.perf_counter()
    steps.finish()
    if trained is not segmenter:
        segmenter.set_weights(trained.get_weights())
    loss, agreement = np.mean(history[-50:], axis=0)
    pairs_after_first = (settings.steps - 1) * settings.batch
    return FitSummary(
        steps=settings.steps,
        pairs=len(pool),
        coverage=pool.coverage,
        loss=float(loss),
        agreement=float(agreement),
        images_per_second=pairs_after_first / max(end - compiled, 1e-9),
        seconds=end - start,
        curve=_curve(history),
    )


def mask_loss(masks: Any, logits: Any, weights: Any = None) -> Any:
    """Binary cross-entropy plus soft Dice loss, which gives small objects more weight.

    Args:
        masks: The target, float [B, H, W, K] in [0, 1].
        logits: The student's output, float [B, H, W, K].
        weights: How much each pixel counts, float [B, H, W, 1] in [0, 1]; None for all alike.

    Returns:
        Scalar float32.
    """
    cross_entropy = ops.binary_crossentropy(masks, logits, from_logits=True)
    probabilities = ops.sigmoid(logits)
    if weights is None:
        cross_entropy = ops.mean(cross_entropy)
    else:
        # By image, so that replicas, each with its share of the images, compute the same.
        counted = ops.maximum(ops.sum(weights, axis=(1, 2, 3)), 1.0)
        cross_entropy = ops.mean(ops.sum(weights * cross_entropy, axis=(1, 2, 3)) / counted)
        masks, probabilities = weights * masks, weights * probabilities
    overlap = ops.sum(masks * probabilities, axis=(1, 2, 3))
    total = ops.sum(masks + probabilities, axis=(1, 2, 3))
    dice = ops.mean(1.0 - (2.0 * overlap + 1.0) / (total + 1.0))
    return cross_entropy + dice


def initialise(segmenter: LayeredSegmenter, seed: int) -> None:
    """Draws a student's kernels (He et al.) as a function of the seed alone."""
    for index, layer in enumerate([*segmenter.backbone.layers, segmenter.head]):
        if not hasattr(layer, "kernel"):
            continue
        height, width, fan_in, fan_out = layer.kernel.shape
        if isinstance(layer, keras.layers.Conv2DTranspose):
            fan_in, height, width = fan_out, 1, 1  # its kernel is [2, 2, out, in], one tap each
        deviation = math.sqrt(2.0 / (height * width * fan_in))
        shape = layer.kernel.shape
        layer.kernel.assign(weights(shape, seed, Purpose.DISTILL, index, deviation))


def _pairs(
    pool: Pool,
    layers: Layers,
    weighted: tf.Tensor | None,
    settings: StudentConfig,
    seed: int,
    step: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Draws augmented images, masks and weights as a pure function of the seed and the step."""
    drawn = student_draws(
        seed,
        step,
        settings.batch,
        layers.mask.shape[1],
        len(pool),
        pool.shift,
        pool.contrast_jitter,
        settings.augment,
        pool.background_swap,
        layers.mask.shape[-1],
    )
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        drawn = replica_share(drawn, context.replica_id_in_sync_group, context.num_replicas_in_sync)
    places = drawn.backgrounds, drawn.scenes, drawn.scenes
    parts = (tf.gather(part, place) for part, place in zip(layers, places, strict=True))
    scenes = Layers(*(tf.cast(part, tf.float32) for part in parts))
    scenes = Layers(
        scenes.background / 127.5 - 1.0, scenes.foreground / 127.5 - 1.0, scenes.mask / 255.0
    )
    contrast = drawn.contrast if pool.contrast_jitter else None
    factors = scales(drawn.scale, pool.scale) if pool.scale > 1 else None
    scenes = composite.perturb(scenes, drawn.shifts, contrast, factors)
    images, masks = composite.compose(scenes), pool.target(scenes.mask)
    count = masks.shape[-1]
    if weighted is not None:  # of photos, which are not shifted
        drawn_weights = tf.cast(tf.gather(weighted, drawn.scenes), tf.float32) / 255.0
        masks = tf.concat([masks, drawn_weights], axis=-1)
    if drawn.augmentation is not None:
        images, masks = augment_pairs(images, masks, drawn.augmentation)
    return images, masks[..., :count], None if weighted is None else masks[..., count:]


def _curve(history: list[list[float]]) -> tuple[tuple[int, float, float], ...]:
    """Returns the means of equal parts of a history of (loss, agreement), after their steps."""
    parts = np.array_split(np.array(history), min(_POINTS, len(history)))
    steps = np.cumsum([len(part) for part in parts])
    means = [part.mean(axis=0).round(5) for part in parts]
    return tuple(
        (int(step), float(loss), float(agreement))
        for step, (loss, agreement) in zip(steps, means, strict=True)
    )


def _optimizer(settings: StudentConfig, replicas: int) -> keras.optimizers.Optimizer:
    warm_up = min(_WARM_UP, settings.steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warm_up else settings.learning_rate,
        decay_steps=max(1, settings.steps - warm_up),
        alpha=0.01,
        warmup_target=settings.learning_rate if warm_up else None,
        warmup_steps=warm_up,
    )
    # The weights are averaged over about the last twentieth of the training.
    momentum = min(0.995, max(0.5, 1 - 20 / settings.steps))
    # Keras clips a replica's gradient, of a share of the loss, before it sums them.
    return keras.optimizers.Adam(rate, clipnorm=5.0 / replicas, use_ema=True, ema_momentum=momentum)


def _copy(segmenter: LayeredSegmenter, policy: Precision) -> LayeredSegmenter:
    """Returns a copy that computes in a precision; its weights are float32."""
    backbone = segmenter.backbone
    settings = {**backbone.get_config(), "dtype": str(policy)}
    copy = type(segmenter)(
        type(backbone).from_config(settings), segmenter.preprocessor, segmenter.num_masks
    )
    copy.set_weights(segmenter.get_weights())
    for layer, original in zip(copy.backbone.layers, backbone.layers, strict=True):
        layer.trainable = original.trainable
    return copy


def _synchronise_norms(segmenter: LayeredSegmenter, replicas: int) -> None:
    """Lets batch norms take their statistics over all replicas' images."""
    for layer in segmenter.backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = replicas > 1


def _agreement(prediction: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns the mean IoU of two batches of boolean masks, [B, H, W, K]."""
    overlap = tf.reduce_sum(tf.cast(prediction & target, tf.float32), axis=(1, 2, 3))
    union = tf.reduce_sum(tf.cast(prediction | target, tf.float32), axis=(1, 2, 3))
    return tf.reduce_mean(tf.math.divide_no_nan(overlap, union))
