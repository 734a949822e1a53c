"""A disk that is really full: a small tmpfs, where the tests may mount one."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_runs
from PIL import Image

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


SWEEP = """
import os, sys
import numpy as np
from layered_segmentation.errors import UserError
from layered_segmentation.gan import networks
from layered_segmentation.run_directory import RunDirectory
from layered_segmentation.segmenter import presets
from layered_segmentation.segmenter.segmenter import create_segmenter
import tiny_runs

disk, out = sys.argv[1], sys.argv[1] + "/preset"
old, new = create_segmenter(8, 16), create_segmenter(8, 16)
run, network = RunDirectory(disk + "/run"), tiny_runs.generator()
presets.save(old, out, card="card")
networks.save_generator(run, network)
photo = np.zeros([16, 16, 3], np.uint8)
mask = old.predict_masks(photo)
status = os.statvfs(disk)

def free():
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize

def tries(save, kilobytes):
    full = 0
    for left in kilobytes:
        with open(disk + "/filler", "wb") as file:
            file.write(bytes(free() - 1024 * left))
        before = sorted(name for _, folders, names in os.walk(disk) for name in folders + names)
        try:
            save()
        except OSError as error:
            assert error.errno == 28 and str(error.filename).startswith(disk), error
            full += 1
            after = sorted(name for _, folders, names in os.walk(disk) for name in folders + names)
            assert after == before, (before, after)
        os.remove(disk + "/filler")
    return full

full = tries(lambda: presets.save(new, out, overwrite=True, card="new card"), range(0, 640, 16))
print("presets: full in", full, "of 40 tries")
assert 10 < full < 40
assert presets.load(out).predict_masks(photo).shape == mask.shape
full = tries(lambda: networks.save_generator(run, network), range(0, 240, 8))
print("generators: full in", full, "of 30 tries")
assert 5 < full < 30
networks.load_generator(run)
"""


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["2m"], indirect=True)
def test_a_disk_that_is_full_at_any_point_of_a_save_loses_nothing(small_disk):
    """HDF5 ends the process with a segmentation fault if it writes to a full disk itself."""
    support = os.path.join(os.path.dirname(os.path.dirname(__file__)), "support")
    environment = {**os.environ, "PYTHONPATH": f"{os.getcwd()}{os.pathsep}{support}"}
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(small_disk)],
        capture_output=True,
        text=True,
        env=environment,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["100k"], indirect=True)
def test_distill_names_the_full_disk_and_can_be_repeated(layerseg, small_disk, tmp_path):
    run = tiny_runs.run(tmp_path / "run")  # on another disk, which is not full
    out = small_disk / "out"
    command = ["distill", f"--run_dir={run.path}", f"--out={out}", "--set=student.steps=2"]
    command += ["--set=student.batch=2", "--set=student.self_training=0", "--set=student.width=8"]
    failed = layerseg(*command)
    assert failed.status == 1, failed.stderr
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith(
        f"layerseg distill: error: no space left on the disk that holds {out}"
    ), last
    assert last.endswith("free some. Then: no segmenter was written; run it again")
    assert os.listdir(small_disk) == []
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    repeated = layerseg(*command)
    assert repeated.status == 0, repeated.stderr


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["200k"], indirect=True)
def test_segment_on_a_full_disk_says_how_to_go_on(layerseg, small_disk, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (160, 160, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{number}.png")
    command = ["segment", "--segmenter=layered_unet_flowers_64", f"--input={tmp_path}/photos"]
    command += [f"--out={small_disk}/masks", "--threshold=0.01"]
    failed = layerseg(*command)
    assert failed.status == 1, failed.stderr
    last = failed.stderr.strip().splitlines()[-1]
    assert f"no space left on the disk that holds {small_disk}/masks" in last
    assert last.endswith("the masks written so far are complete; run it again with --skip_existing")
    for name in os.listdir(small_disk / "masks"):
        assert not name.startswith(".")
        with Image.open(small_disk / "masks" / name) as file:
            file.load()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert layerseg(*command, "--skip_existing").status == 0
    assert len(os.listdir(small_disk / "masks")) == 6
