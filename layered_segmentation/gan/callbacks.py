"""What GAN training leaves for a person: log, sheets, and warnings with advice.

The trainer keeps one `RunProgress` up to date before each `on_train_batch_end`; metrics arrive in
`logs` as floats: wasserstein, gradient_penalty, d_loss, g_loss, coverage, binarisation, alpha.
There is one `fit` a stage; a callback serves all of them.
"""

import collections
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import keras
import tqdm

from layered_segmentation import sheets
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.gan.composite import Layers
from layered_segmentation.gan.events import Events
from layered_segmentation.gan.run_progress import Every, RunProgress
from layered_segmentation.run_directory import RunDirectory


class LogWriter(keras.callbacks.Callback):
    """Writes means over the last images to log.jsonl and TensorBoard.

    Args:
        run: The run's directory.
        progress: Kept up to date by the trainer.
        events: The run's event files.
        seconds: Returns the training time so far, of all sittings.
        every: Images between records.
    """

    def __init__(
        self,
        run: RunDirectory,
        progress: RunProgress,
        events: Events,
        seconds: Callable[[], float],
        every: int = 1_000,
    ):
        super().__init__()
        self.run = run
        self.progress = progress
        self.events = events
        self.seconds = seconds
        self._due = Every(progress, every)
        self._sums: collections.Counter[str] = collections.Counter()
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Adds to the means; writes them when they are due."""
        for key, value in (logs or {}).items():
            self._sums[key] += float(value)  # type: ignore[assignment]
        self._steps += 1
        if not self._due.passed():
            return
        means = {key: value / self._steps for key, value in self._sums.items()}
        if logs and "alpha" in logs:
            means["alpha"] = float(logs["alpha"])
        self._sums.clear()
        self._steps = 0
        progress = dataclasses.asdict(self.progress)
        del progress["total_images"]
        self.run.append_log({**progress, **means, "seconds": self.seconds()})
        speed = {name: progress[name] for name in ("images_per_second", "wait_share")}
        self.events.write_scalars(self.progress.images_seen, {**means, **speed})


class Sheets(keras.callbacks.Callback):
    """Writes image sheets of the averaged generator, always with the same latents.

    Args:
        run: The run's directory.
        progress: Kept up to date by the trainer.
        events: The run's event files.
        draw: Draws the layers at the run's present resolution and alpha, as arrays
            [B, R, R, C].
        every: Images between sheets.
        columns: Scenes side by side.
    """

    def __init__(
        self,
        run: RunDirectory,
        progress: RunProgress,
        events: Events,
        draw: Callable[[], Layers],
        every: int,
        columns: int = 10,
    ):
        super().__init__()
        self.run = run
        self.progress = progress
        self.events = events
        self.draw = draw
        self.columns = columns
        self._due = Every(progress, every)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes a sheet when one is due, and one at the very end."""
        if self._due.passed() or self.progress.images_seen >= self.progress.total_images:
            self.write()

    def write(self) -> str:
        """Writes a sheet now and returns its path."""
        images_seen = self.progress.images_seen
        sheet = sheets.layers_sheet(self.draw(), columns=self.columns)
        os.makedirs(self.run.sheets, exist_ok=True)
        path = os.path.join(self.run.sheets, f"{images_seen:08d}.png")
        sheets.save_png(sheet, path)
        self.events.write_image(images_seen, "layers", sheet)
        return path


class CollapseWarning(keras.callbacks.Callback):
    """Says once, with advice, that masks have become empty or cover everything.

    Args:
        run: The run's directory, whose log takes the warning too.
        progress: Kept up to date by the trainer.
        config: The run's config, whose values the advice quotes.
        window: Steps over which coverage is averaged.
        stream: Where to write; stderr if None.
    """

    def __init__(
        self,
        run: RunDirectory,
        progress: RunProgress,
        config: Config,
        window: int = 200,
        stream: TextIO | None = None,
    ):
        super().__init__()
        self.run = run
        self.progress = progress
        self.config = config
        self._recent: collections.deque[float] = collections.deque(maxlen=window)
        self._stream = stream or sys.stderr
        # A resumed run does not say again what it has said.
        self._said = {record["collapse"] for record in run.read_log() if "collapse" in record}

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Looks at the recent coverage."""
        if not logs or "coverage" not in logs:
            return
        self._recent.append(float(logs["coverage"]))
        if len(self._recent) < (self._recent.maxlen or 0):
            return
        mean = sum(self._recent) / len(self._recent)
        if mean < 0.02:
            self._warn("empty", mean)
        elif mean > 0.98:
            self._warn("full", mean)

    def _warn(self, kind: str, coverage: float) -> None:
        if kind in self._said:
            return
        self._said.add(kind)
        gan = self.config.gan
        advice = {
            "empty": (
                "masks are empty: the background paints everything. In a new run raise "
                f"gan.mask_size_weight (γ1, now {gan.mask_size_weight:g}) or gan.mask_size (η, now "
                f"{gan.mask_size:g}, about the share of the image that the object takes)"
            ),
            "full": (
                "masks cover everything: the foreground paints the whole image. In a new run "
                f"set gan.mask_size_most (now {gan.mask_size_most:g}) to about the largest share "
                "of the image that an object takes, lower gan.mask_size (η, now "
                f"{gan.mask_size:g}) or raise gan.shift (δ, now {gan.shift:g}); photos need room "
                "around the object"
            ),
        }[kind]
        message = (
            f"warning: at {self.progress.images_seen:,} images mean mask coverage over the last "
            f"{len(self._recent)} steps is {coverage:.3f}; {advice}"
        )
        self.run.append_log(
            {"images_seen": self.progress.images_seen, "collapse": kind, "warning": message}
        )
        tqdm.tqdm.write(message, file=self._stream)


class FiniteLoss(keras.callbacks.Callback):
    """Stops the run when a loss is not finite, before a checkpoint could keep it.

    Put it before the callback that writes checkpoints.

    Args:
        run: The run's directory.
        progress: Kept up to date by the trainer.
    """

    def __init__(self, run: RunDirectory, progress: RunProgress):
        super().__init__()
        self.run = run
        self.progress = progress

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
                "take --set=train.precision=float32"
            )
