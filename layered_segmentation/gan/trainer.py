"""The training run: one `fit` a stage, checkpoints, exact resume."""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from layered_segmentation import schedule
from layered_segmentation.config import Config
from layered_segmentation.data import batches
from layered_segmentation.data.source import Source, open_source
from layered_segmentation.errors import UserError
from layered_segmentation.gan import callbacks, strategy
from layered_segmentation.gan.draws import mean_style_latents
from layered_segmentation.gan.events import Events
from layered_segmentation.gan.layered_gan import LayeredGAN
from layered_segmentation.gan.run_progress import Progress, RunProgress
from layered_segmentation.gan.sampling import sample_layers
from layered_segmentation.run_directory import RunDirectory

SHEET_SCENES = 10
SHEET_SEED = 1


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """How a run went, over all sittings.

    Attributes:
        images_seen: Real images shown since the run began.
        seconds: Wall time of training: compilation, sheets and steps that a stop undid included.
        images_per_second: The images over that time.
        already_finished: Whether there was nothing left to do.
    """

    images_seen: int
    seconds: float
    images_per_second: float
    already_finished: bool


def train(config: Config, run: RunDirectory, devices: Sequence[str] = ()) -> TrainSummary:
    """Trains a run to its end, from its last checkpoint if there is one.

    The same config in the same directory continues bit for bit: a checkpoint holds weights,
    optimiser slots, averages and the images seen, and everything else is a function of these and
    of the seed.

    Args:
        config: The experiment.
        run: Its directory, made if it does not exist.
        devices: Devices to train on; see `strategy.open_strategy`.

    Raises:
        UserError: No usable photos, a directory that holds another run, devices that do not fit,
            or a loss that is not finite.
    """
    finished = run.finished_as(config)  # says so even where the photos are gone
    if finished is not None:
        return TrainSummary(
            finished.images_seen, finished.seconds, finished.images_per_second, True
        )
    engine = strategy.open_strategy(config, devices)
    source = open_source(config.data, config.train.seed)
    run.create_or_resume(config)
    with run.lock():
        cache = batches.PhotoCache.open(
            source,
            [stage.resolution for stage in schedule.stages(config)],
            config.data.crop_margin,
            memory=config.data.cache_memory * 1_000_000,
            directory=config.data.cache_dir or os.path.join(run.path, "cache"),
        )
        run.keep_inventory(source.inventory())
        _tell_skipped(run, source, len(cache))
        with engine.scope():
            gan = LayeredGAN(config)
        return _run(config, run, gan, cache, engine)


def _run(
    config: Config,
    run: RunDirectory,
    gan: LayeredGAN,
    cache: batches.PhotoCache,
    engine: tf.distribute.Strategy,
) -> TrainSummary:
    stages = gan.run_stages
    keeper = CheckpointKeeper(run, gan, config)
    first_image = keeper.restore()
    events = Events(run.tensorboard)
    before = _rewind(run, events, first_image)
    progress = RunProgress(images_seen=first_image, total_images=stages[-1].end_image)
    keeper.progress = progress
    start = time.perf_counter()

    def seconds() -> float:
        return before + time.perf_counter() - start

    def draw() -> Any:
        alpha = schedule.alpha(gan.stage, progress.images_seen)
        return sample_layers(
            gan.average, SHEET_SEED, SHEET_SCENES, resolution=gan.stage.resolution, alpha=alpha
        )

    bar = Progress(progress, stages)
    watchers = [
        Advance(gan, progress),
        callbacks.FiniteLoss(run, progress),
        *([callbacks.CollapseWarning(run, progress, config)] if gan.generator.has_mask else []),
        callbacks.LogWriter(run, progress, events, seconds),
        callbacks.Sheets(run, progress, events, draw, every=config.train.sheet_every),
        keeper,  # after what it makes final: a resumed run writes no record of this step again
        bar,
    ]
    try:
        for stage in stages:
            steps = (stage.end_image - progress.images_seen) // stage.batch
            if steps <= 0:
                continue
            gan.set_stage(stage)
            data = _stage_data(config, stage, cache, progress.images_seen, engine)
            gan.fit(
                data, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False, callbacks=watchers
            )
    finally:
        bar.close()
    spent = seconds()
    keeper.save()
    finish_average(gan.average, config)
    run.save_discriminator(gan.discriminator)
    run.save_generator(gan.average)
    speed = progress.images_seen / spent
    run.finish(progress.images_seen, spent, speed)
    return TrainSummary(progress.images_seen, spent, speed, False)


def _rewind(run: RunDirectory, events: Events, images_seen: int) -> float:
    """Takes log and events back to a checkpoint; returns the seconds of the earlier sittings."""
    before = run.logged_seconds()
    run.truncate_log(images_seen)
    events.truncate(images_seen)
    if images_seen or before:
        # Keeps the time of the steps that were undone, should this sitting be stopped at once.
        run.append_log({"images_seen": images_seen, "resumed": True, "seconds": before})
    return before


