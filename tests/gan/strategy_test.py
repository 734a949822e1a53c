import subprocess
import sys

import pytest

from layered_segmentation import config as configs
from layered_segmentation.errors import UserError
from layered_segmentation.gan import strategy

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
    odd = config("schedule.batch={8: 9}")
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


def test_one_device_takes_one():
    with pytest.raises(UserError, match="mirrored"):
        strategy.open_strategy(config("train.strategy=one_device"), ["CPU:0", "CPU:0"])


def test_multi_worker_says_that_it_is_not_there_yet():
    with pytest.raises(UserError, match="multi_worker is not available"):
        strategy.open_strategy(config("train.strategy=multi_worker"))
