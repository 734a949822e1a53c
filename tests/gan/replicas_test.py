import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow  # three processes, each compiles a step

SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "replica_step.py"


def step(tmp_path, replicas, scaling):
    path = tmp_path / f"{replicas}_{scaling}.npz"
    subprocess.run(
        [sys.executable, str(SCRIPT), str(replicas), scaling, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        timeout=300,
    )
    return dict(np.load(path))


def largest_difference(one, other):
    assert set(one) == set(other)
    return max(float(np.abs(one[key] - other[key]).max()) for key in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return step(tmp_path_factory.mktemp("whole"), 1, "scaled")


def test_two_replicas_take_the_step_of_one(whole, tmp_path):
    assert largest_difference(step(tmp_path, 2, "scaled"), whole) < 1e-5


def test_without_the_loss_scaling_they_would_not(whole, tmp_path):
    assert largest_difference(step(tmp_path, 2, "unscaled"), whole) > 1e-3
