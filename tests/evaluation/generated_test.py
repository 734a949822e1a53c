"""Generated scenes, their score against a detector, the files of `sample` and FID of a run."""

import csv
import json
import os

import keras
import numpy as np
import pytest
import tiny_runs
from PIL import Image

from layered_segmentation import sheets
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import fid, generated, inception
from layered_segmentation.evaluation.scoring import iou
from layered_segmentation.gan import networks, sampling
from layered_segmentation.gan.composite import compose

COUNT = 70  # more than a batch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_runs.run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def scenes(run):
    return generated.GeneratedScenes(networks.load_generator(run), seed=3)


class Halves:
    """Finds the upper half of the scenes with an odd number, nothing in the others."""

    protocol = "Halves. "

    def __call__(self, images, names):
        masks = np.zeros((len(images), 8, 8), bool)
        for mask, name in zip(masks, names, strict=True):
            mask[:4] = int(name) % 2
        return list(masks)


def test_scenes_are_those_of_a_sheet_unshifted(scenes):
    layers = sampling.sample_layers(scenes.generator, 3, COUNT)
    drawn = list(scenes.first(COUNT))
    assert [scene.name for scene in drawn] == [f"{number:06d}" for number in range(1, COUNT + 1)]
    np.testing.assert_array_equal(
        [scene.image for scene in drawn], sheets.to_uint8(compose(layers))
    )
    np.testing.assert_array_equal([scene.mask for scene in drawn], layers.mask[..., 0])


def test_any_scene_can_be_drawn_again(scenes):
    drawn = list(scenes.first(COUNT))
    selected = scenes.select([65, 2, 65, 40])
    assert [scene.name for scene in selected] == ["000066", "000003", "000066", "000041"]
    for scene, index in zip(selected, [65, 2, 65, 40], strict=True):
        np.testing.assert_array_equal(scene.image, drawn[index].image)
    batches = list(scenes.images(COUNT, 32))
    assert [len(batch) for batch in batches] == [32, 32, 6]
    np.testing.assert_array_equal(batches[2][0], drawn[64].image)


def test_the_score_is_over_scenes_in_which_something_is_found(scenes):
    done = []
    scores = generated.score(scenes, Halves(), COUNT, progress=done.append)
    assert sum(done) == COUNT
    upper = np.arange(64).reshape(8, 8) < 32
    expected = [iou(scene.mask >= 0.5, upper) for scene in scenes.first(COUNT)][::2]
    results = generated.results(scenes, scores, Halves())
    assert results["miou"] == results["detected"]["miou"] == pytest.approx(np.mean(expected))
    assert results["miou_std"] == pytest.approx(np.std(expected))
    assert results["images"] == COUNT // 2 and results["all"]["images"] == COUNT
    assert results["detected_share"] == 0.5 and results["resolution"] == 8
    # What is found is the same in all of them, so another scene's is no worse.
    expected = {"full_mask": 0.5, "centre_box": 8 / 40, "other_scene": results["miou"]}
    assert results["references"] == pytest.approx(expected)
    assert "other_scene" not in results["all"]["references"]
    assert results["measure"] == "generated"
    for words in ("unshifted", "Halves", "full_mask", "centre_box"):
        assert words in results["protocol"]
    sheet = generated.sheet(scenes, Halves(), scores, 3)
    assert sheet.shape[0] > 3 * 4 * 144 and sheet.shape[1] > 3 * 144


def test_masks_are_compared_with_other_scenes_too(scenes):
    """Of a perfect detector the reference is what the masks have in common."""
    masks = {scene.name: scene.mask >= 0.5 for scene in scenes.first(COUNT)}

    class Perfect(Halves):
        def __call__(self, images, names):
            return [masks[name] for name in names]

    scores = generated.score(scenes, Perfect(), COUNT)
    assert scores.detected.miou == 1
    found = [mask for mask in masks.values() if mask.any()]
    others = [iou(mask, other) for mask, other in zip(found, found[1:] + found[:1], strict=True)]
    assert scores.detected.references["other_scene"] == pytest.approx(np.mean(others))
    assert np.mean(others) < 0.99


def test_what_cannot_be_scored_is_refused(scenes):
    class Nothing(Halves):
        def __call__(self, images, names):
            return [np.zeros((8, 8), bool)] * len(images)

    with pytest.raises(UserError, match=r"nothing in any of 4 .* --detector_class"):
        generated.score(scenes, Nothing(), 4)
    plain = generated.GeneratedScenes(tiny_runs.generator("single_output"), 0)
    with pytest.raises(UserError, match="no masks"):
        generated.score(plain, Halves(), 4)
    assert next(plain.images(4, 4)).shape == (4, 8, 8, 3)  # FID takes it


