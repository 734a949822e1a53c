"""Self-training: the student continues to learn from its own masks of the unlabelled photos.

Generated pairs teach what an object is; the photos teach what the generator never draws. Each
round segments photos, keeps those whose masks are most certain, and trains on them with
augmentation. With `student.self_training_refine`, the masks are first fitted to the photos' edges:
the errors of refinement differ from photo to photo, and the student learns what is common to many.
With `consensus`, several runs of GrabCut vote: pixels and photos on which they disagree are left
out. No labels are used.
"""

import concurrent.futures
import dataclasses
import os
import sys

import cv2
import numpy as np
import tensorflow as tf
from PIL.Image import Resampling

from layered_segmentation import images
from layered_segmentation.choices import Refinement, SourceName
from layered_segmentation.config import Config, StudentConfig
from layered_segmentation.data.folder import Folder
from layered_segmentation.data.source import open_source
from layered_segmentation.errors import UserError
from layered_segmentation.gan.draws import subset
from layered_segmentation.progress import Bar
from layered_segmentation.segmenter.fit import FitSummary, Pool, fit
from layered_segmentation.segmenter.refine import GRABCUT_ITERATIONS, refine, votes
from layered_segmentation.segmenter.segmenter import LayeredSegmenter
from layered_segmentation.segmenter.student_events import StudentEvents, round_name

PHOTOS = 8_000  # at most this many photos are used
REFINED = 4_000  # at most this many photos are refined per round
REFINED_SIDE = 128  # pixels, the least side at which photos are refined
KEPT = 0.7  # fraction of the photos that a round trains on
_COVERAGE = (0.02, 0.9)  # masks that cover less show no object, masks that cover more no background
_AUGMENT = 1.0  # photos vary more than generated pairs, so they need less augmentation
_RATE = 0.6  # of the student's learning rate
_BATCH = 250


@dataclasses.dataclass(frozen=True)
class RoundSummary(FitSummary):
    """The result of a round."""

    # Mean IoU of the student's masks before the round and their refined versions, over all photos
    # of the round; 1 without refinement. It needs no true masks.
    judged: float = 1.0
    kept: float = 1.0  # share of the round's photos that it trained on
    weight: float = 1.0  # mean weight of their pixels
    end: str = ""  # why no round follows, if rounds ended early; a sentence


def self_train(
    segmenter: LayeredSegmenter,
    photos: np.ndarray,
    settings: StudentConfig,
    seed: int,
    events: StudentEvents | None = None,
    drawn_side: int = 0,
) -> list[RoundSummary]:
    """Trains a student on its own masks, in place.

    Args:
        segmenter: A distilled student.
        photos: The unlabelled training photos, uint8 [N, S, S, 3] with S = `photo_side(…)`.
        settings: `self_training` rounds of `self_training_steps` steps (`self_training_last_steps`
            in the last one), and the other settings of that prefix.
        seed: Seed of the choice of photos and of all draws.
        events: Where the rounds are written, each a phase.
        drawn_side: Side of the images that the student has learnt from, before they were resized
            to its own, for `self_training_coarse`.

    Returns:
        A summary per round. Rounds end early if no mask shows an object and, with
        `self_training_early_stop`, once a round has raised `judged` by less than
        `self_training_rise`. If that round has lowered it, the student before the round is kept.
        A last round of `self_training_last_steps` follows all the same.

    Raises:
        UserError: The loss is not finite.
    """
    events = events or StudentEvents()
    method = settings.self_training_refine
    is_refined = method != Refinement.none
    can_stop = is_refined and settings.self_training_early_stop
    most = settings.self_training_photos or (REFINED if is_refined else PHOTOS)
    round_settings = dataclasses.replace(
        settings,
        steps=settings.self_training_steps,
        learning_rate=_RATE * settings.learning_rate,
        augment=min(_AUGMENT, settings.augment),
    )
    summaries: list[RoundSummary] = []
    before: list[np.ndarray] = []  # the student's weights before the last round
    has_own_last = bool(settings.self_training_last_steps)
    numbers = list(range(settings.self_training))
    while numbers:
        number = numbers.pop(0)
        is_last = number == settings.self_training - 1
        count = settings.self_training_last_photos if is_last else 0
        # Only a part of the photos can be refined per round, so each round takes another part.
        chosen = _choose(photos, count or most, seed + number if is_refined else seed)
        coarse = drawn_side if settings.self_training_coarse and number == 0 else 0
        judged = 1.0
        if is_refined:
            iterations = settings.self_training_grabcut_iterations
            pool, judged = refined_pairs(segmenter, chosen, method, coarse, iterations)
        else:
            pool = confident_pairs(segmenter, chosen, coarse)
        if not len(pool):
            break
        if can_stop and summaries:
            rise = judged - summaries[-1].judged
            events.write(summaries[-1].steps, judged_after=judged)
            if rise < settings.self_training_rise and not (is_last and has_own_last):
                if rise < 0:
                    segmenter.set_weights(before)
                end = _end(number, settings, summaries[-1].judged, judged)
                print(end, file=sys.stderr, flush=True)
                summaries[-1] = dataclasses.replace(summaries[-1], end=end)
                numbers = numbers[-1:] if has_own_last else []
                continue
        before = segmenter.get_weights() if can_stop else []
        round_seed = seed + 1000 * (number + 1)
        place = len(summaries) + 1
        events.begin(round_name(place))
        title = f"self-training, round {place} of {settings.self_training}"
        steps = settings.self_training_last_steps if is_last else 0
        now = dataclasses.replace(round_settings, steps=steps or round_settings.steps)
        fitted = fit(segmenter, pool, now, round_seed, events, title)
        weight = 1.0 if pool.weights is None else float(pool.weights.mean() / 255)
        summary = RoundSummary(
            **dataclasses.asdict(fitted),
            judged=judged,
            kept=len(pool) / len(chosen),
            weight=weight,
        )
        summaries.append(summary)
        written = {
            name: getattr(summary, name) for name in ("judged", "kept", "weight", "coverage")
        }
        events.write(summary.steps, **written)
        show_masks(segmenter, events, fitted.steps)
    return summaries


