import numpy as np
import pytest

from layered_segmentation.evaluation.iou import iou


def mask(text):
    return np.array([[character == "#" for character in row] for row in text.split()])


def test_hand_computed():
    assert iou(mask("##. ##. ..."), mask(".## .## ...")) == pytest.approx(2 / 6)
    assert iou(mask("##. ##."), mask("##. ##.")) == 1.0
    assert iou(mask("##. ..."), mask("... .##")) == 0.0


def test_both_empty_agree_one_empty_does_not():
    empty = mask("... ...")
    assert iou(empty, empty) == 1.0
    assert iou(empty, mask("#.. ...")) == 0.0
    assert iou(mask("#.. ..."), empty) == 0.0


def test_ignored_pixels_count_neither_way():
    prediction, truth = mask("##. ##."), mask(".## .##")
    assert iou(prediction, truth, mask("#.. ...")) == pytest.approx(2 / 5)
    assert iou(prediction, truth, mask(".#. .#.")) == 0.0
    assert iou(prediction, truth, mask("### ###")) == 1.0
    assert iou(prediction, truth, mask("... ...")) == iou(prediction, truth)


def test_only_binary_masks_of_one_shape():
    truth = mask("##. ...")
    with pytest.raises(ValueError, match="float"):
        iou(truth.astype(float), truth)
    with pytest.raises(ValueError, match=r"\[2, 2\]"):
        iou(truth, truth[:, :2])
    with pytest.raises(ValueError, match=r"\[2, 2\]"):
        iou(truth, truth, truth[:, :2])
