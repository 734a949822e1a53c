"""Memory over time: of a training, and of masks through an exported SavedModel."""

import dataclasses
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from layered_segmentation.errors import UserError

_STATUS = "/proc/{pid}/status"
_ROWS = 12  # of a table
_BATCH = 4  # photos of every third request
_SETTLED = (0, -15, 143)  # exit statuses of a training that ended, or was stopped by SIGTERM


@dataclasses.dataclass(frozen=True)
class Sample:
    """The memory of a process at one time."""

    seconds: float  # since the start
    megabytes: float  # resident
    done: int  # images trained on, or masks predicted


@dataclasses.dataclass(frozen=True)
class Slope:
    """A line through the samples after the warm-up, by least squares."""

    per_hour: float  # megabytes
    per_thousand: float  # megabytes per 1,000 images or masks
    scatter: float  # standard deviation of the samples around the line, megabytes
    samples: int  # number of samples


def megabytes(field: str = "VmRSS", pid: int | None = None) -> float:
    """Returns the resident memory of a process.

    Args:
        field: `VmRSS`, the current memory; `VmHWM`, its peak; or `RssAnon`, the current memory
            without the pages of files, which the system may drop at any time.
        pid: The process; this one if None.

    Returns:
        Megabytes. Where there is no /proc: of this process, the peak for the first two, 0 for the
        last.
    """
    path = _STATUS.format(pid="self" if pid is None else pid)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            values = dict(line.split(":", 1) for line in file)
        return int(values[field].split()[0]) / 1000
    if field == "RssAnon" or sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1000)  # macOS counts bytes, others KiB


def require_proc() -> None:
    """Raises a UserError where a process's current memory cannot be read."""
    if not os.path.exists(_STATUS.format(pid="self")):
        raise UserError(f"memory over time is read from /proc, which {sys.platform} does not have")


def watch_training(
    arguments: Sequence[str], minutes: float, every: float, images_seen: Callable[[], int]
) -> Iterator[Sample]:
    """Trains in a second process and stops it after some time, as SIGTERM does.

    Args:
        arguments: Those of `layerseg train`.
        minutes: Time after which it is stopped, if it has not ended.
        every: Seconds between samples.
        images_seen: Returns the images that it has trained on.

    Yields:
        A sample each time.

    Raises:
        UserError: The training failed; its own message was printed.
    """
    command = [sys.executable, "-m", "layered_segmentation.cli.train", *arguments]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        try:
            while process.poll() is None and time.monotonic() - start < 60 * minutes:
                try:
                    process.wait(every)
                except subprocess.TimeoutExpired:
                    used = megabytes(pid=process.pid)
                    yield Sample(time.monotonic() - start, used, images_seen())
        finally:
            process.terminate()
    if process.returncode not in _SETTLED:
        raise UserError(f"the training ended with status {process.returncode}: see above")


def watch_masks(loaded: Any, photos: Sequence[bytes], masks: int, every: int) -> Iterator[Sample]:
    """Segments photos with an exported SavedModel, as a server does.

    In turn: one photo's file, a batch of files one of which is cut in half, one photo's pixels.

    Args:
        loaded: The SavedModel.
        photos: Files that TensorFlow can decode.
        masks: Number of masks to predict.
        every: Masks between samples.

    Yields:
        A sample each time.
    """
    import tensorflow as tf

    from_bytes, from_pixels = (
        loaded.signatures[name] for name in ("image_bytes", "serving_default")
    )
    endless = itertools.cycle(photos)
    start, done, due = time.monotonic(), 0, 0
    for turn in itertools.cycle(range(3)):
        if turn == 2:
            pixels = tf.io.decode_image(next(endless), channels=3, expand_animations=False)
            predicted = from_pixels(images=pixels[None])["masks"]
        else:
            batch = list(itertools.islice(endless, _BATCH if turn else 1))
            if turn:
                batch[0] = batch[0][: len(batch[0]) // 2]
            predicted = from_bytes(bytes=tf.constant(batch))["masks"]
        done += len(predicted.numpy())
        if done >= due:
            due += every
            yield Sample(time.monotonic() - start, megabytes(), done)
        if done >= masks:
            return


def slope(samples: Sequence[Sample], warmup: float) -> Slope:
    """Fits a line to the samples after the warm-up.

    Args:
        samples: In order.
        warmup: Share of the time that is left out, in [0, 1).

    Raises:
        UserError: Fewer than three samples are left.
    """
    first = warmup * samples[-1].seconds if samples else 0.0
    kept = [sample for sample in samples if sample.seconds >= first]
    if len(kept) < 3:
        raise UserError(
            f"{len(kept)} samples after the warm-up are too few for a line; measure longer, or "
            "sample more often"
        )
    seconds, used, done = np.array([dataclasses.astuple(sample) for sample in kept]).T
    line = np.polynomial.Polynomial.fit(seconds, used, 1)
    by_second = float(line.deriv()(0.0))
    by_item = by_second * (seconds[-1] - seconds[0]) / max(1.0, done[-1] - done[0])
    scatter = float(np.std(used - line(seconds)))
    return Slope(3600 * by_second, 1000 * float(by_item), scatter, len(kept))


def table(samples: Sequence[Sample], unit: str) -> str:
    """Returns some of the samples, evenly spaced, as lines of text.

    Args:
        samples: In order.
        unit: What was done: `images` or `masks`.
    """
    rows = np.unique(np.linspace(0, len(samples) - 1, _ROWS).round().astype(int))
    lines = [f"{'minutes':>8} {unit:>10} {'MB':>9}"]
    for sample in (samples[row] for row in rows):
        lines.append(f"{sample.seconds / 60:>8.1f} {sample.done:>10,} {sample.megabytes:>9,.1f}")
    return "\n".join(lines)
