import json
import math
import os

import numpy as np
import pytest
from PIL import Image

from layered_segmentation import config as configs
from layered_segmentation.errors import UserError
from layered_segmentation.gan import callbacks, collapse
from layered_segmentation.gan.composite import Layers
from layered_segmentation.gan.run_progress import RunProgress
from layered_segmentation.run_directory import RunDirectory


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


@pytest.fixture
def events(run):
    return callbacks.Events(run.tensorboard)


@pytest.fixture
def printed(monkeypatch, capsys):
    """Returns what was printed to stderr since the last call; coverage is over ten steps."""
    monkeypatch.setattr(callbacks, "_WINDOW", 10)
    return lambda: capsys.readouterr().err


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(callbacks, "LOG_EVERY", 200)


def progress_at(images_seen, **fields):
    return RunProgress(images_seen=images_seen, total_images=2000, **fields)


def test_log_writer_writes_means_at_multiples(often, run, events, read_events):
    progress = progress_at(0, resolution=8)
    writer = callbacks.LogWriter(run, progress, events, lambda: 7.5)
    for step in range(5):
        progress.images_seen += 100
        some = {} if step % 2 else {"gradient_penalty": 0.5 * step}  # not in every step
        writer.on_train_batch_end(step, {"coverage": 0.1 * step, "alpha": 0.1 * step, **some})
    records = run.read_log()
    assert [record["images_seen"] for record in records] == [200, 400]
    assert records[0]["coverage"] == pytest.approx(0.05)
    assert records[1]["coverage"] == pytest.approx(0.25)
    assert records[1]["alpha"] == pytest.approx(0.3)
    assert [record["gradient_penalty"] for record in records] == [0.0, 1.0]
    assert records[1]["resolution"] == 8
    assert records[1]["seconds"] == 7.5
    assert read_events(run.tensorboard)["coverage"] == [
        (200, pytest.approx(0.05)),
        (400, pytest.approx(0.25)),
    ]


def test_log_writer_keeps_its_rhythm_after_a_resume(often, run, events):
    progress = progress_at(300)
    writer = callbacks.LogWriter(run, progress, events, lambda: 7.5)
    for step in range(3):
        progress.images_seen += 100
        writer.on_train_batch_end(step, {"coverage": 0.5})
    assert [record["images_seen"] for record in run.read_log()] == [400, 600]


def test_sheets_are_written_when_due_and_at_the_end(run, events):
    draws = []

    def draw():
        draws.append(1)
        return Layers(np.zeros((4, 8, 8, 3)), np.ones((4, 8, 8, 3)), np.full((4, 8, 8, 1), 0.5))

    progress = progress_at(0)
    callback = callbacks.Sheets(run, progress, events, draw, every=1000)
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
        (
            0.999,
            ("masks cover everything", "gan.shift (δ, now 0.125)", "gan.mask_size_most (now 1)"),
        ),
    ],
)
def test_collapse_is_said_once_with_advice(run, config, printed, coverage, words):
    progress = progress_at(500)
    callback = callbacks.CollapseWarning(run, progress, config)
    for step in range(9):
        callback.on_train_batch_end(step, {"coverage": coverage})
    assert printed() == ""
    for step in range(30):
        callback.on_train_batch_end(step, {"coverage": coverage})
    text = printed()
    assert text.count("warning:") == 1
    for word in words:
        assert word in text
    (record,) = run.read_log()
    assert record["images_seen"] == 500 and record["warning"] == text.rstrip("\n")
    resumed = callbacks.CollapseWarning(run, progress, config)
    for step in range(30):
        resumed.on_train_batch_end(step, {"coverage": coverage})
    assert printed() == ""


def test_no_warning_while_the_mean_is_sound(run, config, printed):
    callback = callbacks.CollapseWarning(run, progress_at(0), config)
    for step in range(100):
        callback.on_train_batch_end(step, {"coverage": 0.0 if step % 2 else 0.3})
    assert printed() == ""


def looks(run, config, masks, **options):
    """Steps of 500 images with the same masks; returns the images seen."""
    progress = progress_at(max((one["images_seen"] for one in run.read_log()), default=0))
    callback = callbacks.CollapseWarning(run, progress, config, draw_masks=lambda: masks, **options)
    for step in range(20):
        progress.images_seen += 500
        callback.on_train_batch_end(step, {"coverage": 0.3})
    return progress.images_seen


def masks_that_cover_all_but_a_corner():
    masks = np.ones((8, 8, 8, 1), np.float32)
    for index in range(8):
        masks[index, : 2 + index % 3, :3] = 0
    return masks


