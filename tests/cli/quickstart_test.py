"""The whole chain at a tiny size; nothing in it is replaced."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from layered_segmentation import config as configs
from layered_segmentation.choices import RECOMMENDED_REFINEMENT
from layered_segmentation.cli import chain as chains
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import test_sets

TINY = [
    "--set=gan.resolution=8",
    "--set=gan.max_channels=8",
    "--set=gan.latent_dim=8",
    "--set=gan.mapping_layers=1",
    "--set=schedule.images_at={8: 512}",
    "--set=train.sheet_every=256",
    "--set=student.resolution=8",
    "--set=student.steps=4",
    "--set=student.self_training=2",
    "--set=student.self_training_steps=2",
    "--set=student.width=4",
]


@pytest.fixture
def photos(tmp_path):
    """Scenes as files: photos to learn from, and pairs to score on."""
    for name in ("photos", "test", "masks"):
        (tmp_path / name).mkdir()
    for index, image in enumerate(Scenes(0, 70).load(20)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{index:03d}.png")
    for index, (image, mask) in enumerate(zip(*Scenes(0, 5, "test").load_pairs(40), strict=True)):
        Image.fromarray(image).save(tmp_path / "test" / f"{index}.jpg")
        Image.fromarray(mask * 255).save(tmp_path / "masks" / f"{index}.png")
    return tmp_path


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def stamps(out):
    return {
        os.path.join(folder, file): os.stat(os.path.join(folder, file)).st_mtime_ns
        for folder, _, files in os.walk(out)
        for file in files
        if file != "lock"
    }


@pytest.fixture
def on_scenes(tmp_path, monkeypatch):
    """The command of a tiny chain on scenes, and its directory."""
    monkeypatch.setattr(test_sets, "HELD_OUT", 8)
    out = tmp_path / "out"
    return ["quickstart", f"--out={out}", *TINY, "--set=data.limit=80"], out


def test_the_chain_on_scenes(layerseg, on_scenes):
    command, out = on_scenes
    result = layerseg(*command)
    assert result.status == 0, result.stderr
    assert "images/s" in result.stdout
    assert f"report: {out}/report.html" in result.stdout

    results = read(out / "results.json")
    assert results["images"] == 8
    assert 0 <= results["miou"] <= 1
    assert results["miou_std"] >= 0
    assert set(results["references"]) == {"full_mask", "centre_box", "grabcut"}
    assert set(results["phases"]) == {"train", "distill", "score", "export"}
    assert results["seconds"] == pytest.approx(sum(results["phases"].values()), abs=0.01)
    assert results["images_per_second"]["train"] > 0
    assert results["images_per_second"]["distill"] > 0
    assert results["images_seen"] == 512
    for name in ("saved_model", "tflite"):
        export = results["exports"][name]
        assert os.path.exists(export["path"])
        assert export["difference"] <= 1e-4
    assert results["versions"]["tensorflow"].startswith("2.")
    assert results["settings"]["gan.resolution"] == 8
    assert "gan.shift" not in results["settings"]  # left at its default
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (f"{results['miou']:.3f}", "GrabCut", "after 512 images", "segmenter.tflite"):
        assert words in page
    assert page.count("data:image/png") == 3 + 1 + 2  # best, median, worst; the student's; sheets
    assert results["machine"]["processor"] in page and results["versions"]["keras"] in page
    assert "Unseen scenes" in page and "compared with the Keras model on drawn scenes" in page
    assert "8 scenes" in page and "photos" not in page.partition("<h2>Settings")[0].lower()
    assert 'class="slider"' not in page
    assert len((out / "scores.csv").read_text().splitlines()) == 1 + 8
    assert os.path.exists(out / "run" / "report.html")


@pytest.mark.slow
def test_the_chain_on_scenes_again_then_resumed(layerseg, on_scenes):
    command, out = on_scenes
    assert layerseg(*command).status == 0
    results = read(out / "results.json")

    before = stamps(out)
    result = layerseg(*command)
    assert result.status == 0
    assert f"{out} is finished; nothing to do." in result.stdout
    assert stamps(out) == before

    # As if it had been stopped after the student was trained: it goes on with the score.
    phases = read(out / "phases.json")
    for name in ("score", "export"):
        del phases[name]
    (out / "phases.json").write_text(json.dumps(phases))
    for name in ("results.json", "report.html"):
        (out / name).unlink()
    shutil.rmtree(out / "examples")
    generator, segmenter = (stamps(out / "run" / name) for name in ("generator", "segmenter"))
    result = layerseg(*command)
    assert result.status == 0, result.stderr
    assert "[3/4] scoring" in result.stdout
    assert "[1/4]" not in result.stdout
    assert stamps(out / "run" / "generator") == generator
    assert stamps(out / "run" / "segmenter") == segmenter
    again = read(out / "results.json")
    assert (again["miou"], again["references"]) == (results["miou"], results["references"])

    # The generator was damaged since: it is written again before a student learns from it.
    phases = read(out / "phases.json")
    del phases["distill"]
    (out / "phases.json").write_text(json.dumps(phases))
    os.truncate(out / "run" / "generator" / "generator.keras", 1_000)
    result = layerseg(*command)
    assert result.status == 0, result.stderr
    assert "generator.keras: is missing or damaged; it is written again" in result.stderr
    assert "[2/4]" in result.stdout and "[1/4]" not in result.stdout

    result = layerseg(*command, "--set=gan.shift=0")
    assert result.status == 2
    assert "gan.shift: 0.125 != 0.0" in result.stderr


@pytest.mark.slow
def test_the_chain_on_photos_without_then_with_a_score(layerseg, photos):
    out = photos / "out"
    command = ["quickstart", f"--images={photos}/photos", f"--out={out}", *TINY]
    result = layerseg(*command)
    assert result.status == 0, result.stderr
    results = read(out / "results.json")
    assert results["miou"] is None
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "no score" in page
    assert "Some of the training photos" in page
    assert (out / "examples" / "photos.png").exists()
    assert page.count('class="slider"') == 3 and "on drawn scenes" not in page

    generator = stamps(out / "run" / "generator")
    result = layerseg(*command, f"--test_images={photos}/test", f"--test_masks={photos}/masks")
    assert result.status == 0, result.stderr
    assert stamps(out / "run" / "generator") == generator  # only the score is new
    results = read(out / "results.json")
    assert results["images"] == 5
    assert results["miou"] == pytest.approx(_mean_of(out / "scores.csv"), abs=1e-6)
    refined = results["refined"]
    assert refined["refine"] == "grabcut" and 0 <= refined["miou"] <= 1
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('class="slider"') == 3 and "Unseen photos" in page
    compared = [out / "examples" / f"compared_{name}.png" for name in ("best", "median", "worst")]
    assert len({path.read_bytes() for path in compared}) == 3
    assert f"student, --refine={RECOMMENDED_REFINEMENT}</th>" in page
    assert f"{refined['miou']:.3f}" in page
    assert not (out / "examples" / "photos.png").exists()


def _mean_of(path):
    rows = [line.split(",") for line in path.read_text().splitlines()]
    column = rows[0].index("iou")
    return np.mean([float(row[column]) for row in rows[1:]])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images={tmp}/none"], ("{tmp}/none", "no such directory")),
        (["--images={tmp}/empty"], ("{tmp}/empty", "no image in it")),
        (["--test_masks={tmp}/empty"], ("--test_masks", "--test_images")),
        (["--test_ignore={tmp}/empty"], ("--test_ignore", "--test_masks")),
        (["--test_images={tmp}/none"], ("{tmp}/none", "no such directory")),
        (["--config=lsun_care"], ("lsun_care", "packaged configs")),
        (["--set=gan.mask_size=2"], ("gan.mask_size=2",)),
        (["--set=schedule.batch={{8: 0}}"], ("schedule.batch.8=0",)),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(layerseg, tmp_path, flags, words):
    (tmp_path / "empty").mkdir()
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    result = layerseg("quickstart", f"--out={tmp_path}/out", *flags)
    assert result.status == 2
    for word in words:
        assert word.format(tmp=tmp_path) in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["empty"]


def test_a_taken_output_directory_is_left_alone(layerseg, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    result = layerseg("quickstart", f"--out={tmp_path}")
    assert result.status == 2
    assert "not a quickstart's (it contains 'notes.txt')" in result.stderr
    assert os.listdir(tmp_path) == ["notes.txt"]
    result = layerseg("quickstart", f"--out={tmp_path}/notes.txt")
    assert "a file has this name" in result.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_settings_hash_names_a_config():
    config = configs.load("quickstart")
    assert chains.settings_hash(config) == chains.settings_hash(configs.load("quickstart"))
    other = configs.load("quickstart", ["train.seed=1"])
    assert chains.settings_hash(config) != chains.settings_hash(other)


def test_masks_without_photos_are_refused():
    chain = chains.Chain("out", configs.load("quickstart"), chains.TestSet(masks="m"))
    with pytest.raises(UserError, match="--test_images"):
        chains.test_pairs(chain)
