"""Self-training: the student goes on learning from its own masks of the unlabelled photos.

Generated pairs teach what an object is; the photos themselves teach what the generator never
draws. Each round segments photos, keeps those the student is surest of, and trains on them with
augmentation. With `student.self_training_refine` it learns from masks that were first fitted to
the photos' edges: one photo's refinement errs at random, what many have in common is the object.
No label is involved.
"""

import concurrent.futures
import dataclasses
import os
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from layered_segmentation import images
from layered_segmentation.config import StudentConfig
from layered_segmentation.gan.draws import subset
from layered_segmentation.progress import Bar
from layered_segmentation.segmenter import distill
from layered_segmentation.segmenter.refine import refine
from layered_segmentation.segmenter.segmenter import LayeredSegmenter

KEPT = 0.7  # share of the photos that a round learns from
REFINED = 4_000  # at most so many photos are refined for a round
REFINED_SIDE = 128  # at least so large, pixels
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
        photos: The unlabelled training photos, uint8 [N, S, S, 3], S = `photo_side(…)`.
        settings: `self_training` rounds of `self_training_steps` steps, and
            `self_training_refine`.
        seed: Seed of which photos are taken and of all that is drawn.
        progress: Whether a progress bar is shown.

    Returns:
        A summary a round.

    Raises:
        UserError: The loss is not finite.
    """
    refined = settings.self_training_refine != "none"
    most = REFINED if refined else distill.SELF_TRAINED
    round_settings = dataclasses.replace(
        settings,
        steps=settings.self_training_steps,
        learning_rate=_RATE * settings.learning_rate,
        augment=min(_AUGMENT, settings.augment),
    )
    summaries = []
    for number in range(settings.self_training):
        # Refinement is costly: each round takes other photos, where there are more than it can.
        chosen = _choose(photos, most, seed + number if refined else seed)
        if refined:
            pool = refined_pairs(segmenter, chosen, settings.self_training_refine, progress)
        else:
            pool = confident_pairs(segmenter, chosen)
        if not len(pool):
            break  # the student finds no object anywhere: there is nothing to learn from
        summaries.append(
            distill.fit(segmenter, pool, round_settings, seed + 1000 * (number + 1), progress)
        )
    return summaries


def photo_side(settings: StudentConfig, resolution: int) -> int:
    """Returns the side, pixels, of the photos that a student of a resolution trains itself on."""
    return resolution if settings.self_training_refine == "none" else max(resolution, REFINED_SIDE)


def confident_pairs(segmenter: LayeredSegmenter, photos: np.ndarray) -> distill.Pool:
    """Returns the photos whose masks are surest, with these masks.

    Args:
        segmenter: The student.
        photos: uint8 [N, R, R, 3].
    """
    masks = probabilities(segmenter, photos)
    certainty = np.mean(np.abs(2 * masks - 1), axis=(1, 2))
    kept = _best(certainty, masks)
    return distill.Pool.from_pairs(photos[kept], masks[kept])


def refined_pairs(
    segmenter: LayeredSegmenter, photos: np.ndarray, method: str, progress: bool = True
) -> distill.Pool:
    """Returns the photos whose refined masks agree best with the student's, with the refined ones.

    Args:
        segmenter: The student, of resolution R.
        photos: uint8 [N, S, S, 3], S >= R.
        method: Of `refine.refine`.
        progress: Whether a progress bar is shown.

    Returns:
        A pool at resolution R.
    """
    side = segmenter.resolution
    small = np.stack([images.to_square(photo, side) for photo in photos])
    masks = probabilities(segmenter, small)

    def fit(index: int) -> np.ndarray:
        photo = photos[index]
        enlarged = cv2.resize(masks[index], photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return images.to_square(refine(photo, enlarged, method), side)

    refined = np.empty_like(masks)
    with (
        Bar(len(photos), "refining masks", "photo", progress) as bar,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for index, mask in enumerate(pool.map(fit, range(len(photos)))):
            refined[index] = mask
            bar.update()
    kept = _best(_ious(masks >= 0.5, refined >= 0.5), refined)
    return distill.Pool.from_pairs(small[kept], refined[kept])


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


def _choose(photos: np.ndarray, most: int, seed: int) -> np.ndarray:
    if len(photos) <= most:
        return photos
    return photos[subset(seed, len(photos), most)]


def _ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the IoU of each pair of masks, bool [N, R, R]; 1 where both are empty."""
    intersection, union = (np.count_nonzero(both, axis=(1, 2)) for both in (a & b, a | b))
    result: np.ndarray = np.where(union, intersection / np.maximum(union, 1), 1.0)
    return result


def _best(scores: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns which masks score best among those that have something and not all in them."""
    coverage = np.mean(masks > 0.5, axis=(1, 2))
    best = scores >= np.quantile(scores, 1 - KEPT)
    return best & (coverage > _COVERAGE[0]) & (coverage < _COVERAGE[1])
