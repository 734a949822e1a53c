"""How long a training takes until its masks are good: seconds and processor seconds by phase.

The clock runs while the GAN and the student train, and stands still while masks are scored. A look
during the GAN's training trains a short student on what the generator draws by then. Its time
counts in that look only: this is when masks of that quality were there, had training ended.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

from layered_segmentation import schedule
from layered_segmentation.config import Config
from layered_segmentation.data.source import Pair
from layered_segmentation.evaluation import scoring
from layered_segmentation.gan import networks, trainer
from layered_segmentation.gan.layered_gan import LayeredGAN
from layered_segmentation.run_directory import RunDirectory
from layered_segmentation.segmenter import distill, presets, self_training
from layered_segmentation.segmenter.segmenter import LayeredSegmenter
from layered_segmentation.segmenter.student_events import StudentEvents

Times = tuple[float, float]  # seconds and processor seconds
HEADER = f"{'seed':>6} {'phase':>15} {'images':>9} {'seconds':>9} {'processor':>10} {'mIoU':>6}"


@dataclasses.dataclass(frozen=True)
class Look:
    """What training has reached at some time."""

    seed: int
    phase: str  # `gan`, `generated pairs`, `round 1`, `round 2`, …
    images_seen: int  # by the GAN
    seconds: float  # of training until these masks, without looks
    processor_seconds: float
    miou: float  # on the held-out photos

    def line(self) -> str:
        """Returns the row of the table under `HEADER`."""
        return (
            f"{self.seed:>6} {self.phase:>15} {self.images_seen:>9,} {self.seconds:>9.1f} "
            f"{self.processor_seconds:>10.1f} {self.miou:>6.3f}"
        )


class Clock:
    """Measures seconds and processor seconds, of all threads, from its creation on."""

    def __init__(self) -> None:
        self._start = _now()

    def read(self) -> Times:
        """Returns the seconds and processor seconds without pauses."""
        seconds, processor_seconds = (
            now - start for now, start in zip(_now(), self._start, strict=True)
        )
        return seconds, processor_seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens in the block."""
        pause = Clock()
        try:
            yield
        finally:
            first, second = self._start
            seconds, processor_seconds = pause.read()
            self._start = first + seconds, second + processor_seconds


def measure(
    config: Config,
    run: RunDirectory,
    pairs: Sequence[Pair],
    every: int,
    show: Callable[[Look], None],
) -> list[Look]:
    """Trains a GAN and its student, and looks at their masks.

    Args:
        config: The experiment.
        run: A new directory.
        pairs: Held-out photos with masks.
        every: Images between looks while the GAN trains at its final resolution, faded in.
        show: Is called with each look.

    Raises:
        UserError: As of `trainer.train` and `distill.distill`.
    """
    clock, found = Clock(), list[Look]()

    def look(phase: str, images_seen: int, segmenter: LayeredSegmenter, *times: Times) -> None:
        masks = scoring.score(segmenter.predict_masks, pairs, references=False)
        seconds, processor_seconds = (sum(parts) for parts in zip(*times, strict=True))
        found.append(
            Look(config.train.seed, phase, images_seen, seconds, processor_seconds, masks.miou)
        )
        show(found[-1])

    def look_at_gan(gan: LayeredGAN, images_seen: int) -> None:
        until_now = clock.read()
        with clock.paused():
            student = Clock()
            segmenter, _ = distill.distill(gan.average, distill.quick(config))
            look("gan", images_seen, segmenter, until_now, student.read())

    summary = trainer.train(
        config,
        run,
        watchers=[_Looks(look_at_gan, every)],
        load_student=presets.load_background_student,
    )
    generator = networks.load_generator(run)
    photos = self_training.training_photos(
        config, config.student.resolution or generator.resolution
    )

    def look_at_student(phase: str, segmenter: LayeredSegmenter) -> None:
        until_now = clock.read()
        with clock.paused():
            look(phase, summary.images_seen, segmenter, until_now)

    distill.distill(generator, config, photos, events=_StudentLooks(look_at_student))
    return found


def reached(looks: Sequence[Look], miou: float) -> str:
    """Returns a sentence on when each seed reached a mean IoU."""
    lines = []
    for seed in dict.fromkeys(look.seed for look in looks):
        good = [look for look in looks if look.seed == seed and look.miou >= miou]
        first = min(good, key=lambda look: look.seconds, default=None)
        lines.append(
            f"seed {seed}: mIoU {miou:g} was not reached"
            if first is None
            else f"seed {seed}: mIoU {miou:g} after {first.seconds:,.0f} s "
            f"({first.processor_seconds:,.0f} processor seconds), {first.phase}, "
            f"{first.images_seen:,} images"
        )
    return "\n".join(lines)


class _Looks(keras.callbacks.Callback):
    """Calls `look` with the GAN and the images seen when that is due."""

    def __init__(self, look: Callable[[LayeredGAN, int], None], every: int):
        super().__init__()
        self.look = look
        self.every = every
        self._last = 0  # images seen at the end of the last execution

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        gan: Any = self.model
        self._last = int(gan.images_seen.numpy())

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        gan: Any = self.model
        seen, stage = int(gan.images_seen.numpy()), gan.stage
        is_whole = stage == gan.stages[-1] and schedule.alpha(stage, seen) == 1.0
        is_due = seen // self.every > self._last // self.every
        self._last = seen
        if is_whole and (is_due or seen >= stage.end_image):
            self.look(gan, seen)


class _StudentLooks(StudentEvents):
    """Calls `look` with the name of each phase and the student at its end."""

    def __init__(self, look: Callable[[str, LayeredSegmenter], None]):
        super().__init__()
        self.look = look

    def end(self, segmenter: LayeredSegmenter) -> None:
        self.look(self.phase, segmenter)


def _now() -> Times:
    return time.perf_counter(), time.process_time()
