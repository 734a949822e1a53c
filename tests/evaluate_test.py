import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from layered_segmentation.data.shapes import Shapes


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    from layered_segmentation.models import segmenter

    run = tmp_path_factory.mktemp("run")
    segmenter.save(segmenter.create(8, 16), str(run / "segmenter"))
    return run


@pytest.fixture
def test_set(tmp_path):
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for pair in Shapes(0, 6, "test").pairs(40):
        Image.fromarray(pair.image).save(tmp_path / "photos" / f"{pair.name}.png")
        Image.fromarray(pair.mask).save(tmp_path / "masks" / f"{pair.name}.png")
    return tmp_path


def flags(preset, test_set, *more):
    return (f"--segmenter={preset}", f"--images={test_set / 'photos'}",
            f"--masks={test_set / 'masks'}", *more)  # fmt: skip


@pytest.mark.parametrize("refine", ["none", "guided", "grabcut"])
def test_results_table_and_sheet(layerseg, preset, test_set, refine):
    out = test_set / "out"
    result = layerseg("evaluate", *flags(preset, test_set, f"--refine={refine}", f"--out={out}"))
    assert result.status == 0, result.stderr
    results = json.loads((out / "results.json").read_text())
    assert results["images"] == 6 and results["refine"] == refine
    assert set(results["references"]) == {"full_mask", "centre_box", "grabcut"}
    with open(out / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.mean([float(row["iou"]) for row in rows]) == pytest.approx(results["miou"], abs=1e-5)
    assert f"mIoU {results['miou']:.3f}" in result.stdout
    assert np.asarray(Image.open(out / "sheet.png")).ndim == 3
    assert sorted(os.listdir(out)) == ["per_image.csv", "results.json", "sheet.png"]


def test_the_score_is_that_of_the_segmenters_masks(layerseg, preset, test_set):
    from layered_segmentation.data import folder
    from layered_segmentation.evaluation.iou import iou
    from layered_segmentation.models import segmenter

    pairs = folder.pairs(str(test_set / "photos"), str(test_set / "masks"))
    masks = segmenter.load(str(preset)).predict_masks([pair.image for pair in pairs])
    expected = [iou(mask >= 0.5, pair.mask) for mask, pair in zip(masks, pairs, strict=True)]
    out = test_set / "out"
    assert layerseg("evaluate", *flags(preset, test_set, f"--out={out}")).status == 0
    assert json.loads((out / "results.json").read_text())["miou"] == pytest.approx(
        np.mean(expected), abs=1e-3
    )


def test_earlier_results_stay_unless_told(layerseg, preset, test_set):
    out = test_set / "out"
    arguments = flags(preset, test_set, f"--out={out}")
    assert layerseg("evaluate", *arguments, "--limit=2").status == 0
    before = {name: (out / name).read_bytes() for name in os.listdir(out)}
    result = layerseg("evaluate", *arguments)
    assert result.status == 2 and "--overwrite" in result.stderr and str(out) in result.stderr
    assert {name: (out / name).read_bytes() for name in os.listdir(out)} == before
    assert layerseg("evaluate", *arguments, "--overwrite").status == 0
    assert json.loads((out / "results.json").read_text())["images"] == 6


def test_ignored_pixels(layerseg, preset, test_set):
    (test_set / "ignore").mkdir()
    for name in os.listdir(test_set / "masks"):
        Image.new("L", (40, 40), 255).save(test_set / "ignore" / name)
    out = test_set / "out"
    more = (f"--ignore={test_set / 'ignore'}", f"--out={out}")
    assert layerseg("evaluate", *flags(preset, test_set, *more)).status == 0
    assert json.loads((out / "results.json").read_text())["miou"] == 1.0  # nothing is left


def test_results_go_into_the_run_if_nobody_says(layerseg, test_set, preset):
    result = layerseg("evaluate", *flags(preset, test_set, "--limit=1"))
    assert result.status == 0, result.stderr
    assert (preset / "evaluation" / "results.json").is_file()
    preset_alone = layerseg("evaluate", *flags(preset / "segmenter", test_set))
    assert preset_alone.status == 2 and str(preset / "evaluation") in preset_alone.stderr


@pytest.mark.parametrize(
    "more, reason",
    [
        (["--images=nowhere"], "nowhere"),
        (["--masks=nowhere"], "nowhere"),
        (["--segmenter=nowhere"], "nowhere"),
        (["--segmenter=hf://somebody/something", "--out="], "--out"),
        (["--refine=crf"], "crf"),
    ],
)
def test_mistakes(layerseg, preset, test_set, more, reason):
    out = test_set / "out"
    result = layerseg("evaluate", *flags(preset, test_set, f"--out={out}", *more))
    assert result.status == 2 and reason in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists()


def test_a_photo_that_cannot_be_read_is_named(layerseg, preset, test_set):
    (test_set / "photos" / "test_00003.png").write_bytes(b"no image")
    out = test_set / "out"
    result = layerseg("evaluate", *flags(preset, test_set, f"--out={out}"))
    assert result.status == 2 and "test_00003.png" in result.stderr
    assert not out.exists()
