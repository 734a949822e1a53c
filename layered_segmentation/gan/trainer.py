"""The training run: one `fit` a stage, checkpoints, exact resume."""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from layered_segmentation import files, records, schedule, stopping
from layered_segmentation.config import Config
from layered_segmentation.data import batches
from layered_segmentation.data.source import Source, open_source
from layered_segmentation.errors import UserError
from layered_segmentation.gan import attempts, callbacks, collapse, networks, precision, strategy
from layered_segmentation.gan.checkpoint import CheckpointKeeper
from layered_segmentation.gan.composite import Layers, union_mask
from layered_segmentation.gan.draws import mean_style_latents
from layered_segmentation.gan.layered_gan import LayeredGAN
from layered_segmentation.gan.run_progress import Advance, ProgressBar, RunProgress
from layered_segmentation.gan.sampling import sample_layers
from layered_segmentation.run_directory import Finished, RunDirectory

SHEET_SCENES = 10
SHEET_SEED = 1


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """How a run went, over all sessions."""

    images_seen: int  # real images shown since the run began
    # Wall time of training, including compilation, sheets and steps that an interruption undid.
    seconds: float
    images_per_second: float  # `images_seen` over `seconds`
    already_finished: bool  # whether there was nothing left to do
    is_chief: bool = True  # whether this process wrote the run; False for all workers but the first


def train(
    config: Config,
    run: RunDirectory,
    devices: Sequence[str] = (),
    watchers: Sequence[keras.callbacks.Callback] = (),
    load_student: Callable[[str], Any] | None = None,
) -> TrainSummary:
    """Trains a run to its end, from its last checkpoint if there is one.

    A resumed run is the same bit for bit: a checkpoint holds weights, optimizer slots, averages
    and the images seen, and everything else is a function of these and of the seed.

    Args:
        config: The experiment.
        run: Its directory, created if it does not exist.
        devices: Devices to train on; see `strategy.open_strategy`.
        watchers: Further callbacks.
        load_student: Loads `gan.background_student`, as `presets.load_background_student` does.

    Raises:
        UserError: No usable photos or student, a directory that holds another run, unsuitable
            devices, or a loss that is not finite.
    """
    finished = run.finished_as(config)  # needs no photos
    # Damaged files are written again; those of a converted run cannot be.
    if finished is not None and (not finished.images_seen or networks.are_whole(run)):
        return TrainSummary(
            finished.images_seen, finished.seconds, finished.images_per_second, True
        )
    with strategy.reports_lost_workers(config), contextlib.ExitStack() as stack:
        engine = strategy.open_strategy(config, devices)
        is_chief = strategy.is_chief(engine)
        student = None
        if config.gan.background_student and load_student is not None:
            with engine.scope():
                student = load_student(config.gan.background_student)
        if is_chief:
            source = open_source(config.data, config.train.seed)
            run.create_or_resume(config)
            stack.enter_context(run.lock())
            cache = _open_cache(config, run, source)
            run.keep_inventory(source.inventory())
            _keep_student(run, student)
            _report_skipped(run, source, len(cache))
            precision.choose(config, run, engine, student)
        strategy.wait_for_workers(engine)
        if not is_chief:
            run.require_same(config)
            cache = _open_cache(config, run, open_source(config.data, config.train.seed))
        config = precision.resolve(config, run)
        summary = _attempts(config, run, cache, engine, watchers, student)
        strategy.wait_for_workers(engine)
        return summary


def _attempts(
    config: Config,
    run: RunDirectory,
    cache: batches.PhotoCache,
    engine: tf.distribute.Strategy,
    further: Sequence[keras.callbacks.Callback],
    student: Any,
) -> TrainSummary:
    """Trains until an attempt ends, with its own seed and bounds after one that collapsed."""
    while True:
        attempt = attempts.current(run, config)
        with engine.scope():
            gan = LayeredGAN.from_run_config(attempt, student=student)
        try:
            return _run(attempt, run, gan, cache, engine, further)
        except collapse.Collapsed as found:
            print(attempts.set_aside(run, config, found), file=sys.stderr, flush=True)


def _keep_student(run: RunDirectory, student: Any) -> None:
    """Records the weights of the student, or checks that they are those the run began with.

    Raises:
        UserError: The run has begun with others.
    """
    if student is None:
        return
    found = files.digest(b"".join(weight.tobytes() for weight in student.get_weights()))
    record = records.read(run.student_path, {"weights": records.is_text})
    if record is None or not run.has_begun():
        files.write_json(run.student_path, {"weights": found})
    elif record["weights"] != found:
        raise UserError(
            f"{run.path}: the segmenter of gan.background_student has changed since the run began. "
            "A run trains with the same one to its end: bring that one back, or name another "
            "directory for a new run"
        )


def _open_cache(config: Config, run: RunDirectory, source: Source) -> batches.PhotoCache:
    return batches.PhotoCache.open(
        source,
        [stage.resolution for stage in schedule.stages(config)],
        config.data.crop_margin,
        memory=config.data.cache_memory * 1_000_000,
        directory=config.data.cache_dir or os.path.join(run.path, "cache"),
    )


