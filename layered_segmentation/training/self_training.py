"""Self-training: the student goes on learning from its own masks of the unlabelled photos.

Generated pairs teach what an object is; the photos themselves teach what the generator never
draws. Each round segments photos, keeps those the student is surest of, and trains on them with
augmentation. No label is involved.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from layered_segmentation.config import StudentConfig
from layered_segmentation.models.segmenter import LayeredSegmenter
from layered_segmentation.training import distill

KEPT = 0.7  # share of the photos that a round learns from
_COVERAGE = (0.02, 0.9)  # a mask outside of this says that there is no object, or all is
_AUGMENT = 1.0  # photos need less of it than generated pairs do
_RATE = 0.6  # of the student's learning rate
_BATCH = 250


def self_train(
    segmenter: LayeredSegmenter,
    photos: np.ndarray,
    settings: StudentConfig,
    seed: int,
    progress: bool = True,
) -> list[distill.DistillSummary]:
    """Trains a student on its own masks, in place.

    Args:
        segmenter: A distilled student.
        photos: The unlabelled training photos, uint8 [N, R, R, 3] at the student's resolution.
        settings: `self_training` rounds of `self_training_steps` steps.
        seed: Seed of which photos are taken and of all that is drawn.
        progress: Whether a progress bar is shown.

    Returns:
        A summary a round.

    Raises:
        UserError: The loss is not finite.
    """
    if len(photos) > distill.SELF_TRAINED:
        chosen = np.random.default_rng(seed).choice(
            len(photos), distill.SELF_TRAINED, replace=False
        )
        photos = photos[np.sort(chosen)]
    round_settings = dataclasses.replace(
        settings,
        steps=settings.self_training_steps,
        learning_rate=_RATE * settings.learning_rate,
        augment=min(_AUGMENT, settings.augment),
    )
    summaries = []
    for number in range(settings.self_training):
        pool = confident_pairs(segmenter, photos)
        if not len(pool):
            break  # the student finds no object anywhere: there is nothing to learn from
        summaries.append(
            distill.fit(segmenter, pool, round_settings, seed + 1000 * (number + 1), progress)
        )
    return summaries


def confident_pairs(segmenter: LayeredSegmenter, photos: np.ndarray) -> distill.Pool:
    """Returns the photos whose masks are surest, with these masks.

    Args:
        segmenter: The student.
        photos: uint8 [N, R, R, 3].
    """
    masks = probabilities(segmenter, photos)
    certainty = np.mean(np.abs(2 * masks - 1), axis=(1, 2))
    coverage = np.mean(masks > 0.5, axis=(1, 2))
    sure = certainty >= np.quantile(certainty, 1 - KEPT)
    kept = sure & (coverage > _COVERAGE[0]) & (coverage < _COVERAGE[1])
    return distill.Pool.from_pairs(photos[kept], masks[kept])


def probabilities(segmenter: LayeredSegmenter, photos: np.ndarray) -> np.ndarray:
    """Segments photos of the student's own resolution, uint8 [N, R, R, 3] -> float32 [N, R, R]."""

    @tf.function(reduce_retracing=True)
    def predict(images: tf.Tensor) -> Any:
        return tf.sigmoid(segmenter.logits(tf.cast(images, tf.float32) / 127.5 - 1.0))

    parts = [
        predict(tf.constant(photos[first : first + _BATCH]))
        for first in range(0, len(photos), _BATCH)
    ]
    return np.concatenate([np.asarray(part)[..., 0] for part in parts])
