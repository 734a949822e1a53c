import json
import os
import re
import subprocess
import sys

import flowers
import numpy as np
import pytest
from PIL import Image

from layered_segmentation.data import folder
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.segmenter import cut_out, outputs, pipeline, presets
from layered_segmentation.segmenter.segmenter import create_segmenter


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    segmenter = create_segmenter(8, 16)
    generator = np.random.default_rng(0)
    for weight in segmenter.weights:
        weight.assign(np.asarray(weight) * generator.uniform(0.5, 1.5, weight.shape))
    path = str(tmp_path_factory.mktemp("model") / "preset")
    presets.save(segmenter, path)
    return path


@pytest.fixture
def album(tmp_path):
    """Two photos of different shapes, one of them lying on its side, in nested directories."""
    scenes = Scenes(seed=0, count=2, split="test").load(64)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    Image.fromarray(scenes[0][:50]).save(tmp_path / "photos" / "first.png")
    lying = Image.fromarray(scenes[1][:, :40])
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(tmp_path / "photos" / "more" / "second.jpg", exif=exif)
    return tmp_path / "photos"


def files(directory):
    return sorted(
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(directory)
        for name in names
    )


@pytest.mark.parametrize("refine", ["none", "guided", "grabcut"])
def test_masks_and_cutouts_at_the_photos_own_size(preset, album, tmp_path, layerseg, refine):
    out = tmp_path / "out"
    done = layerseg(
        "segment", f"--segmenter={preset}", f"--input={album}", f"--out={out}",
        f"--refine={refine}", "--edges=mask",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    assert "2 masks and cut-outs" in done.stdout
    assert re.search(r"[\d.]+ images/s, \d\.\d\d cores busy", done.stdout)
    assert files(out) == [
        "first.cutout.png",
        "first.mask.png",
        "more/second.cutout.png",
        "more/second.mask.png",
    ]
    for name, size in (("first", (64, 50)), ("more/second", (64, 40))):  # the second is upright
        mask = Image.open(out / f"{name}.mask.png")
        assert mask.size == size and mask.mode == "L"
        assert set(np.unique(mask)) <= {0, 255}
        cutout = Image.open(out / f"{name}.cutout.png")
        assert cutout.size == size and cutout.mode == "RGBA"
    photo = np.asarray(Image.open(album / "first.png"))
    cutout = np.asarray(Image.open(out / "first.cutout.png"))
    np.testing.assert_array_equal(cutout[..., :3], photo)
    mask = np.asarray(Image.open(out / "first.mask.png"))
    np.testing.assert_array_equal(mask > 0, cutout[..., 3] >= 128)


def test_masks_are_the_segmenters(preset, album, tmp_path, layerseg):
    photo = album / "first.png"
    expected = presets.load(preset).predict_masks([np.asarray(Image.open(photo))])[0]
    threshold = float(np.median(expected))
    done = layerseg(
        "segment",
        f"--segmenter={preset}",
        f"--input={photo}",
        f"--out={tmp_path / 'out'}",
        f"--threshold={threshold}",
        "--refine=none",
    )
    assert done.status == 0, done.stderr
    mask = np.asarray(Image.open(tmp_path / "out" / "first.mask.png")) > 0
    assert 0.3 < mask.mean() < 0.7
    assert (mask != (expected >= threshold)).mean() < 0.01


@pytest.mark.slow
def test_settings_for_other_keras_programs_do_not_apply(preset, album, tmp_path, layerseg):
    layerseg("segment", f"--segmenter={preset}", f"--input={album}", f"--out={tmp_path / 'out'}")
    settings = {"backend": "jax", "floatx": "float16", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    user = {"KERAS_HOME": str(tmp_path), "TF_USE_LEGACY_KERAS": "1"}
    out = tmp_path / "again"
    done = subprocess.run(
        [sys.executable, "-m", "layered_segmentation.cli.segment",
         f"--segmenter={preset}", f"--input={album}", f"--out={out}"],
        capture_output=True, text=True, env={**os.environ, **user},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [name for name in files(out) if name.endswith(".png")]
    assert names
    for name in names:
        first, second = (np.asarray(Image.open(path / name)) for path in (tmp_path / "out", out))
        np.testing.assert_array_equal(first, second)


def test_the_disk_is_waited_for_once(preset, album, tmp_path, layerseg, monkeypatch):
    from layered_segmentation import files as own

    out, waited = tmp_path / "out", []
    monkeypatch.setattr(own, "sync", lambda *paths: waited.append((set(paths), len(files(out)))))
    done = layerseg("segment", f"--segmenter={preset}", f"--input={album}", f"--out={out}")
    assert done.status == 0, done.stderr
    assert waited == [({str(out), str(out / "more")}, 4)]


def test_unreadable_photos_are_named_and_skipped(preset, album, tmp_path, layerseg):
    (album / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    done = layerseg("segment", f"--segmenter={preset}", f"--input={album}", f"--out={out}")
    assert done.status == 1
    assert "skipped 1 that cannot be read" in done.stderr and "broken.jpg" in done.stderr
    assert len(files(out)) == 4


def test_existing_results_stay(preset, album, tmp_path, layerseg):
    out = tmp_path / "out"
    out.mkdir()
    (out / "first.mask.png").write_text("mine")
    arguments = [f"--segmenter={preset}", f"--input={album}", f"--out={out}"]
    done = layerseg("segment", *arguments)
    assert done.status == 2 and "already exists" in done.stderr
    assert files(out) == ["first.mask.png"]
    assert (out / "first.mask.png").read_text() == "mine"
    assert layerseg("segment", *arguments, "--overwrite").status == 0
    assert len(files(out)) == 4


def test_results_beside_the_photos_are_not_segmented(preset, album, layerseg):
    arguments = [f"--segmenter={preset}", f"--input={album}", f"--out={album}"]
    assert layerseg("segment", *arguments).status == 0
    again = layerseg("segment", *arguments, "--overwrite")
    assert again.status == 0 and "2 masks" in again.stdout
    assert len(files(album)) == 6


def test_photos_of_one_name_do_not_share_a_mask(preset, album, tmp_path, layerseg):
    Image.open(album / "first.png").save(album / "first.webp")
    out = tmp_path / "out"
    done = layerseg("segment", f"--segmenter={preset}", f"--input={album}", f"--out={out}")
    assert done.status == 0, done.stderr
    assert {"first.png.mask.png", "first.webp.mask.png"} <= set(files(out))


def test_bad_input_gets_one_clear_message(preset, album, tmp_path, layerseg):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").touch()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_bytes(b"no image")
    good = {"segmenter": preset, "input": album, "out": tmp_path / "out"}
    for changed, words in (
        ({"input": tmp_path / "none"}, "there is no such photo or directory"),
        ({"input": empty}, "there is no image in it"),
        ({"input": broken}, "none can be read"),
        ({"segmenter": run}, "run `layerseg distill --run_dir="),
        ({"segmenter": tmp_path / "none"}, "there is no such directory"),
        ({"out": tmp_path / "file"}, "a file has this name"),
        ({"threshold": 0}, "--threshold"),
        ({"refine": "magic"}, "refine"),
    ):
        arguments = [f"--{flag}={value}" for flag, value in {**good, **changed}.items()]
        done = layerseg("segment", *arguments)
        assert done.status == 2 and words in done.stderr, (changed, done.stderr)
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_a_cutout_fades_around_the_threshold(threshold):
    mask = np.array([[0.0, threshold, 1.0]], np.float32)
    image = np.zeros((1, 3, 3), np.uint8)
    alpha = cut_out.cut_out(image, mask, threshold)[0, :, 3]
    assert alpha[0] == 0 and alpha[1] in (127, 128) and alpha[2] == 255
    np.testing.assert_array_equal(cut_out.binary_mask(mask, threshold), [[0, 255, 255]])


@pytest.mark.filterwarnings("ignore:Image size")
def test_photos_of_too_many_pixels_are_named_until_they_are_allowed(
    preset, album, tmp_path, layerseg, monkeypatch
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3_000)  # first.png has 3,200
    arguments = [f"--segmenter={preset}", f"--input={album}", f"--out={tmp_path / 'out'}"]
    done = layerseg("segment", *arguments)
    assert done.status == 1 and "skipped 1 that cannot be read" in done.stderr
    assert "first.png: has 64 × 50 pixels, more than the 3,000" in done.stderr
    assert layerseg("segment", *arguments, "--overwrite", "--max_pixels=3200").status == 0


def test_outputs_are_never_photos_again(preset, album, tmp_path, layerseg):
    """Not in another directory than --out either, nor to be trained on."""
    arguments = [f"--segmenter={preset}", f"--input={album}"]
    assert layerseg("segment", *arguments, f"--out={album / 'results'}").status == 0
    again = layerseg("segment", *arguments, f"--out={tmp_path / 'out'}")
    assert again.status == 0 and "2 masks" in again.stdout
    assert "left out 4 written by layerseg: " in again.stderr
    assert folder.find_photos(str(album), "") == ["first.png", "more/second.jpg"]


@pytest.mark.linux("file names that are not UTF-8")
def test_names_that_collide_are_long_or_not_utf8_each_get_their_mask(preset, tmp_path, layerseg):
    sizes = flowers.write_names(tmp_path / "photos")
    out = tmp_path / "out"
    done = layerseg("segment", f"--segmenter={preset}", f"--input={tmp_path / 'photos'}",
                    f"--out={out}")  # fmt: skip
    assert done.status == 0, done.stderr
    assert f"{len(sizes)} masks and cut-outs" in done.stdout
    paths = outputs.name_outputs(list(sizes), str(out))
    for name, size in sizes.items():
        assert Image.open(paths[name] + ".mask.png").size == size
        assert Image.open(paths[name] + ".cutout.png").size == size
    assert len(files(out)) == 2 * len(sizes)
    # Masks with the photos' extensions are found again.
    arguments = [f"--images={tmp_path / 'photos'}", f"--masks={out}", f"--predictions={out}"]
    done = layerseg("evaluate", *arguments, f"--out={tmp_path / 'scores'}")
    assert done.status == 2 and "y" * 251 in done.stderr  # but for names that were cut
    (tmp_path / "photos" / ("y" * 251 + ".jpg")).unlink()
    done = layerseg("evaluate", *arguments, f"--out={tmp_path / 'scores'}")
    assert done.status == 0, done.stderr
    table = (tmp_path / "scores" / "per_image.csv").read_text(encoding="utf-8")
    assert "caf\\udce9.jpg,1.000000" in table
    assert json.loads((tmp_path / "scores" / "results.json").read_text())["miou"] == 1


def test_outputs_never_share_a_name():
    names = ["a.jpg", "a.png", "a.jpg.png", "a.jpg.png.png", "b.jpg", "c/a.jpg", "x" * 250 + ".jpg",
             "x" * 250 + ".png", "é" * 126 + ".gif"]  # fmt: skip
    paths = outputs.name_outputs(names, "out")
    assert len(set(paths.values())) == len(names)
    assert paths["b.jpg"] == "out/b" and paths["c/a.jpg"] == "out/c/a"
    assert all(len(os.fsencode(os.path.basename(path))) <= 244 for path in paths.values())


def test_batches_have_a_bounded_number_of_pixels(tmp_path, monkeypatch):
    sides = (10, 10, 10, 30, 10, 5, 40, 40)
    names = [f"{index}.png" for index in range(len(sides))]
    for name, side in zip(names, sides, strict=True):
        Image.new("L", (side, side)).save(tmp_path / name)
    (tmp_path / "4.png").write_bytes(b"no image")  # found out when it is read
    monkeypatch.setattr(pipeline, "PIXELS", 1000)
    batches = list(outputs.batches(str(tmp_path), names, 2))
    assert batches == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png", "5.png"], ["6.png"],
                       ["7.png"]]  # fmt: skip


def test_predictions_have_a_bounded_number_of_pixels_at_once(preset, monkeypatch):
    photos = [np.full((side, side, 3), side, np.uint8) for side in (10, 20, 30, 40, 10)]
    segmenter = presets.load(preset)
    expected = segmenter.predict_masks(photos)
    monkeypatch.setattr(pipeline, "PIXELS", 1000)
    passes = [len(batch) for batch, _ in segmenter._batches(photos)]
    assert passes == [2, 1, 1, 1]
    for mask, other in zip(segmenter.predict_masks(photos), expected, strict=True):
        np.testing.assert_allclose(mask, other, atol=1e-6)
    assert segmenter.predict_masks([]) == []
