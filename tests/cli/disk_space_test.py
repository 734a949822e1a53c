"""A disk that is really full: a small tmpfs, where the tests may mount one."""

import os
import subprocess
import sys

import pytest

TINY = [
    "--config=quickstart",
    "--set=data.limit=64",
    "--set=gan.max_channels=8",
    "--set=gan.latent_dim=8",
    "--set=gan.mapping_layers=1",
    "--set=gan.resolution=8",
    "--set=schedule.images_at={8: 640}",
    "--set=train.checkpoint_every=128",
]


@pytest.mark.slow
def test_training_on_a_full_disk_says_so(small_disk):
    (small_disk / "photo.jpg").write_bytes(b"precious")
    command = [sys.executable, "-m", "layered_segmentation.cli.train", *TINY]
    done = subprocess.run([*command, f"--run_dir={small_disk}/run"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("layerseg train: error: no space left on the disk that holds ")
    assert str(small_disk) in last
    assert (small_disk / "photo.jpg").read_bytes() == b"precious"
    assert not os.path.exists(small_disk / "run" / "finished.json")
