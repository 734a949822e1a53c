"""Checkpoints of a run in training."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from layered_segmentation import files
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.gan.layered_gan import LayeredGAN
from layered_segmentation.gan.run_progress import RunProgress
from layered_segmentation.run_directory import RunDirectory


class CheckpointKeeper(keras.callbacks.Callback):
    """Writes checkpoints while training, and restores the last one.

    TensorFlow's manager renames a checkpoint to its final name when it is complete, and only then
    records it as the latest.

    Args:
        run: The run's directory.
        progress: Kept up to date by the trainer; `restore` sets its images seen.
        gan: The networks and optimizers to save.
        config: The run's config.
    """

    def __init__(self, run: RunDirectory, progress: RunProgress, gan: LayeredGAN, config: Config):
        super().__init__()
        self.progress = progress
        self._every = config.train.checkpoint_every
        self._images_seen = gan.images_seen
        self._saved_at = -1
        self._trained = gan.generator.trainable_variables + gan.discriminator.trainable_variables
        # By name and position, since TensorFlow does not track Keras's lists of layers.
        parts = {
            "generator": gan.generator.variables,
            "discriminator": gan.discriminator.variables,
            "average": gan.average.variables,
            "generator_optimizer": gan.generator_optimizer.variables,
            "discriminator_optimizer": gan.discriminator_optimizer.variables,
        }
        self._checkpoint = tf.train.Checkpoint(
            images_seen=self._images_seen.value,
            **{name: [variable.value for variable in part] for name, part in parts.items()},
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, run.checkpoints, max_to_keep=config.train.keep_checkpoints
        )

    def restore(self) -> None:
        """Restores the last checkpoint, if there is one."""
        if self._manager.latest_checkpoint:
            status = self._checkpoint.restore(self._manager.latest_checkpoint)
            status.assert_consumed()
        self.progress.images_seen = self._saved_at = int(self._images_seen.numpy())

    def save(self) -> None:
        """Writes a checkpoint, unless nothing was trained since the last one.

        Raises:
            UserError: A weight is not finite.
        """
        if self._saved_at == self.progress.images_seen:
            return
        # A step's metrics are computed before its update, so check the weights themselves.
        sums = [tf.reduce_sum(variable.value) for variable in self._trained]
        if not bool(tf.math.is_finite(tf.add_n(sums))):
            raise UserError(
                f"a weight is not finite at {self.progress.images_seen:,} images seen: training "
                "has diverged and stops; the last good checkpoint stays. In a new run lower "
                "schedule.learning_rate.default or use --set=train.precision=float32"
            )
        self._saved_at = self.progress.images_seen
        self._manager.save(checkpoint_number=self._saved_at)
        files.sync(self._manager.directory)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint when one is due."""
        if self.progress.images_seen // self._every > self._saved_at // self._every:
            self.save()
