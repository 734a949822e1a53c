"""Distillation: the student learns from pairs that the layered generator draws, without labels.

A pool of scenes is drawn once, because drawing a scene costs more than learning from it.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from layered_segmentation import files, paths, sheets
from layered_segmentation.choices import Aspect, Precision, StudentMasks
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.gan import composite, networks, strategy
from layered_segmentation.gan.composite import Layers, union_mask, visible_masks
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.gan.keras_settings import DATA_FORMAT
from layered_segmentation.gan.sampling import sampler
from layered_segmentation.images import TRIANGLE, to_square, to_uint8_mask
from layered_segmentation.progress import Bar
from layered_segmentation.run_directory import STUDENT_MASKS, STUDENT_RESULTS, RunDirectory
from layered_segmentation.segmenter import (
    domain,
    fit,
    model_card,
    presets,
    self_training,
    student_events,
)
from layered_segmentation.segmenter.domain import Domain
from layered_segmentation.segmenter.fit import FitSummary, Pool
from layered_segmentation.segmenter.preprocessing import union
from layered_segmentation.segmenter.segmenter import LayeredSegmenter, create_segmenter
from layered_segmentation.segmenter.self_training import RoundSummary
from layered_segmentation.segmenter.student_events import StudentEvents

POOL = 10_000  # scenes
_QUICK_STEPS = 200
_POOL_BYTES = 500_000_000
_DRAW_BATCH = 64


@dataclasses.dataclass(frozen=True)
class DistillSummary(FitSummary):
    """The result of a distillation, including the drawing of the pool and self-training.

    Attributes:
        seconds: Total duration.
        draw_seconds: Time spent drawing the pool.
        precision: That of the training, as `auto` has chosen it.
        self_training_rounds: Completed rounds of self-training.
        self_training_judged: `RoundSummary.judged` of each round.
        rounds: The summaries of the rounds.
    """

    draw_seconds: float = 0.0
    precision: Precision = Precision.float32
    self_training_rounds: int = 0
    self_training_judged: tuple[float, ...] = ()
    rounds: tuple[RoundSummary, ...] = ()


def distill(
    generator: LayeredGenerator,
    config: Config,
    photos: np.ndarray | None = None,
    devices: Sequence[str] = (),
    events: StudentEvents | None = None,
) -> tuple[LayeredSegmenter, DistillSummary]:
    """Trains a student on a generator's scenes, then on its own masks of unlabelled photos.

    Args:
        generator: The averaged generator of a run.
        config: The run's config, of which `student`, `train.seed` and the mixing and perturbation
            of `gan` are used.
        photos: The training photos for self-training, from `self_training.training_photos`; None
            for no self-training.
        devices: Devices to train on; all accelerators if empty, as of `strategy.on_devices`.
        events: Where the phases are written. It shows masks of photos, of scenes without photos.

    Returns:
        The segmenter, with averaged weights, and the summary. Its loss and agreement are those on
        the generated pairs.

    Raises:
        UserError: The loss is not finite.
    """
    engine = strategy.on_devices(devices, {"student.batch": config.student.batch})
    seed = config.train.seed
    start = time.perf_counter()
    pool = draw_pool(generator, config)
    drawn = time.perf_counter() - start
    side = pool.layers.mask.shape[1]
    if events is not None:
        events.show(_composites(pool) if photos is None else photos, side)
    events = events or StudentEvents()
    rounds: list[RoundSummary] = []
    with engine.scope():
        masks = generator.foreground_layers if learns_each(config) else 1
        segmenter = create_segmenter(config.student.width, side, config.data.aspect, masks)
        fit.initialise(segmenter, seed)
        student = fit.with_precision(segmenter, pool, config.student)
        events.begin(student_events.FIRST)
        summary = fit.fit(segmenter, pool, student, seed, events)
        self_training.show_masks(segmenter, events, summary.steps)
        if photos is not None and student.self_training:
            rounds = self_training.self_train(
                segmenter, photos, student, seed, events, generator.resolution
            )
    fields = {**dataclasses.asdict(summary), "seconds": time.perf_counter() - start}
    judged = tuple(part.judged for part in rounds)
    return segmenter, DistillSummary(
        **fields,
        draw_seconds=drawn,
        precision=student.precision,
        self_training_rounds=len(rounds),
        self_training_judged=judged,
        rounds=tuple(rounds),
    )


def quick(config: Config) -> Config:
    """Returns a config with a student of few steps, which judges a generator."""
    student = dataclasses.replace(
        config.student,
        steps=min(_QUICK_STEPS, config.student.steps),
        self_training=0,
        precision=Precision.float32,  # a measurement would take longer than it saves
    )
    return dataclasses.replace(config, student=student)


def distill_run(
    run: RunDirectory,
    config: Config,
    out: str,
    overwrite: bool,
    devices: Sequence[str] = (),
    float16: bool = False,
) -> tuple[LayeredSegmenter, DistillSummary]:
    """Distils a run's generator and writes the student's preset with a drafted model card.

    It also writes the results (`STUDENT_RESULTS`), a picture of the student's masks after each
    phase (`STUDENT_MASKS`), and the phases for TensorBoard.

    Args:
        run: The run.
        config: Its config, perhaps with other settings of the student.
        out: The preset.
        overwrite: Whether to replace an existing preset.
        devices: As for `distill`.
        float16: Whether to store the preset's weights as 16-bit numbers.

    Returns:
        As for `distill`.

    Raises:
        UserError: The run has no generator, its photos cannot be read, the loss is not finite, or
            the preset exists and `overwrite` is off.
    """
    generator = networks.load_generator(run)
    side = config.student.resolution or generator.resolution
    photos = self_training.training_photos(config, side)
    name = paths.name_of(out)
    events = StudentEvents(os.path.join(run.tensorboard, name))
    shutil.rmtree(events.directory, ignore_errors=True)  # of the student that is replaced
    segmenter, summary = distill(generator, config, photos, devices, events)
    facts = {"steps": summary.steps, "seed": config.train.seed}
    card = model_card.draft(config, side, segmenter.count_params(), facts)
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    statistics = statistics_of(segmenter, config, photos)
    presets.save(segmenter, out, overwrite, card, True, float16, statistics)
    sheet = events.sheet()
    if sheet is not None:
        sheets.save_png(sheet, out + STUDENT_MASKS)
    results = {
        **dataclasses.asdict(summary),
        "parameters": segmenter.count_params(),
        "resolution": segmenter.resolution,
        "seed": config.train.seed,
        "student": dataclasses.asdict(config.student),
    }
    files.write_json(out + STUDENT_RESULTS, results)
    return segmenter, summary


def statistics_of(
    segmenter: LayeredSegmenter, config: Config, photos: np.ndarray | None = None
) -> Domain | None:
    """Returns the statistics of the training photos and a student's masks of them.

    Args:
        segmenter: The student, of resolution R.
        config: The run's config.
        photos: The training photos, uint8 [N, S, S, 3] with S >= R; None to load them.

    Returns:
        The statistics; None if there are too few photos, if they cannot be read, or if training cut
        or padded them: whole photos would not compare with these.
    """
    if config.data.aspect != Aspect.squash:
        return None
    side = segmenter.resolution
    try:
        if photos is None:
            photos = self_training.load_photos(config, side, domain.PHOTOS, TRIANGLE)
    except UserError:  # a preset is complete without
        return None
    count = min(domain.PHOTOS, len(photos))
    chosen = photos[np.linspace(0, len(photos) - 1, count).round().astype(int)]
    small = np.stack([to_square(photo, side) for photo in chosen])
    masks = self_training.probabilities(segmenter, small)
    return Domain.of_training(small, masks if masks.ndim == 3 else union(masks)[..., 0])


def draw_pool(generator: LayeredGenerator, config: Config) -> Pool:
    """Draws scenes at the student's resolution, with style mixing and noise as in training."""
    side = config.student.resolution or generator.resolution
    needed = config.student.steps * config.student.batch
    layers = generator.foreground_layers
    count = min(POOL, needed, _POOL_BYTES // ((3 + 4 * layers) * side * side))
    seed, mixing = config.train.seed, config.gan.mixing
    draw = sampler(generator, seed, _DRAW_BATCH, mixing, generator.resolution)
    pool = Layers(
        *(np.empty((count, side, side, size), np.uint8) for size in (3, 3 * layers, layers))
    )
    with Bar(count, "drawing scenes", "scene") as bar:
        for first in range(0, count, _DRAW_BATCH):
            drawn = draw(
                tf.constant(first // _DRAW_BATCH, tf.int64),
                tf.constant(config.student.truncation),
                tf.constant(1.0),
            )
            rows = slice(first, min(first + _DRAW_BATCH, count))
            size = rows.stop - rows.start
            background, foreground, mask = (_resize(part[:size], side) for part in drawn)
            pool.background[rows] = to_uint8_mask(background * 0.5 + 0.5)
            pool.foreground[rows] = to_uint8_mask(foreground * 0.5 + 0.5)
            pool.mask[rows] = to_uint8_mask(mask)
            bar.update(size)
    gan = config.gan
    return Pool(
        pool,
        gan.shift,
        gan.contrast_jitter,
        gan.background_swap,
        gan.scale,
        target=visible_masks if learns_each(config) else union_mask,
    )


def _composites(pool: Pool) -> np.ndarray:
    """Returns the first scenes of a pool as images, uint8 [N, R, R, 3]."""
    scenes = Layers(*(part[: student_events.SHOWN].astype(np.float32) for part in pool.layers))
    images = composite.compose(scenes._replace(mask=scenes.mask / 255))
    levels: np.ndarray = np.rint(np.asarray(images)).astype(np.uint8)
    return levels


def learns_each(config: Config) -> bool:
    """Returns whether the student learns a mask for each foreground layer."""
    return config.student.masks == StudentMasks.each


def _resize(images: Any, side: int) -> Any:
    if images.shape[1] == side:
        return images
    return ops.image.resize(
        images, (side, side), interpolation="bilinear", antialias=True, data_format=DATA_FORMAT
    )
