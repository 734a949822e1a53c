"""What `layerseg segment` takes besides a directory, and what it writes besides two PNG files."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from flowers import flower
from PIL import Image

from layered_segmentation.choices import RECOMMENDED_REFINEMENT
from layered_segmentation.data import folder
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.segmenter import lite, outputs, preset_files, presets

FLOWERS = preset_files.DEFAULT


@pytest.fixture
def photos(tmp_path):
    """Two directories and a photo outside."""
    scenes = [*Scenes(seed=0, count=3, split="test").load(48), flower(72, 60)[0]]
    for scene, name in zip(scenes, ("a/one.png", "a/sub/two.jpg", "b/three.png", "more.png"),
                           strict=True):  # fmt: skip
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene).save(path)
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def one_model(monkeypatch):
    """The packaged segmenter is built once for all tests."""
    if "model" not in _KEPT:
        _KEPT["model"] = presets.load(FLOWERS)
    monkeypatch.setattr(presets, "load", lambda path: _KEPT["model"])


_KEPT = {}


def files(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.*"))


def pixels(path):
    with Image.open(path) as file:
        return np.asarray(file)


def test_a_photo_alone_gets_its_results_next_to_it(photos, layerseg, monkeypatch):
    monkeypatch.chdir(photos)
    done = layerseg("segment", "more.png")
    assert done.status == 0, done.stderr
    assert f"segmenter: {FLOWERS} (--segmenter names another)" in done.stderr
    assert {"more.mask.png", "more.cutout.png"} <= set(os.listdir(photos))
    assert layerseg("segment", "a", "--only=mask").status == 0
    assert files(photos / "a") == ["one.mask.png", "one.png", "sub/two.jpg", "sub/two.mask.png"]


def test_inputs_are_directories_and_photos_in_any_number(photos, layerseg, tmp_path):
    out = tmp_path / "out"
    done = layerseg("segment", f"--input={photos}/a", photos / "b", photos / "more.png",
                    f"--out={out}", photos / "b" / "three.png")  # fmt: skip
    assert done.status == 0, done.stderr
    assert "4 masks and cut-outs" in done.stdout
    stems = ("more", "one", "sub/two", "three")
    assert files(out) == sorted(f"{stem}.{end}.png" for stem in stems for end in ("cutout", "mask"))


def test_two_photos_of_one_name_are_refused(photos, layerseg, tmp_path):
    (photos / "b" / "one.png").write_bytes((photos / "b" / "three.png").read_bytes())
    done = layerseg("segment", photos / "a", photos / "b", f"--out={tmp_path / 'out'}")
    assert done.status == 2 and "would be named one.png" in done.stderr
    assert f"{photos}/a/one.png and {photos}/b/one.png" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_goes_on_with_the_same_names(photos, layerseg, tmp_path):
    Image.open(photos / "a" / "one.png").save(photos / "a" / "one.webp")  # so both keep their ends
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert layerseg("segment", photos / "a", f"--out={whole}").status == 0
    assert layerseg("segment", photos / "a", f"--out={out}").status == 0
    kept = out / "one.png.mask.png"
    kept.write_bytes(b"kept")
    (out / "one.webp.mask.png").unlink()
    (out / "sub" / "two.cutout.png").unlink()
    done = layerseg("segment", photos / "a", f"--out={out}", "--skip_existing")
    assert done.status == 0, done.stderr
    assert "1 of 3 photos have results already" in done.stderr and "2 masks" in done.stdout
    assert kept.read_bytes() == b"kept"
    assert files(out) == files(whole)
    for name in files(whole):
        assert (
            name == "one.png.mask.png" or (out / name).read_bytes() == (whole / name).read_bytes()
        ), name
    done = layerseg("segment", photos / "a", f"--out={out}", "--skip_existing")
    assert done.status == 0 and "3 of 3 photos have results" in done.stderr


def test_only_what_is_asked_for_is_written(photos, layerseg, tmp_path):
    for only, other in (("mask", "cutout"), ("cutout", "mask")):
        out = tmp_path / only
        out.mkdir()
        (out / f"more.{other}.png").write_bytes(b"mine")
        done = layerseg("segment", photos / "more.png", f"--out={out}", f"--only={only}")
        assert done.status == 0, done.stderr
        assert files(out) == ["more.cutout.png", "more.mask.png"]
        assert (out / f"more.{other}.png").read_bytes() == b"mine"


def test_soft_masks_are_the_probabilities(photos, layerseg, tmp_path):
    (expected,) = lite.load(lite.find(FLOWERS)).predict_masks([pixels(photos / "more.png")])
    done = layerseg("segment", photos / "more.png", f"--out={tmp_path}", "--only=mask",
                    "--mask_format=soft", "--refine=none")  # fmt: skip
    assert done.status == 0, done.stderr
    np.testing.assert_allclose(pixels(tmp_path / "more.mask.png") / 255, expected, atol=0.003)


@pytest.mark.parametrize("background", ["white", "#30a0ff", "blur"])
def test_cutouts_over_a_background(photos, layerseg, tmp_path, background):
    arguments = ["segment", photos / "more.png", f"--out={tmp_path}", "--only=cutout"]
    assert layerseg(*arguments).status == 0
    cutout = pixels(tmp_path / "more.cutout.png").astype(float)
    done = layerseg(*arguments, "--overwrite", f"--background={background}")
    assert done.status == 0, done.stderr
    result, photo = pixels(tmp_path / "more.cutout.png"), pixels(photos / "more.png")
    assert result.shape == photo.shape
    alpha = cutout[..., 3:] / 255
    assert 0.02 < alpha.mean() < 0.98
    inside = alpha[..., 0] == 1
    np.testing.assert_array_equal(result[inside], cutout[inside][:, :3])
    if background == "blur":
        outside = alpha[..., 0] == 0
        assert result[outside].std() < photo[outside].std()
    else:
        colour = {"white": (255, 255, 255), "#30a0ff": (0x30, 0xA0, 0xFF)}[background]
        expected = alpha * cutout[..., :3] + (1 - alpha) * colour
        np.testing.assert_allclose(result, expected, atol=1)


def test_webp_cutouts_are_results_and_never_photos(photos, layerseg, tmp_path):
    done = layerseg("segment", photos / "a", "--format=webp")
    assert done.status == 0, done.stderr
    with Image.open(photos / "a" / "one.cutout.webp") as file:
        assert (file.format, file.mode) == ("WEBP", "RGBA")
        png = layerseg("segment", photos / "a" / "one.png", f"--out={tmp_path / 'png'}")
        assert png.status == 0
        alpha = pixels(tmp_path / "png" / "one.cutout.png")[..., 3]
        np.testing.assert_array_equal(np.asarray(file)[..., 3], alpha)
    assert folder.find_photos(str(photos / "a"), "") == ["one.png", "sub/two.jpg"]


def test_a_pipe_gets_one_clean_result(photos, layerseg, tmp_path, monkeypatch):
    """Messages go to stderr, the bytes of one file to stdout."""
    content = (photos / "more.png").read_bytes()
    assert layerseg("segment", photos / "more.png", f"--out={tmp_path}").status == 0
    for arguments, expected in (
        (["-"], "more.cutout.png"),
        (["-", "--only=mask"], "more.mask.png"),
        ([str(photos / "more.png"), "--out=-"], "more.cutout.png"),
    ):
        written = io.TextIOWrapper(io.BytesIO())
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
            patch.setattr(sys, "stdout", written)
            done = layerseg("segment", *arguments)
        assert done.status == 0, done.stderr
        assert written.detach().getvalue() == (tmp_path / expected).read_bytes(), arguments
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert layerseg("segment", "-", f"--out={tmp_path / 'piped'}").status == 0
    assert files(tmp_path / "piped") == ["stdin.cutout.png", "stdin.mask.png"]


@pytest.mark.slow
def test_a_real_pipe(photos):
    command = [sys.executable, "-m", "layered_segmentation.cli.main", "segment", "-"]
    with open(photos / "more.png", "rb") as photo:
        done = subprocess.run(command, stdin=photo, capture_output=True)
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as file:
        assert file.size == (72, 60) and file.mode == "RGBA"
    broken = subprocess.run(command, input=b"no image", capture_output=True)
    assert broken.returncode == 2 and broken.stdout == b""
    assert b"stdin: cannot be read as an image" in broken.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a photo or a directory"),
        ([""], "name a photo or a directory"),
        (["none.jpg"], "none.jpg: there is no such photo or directory"),
        (["-", "more.png"], "reads one photo from stdin"),
        (["a", "--out=-"], "there are 2 photos"),
        (["more.png", "--skip_existing", "--overwrite"], "contradict"),
        (["more.png", "--only=mask", "--background=white"], "--background=white: it goes with"),
        (["more.png", "--only=mask", "--format=webp"], "--format=webp: it goes with"),
        (["more.png", "--only=cutout", "--mask_format=soft"], "--mask_format: it goes with"),
        (["more.png", "--background=whyte"], "--background=whyte: name a colour, such as white"),
        (["more.png", "--background=#1234"], "--background=#1234"),
    ],
)
def test_bad_arguments_get_one_clear_message(photos, layerseg, monkeypatch, arguments, words):
    monkeypatch.chdir(photos)
    before = files(photos)
    done = layerseg("segment", f"--segmenter={FLOWERS}", *arguments)
    assert done.status == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert files(photos) == before


def test_one_refinement_is_recommended(layerseg):
    """The same in the help, by default, in the report and in the documentation."""
    from layered_segmentation.cli import chain

    shown = " ".join(layerseg("segment", "--help").stdout.split())
    assert f"{RECOMMENDED_REFINEMENT} is recommended. (default: {RECOMMENDED_REFINEMENT})" in shown
    assert chain.REFINE == RECOMMENDED_REFINEMENT
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    for page in ("README.md", "docs/tutorial.md"):
        with open(os.path.join(root, page), encoding="utf-8") as file:
            text = file.read()
        assert f"--refine={RECOMMENDED_REFINEMENT}" in text
        for other in ("guided", "consensus"):
            assert f"--refine={other}" not in text


def test_the_help_shows_the_inputs(layerseg):
    shown = layerseg("segment", "--help").stdout
    assert "Usage: layerseg segment [--flag=value …] PHOTO_OR_DIRECTORY …" in shown


def test_results_that_are_there_are_whole(tmp_path):
    paths = {"a": str(tmp_path / "a"), "b": str(tmp_path / "b")}
    (tmp_path / "a.mask.png").touch()
    assert outputs.without_results(paths, outputs.Style()) == paths
    assert list(outputs.without_results(paths, outputs.Style(only="mask"))) == ["b"]
