"""`layerseg train` and `layerseg sample` at a tiny size."""

import itertools
import os

import numpy as np
import pytest
from PIL import Image, ImageSequence

from layered_segmentation.choices import Grid
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.run_directory import RunDirectory

TINY = [
    "--config=quickstart",
    "--set=data.limit=70",
    "--set=gan.resolution=8",
    "--set=gan.max_channels=8",
    "--set=gan.latent_dim=8",
    "--set=gan.mapping_layers=1",
    "--set=schedule.images_at={8: 1280}",
    "--set=train.sheet_every=640",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(layerseg, folder):
    """Trains in the first test, and shows that it is finished in the others."""
    path = folder / "run"
    result = layerseg("train", *TINY, f"--run_dir={path}")
    assert result.status == 0, result.stderr
    return RunDirectory.open(path), result


def test_train_leaves_a_whole_run(run):
    run, result = run
    assert "trained on 1,280 images" in result.stdout
    assert "images/s" in result.stdout
    assert f"layerseg distill --run_dir={run.path}" in result.stdout
    assert run.finished().images_seen == 1280
    assert [record["images_seen"] for record in run.read_log()] == [1024]  # 8 steps of 16 later
    assert sorted(os.listdir(run.sheets)) == ["00000640.png", "00001280.png"]
    page = open(run.report, encoding="utf-8").read()
    assert page.count("data:image/png") == 2
    assert run.config().gan.resolution == 8


def test_a_finished_run_is_reported(run):
    run, result = run
    assert result.status == 0
    assert f"{run.path} is finished: 1,280 images seen; nothing to do." in result.stdout


def test_another_config_is_refused_with_the_difference(layerseg, run):
    run, _ = run
    before = os.stat(run.config_path).st_mtime_ns
    result = layerseg("train", *TINY, "--set=gan.shift=0", f"--run_dir={run.path}")
    assert result.status == 2
    assert "gan.shift: 0.125 != 0.0" in result.stderr
    assert os.stat(run.config_path).st_mtime_ns == before


def test_sample_draws_the_same_scenes_from_the_same_seed(layerseg, run, tmp_path):
    run, _ = run
    sheets = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.png"
        result = layerseg(
            "sample", f"--run_dir={run.path}", f"--out={out}", f"--seed={seed}",
            "--truncation=0.7", "--count=3",
        )  # fmt: skip
        assert result.status == 0, result.stderr
        assert str(out) in result.stdout
        with Image.open(out) as image:
            assert image.width > 3 * 96
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1]
    assert sheets[0] != sheets[2]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--truncation=1.5"], ("--truncation=1.5", "[0, 1]")),
        (["--count=0"], ("count",)),
        (["--out={tmp}/sheet.jpg"], ("sheet.jpg", ".png")),
        (["--grid=shift", "--out={tmp}/sheet.jpg"], ("sheet.jpg", ".gif or .webp")),
        (["--out={tmp}/sheet.gif"], ("sheet.gif", "--grid=interpolation|truncation|mixing|shift")),
        (["--grid=mixing", "--count=21"], ("--count=21", "at most 20")),
        (["--out={tmp}/none/sheet.png"], ("none",)),
        (["--out={tmp}/there.png"], ("there.png", "--overwrite")),
        (["--run_dir={tmp}/nothing"], ("nothing", "no such directory")),
        (["--run_dir={tmp}"], ("not a run", "layerseg train")),
    ],
)
def test_sample_refuses_bad_input(layerseg, run, tmp_path, flags, words):
    run, _ = run
    (tmp_path / "there.png").write_bytes(b"mine")
    given = [f"--run_dir={run.path}", f"--out={tmp_path}/sheet.png"]
    result = layerseg("sample", *given, *(flag.format(tmp=tmp_path) for flag in flags))
    assert result.status == 2
    for word in words:
        assert word in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == ["there.png"]
    assert (tmp_path / "there.png").read_bytes() == b"mine"


@pytest.mark.parametrize("grid", list(Grid))
def test_sample_draws_grids(layerseg, run, tmp_path, grid):
    run, _ = run
    out = tmp_path / "grid.png"
    flags = [f"--run_dir={run.path}", f"--out={out}", f"--grid={grid}", "--count=2"]
    assert layerseg("sample", *flags).status == 0
    with Image.open(out) as image:
        rows = 2 if grid == Grid.mixing else 8
        assert image.height == rows * (96 + 3) + 3
        assert image.width > 2 * 96


def test_sample_draws_the_shift_as_an_animation(layerseg, run, tmp_path):
    run, _ = run
    out = tmp_path / "shift.webp"
    flags = [f"--run_dir={run.path}", f"--out={out}", "--grid=shift", "--count=1"]
    assert layerseg("sample", *flags).status == 0
    with Image.open(out) as animation:
        frames = [np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(animation)]
    assert len(frames) == 24
    assert all((frame[:99] == frames[0][:99]).all() for frame in frames)  # the background
    for frame, following in itertools.pairwise(frames):
        assert (frame[198:297] != following[198:297]).any()  # the mask


def test_a_directory_that_holds_something_else_is_refused(layerseg, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    result = layerseg("train", *TINY, f"--run_dir={tmp_path}")
    assert result.status == 2
    assert "not a run (it holds 'thesis.txt')" in result.stderr
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_missing_data_path_is_refused(layerseg, tmp_path):
    flags = ["--set=data.name=folder", f"--set=data.path={tmp_path}/none"]
    result = layerseg("train", *TINY, *flags, f"--run_dir={tmp_path}/run")
    assert result.status == 2
    assert f"data.path={tmp_path}/none" in result.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.linux("file names that are not UTF-8")
@pytest.mark.slow
def test_a_run_inside_its_photos_goes_on_with_the_same_photos(layerseg, tmp_path):
    for index, image in enumerate(Scenes(0, 12).load(16)):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    os.rename(tmp_path / "3.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    settings = [*TINY, "--set=data.name=folder", f"--set=data.path={tmp_path}"]
    run = RunDirectory(str(tmp_path / "run1"))
    assert layerseg("train", *settings, f"--run_dir={run.path}").status == 0
    assert len(os.listdir(run.sheets)) == 2
    os.remove(run.finished_path)
    again = layerseg("train", *settings, f"--run_dir={run.path}")
    assert again.status == 0, again.stderr
    assert f"{tmp_path}: left out 1 of a run: run1" in again.stderr
    other = RunDirectory(str(tmp_path / "run2"))
    assert layerseg("train", *settings, f"--run_dir={other.path}").status == 0
    assert open(other.photos_path).read() == open(run.photos_path).read()
    assert len(open(run.photos_path).readlines()) == 12
