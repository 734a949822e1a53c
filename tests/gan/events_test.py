import os

import numpy as np
import pytest

from layered_segmentation import config as configs
from layered_segmentation.gan import trainer
from layered_segmentation.gan.events import Events
from layered_segmentation.run_directory import RunDirectory


def write(events, first, last):
    for images_seen in range(first, last + 1, 100):
        events.write_scalars(images_seen, {"coverage": images_seen / 1000})
    events.write_image(last, "layers", np.zeros((4, 4, 3), np.uint8))


def test_all_records_of_a_process_share_one_file(tmp_path, read_events):
    write(Events(str(tmp_path)), 100, 300)
    assert len(os.listdir(tmp_path)) == 1
    found = read_events(tmp_path)
    assert found["coverage"] == [(step, pytest.approx(step / 1000)) for step in (100, 200, 300)]
    assert found["layers"] == [(300, None)]


@pytest.mark.parametrize("is_torn", [False, True])
def test_a_resumed_run_shows_nothing_twice(tmp_path, read_events, is_torn):
    write(Events(str(tmp_path)), 100, 500)
    if is_torn:  # killed while it wrote
        (name,) = os.listdir(tmp_path)
        with open(tmp_path / name, "ab") as file:
            file.write(b"\x20\0\0\0\0\0\0\0half")
    events = Events(str(tmp_path))
    events.truncate(300)
    assert [step for step, _ in read_events(tmp_path)["coverage"]] == [100, 200, 300]
    write(events, 400, 600)
    found = read_events(tmp_path)
    assert [step for step, _ in found["coverage"]] == [100, 200, 300, 400, 500, 600]
    assert found["layers"] == [(600, None)]
    assert len(os.listdir(tmp_path)) == 2


def test_truncating_where_nothing_is_changes_nothing(tmp_path):
    Events(str(tmp_path / "none")).truncate(0)
    assert os.listdir(tmp_path) == []
    write(Events(str(tmp_path)), 100, 200)
    (name,) = os.listdir(tmp_path)
    before = os.stat(tmp_path / name)
    Events(str(tmp_path)).truncate(200)
    assert os.stat(tmp_path / name) == before
    assert os.listdir(tmp_path) == [name]


def test_going_back_to_a_checkpoint_keeps_the_time_of_all_sittings(tmp_path):
    run = RunDirectory(tmp_path)
    run.create_or_resume(configs.load("quickstart"))
    events = Events(run.tensorboard)
    assert trainer._rewind(run, events, 0) == 0.0
    assert run.read_log() == []
    for images_seen, seconds in ((100, 10.0), (200, 20.0), (300, 30.0)):
        run.append_log({"images_seen": images_seen, "seconds": seconds})
    assert trainer._rewind(run, events, 200) == 30.0
    assert [record["images_seen"] for record in run.read_log()] == [100, 200, 200]
    assert trainer._rewind(run, events, 200) == 30.0  # stopped at once: nothing is forgotten
    run.append_log({"images_seen": 300, "seconds": 42.0})
    assert run.logged_seconds() == 42.0
