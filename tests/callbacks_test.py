import io
import json
import math
import os

import numpy as np
import pytest
from PIL import Image

from layered_segmentation import config as configs
from layered_segmentation import schedule
from layered_segmentation.composite import Layers
from layered_segmentation.errors import UserError
from layered_segmentation.training import callbacks
from layered_segmentation.training.run_directory import RunDirectory


@pytest.fixture
def config():
    return configs.load(
        "",
        ["gan.resolution=16", "schedule.images_per_stage=1000", "schedule.batch={8: 100, 16: 50}"],
    )


@pytest.fixture
def run(tmp_path, config):
    run = RunDirectory(tmp_path / "run")
    run.create_or_resume(config)
    return run


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


METRICS = {"wasserstein": 1.5, "gradient_penalty": 0.25, "coverage": 0.3, "alpha": 0.5}


def progress_at(images_seen, **fields):
    return callbacks.RunProgress(images_seen=images_seen, total_images=2000, **fields)


def test_time_left_takes_every_stage_at_its_own_speed(config):
    clock = Clock()
    left = callbacks.TimeLeft(schedule.stages(config), clock)
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


def test_time_left_after_a_resume_estimates_the_earlier_stage(config):
    clock = Clock()
    left = callbacks.TimeLeft(schedule.stages(config), clock)
    left.update(1, 1500)
    clock.now = 3.0
    left.update(1, 1600)
    assert left.seconds(1600) == pytest.approx(400 * 0.03)
    assert left.share_done(1600) == pytest.approx((1000 * 0.01 + 600 * 0.03) / 40)


def test_progress_without_a_terminal_writes_a_line_a_minute(config):
    clock, stream = Clock(), io.StringIO()
    progress = progress_at(0, resolution=8, images_per_second=321.0, wait_share=0.07)
    callback = callbacks.Progress(progress, schedule.stages(config), stream, 60.0, clock)
    callback.on_train_begin()
    for _ in range(10):
        progress.images_seen += 100
        clock.now += 30.0
        callback.on_train_batch_end(0, METRICS)
    callback.on_train_end()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert "1,000/2,000 images" in lines[-1]
    assert "stage 1/2: 8 px" in lines[-1]
    assert "15 min left" in lines[-1]  # 1,000 images at 16 px, three times 0.3 s each
    for text in ("321 images/s", "alpha 0.50", "Wasserstein 1.50", "penalty 0.25", "coverage 0.30"):
        assert text in lines[-1]
    assert "waits for data 7 %" in lines[-1]


def test_progress_on_a_terminal_is_one_bar_over_all_stages(config):
    stream = Terminal()
    clock = Clock()
    progress = progress_at(0, resolution=8)
    callback = callbacks.Progress(progress, schedule.stages(config), stream, 60.0, clock)
    for stage in range(2):
        callback.on_train_begin()
        for _ in range(10):
            progress.images_seen += 100
            progress.stage_index = stage
            clock.now += 1.0
            callback.on_train_batch_end(0, METRICS)
        callback.on_train_end()
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
    assert callbacks.duration(seconds) == text


def test_log_writer_writes_means_at_multiples(run):
    progress = progress_at(0, resolution=8)
    writer = callbacks.LogWriter(run, progress, every=200)
    for step in range(5):
        progress.images_seen += 100
        writer.on_train_batch_end(step, {"coverage": 0.1 * step, "alpha": 0.1 * step})
    writer.on_train_end()
    records = run.read_log()
    assert [record["images_seen"] for record in records] == [200, 400]
    assert records[0]["coverage"] == pytest.approx(0.05)
    assert records[1]["coverage"] == pytest.approx(0.25)
    assert records[1]["alpha"] == pytest.approx(0.3)
    assert records[1]["resolution"] == 8
    assert _scalars(run.tensorboard)["coverage"] == [
        (200, pytest.approx(0.05)),
        (400, pytest.approx(0.25)),
    ]


def test_log_writer_keeps_its_rhythm_after_a_resume(run):
    progress = progress_at(300)
    writer = callbacks.LogWriter(run, progress, every=200)
    for step in range(3):
        progress.images_seen += 100
        writer.on_train_batch_end(step, {"coverage": 0.5})
    assert [record["images_seen"] for record in run.read_log()] == [400, 600]


def test_sheets_are_written_when_due_and_at_the_end(run):
    draws = []

    def draw():
        draws.append(1)
        return Layers(np.zeros((4, 8, 8, 3)), np.ones((4, 8, 8, 3)), np.full((4, 8, 8, 1), 0.5))

    progress = progress_at(0)
    callback = callbacks.Sheets(run, progress, draw, every=1000, columns=4)
    for step in range(20):
        progress.images_seen += 100
        callback.on_train_batch_end(step, {})
    assert sorted(os.listdir(run.sheets)) == ["00001000.png", "00002000.png"]
    assert len(draws) == 2
    with Image.open(os.path.join(run.sheets, "00001000.png")) as sheet:
        assert sheet.width > 4 * 96
        assert sheet.height > 5 * 96


@pytest.mark.parametrize(
    ("coverage", "words"),
    [
        (0.001, ("masks are empty", "gan.mask_size_weight (γ1, now 2)", "gan.mask_size (η, now")),
        (0.999, ("masks cover everything", "gan.shift (δ, now 0.125)", "lower gan.mask_size")),
    ],
)
def test_collapse_is_said_once_with_advice(run, config, coverage, words):
    stream = io.StringIO()
    progress = progress_at(500)
    callback = callbacks.CollapseWarning(run, progress, config, window=10, stream=stream)
    for step in range(9):
        callback.on_train_batch_end(step, {"coverage": coverage})
    assert stream.getvalue() == ""
    for step in range(30):
        callback.on_train_batch_end(step, {"coverage": coverage})
    assert stream.getvalue().count("warning:") == 1
    for word in words:
        assert word in stream.getvalue()
    assert run.read_log() == [{"images_seen": 500, "warning": stream.getvalue().rstrip("\n")}]


def test_no_warning_while_the_mean_is_sound(run, config):
    stream = io.StringIO()
    callback = callbacks.CollapseWarning(run, progress_at(0), config, window=10, stream=stream)
    for step in range(100):
        callback.on_train_batch_end(step, {"coverage": 0.0 if step % 2 else 0.3})
    assert stream.getvalue() == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(run, value):
    callback = callbacks.FiniteLoss(run, progress_at(1234, resolution=16))
    callback.on_train_batch_end(6, {"d_loss": 1.0})
    with pytest.raises(UserError) as error:
        callback.on_train_batch_end(7, {"d_loss": value, "g_loss": 0.0})
    for word in ("d_loss", "step 7", "1,234 images", "16 px", run.checkpoints, "learning_rate"):
        assert word in str(error.value)


def _scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(folder)
    events.Reload()
    return {
        tag: [
            (e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }


def test_log_records_are_json(run):
    run.append_log({"images_seen": 1, "d_loss": math.nan})
    with open(run.log_path) as file:
        assert json.loads(file.read()) == {"images_seen": 1, "d_loss": None}
