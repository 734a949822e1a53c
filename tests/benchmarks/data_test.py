import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from layered_segmentation.benchmarks import data
from layered_segmentation.config import DataConfig


@pytest.mark.slow
def test_the_pipeline_and_training(layerseg, tmp_path):
    out = tmp_path / "data.json"
    flags = ["--images=24", "--resolutions=8,16", "--batch=4", "--cache_memory=0"]
    speeds = "--training_speeds=100,50"
    result = layerseg("benchmark_data", *flags, speeds, "--rounds=1", f"--out={out}")
    assert result.status == 0, result.stderr
    figures = json.loads(out.read_text())
    cache = figures["cache"]
    assert (cache["images"], cache["sides"], cache["place"]) == (24, [9, 18], "disk")
    assert cache["bytes"] == 24 * 3 * (81 + 324)
    assert 0 < cache["megabytes_before"] <= cache["megabytes_most"]
    eight, sixteen = figures["stages"]
    for row, resolution, speed in ((eight, 8, 100), (sixteen, 16, 50)):
        assert (row["resolution"], row["batch"], row["training"]) == (resolution, 4, speed)
        assert row["pipeline"] > 0 and row["ratio"] == pytest.approx(row["pipeline"] / speed)
    assert re.search(r"all stages read: resident memory [\d,]+ MB at most", result.stdout)
    assert "24 photos at 9, 18 px" in result.stdout and "Downloading" not in result.stdout


def test_photos_are_cached_and_read(monkeypatch):
    monkeypatch.setattr(data, "_SECONDS", 0.01)
    cache, report = data._cache_photos(DataConfig(name="shapes", limit=12), [8, 16])
    assert (report.images, report.sides, report.place) == (12, [9, 18], "memory")
    assert report.bytes == 12 * 3 * (81 + 324)
    assert 0 < report.megabytes_before <= report.megabytes_most
    assert "12 photos at 9, 18 px: 0.0 MB in memory" in report.line()
    assert data._read(cache, 8, 4) > 0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--steps=2"], "unknown flag --steps"),
        (["--training_speeds=5", "--max_channels=8"], "--max_channels: has no effect"),
        (["--resolutions=8,16", "--training_speeds=5"], "speeds=5: .* 2 for 8,16"),
        (["--resolutions=8", "--training_speeds=fast"], "speeds=fast: one positive"),
        (["--resolutions=8", "--training_speeds=0"], "speeds=0: one positive"),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together_are_refused(layerseg, given, reason):
    result = layerseg("benchmark_data", *given)
    assert result.status == 2 and re.search(reason, result.stderr)


@pytest.mark.slow
def test_a_dataset_that_is_not_prepared(layerseg, tmp_path):
    flags = ["--dataset=lsun_objects/car", f"--data_dir={tmp_path}", "--training_speeds=1"]
    result = layerseg("benchmark_data", "--resolutions=8", *flags)
    assert result.status == 2 and "layerseg prepare --dataset=lsun_objects/car" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_drawn_photo_depends_on_its_number():
    files = [data.draw_photo(number) for number in (0, 0, 1)]
    assert files[0] == files[1] != files[2]
    with Image.open(io.BytesIO(files[0])) as image:
        assert image.size == (341, 256) and image.format == "JPEG"
        assert 40 < np.asarray(image).std() < 100
    assert 15_000 < len(files[0]) < 60_000