def show_masks(segmenter: LayeredSegmenter, events: StudentEvents, step: int) -> None:
    """Ends a phase: writes the student's masks of the shown images."""
    events.end(segmenter)
    if len(events.shown):
        masks = probabilities(segmenter, events.shown)
        union = masks if masks.ndim == 3 else np.minimum(masks.sum(axis=-1), 1)
        events.write_masks(step, union)


def photo_side(settings: StudentConfig, resolution: int) -> int:
    """Returns the side, in pixels, of the photos for self-training at a student's resolution."""
    if settings.self_training_refine == Refinement.none:
        return resolution
    return max(resolution, REFINED_SIDE)


def training_photos(config: Config, resolution: int) -> np.ndarray | None:
    """Loads the photos for self-training, or returns None if it is off.

    Args:
        config: The run's config.
        resolution: The student's resolution in pixels.

    Returns:
        uint8 [N, S, S, 3] with S = `photo_side(…)`.

    Raises:
        UserError: The photos cannot be found or read.
    """
    if not config.student.self_training:
        return None
    side = photo_side(config.student, resolution)
    try:
        # The bicubic filter keeps photos sharp that `refined_pairs` reduces again.
        smooth = images.TRIANGLE if side == resolution else images.BICUBIC
        return load_photos(config, side, PHOTOS, smooth)
    except UserError as error:
        raise UserError(
            f"self-training needs the training photos ({error}); restore them, or turn "
            "self-training off with --set=student.self_training=0"
        ) from error


def load_photos(config: Config, side: int, most: int, resampling: Resampling) -> np.ndarray:
    """Loads training photos, of a directory some of every sub-directory.

    Args:
        config: The run's config.
        side: Their side in pixels.
        most: Of more photos, so many are taken.
        resampling: Filter that resizes them.

    Returns:
        uint8 [N, side, side, 3].

    Raises:
        UserError: The photos cannot be found or read.
    """
    # Photos large enough for training may be too small for this side: they are enlarged.
    margin = max(config.data.crop_margin, side / config.gan.resolution)
    data = dataclasses.replace(config.data, crop_margin=margin)
    if data.name != SourceName.folder:
        data = dataclasses.replace(data, limit=min(data.limit or most, most))
    source = open_source(data, config.train.seed)
    if isinstance(source, Folder) and len(source) > most:
        places = np.linspace(0, len(source) - 1, most).round().astype(int)
        source.files = [source.files[place] for place in places]
    return source.load(side, resampling)


def confident_pairs(segmenter: LayeredSegmenter, photos: np.ndarray, coarse: int = 0) -> Pool:
    """Returns the photos whose masks are most certain, with these masks.

    Args:
        segmenter: The student, of resolution R.
        photos: uint8 [N, R, R, 3].
        coarse: Side that the photos are reduced to before they are segmented; 0 to not reduce them.
    """
    masks = probabilities(segmenter, _reduced(photos, coarse))
    certainty = np.mean(np.abs(2 * masks - 1), axis=tuple(range(1, masks.ndim)))
    kept = _best(certainty, masks)
    return Pool.from_pairs(photos[kept], masks[kept])


