"""Runs on two logical CPUs, from the command line."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from layered_segmentation import LayeredSegmenter

pytestmark = pytest.mark.slow  # each test starts several commands

CONFIG = """
data: {name: shapes, limit: 60}
gan: {resolution: 16, max_channels: 4, latent_dim: 8, mapping_layers: 1}
schedule: {images_per_stage: 96, batch: {8: 8, 16: 8}}
student: {width: 4, steps: 4, batch: 8, self_training: 1, self_training_steps: 4}
train: {checkpoint_every: 16, sheet_every: 96}
"""
TWO_CPUS = ("--logical_cpus=2", "--set=train.strategy=mirrored")


def start(verb, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", f"layered_segmentation.cli.{verb}", *flags],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    return output


def weights(run):
    import keras

    return keras.models.load_model(run / "generator" / "generator.keras").get_weights()


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return f"--config={path}"


def test_a_run_ends_and_resumes_on_two_devices(config, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start("train", config, f"--run_dir={whole}", *TWO_CPUS))
    process = start("train", config, f"--run_dir={killed}", *TWO_CPUS)
    while not list((killed / "checkpoints").glob("ckpt-16.json")) and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "finished.json").exists()
    finish(start("train", config, f"--run_dir={killed}", *TWO_CPUS))
    for resumed, uninterrupted in zip(weights(killed), weights(whole), strict=True):
        np.testing.assert_array_equal(resumed, uninterrupted)

    finish(start("distill", f"--run_dir={whole}", "--logical_cpus=2", "--devices=CPU:0,CPU:1"))
    segmenter = LayeredSegmenter.from_preset(str(whole / "segmenter"))
    mask = segmenter.predict_masks(np.zeros((20, 30, 3), np.uint8))
    assert mask.shape == (20, 30) and np.isfinite(mask).all()


def test_what_runs_on_one_device_may_go_on_on_two(config, tmp_path):
    run = tmp_path / "run"
    finish(start("train", config, f"--run_dir={run}"))
    (run / "finished.json").unlink()
    finish(start("train", config, f"--run_dir={run}", *TWO_CPUS))
