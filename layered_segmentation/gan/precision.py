"""`precision=auto`: float32, or the device's mixed precision where that is clearly faster.

For `train.precision` the chief measures before the first step of a run and records its choice in
RUN/precision.json. From then on the record decides, for all workers and after every interruption.
"""

import dataclasses
import gc
import math
import statistics
from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

from layered_segmentation import files, records
from layered_segmentation.choices import Precision
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.gan import strategy
from layered_segmentation.gan.layered_gan import LayeredGAN
from layered_segmentation.gan.step_timer import StepTimer, Turn
from layered_segmentation.run_directory import RunDirectory

LEAST_GAIN = 1.15  # speed relative to float32 from which mixed precision is chosen

_ROUNDS = 5
_TURN_SECONDS = 0.25  # that the float32 steps of a round take at least
_HOPELESS = 0.5  # relative speed at which measuring ends after one round


def _is_choice(value: Any) -> bool:
    return value in [choice for choice in Precision if choice != Precision.auto]


_RECORD = {"precision": _is_choice}


class Timer(Protocol):
    """Takes training steps in one precision and times them."""

    batch: int  # images per step
    warm_up: int  # steps after which everything is compiled

    def run(self, steps: int) -> Turn:
        """Takes steps."""
        ...


def choose(
    config: Config,
    run: RunDirectory,
    engine: tf.distribute.Strategy,
    student: Any = None,
) -> None:
    """Measures, records and prints the precision of a run that has not begun.

    Args:
        config: The run's config. If it gives a precision, nothing is done.
        run: The run, which this process has locked.
        engine: The devices that train; the first one is measured.
        student: As for `LayeredGAN.from_run_config`.
    """
    if config.train.precision != Precision.auto or run.has_begun():
        return
    device = strategy.first_device(engine)
    mixed, side = mixed_precision(device), config.gan.resolution
    chosen = Precision.float32
    speeds: dict[str, float] = {}
    reason = "this GPU is not known to have fast 16-bit arithmetic"
    if mixed is not None:
        with tf.device(device):
            gain, speeds = measure(config, mixed, engine.num_replicas_in_sync, student)
        chosen = mixed if gain >= LEAST_GAIN else chosen
        plain, other = speeds.values()
        reason = (
            f"a device trains on {plain:,.1f} images/s at {side} px in float32 and on {other:,.1f} "
            f"in {mixed} ({gain:.2f} times as fast; {LEAST_GAIN:g} is the least for {mixed})"
        )
    files.write_json(run.precision_path, {"precision": chosen, "images_per_second": speeds})
    print(f"train.precision=auto: {chosen}, since {reason}", flush=True)


def resolve(config: Config, run: RunDirectory) -> Config:
    """Returns the config with the precision that was chosen for the run, if it gives none.

    Raises:
        UserError: The record of the choice is missing or damaged.
    """
    if config.train.precision != Precision.auto:
        return config
    record = records.read(run.precision_path, _RECORD)
    if record is None:
        raise UserError(
            f"{run.precision_path}: is missing or damaged, and the run goes on only in the "
            'precision that it began with; bring the file back, or write {"precision": "float32"} '
            "to it if you know that it was this one"
        )
    precision = Precision(record["precision"])
    return dataclasses.replace(config, train=dataclasses.replace(config.train, precision=precision))


def mixed_precision(device: str) -> Precision | None:
    """Returns the mixed precision to try on a device; None if it has no fast one.

    Args:
        device: The name of a device, such as `/device:GPU:0`.
    """
    if tf.DeviceSpec.from_string(device).device_type != "GPU":
        return Precision.mixed_bfloat16
    capability = strategy.details(device).get("compute_capability", (0, 0))
    if capability >= (8, 0):  # from Ampere on
        return Precision.mixed_bfloat16
    return Precision.mixed_float16 if capability >= (7, 0) else None  # Volta, Turing


def measure(
    config: Config, mixed: Precision, replicas: int, student: Any = None
) -> tuple[float, dict[str, float]]:
    """Times whole steps at the last resolution, where a run spends most of its time.

    Both precisions take the same steps in turn.

    Args:
        config: The run's config.
        mixed: The precision to compare with float32.
        replicas: Number of devices, each of which gets this share of a batch.
        student: As for `LayeredGAN.from_run_config`.

    Returns:
        The speed of `mixed` relative to float32, the median over the rounds; and the images per
        second of float32 and of `mixed`, the medians over the rounds.
    """
    timers = [
        _timer(config, precision, replicas, student) for precision in (Precision.float32, mixed)
    ]
    gain, plain, other = compare(timers)
    del timers
    gc.collect()  # frees the device's memory before training takes its own
    return gain, {str(Precision.float32): plain, str(mixed): other}


def compare(timers: Sequence[Timer]) -> tuple[float, float, float]:
    """Lets two timers take the same steps in turn.

    Args:
        timers: Of float32 and of the mixed precision.

    Returns:
        The speed of the second relative to the first, and the images per second of both. Each is
        the median over the rounds.
    """
    for timer in timers:
        timer.run(timer.warm_up)
    step_speed = timers[0].run(1).images_per_second
    timers[1].run(1)
    steps = math.ceil(_TURN_SECONDS * step_speed / timers[0].batch)
    rounds: list[list[float]] = []
    while len(rounds) < _ROUNDS:
        rounds.append([timer.run(steps).images_per_second for timer in timers])
        if rounds[0][1] < _HOPELESS * rounds[0][0]:
            break
    plain, mixed = (statistics.median(speeds) for speeds in zip(*rounds, strict=True))
    return statistics.median(second / first for first, second in rounds), plain, mixed


def _timer(config: Config, precision: Precision, replicas: int, student: Any) -> StepTimer:
    train = dataclasses.replace(config.train, precision=precision)
    config = dataclasses.replace(config, train=train)
    gan = LayeredGAN.from_run_config(config, student=student)
    gan.set_stage(gan.stages[-1])
    return StepTimer(gan, gan.stage.batch // replicas)
