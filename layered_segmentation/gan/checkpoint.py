"""Checkpoints of a run in training: written with checksums, restored only if they are whole.

A checkpoint of n images seen is ckpt-n.index and ckpt-n.data-*, as TensorFlow writes them, and
ckpt-n.json, the SHA-256 of each, which is written last. Checkpoints of version 0.1.0 lack the last.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from layered_segmentation import files, records, stopping
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.gan.layered_gan import LayeredGAN
from layered_segmentation.gan.run_progress import RunProgress
from layered_segmentation.run_directory import RunDirectory

_FILE = re.compile(r"ckpt-(?P<number>\d+)\.(index|json|data-\d+-of-\d+)", re.ASCII)
# Also what TensorFlow leaves if it is killed.
_ANY = re.compile(r"ckpt-(?P<number>\d+)[._].*", re.ASCII)
_STATE = "checkpoint"  # for TensorFlow's tools; never read here


class CheckpointKeeper(keras.callbacks.Callback):
    """Writes checkpoints while training, and restores the last one.

    A run has a checkpoint before its first step, so a run that has trained and has none was
    damaged. Another one is written every `train.checkpoint_every` images, every
    `train.checkpoint_minutes`, before a stage, whose first step may compile for long, and when a
    signal asks to stop.

    Args:
        run: The run's directory.
        progress: Kept up to date by the trainer; `restore` sets its images seen.
        gan: The networks and optimizers to save.
        config: The run's config.
        writes: Whether to write checkpoints; False for all workers but the chief.
    """

    def __init__(
        self,
        run: RunDirectory,
        progress: RunProgress,
        gan: LayeredGAN,
        config: Config,
        writes: bool = True,
    ):
        super().__init__()
        self._writes = writes
        self.progress = progress
        self._run = run
        self._every = config.train.checkpoint_every
        self._images_seen = gan.images_seen
        self._seconds = 60 * config.train.checkpoint_minutes
        self._keep = config.train.keep_checkpoints
        self._saved_at = -1
        self._saved_time = time.monotonic()
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
        _ = self._checkpoint.save_counter  # a variable that checkpoints of version 0.1.0 hold
        self._files = CheckpointFiles(run.checkpoints)

    def restore(self) -> None:
        """Restores the last checkpoint that is whole; writes the first one of a new run.

        Raises:
            UserError: The run has trained, but none of its checkpoints is whole.
        """
        damaged = {}
        for number in self._files.numbers():
            problem = self._files.problem(number) or self._read(number)
            if problem is None:
                break
            damaged[number] = problem
        else:
            self._require_new(damaged)
            self.save()
            return
        self.progress.images_seen = self._saved_at = int(self._images_seen.numpy())
        self._saved_time = time.monotonic()
        for newer, problem in damaged.items():
            lost = newer - self._saved_at
            print(
                f"{problem}: this checkpoint is dropped; training goes on from the one at "
                f"{self._saved_at:,} images seen and repeats {lost:,} images",
                file=sys.stderr,
                flush=True,
            )

    def save(self) -> None:
        """Writes a checkpoint, unless nothing was trained since the last one.

        Raises:
            UserError: A weight is not finite.
        """
        if self._saved_at == self.progress.images_seen or not self._writes:
            return
        # A step's metrics are computed before its update, so check the weights themselves.
        sums = [tf.reduce_sum(variable.value) for variable in self._trained]
        if not bool(tf.math.is_finite(tf.add_n(sums))):
            raise UserError(
                f"a weight is not finite at {self.progress.images_seen:,} images seen: training "
                "has diverged and stops; the last good checkpoint stays. In a new run lower "
                "schedule.learning_rate.default or use --set=train.precision=float32"
            )
        number = self.progress.images_seen
        with stopping.saving(), self._files.adding(number) as prefix:
            self._checkpoint.write(prefix)
        self._files.keep(self._keep, number)
        self._saved_at = number
        self._saved_time = time.monotonic()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint before a stage."""
        self.save()
        stopping.check()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint when one is due, and before training stops at a signal."""
        is_due = self.progress.images_seen // self._every > self._saved_at // self._every
        is_late = time.monotonic() - self._saved_time >= self._seconds
        if is_due or is_late or stopping.is_requested():
            self.save()
        stopping.check()

    def _read(self, number: int) -> str | None:
        """Restores a checkpoint; returns what is wrong with its files, or None."""
        prefix = self._files.prefix(number)
        try:
            self._checkpoint.read(prefix).assert_consumed()
        except tf.errors.OpError as error:
            return f"{prefix}: {error.message}"
        return None

    def _require_new(self, damaged: Mapping[int, str]) -> None:
        """Raises a UserError if the run has trained."""
        traces = [*damaged.values(), *self._run.traces()]
        if not traces:
            return
        raise UserError(
            f"{self._run.path}: it has trained ({traces[0]}), but holds no whole checkpoint to "
            "resume from, and training does not start again over it; copy its checkpoints/ from a "
            "backup and run the same command again, or name another directory"
        )


class CheckpointFiles:
    """The checkpoints in a directory.

    Args:
        directory: Created with the first checkpoint.
    """

    def __init__(self, directory: str):
        self.directory = directory

    def prefix(self, number: int) -> str:
        """Returns the path of a checkpoint as TensorFlow names it."""
        return os.path.join(self.directory, f"ckpt-{number}")

    def numbers(self) -> list[int]:
        """Returns the images seen of all checkpoints, damaged ones too, newest first."""
        found = {int(match["number"]) for name in self._names() if (match := _FILE.fullmatch(name))}
        return sorted(found, reverse=True)

    def problem(self, number: int) -> str | None:
        """Returns the file of a checkpoint that is missing or damaged, and how; or None."""
        prefix = self.prefix(number)
        sums = records.read(f"{prefix}.json", records.table(records.is_text)) or {}
        index = f"{os.path.basename(prefix)}.index"
        if index not in sums or not all(_FILE.fullmatch(name) for name in sums):
            return _unreadable(prefix)
        for name, expected in sums.items():
            path = os.path.join(self.directory, name)
            try:
                if files.digest_of_files(path) != expected:
                    return f"{path}: its SHA-256 has changed"
            except OSError as error:
                return f"{path}: {error.strerror}"
        return None

    @contextlib.contextmanager
    def adding(self, number: int) -> Iterator[str]:
        """Adds a checkpoint: whole and on the disk, or not at all.

        Yields:
            The path for TensorFlow to write to.
        """
        os.makedirs(self.directory, exist_ok=True)
        self._remove({number})
        try:
            yield self.prefix(number)
            names = [name for name in self._names() if _number(name) == number]
            sums = {}
            for name in sorted(names):
                path = os.path.join(self.directory, name)
                files.sync(path)
                sums[name] = files.digest_of_files(path)
            files.write_json(f"{self.prefix(number)}.json", sums)
        except BaseException:
            self._remove({number})
            raise

    def keep(self, count: int, newest: int) -> None:
        """Removes all checkpoints but the last ones; newer ones than `newest` are damaged."""
        before = [number for number in self.numbers() if number <= newest]
        kept = before[:count]
        names = [f'model_checkpoint_path: "ckpt-{kept[0]}"']
        names += [f'all_model_checkpoint_paths: "ckpt-{number}"' for number in reversed(kept)]
        files.write_text(os.path.join(self.directory, _STATE), "\n".join(names) + "\n")
        found = {_number(name) for name in self._names()} - {None}
        self._remove({number for number in found if number not in kept})

    def _names(self) -> list[str]:
        return os.listdir(self.directory) if os.path.isdir(self.directory) else []

    def _remove(self, numbers: set[int | None]) -> None:
        for name in self._names():
            if _number(name) in numbers:
                files.remove(os.path.join(self.directory, name))


def _number(name: str) -> int | None:
    match = _ANY.fullmatch(name)
    return int(match["number"]) if match else None


def _unreadable(prefix: str) -> str | None:
    """Returns what is wrong with a checkpoint by TensorFlow's own checksums, or None."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception as error:  # of several kinds, by what is damaged
        return f"{prefix}: {error}"
    return None