def test_real_images_are_the_photos_once_each(run, tmp_path):
    config = run.config()
    real = fid.RealImages(config, 12)
    batches = list(real.batches(5))
    assert len(real) == 12 and [len(batch) for batch in batches] == [5, 5, 2]
    assert batches[0].dtype == np.uint8 and batches[0].shape[1:] == (8, 8, 3)
    assert len(fid.RealImages(config, 50)) == 20  # data.limit
    for level in range(3):
        Image.new("RGB", (30, 20), (80 * level,) * 3).save(tmp_path / f"{level}.png")
    other = fid.RealImages(config, 10, str(tmp_path))
    (batch,) = other.batches(10)
    assert sorted(batch[:, 0, 0, 0].tolist()) == [0, 80, 160]
    with pytest.raises(UserError, match="--images=nowhere"):
        fid.RealImages(config, 10, "nowhere")


def test_sample_writes_scenes_that_evaluate_scores(layerseg, run, scenes, tmp_path):
    out = tmp_path / "scenes"
    flags = [f"--run_dir={run.path}", f"--images_out={out}", "--seed=3"]
    result = layerseg("sample", *flags, "--count=5")
    assert result.status == 0, result.stderr
    assert str(out / "images") in result.stdout
    for scene in scenes.first(4):
        image = np.asarray(Image.open(out / "images" / f"{scene.name}.png"))
        mask = np.asarray(Image.open(out / "masks" / f"{scene.name}.png"))
        np.testing.assert_array_equal(image, scene.image)
        np.testing.assert_array_equal(mask, np.where(scene.mask >= 0.5, 255, 0))

    again = layerseg("sample", *flags, "--count=4")
    assert again.status == 2 and "5 scenes already" in again.stderr
    assert layerseg("sample", *flags, "--count=4", "--overwrite").status == 0
    for folder in ("images", "masks"):
        assert len(os.listdir(out / folder)) == 4  # none of the earlier ones is left

    detected = tmp_path / "detected"
    detected.mkdir()
    for name in os.listdir(out / "images"):
        (mask,) = Halves()([None], [name.removesuffix(".png")])
        Image.fromarray(np.uint8(mask) * 255).save(detected / name)
    result = layerseg(
        "evaluate", f"--predictions={out / 'masks'}", f"--images={out / 'images'}",
        f"--masks={detected}",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    results = json.loads((out / "evaluation" / "results.json").read_text())
    expected = generated.score(scenes, Halves(), 4)
    assert results["detected"]["images"] == 2
    assert results["detected"]["miou"] == pytest.approx(expected.detected.miou)
    assert results["miou"] == pytest.approx(expected.miou)


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], ("--out=sheet.png", "--images_out=DIR")),
        (["--images_out={tmp}/file"], ("is a file",)),
        (["--images_out={tmp}/taken"], ("'thesis.txt'", "no scene")),
        (["--out={tmp}/sheet.png", "--count=10001"], ("--count=10001", "10,000")),
    ],
)
def test_sample_refuses_what_it_cannot_do(layerseg, run, tmp_path, flags, words):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken" / "images").mkdir(parents=True)
    (tmp_path / "taken" / "images" / "thesis.txt").write_text("mine")
    given = [flag.format(tmp=tmp_path) for flag in flags]
    result = layerseg("sample", f"--run_dir={run.path}", *given)
    assert result.status == 2
    for word in words:
        assert word in result.stderr
    assert (tmp_path / "taken" / "images" / "thesis.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "taken"]


def test_evaluating_generated_masks(layerseg, run, scenes, tmp_path):
    for scene in scenes.first(12):
        (mask,) = Halves()([None], [scene.name])
        Image.fromarray(np.uint8(mask) * 255).save(tmp_path / f"{scene.name}.png")
    flags = [f"--run_dir={run.path}", f"--detector={tmp_path}", "--seed=3"]
    result = layerseg("evaluate_generated", *flags, "--count=12")
    assert result.status == 0, result.stderr
    out = os.path.join(run.path, "evaluation_generated")
    assert sorted(os.listdir(out)) == ["layers.png", "per_image.csv", "results.json", "sheet.png"]
    with open(os.path.join(out, "results.json"), encoding="utf-8") as file:
        results = json.load(file)
    expected = generated.score(scenes, Halves(), 12).detected
    assert results["miou"] == pytest.approx(expected.miou)
    assert results["images"] == 6 and results["settings"]["count"] == 12
    assert f"mIoU {expected.miou:.3f}" in result.stdout and "6 of 12 composites" in result.stdout
    with open(os.path.join(out, "per_image.csv"), newline="") as file:
        assert [row["found"] for row in csv.DictReader(file)] == ["True", "False"] * 6

    again = layerseg("evaluate_generated", *flags, "--count=12")
    assert again.status == 2 and "--overwrite" in again.stderr
    more = layerseg("evaluate_generated", *flags, "--count=13", f"--out={tmp_path / 'out'}")
    assert more.status == 2 and "000013" in more.stderr
    assert not (tmp_path / "out").exists()


class Bright:
    """Finds what is brighter than the mean in the upper half, at the size it is given."""

    protocol = "Bright. "

    def __init__(self):
        self.sides = set()

    def __call__(self, images, names):
        self.sides.update(image.shape[0] for image in images)
        masks = [image.mean(axis=-1) > image.mean() for image in images]
        for mask in masks:
            mask[len(mask) // 2 :] = False
        return masks


def test_scenes_are_resized_for_the_detector_and_masks_compared_at_that_size(scenes):
    large = generated.GeneratedScenes(scenes.generator, 3, size=32)
    detector = Bright()
    scores = generated.score(large, detector, 12)
    assert detector.sides == {32}
    ious = []
    for scene, own in zip(large.first(12), scenes.first(12), strict=True):
        image = np.asarray(Image.fromarray(own.image).resize((32, 32), Image.BILINEAR))
        np.testing.assert_array_equal(scene.image, image)
        mask = np.asarray(Image.fromarray(own.mask).resize((32, 32), Image.BILINEAR))
        np.testing.assert_array_equal(scene.mask, mask)
        (truth,) = Bright()([image], [scene.name])
        ious.append(iou(mask >= 0.5, truth))
    results = generated.results(large, scores, detector)
    assert results["miou"] == pytest.approx(np.mean(ious))
    assert results["resolution"] == 8 and results["detected_share"] == 1
    assert "from 8 to 32 px" in results["protocol"]
    assert generated.sheet(large, detector, scores, 3).ndim == 3


def test_evaluating_at_the_detectors_size(layerseg, run, tmp_path):
    """As another program detects: scenes are written at that size, and its masks have it too."""
    size = [f"--run_dir={run.path}", "--detector_size=32", "--count=4"]
    result = layerseg("sample", *size, f"--images_out={tmp_path / 'scenes'}")
    assert result.status == 0, result.stderr
    detected = tmp_path / "scenes" / "detected"
    detected.mkdir()
    for name in os.listdir(tmp_path / "scenes" / "images"):
        with Image.open(tmp_path / "scenes" / "images" / name) as image:
            (mask,) = Bright()([np.asarray(image)], [name])
        Image.fromarray(np.uint8(mask) * 255).save(detected / name)
    flags = [f"--detector={detected}", f"--out={tmp_path / 'out'}"]
    other = layerseg("evaluate_generated", *size[::2], *flags)
    assert other.status == 2 and "give --detector_size=32" in other.stderr
    result = layerseg("evaluate_generated", *size, *flags)
    assert result.status == 0, result.stderr
    assert "4 of 4 composites in which something is found (100.0%)" in result.stdout
    scores = generated.score(
        generated.GeneratedScenes(networks.load_generator(run), 0, size=32), Bright(), 4
    )
    with open(tmp_path / "out" / "results.json", encoding="utf-8") as file:
        assert json.load(file)["miou"] == pytest.approx(scores.miou)


def test_evaluating_fid(layerseg, run, tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "SIZE", 3)  # 2,048 features take seconds to compare
    inputs = keras.Input((299, 299, 3))
    network = str(tmp_path / "means.keras")
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)).save(network)
    flags = [f"--run_dir={run.path}", "--count=30"]
    result = layerseg("fid", *flags, f"--inception={network}")
    assert result.status == 0, result.stderr
    with open(os.path.join(run.path, "evaluation_fid", "results.json"), encoding="utf-8") as file:
        results = json.load(file)
    assert results["measure"] == "fid" and results["fid"] > 0
    assert (results["images"], results["real_images"]) == (30, 20)
    assert results["features"].startswith("keras-inception-v3 avg_pool sha256:")
    for words in ("299", "unshifted", "cropped at random"):
        assert words in results["protocol"]
    assert f"FID {results['fid']:.2f}" in result.stdout
    refused = layerseg("fid", *flags, f"--out={tmp_path / 'out'}")
    assert refused.status == 2 and "--inception is needed" in refused.stderr
    assert not (tmp_path / "out").exists()