def refined_pairs(
    segmenter: LayeredSegmenter,
    photos: np.ndarray,
    method: Refinement,
    coarse: int = 0,
    iterations: int = GRABCUT_ITERATIONS,
) -> tuple[Pool, float]:
    """Returns the photos whose masks are most certain to be right, with the refined masks.

    With `consensus`, these are the photos on which the votes agree best, and pixels on which they
    are split have the weight 0. With other methods, they are those whose masks change least.

    Args:
        segmenter: The student, of resolution R.
        photos: uint8 [N, S, S, 3] with S >= R.
        method: How to refine.
        coarse: As for `confident_pairs`.
        iterations: Iterations of each GrabCut.

    Returns:
        A pool at resolution R, and `RoundSummary.judged`.
    """
    side = segmenter.resolution
    small = np.stack([images.to_square(photo, side) for photo in photos])
    masks = probabilities(segmenter, _reduced(small, coarse))
    refined, certain = np.empty_like(masks), np.ones_like(masks)
    agreement = np.empty(len(photos))
    has_votes = method == Refinement.consensus

    def judge(index: int) -> None:
        photo = photos[index]
        mask = cv2.resize(masks[index], photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        if not has_votes:
            refined[index] = images.to_square(refine(photo, mask, method, iterations), side)
            return
        found = votes(photo, mask, iterations)
        inside, outside = found.all(axis=0), ~found.any(axis=0)
        most = np.asarray(found.sum(axis=0) > len(found) / 2, np.float32)
        refined[index] = images.to_square(most, side)
        certain[index] = images.to_square(np.asarray(inside | outside, np.float32), side)
        agreement[index] = inside.sum() / max(1, (~outside).sum())

    with (
        Bar(len(photos), "refining masks", "photo") as bar,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for _ in pool.map(judge, range(len(photos))):
            bar.update()
    changes = _iou(masks >= 0.5, refined >= 0.5)
    kept = _best(agreement if has_votes else changes, refined)
    weights = certain[kept] if has_votes else None
    return Pool.from_pairs(small[kept], refined[kept], weights), float(np.mean(changes))


def probabilities(segmenter: LayeredSegmenter, photos: np.ndarray) -> np.ndarray:
    """Segments photos of the student's resolution.

    Args:
        segmenter: The student.
        photos: uint8 [N, R, R, 3].

    Returns:
        Float32 [N, R, R]; [N, R, R, K] of a student of several masks.
    """

    def predict(batch: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(segmenter.logits(tf.cast(batch, tf.float32) / 127.5 - 1.0))

    predict = tf.function(predict, reduce_retracing=True)
    parts = [
        predict(tf.constant(photos[first : first + _BATCH]))
        for first in range(0, len(photos), _BATCH)
    ]
    masks = np.concatenate([np.asarray(part) for part in parts])
    return masks[..., 0] if masks.shape[-1] == 1 else masks


def _reduced(photos: np.ndarray, side: int) -> np.ndarray:
    """Reduces photos to a side and enlarges them again, uint8 [N, R, R, 3]; 0 changes nothing."""
    if not side:
        return photos
    return np.stack(
        [images.to_square(images.to_square(photo, side), photo.shape[0]) for photo in photos]
    )


def _end(rounds: int, settings: StudentConfig, before: float, after: float) -> str:
    """Returns a sentence that explains why self-training ends after some rounds."""
    kept = "" if after >= before else "; the student before it is kept"
    ends = "skips to its last round" if settings.self_training_last_steps else "ends"
    return (
        f"self-training {ends} after round {rounds} of at most {settings.self_training}: it "
        f"changed the agreement with the refined masks from {before:.3f} to {after:.3f}, and a "
        f"rise of {settings.self_training_rise:g} is required{kept}"
    )


def _choose(photos: np.ndarray, most: int, seed: int) -> np.ndarray:
    if len(photos) <= most:
        return photos
    chosen: np.ndarray = photos[subset(seed, len(photos), most)]
    return chosen


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the IoU of each pair of masks, bool [N, H, W] -> float [N]; 1 if both are empty."""
    union = np.count_nonzero(a | b, axis=(1, 2))
    intersection = np.count_nonzero(a & b, axis=(1, 2))
    iou: np.ndarray = np.where(union > 0, intersection / np.maximum(union, 1), 1.0)
    return iou


def _best(scores: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns which masks have the best scores and show both object and background, bool [N]."""
    found = masks > 0.5
    coverage = np.mean(found if found.ndim == 3 else found.any(axis=-1), axis=(1, 2))
    has_both = (coverage > _COVERAGE[0]) & (coverage < _COVERAGE[1])
    best: np.ndarray = has_both & (scores >= np.quantile(scores, 1 - KEPT))
    return best
