import os
import random
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from layered_segmentation import config as configs
from layered_segmentation import stopping
from layered_segmentation.gan import collapse, trainer
from layered_segmentation.gan.callbacks import Events
from layered_segmentation.run_directory import RunDirectory

CONFIG = """
data: {name: shapes, limit: 300}
gan: {resolution: 16, max_channels: 8, latent_dim: 8, mapping_layers: 2, contrast_jitter: 0.3}
schedule: {images_at: {8: 800, 16: 800}, batch: {8: 16, 16: 16}}
train: {checkpoint_every: 160, sheet_every: 800, steps_per_execution: 4}
"""


def start(directory, run, *flags):
    config = directory / "tiny.yaml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "layered_segmentation.cli.train", f"--config={config}"]
    return subprocess.Popen(
        [*command, f"--run_dir={run}", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def last_checkpoint(run):
    import tensorflow as tf

    path = tf.train.latest_checkpoint(str(run / "checkpoints"))
    return {name: tf.train.load_variable(path, name) for name, _ in tf.train.list_variables(path)}


def generator_weights(run):
    with zipfile.ZipFile(run / "generator" / "generator.keras") as archive:
        return archive.read("model.weights.h5")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    run = directory / "run"
    status, output = finish(start(directory, run))
    assert status == 0, output
    assert "images/s" in output
    return run


def kill_at_random(process, run):
    """Kills once the run has reached a random number of images, or a moment later."""
    moment = random.SystemRandom().randrange(160, 1_120)
    log = run / "checkpoints" / "checkpoint"
    for _ in range(6_000):
        saved = 0
        if log.exists():
            names = [line for line in log.read_text().splitlines() if line.startswith("model_")]
            saved = int(names[0].rstrip('"').rpartition("-")[2]) if names else 0
        if saved >= moment - 160 or process.poll() is not None:
            break
        time.sleep(0.02)
    time.sleep(random.SystemRandom().random() * 0.3)
    assert process.poll() is None, process.communicate()[0]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return moment


@pytest.mark.slow
def test_a_killed_run_ends_as_the_uninterrupted_one(uninterrupted, tmp_path):
    run = tmp_path / "run"
    process = start(tmp_path, run)
    moment = kill_at_random(process, run)
    assert not (run / "finished.json").exists()
    # Where photos are kept changes nothing: what was in memory is now on disk.
    status, output = finish(start(tmp_path, run, "--set=data.cache_memory=0"))
    assert status == 0, output
    assert list((run / "cache").glob("*/0018.npy"))
    assert '"resumed": true' in (run / "log.jsonl").read_text()
    resumed, expected = last_checkpoint(run), last_checkpoint(uninterrupted)
    assert set(resumed) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(
            resumed[name], value, err_msg=f"{name}, killed near {moment} images"
        )
    assert generator_weights(run) == generator_weights(uninterrupted)


@pytest.mark.slow
def test_a_finished_run_says_so_and_changes_nothing(uninterrupted):
    before = generator_weights(uninterrupted)
    status, output = finish(start(uninterrupted.parent, uninterrupted))
    assert status == 0
    assert "finished" in output
    assert generator_weights(uninterrupted) == before


@pytest.mark.slow
def test_another_config_is_refused_with_its_differences(uninterrupted):
    flags = ("--set=gan.shift=0", "--set=train.seed=7")
    status, output = finish(start(uninterrupted.parent, uninterrupted, *flags))
    assert status == 2
    assert "gan.shift: 0.125 != 0.0" in output and "train.seed: 0 != 7" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_signal_after_the_last_step_loses_no_step(tmp_path, monkeypatch):
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG.replace("resolution: 16", "resolution: 8"))
    sets = ["schedule.images_at={8: 48}", "schedule.batch={8: 16}", "train.checkpoint_every=10000"]
    keep_stage = trainer._keep_stage

    def keep_stage_and_stop(*arguments):
        keep_stage(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer, "_keep_stage", keep_stage_and_stop)
    with pytest.raises(stopping.Stopped):
        trainer.train(configs.load(str(config), sets), RunDirectory(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / "ckpt-48.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("drawn", ["sheet", "look"])
def test_a_signal_while_scenes_are_drawn_loses_no_step(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(collapse, "LOOK_EVERY", 32 if drawn == "look" else 10_000)
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG.replace("resolution: 16", "resolution: 8"))
    every = 32 if drawn == "sheet" else 10_000
    sets = ["schedule.images_at={8: 80}", "train.checkpoint_every=10000"]
    sets.append("train.steps_per_execution=1")  # a callback after each step
    run = RunDirectory(tmp_path / "run")
    sample_layers = trainer.sample_layers

    def stop(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    def train():
        trainer.train(configs.load(str(config), [*sets, f"train.sheet_every={every}"]), run)

    monkeypatch.setattr(trainer, "sample_layers", stop)
    begin = time.monotonic()
    with pytest.raises(stopping.Stopped):
        train()
    assert time.monotonic() - begin < 60
    assert (tmp_path / "run" / "checkpoints" / "ckpt-32.json").exists()
    assert list(run.drawn_sheets()) == []
    # What was not drawn is drawn after the next step, and the rhythm stays.
    monkeypatch.setattr(trainer, "sample_layers", sample_layers)
    train()
    if drawn == "sheet":
        assert list(run.drawn_sheets()) == [48, 64, 80]
    else:
        assert [one["images_seen"] for one in run.read_log() if "look" in one] == [48, 64]


def test_going_back_to_a_checkpoint_keeps_the_time_of_all_sessions(tmp_path):
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
