"""The record that `sample` writes identifies the scenes of a detector's masks."""

import json
import os
import shutil

import numpy as np
import pytest
import tiny_runs
from PIL import Image

from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import generated

COUNT = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_runs.run(tmp_path_factory.mktemp("runs") / "run_a")


@pytest.fixture
def scenes(layerseg, run, tmp_path):
    """Scenes of seed 1, and beside them what a detector found: the left half of each."""
    out = tmp_path / "scenes"
    result = layerseg(
        "sample", f"--run_dir={run.path}", f"--images_out={out}", "--seed=1", f"--count={COUNT}"
    )
    assert result.status == 0, result.stderr
    left = np.tile(np.uint8([255] * 4 + [0] * 4), (8, 1))
    for folder in (out / "detected", tmp_path / "elsewhere" / "detected"):
        folder.mkdir(parents=True)
        for name in os.listdir(out / "images"):
            Image.fromarray(left).save(folder / name)
    return out


def evaluate(layerseg, run, masks, *more):
    out = masks.parent / "results"
    result = layerseg(
        "evaluate_generated", f"--run_dir={run.path}", f"--detector={masks}",
        f"--count={COUNT}", f"--out={out}", *more,
    )  # fmt: skip
    assert (result.status == 0) == out.exists()
    return result


@pytest.mark.slow
def test_the_record_identifies_the_scenes(layerseg, run, scenes):
    record = json.loads((scenes / "scenes.json").read_text())
    assert set(record) == {"run", "seed", "truncation", "generator", "size", "count"}
    assert (record["run"], record["seed"], record["truncation"], record["count"]) == (
        "run_a", 1, 1.0, COUNT,
    )  # fmt: skip
    assert sorted(os.listdir(scenes)) == ["detected", "images", "masks", "scenes.json"]
    # As of an interrupted call: the scenes go, and with them what is said of them.
    flags = (f"--run_dir={run.path}", f"--images_out={scenes}", "--count=2", "--truncation=0.5")
    for folder in ("images", "masks"):
        shutil.rmtree(scenes / folder)
    refused = layerseg("sample", *flags)
    assert refused.status == 2 and "scenes.json exists already" in refused.stderr
    assert json.loads((scenes / "scenes.json").read_text()) == record
    assert layerseg("sample", *flags, "--overwrite").status == 0
    again = json.loads((scenes / "scenes.json").read_text())
    assert (again["count"], again["truncation"], again["seed"]) == (2, 0.5, 0)


def test_masks_of_another_seed_are_refused(layerseg, run, scenes):
    # The record lies beside the masks' directory, with the scenes.
    masks = scenes / "detected"
    refused = evaluate(layerseg, run, masks, "--seed=0")
    assert refused.status == 2 and f"--detector={masks}: " in refused.stderr
    assert "--seed=1" in refused.stderr and str(scenes / "scenes.json") in refused.stderr
    right = evaluate(layerseg, run, masks, "--seed=1")
    assert right.status == 0 and "assuming masks" not in right.stderr, right.stderr


def test_a_record_among_the_masks_is_checked(layerseg, run, scenes, tmp_path):
    masks = tmp_path / "elsewhere" / "detected"
    shutil.copy(scenes / "scenes.json", masks)
    refused = evaluate(layerseg, run, masks, "--seed=2")
    assert refused.status == 2 and "not of --seed=2; give --seed=1" in refused.stderr
    assert evaluate(layerseg, run, masks, "--seed=1").status == 0


def test_without_a_record_a_note_is_printed(layerseg, run, scenes, tmp_path):
    result = evaluate(layerseg, run, tmp_path / "elsewhere" / "detected", "--seed=0")
    assert result.status == 0
    said = [line for line in result.stderr.splitlines() if "assuming masks" in line]
    assert len(said) == 1 and "--seed=0" in said[0] and "scenes.json" in said[0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 5}, "--seed=5"),
        ({"truncation": 0.7}, "--truncation=0.7"),
        ({"generator": "0123456789ab"}, "another generator, of the run 'run_a'"),
        ({"generator": None}, "another generator"),
        ({"size": 16}, "of 16 px"),
        ({"size": 16}, "--detector_size=16"),
    ],
)
def test_what_differs_is_named(tmp_path, changed, words):
    scenes = generated.GeneratedScenes(tiny_runs.generator(), 3)
    generated.write_record(str(tmp_path), scenes, 10, "runs/run_a/")
    generated.check_record(str(tmp_path), scenes)
    # The same weights, whatever file or object holds them; others are others.
    generated.check_record(str(tmp_path), generated.GeneratedScenes(tiny_runs.generator(), 3))
    with pytest.raises(UserError, match="another generator"):
        generated.check_record(
            str(tmp_path), generated.GeneratedScenes(tiny_runs.generator(first=1), 3)
        )
    record = json.loads((tmp_path / "scenes.json").read_text())
    (tmp_path / "scenes.json").write_text(json.dumps({**record, **changed}))
    with pytest.raises(UserError) as error:
        generated.check_record(str(tmp_path), scenes)
    assert words in str(error.value) and f"--detector={tmp_path}: " in str(error.value)


def test_a_record_of_version_0_1_0_has_no_size(tmp_path):
    scenes = generated.GeneratedScenes(tiny_runs.generator(), 3)
    generated.write_record(str(tmp_path), scenes, 10, "runs/run_a/")
    record = json.loads((tmp_path / "scenes.json").read_text())
    del record["size"]
    (tmp_path / "scenes.json").write_text(json.dumps(record))
    generated.check_record(str(tmp_path), scenes)


@pytest.mark.parametrize("text", ["{", "[]", '{"seed": 3}'])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "scenes.json").write_text(text)
    with pytest.raises(UserError, match="is not a record of `layerseg sample --images_out`"):
        generated.check_record(str(tmp_path), generated.GeneratedScenes(tiny_runs.generator(), 3))
