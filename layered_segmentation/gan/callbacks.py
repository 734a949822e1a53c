"""What GAN training writes for people: log, TensorBoard, sheets, and warnings with advice.

`Advance` updates one `RunProgress` before the callbacks here read it. Metrics arrive in `logs` as
floats: wasserstein, gradient_penalty, d_loss, g_loss, coverage, binarisation, alpha. There is one
`fit` per stage; a callback serves all of them.
"""

import collections
import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tqdm
from google.protobuf.message import DecodeError

from layered_segmentation import files, sheets, stopping
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.gan import collapse
from layered_segmentation.gan.composite import Layers
from layered_segmentation.gan.run_progress import Every, RunProgress
from layered_segmentation.run_directory import RunDirectory

LOG_EVERY = 1_000  # images between records of the log

_WINDOW = 200  # steps over which coverage is averaged
_FRAME = 16  # bytes around a record of a TFRecord file: its length and two checksums


class Events:
    """Writes a run's scalars and images for TensorBoard.

    TensorBoard reads the files of a directory one after the other and never returns to an earlier
    one, so all callbacks of a process share one writer and with it one file.

    Args:
        directory: Created with the first record.
    """

    def __init__(self, directory: str):
        self.directory = directory
        self._writer: Any = None

    def write_scalars(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Writes scalars by name, on disk when this returns."""
        with self._open().as_default(step=images_seen):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def write_image(self, images_seen: int, name: str, image: np.ndarray) -> None:
        """Writes a uint8 image [H, W, 3], on disk when this returns."""
        with self._open().as_default(step=images_seen):
            tf.summary.image(name, image[None])
        self._writer.flush()

    def truncate(self, images_seen: int) -> None:
        """Drops the records written after a checkpoint, so that a resumed run shows nothing twice.

        Call it before the first record. A running TensorBoard shows the dropped records until it is
        restarted.

        Args:
            images_seen: Images seen at the checkpoint that training resumes from.
        """
        if not os.path.isdir(self.directory):
            return
        for name in sorted(os.listdir(self.directory)):
            if ".tfevents." in name:
                self._truncate(os.path.join(self.directory, name), images_seen)

    def _truncate(self, path: str, images_seen: int) -> None:
        with open(path, "rb") as file:
            content = file.read()
        kept, start = [], 0
        with contextlib.suppress(tf.errors.DataLossError):  # killed while writing the last record
            for record in tf.data.TFRecordDataset(path):
                event = record.numpy()
                end = start + len(event) + _FRAME
                with contextlib.suppress(DecodeError):
                    if tf.compat.v1.Event.FromString(event).step <= images_seen:
                        kept.append(content[start:end])
                start = end
        remaining = b"".join(kept)
        if remaining != content:
            files.write_bytes(path, remaining)

    def _open(self) -> Any:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self.directory)
        return self._writer


class _RunCallback(keras.callbacks.Callback):
    """A callback of a run, of which it knows the directory and the progress."""

    def __init__(self, run: RunDirectory, progress: RunProgress):
        super().__init__()
        self.run = run
        self.progress = progress


class LogWriter(_RunCallback):
    """Writes means over the last images to log.jsonl and TensorBoard.

    Args:
        run: The run's directory.
        progress: Where the run is.
        events: The run's event files.
        seconds: Returns the training time so far, of all sessions.
    """

    def __init__(
        self,
        run: RunDirectory,
        progress: RunProgress,
        events: Events,
        seconds: Callable[[], float],
    ):
        super().__init__(run, progress)
        self.events = events
        self.seconds = seconds
        self._due = Every(progress, LOG_EVERY)
        self._sums: collections.Counter[str] = collections.Counter()
        self._counts: collections.Counter[str] = collections.Counter()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Accumulates the means and writes them when they are due."""
        for key, value in (logs or {}).items():
            self._sums[key] += float(value)  # type: ignore[assignment]
            self._counts[key] += 1
        if not self._due.passed():
            return
        # Not every step has a gradient penalty, with `gan.penalty_every`.
        means = {key: value / self._counts[key] for key, value in self._sums.items()}
        if logs and "alpha" in logs:
            means["alpha"] = float(logs["alpha"])
        self._sums.clear()
        self._counts.clear()
        progress = dataclasses.asdict(self.progress)
        del progress["total_images"]
        self.run.append_log({**progress, **means, "seconds": self.seconds()})
        speed = {name: progress[name] for name in ("images_per_second", "wait_share")}
        self.events.write_scalars(self.progress.images_seen, {**means, **speed})


class Sheets(_RunCallback):
    """Writes image sheets of the averaged generator, always with the same latents.

    Args:
        run: The run's directory.
        progress: Where the run is.
        events: The run's event files.
        draw: Draws layers at the current resolution and alpha, as arrays [B, R, R, C].
        every: Images between sheets.
    """

    def __init__(
        self,
        run: RunDirectory,
        progress: RunProgress,
        events: Events,
        draw: Callable[[], Layers],
        every: int,
    ):
        super().__init__(run, progress)
        self.events = events
        self.draw = draw
        # A sheet that a signal interrupted is drawn after the next step.
        before = [seen for seen in run.drawn_sheets() if seen <= progress.images_seen]
        self._due = Every(progress, every, max(before, default=0))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes a sheet when one is due, and one at the end of the run."""
        if self._due.passed() or self.progress.images_seen >= self.progress.total_images:
            self.write()

    def write(self) -> str:
        """Writes a sheet now and returns its path."""
        images_seen = self.progress.images_seen
        with stopping.interruptible():
            sheet = sheets.layers_sheet(self.draw())
        os.makedirs(self.run.sheets, exist_ok=True)
        path = os.path.join(self.run.sheets, f"{images_seen:08d}.png")
        sheets.save_png(sheet, path)
        self.events.write_image(images_seen, "layers", sheet)
        return path


class CollapseWarning(_RunCallback):
    """Warns once, with advice, when masks have collapsed.

    Masks have become empty or cover everything over the last steps, or several looks in a row at
    the masks of fixed latents have found the same `collapse.kind`. The looks are logged.

    Args:
        run: The run's directory; the warning is also written to its log.
        progress: Where the run is.
        config: The run's config, whose values the advice quotes.
        draw_masks: Draws the masks of fixed latents, float [N, R, R, 1]; None for no looks.
        events: The run's event files; needed for looks.
        may_restart: Whether a collapse that the looks have found ends the attempt, by
            `collapse.Collapsed`, instead of a warning.
    """

    def __init__(
        self,
        run: RunDirectory,
        progress: RunProgress,
        config: Config,
        draw_masks: Callable[[], np.ndarray] | None = None,
        events: Events | None = None,
        may_restart: bool = False,
    ):
        super().__init__(run, progress)
        self.config = config
        self.draw_masks = draw_masks
        self.events = events
        self.may_restart = may_restart
        layers = config.gan.layers
        names = ["coverage"] if layers == 1 else [f"coverage_{k + 1}" for k in range(layers)]
        # The logs of an execution are means over its steps.
        self._steps = config.train.steps_per_execution
        window = max(1, _WINDOW // self._steps)
        self._recent = {name: collections.deque[float](maxlen=window) for name in names}
        # A resumed run does not repeat its warnings, and continues its looks.
        records = run.read_log()
        self._warned = {record["collapse"] for record in records if "collapse" in record}
        looks = [record for record in records if "look" in record]
        self._kinds = collections.deque[str]((one["look"] for one in looks), maxlen=collapse.LOOKS)
        # A look that a signal interrupted is taken after the next step.
        last = looks[-1]["images_seen"] if looks else 0
        self._due = Every(progress, collapse.LOOK_EVERY, last)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Checks the recent coverage, and the masks of fixed latents when that is due."""
        if self._due.passed() and self.draw_masks:
            is_last = self.progress.resolution in (0, self.config.gan.resolution)
            is_faded_in = float((logs or {}).get("alpha", 1.0)) == 1.0
            is_large = is_last or self.progress.resolution >= 16
            with stopping.interruptible():
                masks = self.draw_masks()
            self._look(masks, is_large and is_faded_in)
        for name, recent in self._recent.items():
            if not logs or name not in logs:
                continue
            recent.append(float(logs[name]))
            if len(recent) < (recent.maxlen or 1):
                continue
            mean = sum(recent) / len(recent)
            layer = name.removeprefix("coverage").replace("_", " of layer ")
            steps = len(recent) * self._steps
            facts = f"mean mask coverage{layer} over the last {steps} steps is {mean:.3f}"
            if mean < 0.02:
                self._warn("empty", facts)
            elif mean > 0.98:
                self._warn("full", facts)

    def _look(self, masks: np.ndarray, is_faded_in: bool) -> None:
        gan, seen = self.config.gan, self.progress.images_seen
        found = collapse.statistics(masks, gan.shift)
        kind = collapse.kind(found, gan, is_faded_in)
        values = dataclasses.asdict(found)
        self.run.append_log({"images_seen": seen, **values, "look": kind})
        if self.events:
            self.events.write_scalars(seen, values)
        self._kinds.append(kind)
        if kind == "none" or list(self._kinds) != [kind] * collapse.LOOKS:
            return
        facts = (
            f"masks of {len(masks)} fixed latents cover {found.mask_coverage:.2f} of the image and "
            f"{found.mask_edge:.2f} of its edge, and after the best shift have an IoU of "
            f"{found.mask_alike:.2f} with another scene's"
        )
        if self.may_restart:
            raise collapse.Collapsed(kind, self._message(kind, facts))
        self._warn(kind, facts)

    def _message(self, kind: str, facts: str) -> str:
        advice = collapse.advice(kind, self.config)
        return f"warning: at {self.progress.images_seen:,} images {facts}; {advice}"

    def _warn(self, kind: str, facts: str) -> None:
        if kind in self._warned:
            return
        self._warned.add(kind)
        message = self._message(kind, facts)
        if not self.config.train.restarts:
            message += ". With train.restarts=2 training begins again by itself"
        self.run.append_log(
            {"images_seen": self.progress.images_seen, "collapse": kind, "warning": message}
        )
        tqdm.tqdm.write(message, file=sys.stderr)


class FiniteLoss(_RunCallback):
    """Stops the run when a loss is not finite; must come before the checkpoints' callback."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Raises UserError if a metric is not finite."""
        for key, value in (logs or {}).items():
            if math.isfinite(float(value)):
                continue
            raise UserError(
                f"{key} is {float(value)} at {self.progress.images_seen:,} images seen, step "
                f"{batch + 1:,} of the {self.progress.resolution} px stage since the last start: "
                f"training has diverged and stops. The last good checkpoint stays in "
                f"{self.run.checkpoints}. In a new run lower schedule.learning_rate.default or "
                "use --set=train.precision=float32"
            )
