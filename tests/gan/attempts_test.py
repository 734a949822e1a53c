import json
import os

import numpy as np
import pytest

from layered_segmentation import config as configs
from layered_segmentation.errors import UserError
from layered_segmentation.gan import attempts, collapse, trainer
from layered_segmentation.run_directory import RunDirectory

FOUND = collapse.Collapsed("background", "warning: masks cover the background")


@pytest.fixture
def config():
    return configs.load("", ["train.restarts=2", "gan.mask_size=0.2"])


def begun(path, config):
    """A run that has trained: a log, a sheet, a checkpoint."""
    run = RunDirectory(path)
    run.create_or_resume(config)
    run.append_log({"images_seen": 5_000, "seconds": 12.0})
    for directory, name in (("sheets", "1.png"), ("checkpoints", "ckpt-1.index")):
        os.makedirs(os.path.join(run.path, directory), exist_ok=True)
        with open(os.path.join(run.path, directory, name), "w") as file:
            file.write("kept")
    return run


def tree(directory):
    names = (
        os.path.relpath(os.path.join(folder, file), directory)
        for folder, _, files in os.walk(directory)
        for file in files
    )
    return sorted(name for name in names if os.path.basename(name) != "lock")


SET_ASIDE = [
    "attempts/1/attempt.json",
    "attempts/1/checkpoints/ckpt-1.index",
    "attempts/1/log.jsonl",
    "attempts/1/sheets/1.png",
    "config.yaml",
    "log.jsonl",
]


def test_a_collapsed_attempt_is_kept_and_the_next_one_begins(tmp_path, config):
    run = begun(tmp_path / "run", config)
    assert attempts.current(run, config) == config and attempts.restarts_left(run, config) == 2
    said = attempts.set_aside(run, config, FOUND)
    for words in ("after 5,000 images", "attempt 2 of 3", "gan.mask_size_most=0.45", "attempts/1"):
        assert words in said
    assert tree(run.path) == SET_ASIDE
    assert run.read_log() == [{"images_seen": 0, "restart": 1, "seconds": 12.0, "warning": said}]
    assert run.logged_seconds() == 12.0  # the time of the attempt still counts
    assert attempts.current(run, config) == collapse.next_attempt(config, ["background"])
    assert attempts.restarts_left(run, config) == 1
    with pytest.raises(UserError, match="it holds a run of another config"):
        run.create_or_resume(configs.load("", ["train.restarts=2", "gan.mask_size=0.3"]))


def test_what_the_user_has_in_attempts_stays(tmp_path, config):
    run = begun(tmp_path / "run", config)
    os.makedirs(os.path.join(run.attempts, "1", "sheets"))
    attempts.set_aside(run, config, FOUND)
    assert os.listdir(os.path.join(run.attempts, "1", "sheets")) == []
    assert os.path.exists(os.path.join(run.attempts, "2", "attempt.json"))
    assert attempts.current(run, config) == collapse.next_attempt(config, ["background"])


@pytest.mark.parametrize("steps", range(7))
def test_a_restart_that_is_stopped_is_completed(tmp_path, config, steps, monkeypatch):
    run = begun(tmp_path / "run", config)
    left = [steps]

    def stopping(function):
        def call(*arguments):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return function(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(attempts.files, "move", stopping(attempts.files.move))
        patch.setattr(attempts.files, "sync", stopping(attempts.files.sync))
        with pytest.raises(KeyboardInterrupt):
            attempts.set_aside(run, config, FOUND)
    assert run.config() == config
    assert attempts.current(run, config) == collapse.next_attempt(config, ["background"])
    assert tree(run.path) == SET_ASIDE
    assert run.read_log()[0]["restart"] == 1


def test_a_run_whose_earlier_attempts_were_removed_is_refused(tmp_path, config):
    run = begun(tmp_path / "run", config)
    attempts.set_aside(run, config, FOUND)
    os.remove(os.path.join(run.attempts, "1", "attempt.json"))
    with pytest.raises(UserError, match="0 of the 1 attempts before this one"):
        attempts.current(run, config)


def test_restarts_need_one_machine():
    with pytest.raises(UserError, match=r"train.restarts=1.*0 with several machines"):
        configs.load("", ["train.restarts=1", "train.strategy=multi_worker"])


def collapsing(restarts):
    """A tiny run whose bounds ask for masks that cover everything."""
    return configs.load(
        "",
        [
            *("data.name=shapes", "data.limit=60", "gan.resolution=8", "gan.max_channels=8"),
            *("gan.latent_dim=8", "gan.mapping_layers=1", "gan.mask_size=0.98"),
            *("gan.mask_size_weight=300", "gan.mask_binary_weight=300"),
            *("schedule.images_at={8: 1600}", "schedule.batch={8: 16}"),
            "train.checkpoint_every=160",
            *("schedule.learning_rate={default: 0.02}", f"train.restarts={restarts}"),
        ],
    )


def generator_weights(run):
    from layered_segmentation.gan import networks

    return networks.load_generator(run).get_weights()


def stop_after(images, run):
    """A `LogWriter` that stops the program once a look was logged at so many images."""

    def on_train_batch_end(self, batch, logs=None):
        if any(one["images_seen"] >= images for one in run.read_log()):
            raise KeyboardInterrupt

    return on_train_batch_end


@pytest.mark.slow
def test_a_run_that_collapses_begins_again(tmp_path, monkeypatch, capfd):
    """Also after it was stopped in the first attempt and in the middle of the restart."""
    monkeypatch.setattr(collapse, "LOOK_EVERY", 160)
    config, run = collapsing(1), RunDirectory(tmp_path / "run")
    assert trainer.train(config, run).images_seen == 1600
    said = capfd.readouterr().err
    assert "Training begins again" in said and "attempt 2 of 2" in said
    assert "cover the background" in said or "cover everything" in said
    kept = os.path.join(run.attempts, "1")
    assert {"attempt.json", "checkpoints", "log.jsonl", "sheets", "tensorboard"} <= {
        *os.listdir(kept)
    }
    assert os.listdir(os.path.join(kept, "sheets"))
    with open(os.path.join(kept, "attempt.json")) as file:
        record = json.load(file)
    assert record["images_seen"] < 1600
    assert run.read_log()[0]["restart"] == 1
    assert run.config() == config
    looks = [one for one in run.read_log() if "mask_edge" in one]
    assert [one["images_seen"] for one in looks] == list(range(160, 1601, 160))

    def stop(*_):
        raise KeyboardInterrupt

    stopped = RunDirectory(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.callbacks.LogWriter, "on_train_batch_end", stop_after(320, stopped))
        with pytest.raises(KeyboardInterrupt):
            trainer.train(config, stopped)
    assert os.path.exists(os.path.join(stopped.checkpoints, "ckpt-160.index"))
    with monkeypatch.context() as patch:
        patch.setattr(attempts.files, "move", stop)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(config, stopped)
    assert os.path.exists(stopped.restart_path)
    assert trainer.train(config, stopped).images_seen == 1600
    for one, other in zip(generator_weights(run), generator_weights(stopped), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_without_restarts_a_collapse_is_a_warning(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(collapse, "LOOK_EVERY", 160)
    run = RunDirectory(tmp_path / "run")
    assert trainer.train(collapsing(0), run).images_seen == 1600
    said = capfd.readouterr().err
    assert said.count("fixed latents cover") == 1 and "With train.restarts=2" in said
    assert not os.path.exists(run.attempts)
