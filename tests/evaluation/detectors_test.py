import numpy as np
import pytest
from PIL import Image

from layered_segmentation.data.scenes import Scenes
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import detectors
from layered_segmentation.segmenter import preset_files, presets
from layered_segmentation.segmenter.segmenter import create_segmenter

LEFT = np.tile(np.arange(8) < 4, (6, 1))
PHOTO = np.zeros((6, 8, 3), np.uint8)


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    for name, mask in (("a", LEFT), ("b", ~LEFT), ("c", LEFT & False)):
        Image.fromarray(PHOTO).save(tmp_path / "photos" / f"{name}.png")
        Image.fromarray(np.uint8(mask) * 255).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def test_a_directory_of_masks(folders):
    detector = detectors.open_detector(str(folders / "masks"))
    masks = detector([PHOTO, PHOTO], ["c.jpg", "b.jpg"])
    assert not masks[0].any() and np.array_equal(masks[1], ~LEFT)
    with pytest.raises(UserError, match="of a is 8 × 6 pixels, the photo 5 × 6"):
        detector([PHOTO[:, :5]], ["a"])


def test_label_maps_of_a_detector(folders):
    labels = np.where(LEFT, 7, 2).astype(np.uint8)
    Image.fromarray(labels).save(folders / "masks" / "a.png")
    detector = detectors.open_detector(str(folders / "masks"))
    with pytest.raises(UserError, match=r"name the object's value with --detector_value"):
        detector([PHOTO], ["a.jpg"])
    detector = detectors.open_detector(str(folders / "masks"), values=[7])
    assert np.array_equal(detector([PHOTO], ["a.jpg"])[0], LEFT)


def test_photos_with_a_detectors_masks(folders):
    detector = detectors.open_detector(str(folders / "masks"))
    pairs = detectors.DetectedFolder(str(folders / "photos"), detector)
    assert [pair.name for pair in pairs] == ["a.png", "b.png", "c.png"]
    assert [pair.mask.sum() for pair in pairs] == [24, 24, 0]
    assert pairs[1].image.shape == (6, 8, 3) and pairs[1].ignore is None
    (folders / "masks" / "b.png").unlink()
    detector = detectors.open_detector(str(folders / "masks"))
    with pytest.raises(UserError, match=r"no mask of the same name for 1 of 3 photos \(b\.png\)"):
        detectors.DetectedFolder(str(folders / "photos"), detector)


def test_a_segmenter_finds_what_covers_a_hundredth(tmp_path):
    segmenter = create_segmenter(8, 16)
    presets.save(segmenter, str(tmp_path / "segmenter"))
    for path in (tmp_path, tmp_path / "segmenter"):
        assert isinstance(detectors.open_detector(str(path)), detectors.SegmenterDetector)
    detector = detectors.open_detector(str(tmp_path))
    photos = [np.zeros((10, 20, 3), np.uint8)] * 3
    drawn = np.zeros((3, 10, 20), np.float32)
    drawn[0, 0, 0] = drawn[1, 0, :2] = 0.5  # 1 and 2 of 200 pixels
    detector._segmenter.predict_masks = lambda images: list(drawn[: len(images)])
    assert [mask.sum() for mask in detector(photos, ["a", "b", "c"])] == [0, 2, 0]


def test_a_packaged_segmenter_is_found_by_name():
    detector = detectors.open_detector(preset_files.DEFAULT)
    assert isinstance(detector, detectors.SegmenterDetector)
    (mask,) = detector([np.zeros((9, 12, 3), np.uint8)], ["a"])
    assert mask.shape == (9, 12) and mask.dtype == bool


def test_other_paths_are_refused(tmp_path):
    for path, words in (
        (tmp_path / "nowhere", "no such directory"),
        (tmp_path, "neither a SavedModel"),
    ):
        with pytest.raises(UserError, match=words) as error:
            detectors.open_detector(str(path))
        assert f"--detector={path}" in str(error.value)
    (tmp_path / "config.yaml").write_text("data: {name: shapes}")
    with pytest.raises(UserError, match="no segmenter in"):
        detectors.open_detector(str(tmp_path))


@pytest.fixture(scope="module")
def grey_detector():
    return detectors.train_grey(resolution=8, steps=30, scenes=64, width=8)


def scenes():
    return Scenes(7, 12).load(8)


def test_the_luminance_of_pure_colours():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], np.uint8)
    assert detectors.to_grey(colours)[0, :, 0].tolist() == [76, 150, 29, 90]


def test_the_grey_detector_ignores_colour(grey_detector):
    images = scenes()
    grey = detectors.to_grey(images)
    assert np.abs(images.astype(int) - grey).max() > 50
    of_colour = np.stack(grey_detector.predict_masks(images))
    of_grey = np.stack(grey_detector.predict_masks(grey))
    np.testing.assert_allclose(of_colour, of_grey, atol=0.02)  # the grey images are rounded
    assert of_grey.std() > 0.05


def test_folding_changes_nothing_for_grey_images():
    segmenter = create_segmenter(8, 8)
    grey = detectors.to_grey(scenes())
    before = np.stack(segmenter.predict_masks(grey))
    detectors.fold_grey(segmenter)
    np.testing.assert_allclose(np.stack(segmenter.predict_masks(grey)), before, atol=1e-5)


def test_the_verb_scores_and_writes_a_grey_detector(layerseg, tmp_path):
    out = tmp_path / "detector"
    flags = ["--resolution=8", "--steps=2", "--scenes=64"]
    result = layerseg("grey_detector", f"--out={out}", *flags)
    assert result.status == 0, result.stderr
    assert "held-out scenes" in result.stdout and (out / "task.json").exists()
    result = layerseg("grey_detector", f"--out={out}", *flags)
    assert result.status == 2 and "it exists" in result.stderr