def _run(
    config: Config,
    run: RunDirectory,
    gan: LayeredGAN,
    cache: batches.PhotoCache,
    engine: tf.distribute.Strategy,
    further: Sequence[keras.callbacks.Callback],
) -> TrainSummary:
    stages = gan.stages
    progress = RunProgress(total_images=stages[-1].end_image)
    is_chief = strategy.is_chief(engine)
    keeper = CheckpointKeeper(run, progress, gan, config, writes=is_chief)
    if is_chief:
        keeper.restore()
        strategy.note_machine(run, engine, progress.images_seen)
    strategy.wait_for_workers(engine)
    if not is_chief:
        keeper.restore()
    events = callbacks.Events(run.tensorboard)
    before = _rewind(run, events, progress.images_seen) if is_chief else 0.0
    start = time.perf_counter()

    def seconds() -> float:
        return before + time.perf_counter() - start

    def draw_sheet() -> Layers:
        alpha = schedule.alpha(gan.stage, progress.images_seen)
        return sample_layers(
            gan.average, SHEET_SEED, SHEET_SCENES, resolution=gan.stage.resolution, alpha=alpha
        )

    def draw_masks() -> np.ndarray:
        # Of the generator itself: its average lags behind by up to 1,000 steps.
        alpha, side = schedule.alpha(gan.stage, progress.images_seen), gan.stage.resolution
        scenes = collapse.SEED, collapse.SCENES
        layers = sample_layers(gan.generator, *scenes, resolution=side, alpha=alpha)
        masks: np.ndarray = union_mask(layers.mask)
        return masks

    bar = ProgressBar(progress, stages)
    drawn = callbacks.Sheets(run, progress, events, draw_sheet, every=config.train.sheet_every)
    may_restart = attempts.restarts_left(run, config) > 0
    watch = callbacks.CollapseWarning(
        run, progress, config, draw_masks=draw_masks, events=events, may_restart=may_restart
    )
    watchers: list[keras.callbacks.Callback] = [
        Advance(gan, progress),
        callbacks.FiniteLoss(run, progress),
    ]
    writers = [
        *([watch] if gan.generator.has_mask else []),
        callbacks.LogWriter(run, progress, events, seconds),
        drawn,
        keeper,  # last of those that write, so that a resumed run repeats no record of this step
        bar,
    ]
    watchers += [*(writers if is_chief else [keeper]), *further]
    try:
        with stopping.deferred(), cache.failures():
            for stage in stages:
                steps = (stage.end_image - progress.images_seen) // stage.batch
                if steps < 0:
                    continue
                gan.set_stage(stage)
                if steps:
                    data = _stage_data(config, stage, cache, progress.images_seen, engine)
                    gan.fit(
                        data,
                        steps_per_epoch=steps,
                        epochs=1,
                        verbose=0,
                        shuffle=False,
                        callbacks=watchers,
                    )
                keeper.save()  # before what takes long, so that a signal does not lose a step
                if is_chief:
                    _keep_stage(run, config, gan, seconds())
    except stopping.Stopped:
        keeper.save()  # a signal while a sheet was drawn, after a whole step
        raise
    except collapse.Collapsed:
        drawn.write()
        raise
    finally:
        bar.close()
    spent = seconds()
    latents = mean_style_latents(config.train.seed, config.gan.latent_dim)
    gan.average.update_mean_styles(latents)
    speed = progress.images_seen / spent
    if is_chief:
        networks.save_discriminator(run, gan.discriminator)
        networks.save_generator(run, gan.average)
        run.finish(progress.images_seen, spent, speed)
    return TrainSummary(progress.images_seen, spent, speed, False, is_chief)


def _keep_stage(run: RunDirectory, config: Config, gan: LayeredGAN, seconds: float) -> None:
    """Keeps the networks at the end of a stage, if the config asks for it."""
    side, seen, keep = gan.stage.resolution, gan.stage.end_image, config.train.keep_stages
    if gan.stage == gan.stages[-1] or (keep is not None and side not in keep):
        return
    of_stage = dataclasses.replace(
        config,
        gan=dataclasses.replace(config.gan, resolution=side),
        train=dataclasses.replace(config.train, keep_stages=[]),
    )
    parts = gan.average, gan.generator, gan.discriminator
    networks.save_stage(run, of_stage, parts, Finished(seen, seconds, seen / seconds))


def _rewind(run: RunDirectory, events: callbacks.Events, images_seen: int) -> float:
    """Truncates log and events to a checkpoint; returns the seconds of the earlier sessions."""
    before = run.logged_seconds()
    run.truncate_log(images_seen)
    events.truncate(images_seen)
    if images_seen or before:
        # Keeps the time of the steps that were undone, should this session be stopped at once.
        run.append_log({"images_seen": images_seen, "resumed": True, "seconds": before})
    return before


def _stage_data(
    config: Config,
    stage: schedule.Stage,
    cache: batches.PhotoCache,
    first_image: int,
    engine: tf.distribute.Strategy,
) -> Any:
    """Returns the images of the rest of a stage, for each replica."""
    images = batches.batches(
        cache,
        stage.resolution,
        stage.batch,
        config.data.mirror,
        config.train.seed,
        first_image,
        stage.end_image - first_image,
        engine.num_replicas_in_sync,
        strategy.local_replicas(engine),
    )
    return strategy.distribute(engine, images)


def _report_skipped(run: RunDirectory, source: Source, count: int) -> None:
    print(f"{source.name}: {count:,} images", flush=True)
    if source.skipped:
        path = os.path.join(run.path, "skipped.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(source.skipped) + "\n")
        print(f"names of all skipped files: {path}")
