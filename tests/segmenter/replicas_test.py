"""A student trained on two devices is the student of one."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "student_steps.py"


def train(directory, replicas):
    path = directory / f"{replicas}.npz"
    subprocess.run(
        [sys.executable, str(SCRIPT), str(replicas), str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        timeout=300,
    )
    return dict(np.load(path))


@pytest.mark.slow
def test_two_replicas_train_the_student_of_one_device(tmp_path):
    """Augmentation, batch norms, clipped gradients, averaged weights and masks included."""
    one, two = train(tmp_path, 1), train(tmp_path, 2)
    assert set(one) == set(two)
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=0, atol=1e-5, err_msg=name)
    assert (tmp_path / "2" / "segmenter.tflite").exists()
