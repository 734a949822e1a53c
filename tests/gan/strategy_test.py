import json
import os
import subprocess
import sys
import types

import pytest
import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation.errors import UserError
from layered_segmentation.gan import strategy
from layered_segmentation.run_directory import RunDirectory

TWO_DEVICES = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from layered_segmentation.cli import train, app
app.run(train.main)
"""


def config(*overrides):
    return configs.load("", ["gan.resolution=8", "train.strategy=mirrored", *overrides])


def test_a_batch_must_divide_among_the_replicas():
    odd = {"schedule.batch.8": 9}
    with pytest.raises(UserError, match=r"schedule.batch.8=9 is not divisible by the 2 replicas"):
        strategy._require_divisible(odd, 2)
    strategy._require_divisible(odd, 3)


@pytest.mark.slow
def test_a_batch_that_the_replicas_cannot_share_is_refused(tmp_path):
    flags = ["--config=quickstart", "--set=data.limit=40", "--set=gan.resolution=8"]
    flags += ["--set=schedule.batch={8: 9}", "--set=train.strategy=mirrored"]
    run = tmp_path / "run"
    result = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, *flags, f"--run_dir={run}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2, result.stderr
    assert "schedule.batch.8=9 is not divisible by the 2 replicas" in result.stderr
    assert "Traceback" not in result.stderr
    assert not run.exists()


def test_an_unknown_device_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match=r"--devices=TPU:3.*CPU:0"):
        strategy.open_strategy(config(), ["TPU:3"])


@pytest.mark.parametrize(
    "accelerators, batch, chosen",
    [
        ([], 12, "default"),
        (["GPU:0"], 12, "default"),
        (["GPU:0", "GPU:1"], 12, ["GPU:0", "GPU:1"]),
        (["GPU:0", "GPU:1", "GPU:2", "GPU:3", "GPU:4"], 12, ["GPU:0", "GPU:1", "GPU:2", "GPU:3"]),
        (["GPU:0", "GPU:1"], 9, ["GPU:0"]),
    ],
)
def test_all_accelerators_train_by_default(accelerators, batch, chosen, monkeypatch):
    devices = [
        types.SimpleNamespace(name=f"/device:{name}") for name in ("CPU:0", "CPU:1", *accelerators)
    ]
    opened = []

    def mirrored(devices, cross_device_ops):
        opened.append(devices)
        return types.SimpleNamespace(num_replicas_in_sync=len(devices))

    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda: devices)
    monkeypatch.setattr("tensorflow.distribute.MirroredStrategy", mirrored)
    monkeypatch.setattr(
        "tensorflow.distribute.OneDeviceStrategy", lambda device: opened.append([device])
    )
    settings = config("train.strategy=auto", f"schedule.batch={{8: {batch}}}")
    strategy.open_strategy(settings)
    assert opened == ([] if chosen == "default" else [chosen])


def test_one_device_takes_one():
    with pytest.raises(UserError, match="mirrored"):
        strategy.open_strategy(config("train.strategy=one_device"), ["CPU:0", "CPU:0"])


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


def test_a_session_on_another_machine_is_told_so(run, capsys, monkeypatch):
    engine = tf.distribute.get_strategy()
    strategy.note_machine(run, engine, 0)
    with open(run.machine_path) as file:
        recorded = json.load(file)
    assert recorded["tensorflow"] == tf.__version__ and recorded["devices"] == ["CPU"]
    assert 1 <= recorded["intra_op_threads"] <= os.cpu_count()
    strategy.note_machine(run, engine, 100)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "77")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    strategy.note_machine(run, engine, 0)  # nothing was trained
    with open(run.machine_path, "w") as file:
        json.dump(recorded, file)
    assert capsys.readouterr().err == ""
    strategy.note_machine(run, engine, 100)
    message = capsys.readouterr().err
    threads, kernels = recorded["intra_op_threads"], recorded["onednn"]
    assert f"intra_op_threads {threads} then, 77 now; onednn {kernels} then, 0 now" in message
    strategy.note_machine(run, engine, 100)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_record_is_written_again(run, content, capsys):
    with open(run.machine_path, "w") as file:
        file.write(content)
    strategy.note_machine(run, tf.distribute.get_strategy(), 100)
    with open(run.machine_path) as file:
        assert "tensorflow" in json.load(file)
    assert capsys.readouterr().err == ""
