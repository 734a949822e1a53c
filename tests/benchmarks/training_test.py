import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from layered_segmentation.benchmarks import drawn_photos


def test_the_table_and_its_file(layerseg, tmp_path):
    out = tmp_path / "benchmark.json"
    flags = ["--resolutions=8", "--max_channels=8", "--batch=4", "--latent_dim=8"]
    result = layerseg("benchmark", *flags, "--steps=1", "--rounds=2", f"--out={out}")
    assert result.status == 0, result.stderr
    rows = json.loads(out.read_text())
    assert [(row["convolutions"], row["precision"]) for row in rows] == [
        ("plain", "float32"),
        ("unfused", "float32"),
        ("fused", "float32"),
        ("fused", "mixed_bfloat16"),
    ]
    assert result.stdout.count("float32") == 3
    plain, unfused, fused, mixed = rows
    assert plain["ratio"] == pytest.approx(1)
    assert plain["gflop_per_image"] == unfused["gflop_per_image"]
    # Fusing computes the same function in fewer operations; precision changes none of them.
    assert 0 < fused["gflop_per_image"] < unfused["gflop_per_image"]
    assert mixed["gflop_per_image"] == pytest.approx(fused["gflop_per_image"], rel=0.01)
    for row in rows:
        assert 0 < row["slowest"] <= row["images_per_second"] <= row["fastest"]
        assert row["peak_share"] > 0


def test_an_existing_file_and_a_wrong_resolution_are_refused(layerseg, tmp_path):
    out = tmp_path / "mine.json"
    out.write_text("mine")
    result = layerseg("benchmark", f"--out={out}")
    assert result.status == 2 and "--overwrite" in result.stderr
    assert out.read_text() == "mine"
    result = layerseg("benchmark", "--resolutions=8,20")
    assert result.status == 2 and "--resolutions=20" in result.stderr


def test_the_pipeline_beside_training(layerseg, tmp_path):
    out = tmp_path / "data.json"
    flags = ["--data", "--images=24", "--resolutions=8,16", "--batch=4", "--cache_memory=0"]
    result = layerseg("benchmark", *flags, "--training_speeds=100,50", "--rounds=1", f"--out={out}")
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


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--images=5"], "--images: has no effect without --data"),
        (["--data", "--steps=2"], "--steps: has no effect with --data"),
        (["--data", "--training_speeds=5", "--max_channels=8"], "--max_channels: has no effect"),
        (["--data", "--resolutions=8,16", "--training_speeds=5"], "speeds=5: .* 2 for 8,16"),
        (["--data", "--resolutions=8", "--training_speeds=fast"], "speeds=fast: one positive"),
        (["--data", "--resolutions=8", "--training_speeds=0"], "speeds=0: one positive"),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together_are_refused(layerseg, given, reason):
    result = layerseg("benchmark", *given)
    assert result.status == 2 and re.search(reason, result.stderr)


def test_a_dataset_that_is_not_prepared_is_one_error(layerseg, tmp_path):
    flags = ["--dataset=lsun_objects/car", f"--data_dir={tmp_path}", "--training_speeds=1"]
    result = layerseg("benchmark", "--data", "--resolutions=8", *flags)
    assert result.status == 2 and "layerseg prepare --dataset=lsun_objects/car" in result.stderr
    assert "Traceback" not in result.stderr


def test_drawn_photos_are_photos_of_their_number():
    files = [drawn_photos.draw(number) for number in (0, 0, 1)]
    assert files[0] == files[1] != files[2]
    with Image.open(io.BytesIO(files[0])) as image:
        assert image.size == (341, 256) and image.format == "JPEG"
        assert 40 < np.asarray(image).std() < 100
    assert 15_000 < len(files[0]) < 60_000