def finish_average(average: Any, config: Config) -> None:
    """Sets the averaged generator's truncation centre, from latents of the run's seed."""
    average.update_mean_styles(mean_style_latents(config.train.seed, config.gan.latent_dim))


def _stage_data(
    config: Config,
    stage: schedule.Stage,
    cache: batches.PhotoCache,
    first_image: int,
    engine: tf.distribute.Strategy,
) -> Any:
    """Returns the rest of a stage: (images, images seen before the batch) for each replica."""
    replicas = engine.num_replicas_in_sync
    images = batches.batches(
        cache,
        stage.resolution,
        stage.batch,
        config.data.mirror,
        config.train.seed,
        first_image,
        stage.end_image - first_image,
        replicas,
    )
    steps = (stage.end_image - first_image) // stage.batch
    seen = tf.data.Dataset.range(steps * replicas).map(
        lambda element: first_image + element // replicas * stage.batch
    )
    return strategy.distribute(engine, tf.data.Dataset.zip(images, seen))


def _tell_skipped(run: RunDirectory, source: Source, count: int) -> None:
    print(f"{source.name}: {count:,} images", flush=True)
    if source.skipped:
        path = os.path.join(run.path, "skipped.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(source.skipped) + "\n")
        print(f"the names of all that are left out: {path}")


class Advance(keras.callbacks.Callback):
    """Moves the run's progress on; the first of the callbacks.

    Speed and wait share are over about the last ten seconds.
    """

    def __init__(self, gan: LayeredGAN, progress: RunProgress):
        super().__init__()
        self.gan = gan
        self.progress = progress
        self._mark: tuple[float, int, float] | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._mark = None
        self.progress.stage_index = self.gan.stage.index
        self.progress.resolution = self.gan.stage.resolution

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        progress = self.progress
        progress.images_seen += self.gan.stage.batch
        now = time.perf_counter()
        if self._mark is None:  # the first step compiles
            self._mark = (now, progress.images_seen, self.gan.wait_seconds)
            return
        then, images, waited = self._mark
        progress.images_per_second = (progress.images_seen - images) / (now - then)
        progress.wait_share = (self.gan.wait_seconds - waited) / (now - then)
        if now - then > 10:
            self._mark = (now, progress.images_seen, self.gan.wait_seconds)


class CheckpointKeeper(keras.callbacks.Callback):
    """Writes checkpoints while training, and restores the last one.

    TensorFlow's manager renames a checkpoint to its final name when it is complete, and only then
    names it as the latest.
    """

    def __init__(self, run: RunDirectory, gan: LayeredGAN, config: Config):
        super().__init__()
        self.progress = RunProgress()
        self._every = config.train.checkpoint_every
        self._images_seen = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._saved_at = -1
        self._trained = gan.generator.trainable_variables + gan.discriminator.trainable_variables
        # By name and position: TensorFlow does not look into Keras's lists of layers.
        parts = {
            "generator": gan.generator.variables,
            "discriminator": gan.discriminator.variables,
            "average": gan.average.variables,
            "generator_optimizer": gan.generator_optimizer.variables,
            "discriminator_optimizer": gan.discriminator_optimizer.variables,
        }
        self._checkpoint = tf.train.Checkpoint(
            images_seen=self._images_seen,
            **{name: [variable.value for variable in part] for name, part in parts.items()},
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, run.checkpoints, max_to_keep=config.train.keep_checkpoints
        )

    def restore(self) -> int:
        """Restores the last checkpoint, if there is one; returns the images seen."""
        if self._manager.latest_checkpoint:
            status = self._checkpoint.restore(self._manager.latest_checkpoint)
            status.assert_consumed()
        self._saved_at = int(self._images_seen.numpy())
        return self._saved_at

    def save(self) -> None:
        """Writes a checkpoint of now, unless the last one is of now."""
        if self._saved_at == self.progress.images_seen:
            return
        # A step's metrics are from before its update: look at what would be kept.
        sums = [tf.reduce_sum(variable.value) for variable in self._trained]
        if not bool(tf.math.is_finite(tf.add_n(sums))):
            raise UserError(
                f"a weight is not finite at {self.progress.images_seen:,} images seen: training "
                "has diverged and stops; the last good checkpoint stays. In a new run lower "
                "schedule.learning_rate.default or take --set=train.precision=float32"
            )
        self._saved_at = self.progress.images_seen
        self._images_seen.assign(self._saved_at)
        self._manager.save(checkpoint_number=self._saved_at)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.progress.images_seen // self._every > self._saved_at // self._every:
            self.save()
