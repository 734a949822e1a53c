import json
import os
import re

import numpy as np
import pytest

from layered_segmentation.benchmarks import memory
from layered_segmentation.errors import UserError

needs_proc = pytest.mark.linux("/proc")


def samples(megabytes, seconds=10.0):
    return [memory.Sample(seconds * n, used, 100 * n) for n, used in enumerate(megabytes)]


def test_the_slope_of_a_leak_leaves_out_the_warm_up():
    growing = [*np.linspace(0, 900, 10), *(1000 + 0.5 * n for n in range(11))]
    line = memory.slope(samples(growing), warmup=0.5)
    assert line.per_hour == pytest.approx(0.05 * 3600)  # 0.5 MB in 10 s
    assert line.per_thousand == pytest.approx(5)  # 0.5 MB per 100
    assert line.scatter == pytest.approx(0, abs=1e-9) and line.samples == 11


def test_the_scatter_of_a_flat_line():
    line = memory.slope(samples([100, 102] * 50), warmup=0)
    assert line.scatter == pytest.approx(1, rel=1e-2)
    assert abs(line.per_hour) < 4


def test_too_few_samples():
    with pytest.raises(UserError, match="2 samples after the warm-up are too few"):
        memory.slope(samples([1, 2]), warmup=0)
    with pytest.raises(UserError, match="0 samples"):
        memory.slope([], warmup=0)


def test_the_table_shows_first_and_last():
    text = memory.table(samples(range(100)), "masks")
    lines = text.splitlines()
    assert len(lines) == 13 and lines[0].split() == ["minutes", "masks", "MB"]
    assert lines[1].split() == ["0.0", "0", "0.0"]
    assert lines[-1].split() == ["16.5", "9,900", "99.0"]


@needs_proc
def test_memory_that_this_process_takes_is_seen():
    before = memory.megabytes("RssAnon")
    taken = np.ones(8_000_000)
    assert 60 < memory.megabytes("RssAnon") - before < 80, len(taken)
    assert memory.megabytes(pid=os.getpid()) == pytest.approx(memory.megabytes(), rel=0.05)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "--run_dir to train, or --saved_model"),
        (["--run_dir=a", "--saved_model=b"], "one of them"),
        (["--saved_model=b"], "--images is needed"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(layerseg, given, reason):
    result = layerseg("benchmark_memory", *given)
    assert result.status == 2 and re.search(reason, result.stderr)


@needs_proc
@pytest.mark.slow
def test_a_training_is_watched_and_stopped(layerseg, tmp_path):
    run, out = tmp_path / "run", tmp_path / "memory.json"
    settings = [
        "data.name=shapes", "data.limit=50", "gan.resolution=8", "gan.max_channels=4",
        "gan.latent_dim=4", "gan.mapping_layers=1", "schedule.images_per_stage=10000000",
        "schedule.batch.8=4",
    ]  # fmt: skip
    flags = [f"--set={text}" for text in settings]
    result = layerseg(
        "benchmark_memory", *flags, f"--run_dir={run}", "--minutes=0.75", f"--out={out}",
        "--warmup=0",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    measured = json.loads(out.read_text())["samples"]
    assert len(measured) >= 3 and measured[-1]["megabytes"] > 100
    assert "MB an hour" in result.stdout
    assert any((run / "checkpoints").iterdir()) and not (run / "finished.json").exists()


@needs_proc
def test_masks_of_a_saved_model_are_counted():
    class Loaded:
        signatures = {  # noqa: RUF012
            "image_bytes": lambda bytes: {"masks": np_tensor(len(bytes))},
            "serving_default": lambda images: {"masks": np_tensor(len(images))},
        }

    import cv2
    import tensorflow as tf

    def np_tensor(count):
        return tf.zeros((count, 2, 2, 1))

    photo = cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes()
    found = list(memory.watch_masks(Loaded, [photo], masks=60, every=20))
    done = [sample.done for sample in found]
    assert done[0] == 1 and done[-1] >= 60 and len(done) == 4
    assert all(sample.megabytes > 0 for sample in found)
