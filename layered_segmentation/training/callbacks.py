"""What a person sees of GAN training: progress, log, sheets, and warnings with advice.

The trainer keeps one `RunProgress` up to date before each `on_train_batch_end`; metrics arrive in
`logs` as floats: wasserstein, gradient_penalty, d_loss, g_loss, coverage, binarisation, alpha.
There is one `fit` a stage; a callback serves all of them.
"""

import collections
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import keras
import tensorflow as tf
import tqdm

from layered_segmentation.composite import Layers
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import sheets
from layered_segmentation.schedule import Stage
from layered_segmentation.training.run_directory import RunDirectory

# How much longer an image takes at twice the side, before it is measured. The arithmetic says up
# to 4; small stages are held up by other things.
_COST_OF_DOUBLING = 3.0


@dataclasses.dataclass
class RunProgress:
    """Where the run is; the trainer updates it before every `on_train_batch_end`.

    Attributes:
        images_seen: Real images shown since the run began.
        total_images: Images of the whole run.
        stage_index: 0 for the first resolution.
        resolution: Of the stage, pixels.
        images_per_second: Recent speed.
        wait_share: Share of the time that training waited for data, in [0, 1].
    """

    images_seen: int = 0
    total_images: int = 0
    stage_index: int = 0
    resolution: int = 0
    images_per_second: float = 0.0
    wait_share: float = 0.0


class TimeLeft:
    """Estimates the time left over all stages, each at its own speed.

    A stage's speed is measured on the wall clock, so that sheets, checkpoints and evaluation
    count; the first step of a sitting, which compiles, does not. A stage that has not been
    measured takes that of the nearest measured one, three times slower for twice the side.

    Args:
        stages: The run's stages.
        clock: Seconds, increasing.
    """

    def __init__(self, stages: Sequence[Stage], clock: Callable[[], float] = time.monotonic):
        self.stages = list(stages)
        self._clock = clock
        self._since: dict[int, tuple[float, int]] = {}
        self._seconds_per_image: dict[int, float] = {}

    def update(self, stage_index: int, images_seen: int) -> None:
        """Takes note of where the run is now."""
        now = self._clock()
        start, first = self._since.setdefault(stage_index, (now, images_seen))
        if images_seen > first:
            self._seconds_per_image[stage_index] = (now - start) / (images_seen - first)

    def seconds(self, images_seen: int) -> float | None:
        """Returns the seconds left, or None before anything was measured."""
        if not self._seconds_per_image:
            return None
        return sum(
            max(0, stage.end_image - max(stage.first_image, images_seen)) * self._cost(stage)
            for stage in self.stages
        )

    def share_done(self, images_seen: int) -> float:
        """Returns the share of the work that is done, in [0, 1]."""
        work = [
            (stage, min(max(images_seen, stage.first_image), stage.end_image) - stage.first_image)
            for stage in self.stages
        ]
        total = sum(stage.images * self._cost(stage) for stage in self.stages)
        return sum(images * self._cost(stage) for stage, images in work) / total if total else 1.0

    def _cost(self, stage: Stage) -> float:
        if stage.index in self._seconds_per_image:
            return self._seconds_per_image[stage.index]
        if not self._seconds_per_image:
            return _COST_OF_DOUBLING**stage.index
        nearest = min(self._seconds_per_image, key=lambda index: abs(index - stage.index))
        return self._seconds_per_image[nearest] * _COST_OF_DOUBLING ** (stage.index - nearest)


