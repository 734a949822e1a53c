"""Where a run is, how long it will still take, and a progress bar of both."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from layered_segmentation.gan.layered_gan import LayeredGAN
from layered_segmentation.progress import Bar
from layered_segmentation.schedule import Stage

# How much longer an image takes at twice the side, until it is measured. The arithmetic grows by
# up to 4, but other costs dominate small stages.
_COST_OF_DOUBLING = 3.0
_METRICS = {  # on the bar, by their names in the logs
    "alpha": "alpha",
    "wasserstein": "Wasserstein",
    "gradient_penalty": "penalty",
    "coverage": "coverage",
}


@dataclasses.dataclass
class RunProgress:
    """Where a run is; `Advance` updates it before the other callbacks read it."""

    images_seen: int = 0  # real images shown since the run began
    total_images: int = 0  # images of the whole run
    stage_index: int = 0  # 0 for the first resolution
    resolution: int = 0  # of the stage, pixels
    images_per_second: float = 0.0  # recent speed
    wait_share: float = 0.0  # share of the time spent waiting for data, in [0, 1]


class Advance(keras.callbacks.Callback):
    """Updates the run's progress; must come before the other callbacks.

    Speed and share of waiting are over about the last ten seconds.

    Args:
        gan: The model in training.
        progress: What to update.
    """

    def __init__(self, gan: LayeredGAN, progress: RunProgress):
        super().__init__()
        self.gan = gan
        self.progress = progress
        self._mark: tuple[float, int, float] | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Takes note of the stage."""
        self._mark = None
        self.progress.stage_index = self.gan.stage.index
        self.progress.resolution = self.gan.stage.resolution

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Counts the images of an execution."""
        progress = self.progress
        progress.images_seen = int(self.gan.images_seen.numpy())
        now = time.perf_counter()
        if self._mark is None:  # the first execution compiles
            self._mark = (now, progress.images_seen, self.gan.wait_seconds)
            return
        then, images, waited = self._mark
        progress.images_per_second = (progress.images_seen - images) / (now - then)
        progress.wait_share = (self.gan.wait_seconds - waited) / (now - then)
        if now - then > 10:
            self._mark = (now, progress.images_seen, self.gan.wait_seconds)


class TimeLeft:
    """Estimates the time left over all stages, each at its own speed.

    A stage's speed is measured on the wall clock and so includes sheets and checkpoints, but not
    the first step of a session, which compiles. For a stage without a measurement the speed is
    that of the nearest measured one, three times slower for twice the side.

    Args:
        stages: The run's stages.
    """

    def __init__(self, stages: Sequence[Stage]):
        self.stages = list(stages)
        self._since: dict[int, tuple[float, int]] = {}
        self._seconds_per_image: dict[int, float] = {}

    def update(self, stage_index: int, images_seen: int) -> None:
        """Records where the run is now."""
        now = time.monotonic()
        start, first = self._since.setdefault(stage_index, (now, images_seen))
        if images_seen > first:
            self._seconds_per_image[stage_index] = (now - start) / (images_seen - first)

    def seconds(self, images_seen: int) -> float | None:
        """Returns the seconds left, or None before the first measurement."""
        if not self._seconds_per_image:
            return None
        return sum(
            max(0, stage.end_image - max(stage.first_image, images_seen)) * self._cost(stage)
            for stage in self.stages
        )

    def share_done(self, images_seen: int) -> float:
        """Returns the finished share of the work, in [0, 1]."""
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


class _RunBar(Bar):
    """A bar of percents, with the whole text after it."""

    bar_format = "{percentage:3.0f}%|{bar:16}| {desc}{postfix}"
    narrow_format = "{percentage:.0f}%{postfix}"
    line_format = "{percentage:3.0f}%  {desc}{postfix}"
    is_prompt = True


class ProgressBar(keras.callbacks.Callback):
    """A progress bar over the whole run; one line per minute where there is no terminal.

    Args:
        progress: Where the run is.
        stages: The run's stages.
    """

    def __init__(self, progress: RunProgress, stages: Sequence[Stage]):
        super().__init__()
        self.progress = progress
        self.time_left = TimeLeft(stages)
        self._bar: Bar | None = None
        self._done = 0.0
        self._logs: dict[str, Any] = {}  # the last of each, since not every step has all

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Opens the bar."""
        self._bar = self._bar or _RunBar(100.0, "training", "%")

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Updates the bar; lines begin with the first measurement."""
        self._logs |= logs or {}
        seen = self.progress.images_seen
        self.time_left.update(self.progress.stage_index, seen)
        is_measured = self.time_left.seconds(seen) is not None
        if self._bar is not None and (is_measured or self._bar.is_drawn):
            before, self._done = self._done, 100 * self.time_left.share_done(seen)
            self._bar.update(self._done - before, self.line(self._logs))

    def close(self) -> None:
        """Ends the bar, also when training stops early; it stays on the screen."""
        if self._bar is not None:
            self._bar.close()

    def line(self, logs: Mapping[str, Any]) -> str:
        """Returns the text of the bar."""
        progress, count = self.progress, len(self.time_left.stages)
        left = self.time_left.seconds(progress.images_seen)
        parts = [
            "time left unknown" if left is None else f"{duration(left)} left",
            f"stage {progress.stage_index + 1}/{count}: {progress.resolution} px",
            f"{progress.images_seen:,}/{progress.total_images:,} images",
            f"{progress.images_per_second:,.0f} images/s",
        ]
        for key, label in _METRICS.items():
            if key in logs:
                parts.append(f"{label} {float(logs[key]):.2f}")
        parts.append(f"waiting for data {100 * progress.wait_share:.0f} %")
        return ", ".join(parts)


class Every:
    """Detects when the images seen pass a multiple of `every`, resumed or not.

    Args:
        progress: Where the run is.
        every: Images.
        last: Images seen at the last time; by default now.
    """

    def __init__(self, progress: RunProgress, every: int, last: int | None = None):
        self._progress = progress
        self._every = every
        self._last = progress.images_seen if last is None else last

    def passed(self) -> bool:
        """Returns whether a multiple has been passed since the last call."""
        now = self._progress.images_seen
        is_due = now // self._every > self._last // self._every
        self._last = now
        return is_due


def duration(seconds: float) -> str:
    """Formats seconds: `48 s`, `8 min`, `3 h 20 min`, `2 d 4 h`."""
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
