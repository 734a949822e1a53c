import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow  # seven processes, each compiles a step or two

SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "replica_steps.py"


def train(directory, replicas, how):
    path = directory / f"{replicas}_{how}.npz"
    subprocess.run(
        [sys.executable, str(SCRIPT), str(replicas), how, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        timeout=300,
    )
    return dict(np.load(path))


def largest_difference(one, other):
    assert set(one) == set(other)
    return max(float(np.abs(one[key] - other[key]).max()) for key in one)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one_device"), 1, "whole")


def test_two_replicas_take_the_steps_of_one_device(one_device, tmp_path):
    """Six steps over two stages, with the minibatch standard deviation of the global batch."""
    assert one_device["images_seen"] == 48
    assert largest_difference(train(tmp_path, 2, "whole"), one_device) < 1e-5


@pytest.mark.parametrize("how", ["lazy", "simultaneous"])
def test_two_replicas_leave_out_what_one_device_leaves_out(one_device, tmp_path, how):
    alone = train(tmp_path, 1, how)
    assert largest_difference(train(tmp_path, 2, how), alone) < 1e-5
    # Penalties in the first and the third step of each stage.
    logged = [name for name in alone if name.endswith("gradient_penalty")]
    assert logged == [f"log_{side}_{step}_gradient_penalty" for side in (8, 16) for step in (0, 2)]
    weights = [name for name in one_device if name.startswith("discriminator_")]
    assert max(float(np.abs(alone[n] - one_device[n]).max()) for n in weights) > 1e-3


def test_without_the_loss_scaling_they_would_not(one_device, tmp_path):
    assert largest_difference(train(tmp_path, 2, "unscaled"), one_device) > 1e-3


def test_with_a_standard_deviation_for_each_replica_they_would_not(one_device, tmp_path):
    assert largest_difference(train(tmp_path, 2, "alone"), one_device) > 1e-3


def test_an_overflow_on_one_replica_skips_the_step_on_all(tmp_path):
    arrays = train(tmp_path, 2, "float16")
    assert all(np.isfinite(values).all() for values in arrays.values())
    for name, (first, last) in arrays.items():
        np.testing.assert_array_equal(first, last, err_msg=name)
    assert (arrays["scale_6_0"] == arrays["scale_5_0"] / 2).all()
    weights = [
        [values for name, values in arrays.items() if name.startswith(f"weight_{step}_")]
        for step in range(8)
    ]
    moved = [
        any((a != b).any() for a, b in zip(weights[step], weights[step - 1], strict=True))
        for step in (5, 6, 7)
    ]
    assert moved == [True, False, True]
