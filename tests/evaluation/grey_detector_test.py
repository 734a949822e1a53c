import numpy as np
import pytest

from layered_segmentation.evaluation import grey_detector


@pytest.fixture(scope="module")
def detector():
    return grey_detector.train(resolution=8, steps=30, scenes=64, width=8)


def scenes():
    from layered_segmentation.data import scenes as shapes

    return shapes.Shapes(7, 12).load(8)


def test_the_luminance_of_pure_colours():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], np.uint8)
    assert grey_detector.to_grey(colours)[0, :, 0].tolist() == [76, 150, 29, 90]


def test_colour_makes_no_difference_to_it(detector):
    images = scenes()
    grey = grey_detector.to_grey(images)
    assert np.abs(images.astype(int) - grey).max() > 50
    of_colour = np.stack(detector.predict_masks(images))
    of_grey = np.stack(detector.predict_masks(grey))
    np.testing.assert_allclose(of_colour, of_grey, atol=0.02)  # the grey images are rounded
    assert of_grey.std() > 0.05


def test_folding_changes_nothing_for_grey_images(detector):
    from layered_segmentation.segmenter import segmenter as segmenters

    segmenter = segmenters.create(8, 8)
    grey = grey_detector.to_grey(scenes())
    before = np.stack(segmenter.predict_masks(grey))
    grey_detector.see_grey(segmenter)
    np.testing.assert_allclose(np.stack(segmenter.predict_masks(grey)), before, atol=1e-5)


def test_the_verb_scores_and_writes_it(layerseg, tmp_path):
    out = tmp_path / "detector"
    flags = ["--resolution=8", "--steps=2", "--scenes=64"]
    result = layerseg("grey_detector", f"--out={out}", *flags)
    assert result.status == 0, result.stderr
    assert "held-out scenes" in result.stdout and (out / "task.json").exists()
    result = layerseg("grey_detector", f"--out={out}", *flags)
    assert result.status == 2 and "it exists" in result.stderr
