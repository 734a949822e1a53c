"""A run that two processes train together, each a worker on the loopback interface."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from layered_segmentation import RunDirectory
from layered_segmentation import config as configs
from layered_segmentation.errors import UserError
from layered_segmentation.gan import strategy

SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "logged_run.py"
LOSSES = ("d_loss", "g_loss", "wasserstein", "gradient_penalty", "coverage", "binarisation")
CONFIG = """
data: {name: shapes, limit: 60}
gan: {resolution: 16, max_channels: 8, latent_dim: 8, mapping_layers: 2, contrast_jitter: 0.3}
schedule: {images_per_stage: 80, batch: {8: 8, 16: 8}}
train: {checkpoint_every: 24, sheet_every: 80}
"""


def cluster():
    """Returns TF_CONFIG of two workers on free ports."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    hosts = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]


def start(directory, run, *flags, tf_config=""):
    config = directory / "tiny.yaml"
    config.write_text(CONFIG)
    paths = [path for path in sys.path if path]
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), f"--config={config}", f"--run_dir={run}", *flags],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TF_CONFIG": tf_config},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_workers(directory, run, *flags):
    flags = ["--set=train.strategy=multi_worker", *flags]
    return [start(directory, run, *flags, tf_config=text) for text in cluster()]


def finish(*processes):
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


def losses(run):
    """Returns the losses of every step, [steps, losses]; a repeated step counts once."""
    records = {r["images_seen"]: r for r in RunDirectory.open(run).read_log() if "d_loss" in r}
    return np.array([[records[seen][name] for name in LOSSES] for seen in sorted(records)])


def last_checkpoint(run):
    import tensorflow as tf

    path = tf.train.latest_checkpoint(str(run / "checkpoints"))
    return {name: tf.train.load_variable(path, name) for name, _ in tf.train.list_variables(path)}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    directory = tmp_path_factory.mktemp("together")
    chief, other = finish(*start_workers(directory, directory / "run"))
    assert "report: " in chief and "report: " not in other
    return directory / "run"


@pytest.mark.slow
def test_two_workers_have_the_losses_of_one_device(together, tmp_path):
    finish(start(tmp_path, tmp_path / "alone"))
    assert losses(together).shape == (20, len(LOSSES))
    np.testing.assert_allclose(losses(together), losses(tmp_path / "alone"), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_chief_chooses_the_precision_of_all_workers(tmp_path):
    flags = ["--set=train.precision=auto", "--set=gan.resolution=8"]
    chief, other = finish(*start_workers(tmp_path, tmp_path / "run", *flags))
    assert chief.count("train.precision=auto: ") == 1 and "train.precision=auto" not in other
    chosen = json.loads((tmp_path / "run" / "precision.json").read_text())["precision"]
    assert f"train.precision=auto: {chosen}, since a device trains on " in chief
    assert (tmp_path / "run" / "finished.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1], ids=["chief", "other"])
def test_a_killed_worker_ends_the_run_which_then_resumes_exactly(victim, together, tmp_path):
    run = tmp_path / "run"
    workers = start_workers(tmp_path, run)
    while not list((run / "checkpoints").glob("ckpt-24.json")) and workers[victim].poll() is None:
        time.sleep(0.02)
    os.kill(workers[victim].pid, signal.SIGKILL)
    output, _ = workers[1 - victim].communicate(timeout=300)
    assert workers[1 - victim].returncode == 2, output
    *before, last = output.strip().splitlines()  # TensorFlow may write its own messages first
    assert last.startswith("layerseg train: error: another worker has ended"), output
    assert "run the same command on all workers" in last and "Traceback" not in output
    assert not any(line.startswith("layerseg") for line in before), output
    assert not (run / "finished.json").exists()
    finish(*start_workers(tmp_path, run))
    resumed, expected = last_checkpoint(run), last_checkpoint(together)
    assert set(resumed) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


@pytest.mark.parametrize("text", ["", "{", '{"cluster": {"worker": ["a:1"]}}'])
def test_a_cluster_must_be_described(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    config = configs.load("", ["train.strategy=multi_worker"])
    with pytest.raises(UserError, match=r"TF_CONFIG=.*does not describe this worker"):
        strategy.open_strategy(config)
    with pytest.raises(UserError, match=r"--devices=GPU:0.*CUDA_VISIBLE_DEVICES"):
        strategy.open_strategy(config, ["GPU:0"])