class Progress(keras.callbacks.Callback):
    """A progress bar over the whole run; one line a minute where there is no terminal.

    Args:
        progress: Kept up to date by the trainer.
        stages: The run's stages.
        stream: Where to write; stderr if None.
        interval: Seconds between lines where there is no terminal.
        clock: Seconds, increasing.
    """

    def __init__(
        self,
        progress: RunProgress,
        stages: Sequence[Stage],
        stream: TextIO | None = None,
        interval: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self.progress = progress
        self.time_left = TimeLeft(stages, clock)
        self._stream = stream or sys.stderr
        self._interval = interval
        self._clock = clock
        self._last_line = -math.inf
        self._bar: tqdm.tqdm | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Opens the bar."""
        if self._stream.isatty() and self._bar is None:
            self._bar = tqdm.tqdm(
                total=100.0,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar:16}| {desc}",
            )

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Moves the bar, or writes a line when one is due."""
        progress = self.progress
        self.time_left.update(progress.stage_index, progress.images_seen)
        done = self.time_left.share_done(progress.images_seen)
        if self._bar is not None:
            if self._is_due(0.2):
                self._bar.n = round(100 * done, 2)
                self._bar.desc = self.line(logs or {})
                self._bar.refresh()
        elif self._can_tell() and self._is_due(self._interval):
            print(f"{100 * done:3.0f}%  {self.line(logs or {})}", file=self._stream, flush=True)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leaves the bar standing when the run is over."""
        if self._bar is not None and self.progress.images_seen >= self.progress.total_images:
            self.close()

    def close(self) -> None:
        """Ends the bar; also when training stops early."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def line(self, logs: Mapping[str, Any]) -> str:
        """Returns what the bar says beside its length."""
        progress = self.progress
        count = len(self.time_left.stages)
        left = self.time_left.seconds(progress.images_seen)
        parts = [
            "time left unknown" if left is None else f"{duration(left)} left",
            f"stage {progress.stage_index + 1}/{count}: {progress.resolution} px",
            f"{progress.images_seen:,}/{progress.total_images:,} images",
            f"{progress.images_per_second:,.0f} images/s",
        ]
        for key, label, form in (
            ("alpha", "alpha", ".2f"),
            ("wasserstein", "Wasserstein", ".2f"),
            ("gradient_penalty", "penalty", ".2f"),
            ("coverage", "coverage", ".2f"),
        ):
            if key in logs:
                parts.append(f"{label} {float(logs[key]):{form}}")
        parts.append(f"waits for data {100 * progress.wait_share:.0f} %")
        return ", ".join(parts)

    def _can_tell(self) -> bool:
        return self.time_left.seconds(self.progress.images_seen) is not None

    def _is_due(self, interval: float) -> bool:
        now = self._clock()
        if now - self._last_line < interval:
            return False
        self._last_line = now
        return True


class LogWriter(keras.callbacks.Callback):
    """Writes means over the last images to log.jsonl and TensorBoard.

    Args:
        run: The run's directory.
        progress: Kept up to date by the trainer.
        every: Images between records.
    """

    def __init__(self, run: RunDirectory, progress: RunProgress, every: int = 1_000):
        super().__init__()
        self.run = run
        self.progress = progress
        self._due = _Every(progress, every)
        self._sums: collections.Counter[str] = collections.Counter()
        self._steps = 0
        self._writer: Any = None
        self._started = time.time()

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
        self.run.append_log({**progress, **means, "seconds": time.time() - self._started})
        with self._tensorboard().as_default(step=self.progress.images_seen):
            for key, value in means.items():
                tf.summary.scalar(key, value)
            tf.summary.scalar("images_per_second", self.progress.images_per_second)
            tf.summary.scalar("wait_share", self.progress.wait_share)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Makes sure that what was written is on disk."""
        if self._writer is not None:
            self._writer.flush()

    def _tensorboard(self) -> Any:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self.run.tensorboard)
        return self._writer


class Sheets(keras.callbacks.Callback):
    """Writes image sheets of the averaged generator, always with the same latents.

    Args:
        run: The run's directory.
        progress: Kept up to date by the trainer.
        draw: Draws the layers at the run's present resolution and alpha, as arrays
            [B, R, R, C].
        every: Images between sheets.
        columns: Scenes side by side.
    """

    def __init__(
        self,
        run: RunDirectory,
        progress: RunProgress,
        draw: Callable[[], Layers],
        every: int,
        columns: int = 10,
    ):
        super().__init__()
        self.run = run
        self.progress = progress
        self.draw = draw
        self.columns = columns
        self._due = _Every(progress, every)
        self._writer: Any = None

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
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self.run.tensorboard)
        with self._writer.as_default(step=images_seen):
            tf.summary.image("layers", sheet[None])
        self._writer.flush()
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
        self._said: set[str] = set()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Looks at the recent coverage."""
        if not logs or "coverage" not in logs or self.config.gan.variant == "single_output":
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
                f"lower gan.mask_size (η, now {gan.mask_size:g}), raise gan.mask_binary_weight "
                f"(γ2, now {gan.mask_binary_weight:g}) or raise gan.shift (δ, now {gan.shift:g}); "
                "photos need room around the object"
            ),
        }[kind]
        message = (
            f"warning: at {self.progress.images_seen:,} images mean mask coverage over the last "
            f"{len(self._recent)} steps is {coverage:.3f}; {advice}"
        )
        self.run.append_log({"images_seen": self.progress.images_seen, "warning": message})
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
                f"{key} is {float(value)} at step {batch:,} of this sitting's "
                f"{self.progress.resolution} px stage, {self.progress.images_seen:,} images seen: "
                f"training has diverged and stops. The last good checkpoint stays in "
                f"{self.run.checkpoints}. In a new run lower schedule.learning_rate.default or "
                "take --set=train.precision=float32"
            )


class _Every:
    """Tells when the images seen pass a multiple of `every`, the same after a resume."""

    def __init__(self, progress: RunProgress, every: int):
        self._progress = progress
        self._every = every
        self._last = progress.images_seen

    def passed(self) -> bool:
        now = self._progress.images_seen
        is_due = now // self._every > self._last // self._every
        self._last = now
        return is_due


def duration(seconds: float) -> str:
    """Returns seconds as a person writes them: `48 s`, `8 min`, `3 h 20 min`, `2 d 4 h`."""
    seconds = round(seconds)
    if seconds < 100:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
