import io
import types

import pytest

from layered_segmentation import config as configs
from layered_segmentation import progress as progress_module
from layered_segmentation import schedule
from layered_segmentation.gan import run_progress
from layered_segmentation.gan.run_progress import (
    Every,
    ProgressBar,
    RunProgress,
    TimeLeft,
    duration,
)


@pytest.fixture
def config():
    return configs.load(
        "",
        ["gan.resolution=16", "schedule.images_per_stage=1000", "schedule.batch={8: 100, 16: 50}"],
    )


@pytest.fixture
def clock(monkeypatch):
    """A clock whose `now` the test sets."""
    clock = types.SimpleNamespace(now=0.0)
    for module in (progress_module, run_progress):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


METRICS = {"wasserstein": 1.5, "gradient_penalty": 0.25, "coverage": 0.3, "alpha": 0.5}


def progress_at(images_seen, **fields):
    return RunProgress(images_seen=images_seen, total_images=2000, **fields)


def test_time_left_takes_every_stage_at_its_own_speed(config, clock):
    left = TimeLeft(schedule.stages(config))
    assert left.seconds(0) is None
    left.update(0, 100)  # the first step compiles and does not count
    clock.now = 4.0
    left.update(0, 500)  # 0.01 s an image at 8 px; 16 px is taken three times as slow
    assert left.seconds(500) == pytest.approx(500 * 0.01 + 1000 * 0.03)
    assert left.share_done(500) == pytest.approx(5 / 40)
    clock.now = 100.0
    left.update(1, 1050)
    clock.now = 110.0
    left.update(1, 1250)  # now measured: 0.05 s an image
    assert left.seconds(1250) == pytest.approx(750 * 0.05)
    assert left.seconds(2000) == 0.0
    assert left.share_done(2000) == 1.0


def test_time_left_after_a_resume_estimates_the_earlier_stage(config, clock):
    left = TimeLeft(schedule.stages(config))
    left.update(1, 1500)
    clock.now = 3.0
    left.update(1, 1600)
    assert left.seconds(1600) == pytest.approx(400 * 0.03)
    assert left.share_done(1600) == pytest.approx((1000 * 0.01 + 600 * 0.03) / 40)


def test_progress_without_a_terminal_writes_a_line_a_minute(config, clock, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    progress = progress_at(0, resolution=8, images_per_second=321.0, wait_share=0.07)
    callback = ProgressBar(progress, schedule.stages(config))
    callback.on_train_begin()
    without = {name: value for name, value in METRICS.items() if name != "gradient_penalty"}
    for step in range(10):
        progress.images_seen += 100
        clock.now += 30.0
        callback.on_train_batch_end(0, without if step == 9 else METRICS)
    callback.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert "1,000/2,000 images" in lines[-1]
    assert "stage 1/2: 8 px" in lines[-1]
    assert "15 min left" in lines[-1]  # 1,000 images at 16 px, three times 0.3 s each
    for text in ("321 images/s", "alpha 0.50", "Wasserstein 1.50", "penalty 0.25", "coverage 0.30"):
        assert text in lines[-1]
    assert "waiting for data 7 %" in lines[-1]


def test_progress_on_a_terminal_is_one_bar_over_all_stages(config, clock, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    progress = progress_at(0, resolution=8)
    callback = ProgressBar(progress, schedule.stages(config))
    for stage in range(2):
        callback.on_train_begin()
        for _ in range(10):
            progress.images_seen += 100
            progress.stage_index = stage
            clock.now += 1.0
            callback.on_train_batch_end(0, METRICS)
    callback.close()
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "100%" in text.rsplit("\r", 1)[-1]
    assert "0 s left" in text.rsplit("\r", 1)[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99.4, "99 s"), (100, "2 min"), (5900, "98 min"), (7200, "2 h 0 min"),
     (200_000, "2 d 7 h")],
)  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_every_keeps_its_rhythm_after_a_resume():
    progress = progress_at(300)
    every = Every(progress, 200)
    passed = []
    for _ in range(4):
        progress.images_seen += 100
        passed.append(every.passed())
    assert passed == [True, False, True, False]


def test_every_catches_up_on_what_was_missed():
    progress = progress_at(500)
    every = Every(progress, 200, last=300)
    passed = []
    for _ in range(3):
        progress.images_seen += 50
        passed.append(every.passed())
    assert passed == [True, True, False]  # of 400 and of 600