def test_looks_at_fixed_latents_are_logged_and_warn_within_10_000_images(
    run, config, events, read_events, printed
):
    looks(run, config, masks_that_cover_all_but_a_corner(), events=events)
    records = run.read_log()
    assert [one["images_seen"] for one in records if "mask_edge" in one] == [*(3_000, 6_000, 9_000)]
    (warning,) = [one for one in records if "warning" in one]
    text = printed()
    assert warning["images_seen"] == 9_000 and warning["collapse"] == "background"
    for words in ("masks of 8 fixed latents cover 0.87", "gan.mask_size_most (now 1)", "restarts"):
        assert words in text
    assert [step for step, _ in read_events(run.tensorboard)["mask_alike"]] == [
        *(3_000, 6_000, 9_000)
    ]


def test_a_resumed_run_continues_its_looks(run, config, printed):
    masks = masks_that_cover_all_but_a_corner()
    looks(run, config, masks)
    run.truncate_log(6_000)
    printed()
    assert looks(run, config, masks) == 16_000
    assert "at 9,000 images" in printed()


def test_looks_that_find_different_things_do_not_warn(run, config, printed):
    bad, good = masks_that_cover_all_but_a_corner(), np.zeros((8, 8, 8, 1), np.float32)
    for index in range(8):
        good[index, 2:4, 2 : 4 + index % 4] = 1
    found = iter([bad, bad, good, bad])
    progress = progress_at(0)
    callback = callbacks.CollapseWarning(run, progress, config, draw_masks=lambda: next(found))
    for step in range(20):
        progress.images_seen += 500
        callback.on_train_batch_end(step, {"coverage": 0.3})
    assert printed() == ""


def test_a_collapse_ends_the_attempt_where_training_may_begin_again(run, config, printed):
    with pytest.raises(collapse.Collapsed, match="at 9,000 images masks of 8") as found:
        looks(run, config, masks_that_cover_all_but_a_corner(), may_restart=True)
    assert found.value.kind == "background"
    assert printed() == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(run, value):
    callback = callbacks.FiniteLoss(run, progress_at(1234, resolution=16))
    callback.on_train_batch_end(6, {"d_loss": 1.0})
    with pytest.raises(UserError) as error:
        callback.on_train_batch_end(7, {"d_loss": value, "g_loss": 0.0})
    for word in ("d_loss", "step 8", "1,234 images", "16 px", run.checkpoints, "learning_rate"):
        assert word in str(error.value)


def test_log_records_are_json(run):
    run.append_log({"images_seen": 1, "d_loss": math.nan})
    with open(run.log_path) as file:
        assert json.loads(file.read()) == {"images_seen": 1, "d_loss": None}


def write_events(events, first, last):
    for images_seen in range(first, last + 1, 100):
        events.write_scalars(images_seen, {"coverage": images_seen / 1000})
    events.write_image(last, "layers", np.zeros((4, 4, 3), np.uint8))


def test_all_records_of_a_process_share_one_file(tmp_path, read_events):
    write_events(callbacks.Events(str(tmp_path)), 100, 300)
    assert len(os.listdir(tmp_path)) == 1
    found = read_events(tmp_path)
    assert found["coverage"] == [(step, pytest.approx(step / 1000)) for step in (100, 200, 300)]
    assert found["layers"] == [(300, None)]


@pytest.mark.parametrize("is_torn", [False, True])
def test_a_resumed_run_shows_nothing_twice(tmp_path, read_events, is_torn):
    write_events(callbacks.Events(str(tmp_path)), 100, 500)
    if is_torn:  # killed while writing
        (name,) = os.listdir(tmp_path)
        with open(tmp_path / name, "ab") as file:
            file.write(b"\x20\0\0\0\0\0\0\0half")
    events = callbacks.Events(str(tmp_path))
    events.truncate(300)
    assert [step for step, _ in read_events(tmp_path)["coverage"]] == [100, 200, 300]
    write_events(events, 400, 600)
    found = read_events(tmp_path)
    assert [step for step, _ in found["coverage"]] == [100, 200, 300, 400, 500, 600]
    assert found["layers"] == [(600, None)]
    assert len(os.listdir(tmp_path)) == 2


def test_truncating_where_nothing_is_changes_nothing(tmp_path):
    callbacks.Events(str(tmp_path / "none")).truncate(0)
    assert os.listdir(tmp_path) == []
    write_events(callbacks.Events(str(tmp_path)), 100, 200)
    (name,) = os.listdir(tmp_path)
    before = os.stat(tmp_path / name)
    callbacks.Events(str(tmp_path)).truncate(200)
    after = os.stat(tmp_path / name)  # but for the time of access
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path) == [name]


def test_an_empty_layer_is_named(run, printed):
    config = configs.load("", ["gan.layers=2"])
    callback = callbacks.CollapseWarning(run, progress_at(0), config)
    for step in range(30):
        callback.on_train_batch_end(step, {"coverage": 0.2, "coverage_1": 0.39, "coverage_2": 0.01})
    text = printed()
    assert "mean mask coverage of layer 2 over the last 10 steps is 0.010" in text
    assert "layer 1" not in text and text.count("warning:") == 1
