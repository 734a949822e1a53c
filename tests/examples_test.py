import numpy as np
import pytest
from PIL import Image

from layered_segmentation.data.photos import Pair
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import examples
from layered_segmentation.evaluation.scoring import Row, Scores


def scores_of(*ious, refine="none"):
    return Scores([Row(str(index), iou) for index, iou in enumerate(ious)], 1.0, 1.0, refine)


def predict(images):
    return [np.full(image.shape[:2], 0.8, np.float32) for image in images]


def test_best_median_and_worst():
    scores = scores_of(0.5, 0.1, 0.9, 0.3, 0.7)
    assert examples.ranked(scores, 2) == {"best": [2, 4], "median": [3, 0], "worst": [1, 3]}
    few = examples.ranked(scores_of(0.5, 0.1), 6)
    assert few == {"best": [0, 1], "median": [1, 0], "worst": [1, 0]}


@pytest.mark.parametrize("refine", ["none", "guided"])
def test_a_sheet_of_scored_pairs(refine):
    pairs = [
        Pair(str(side), np.full((side, side, 3), 90, np.uint8), np.ones((side, side), bool), None)
        for side in (20, 30)
    ]
    sheet = examples.scored_sheet(predict, pairs, scores_of(0.5, 1.0, refine=refine), [1, 0], 2)
    assert sheet.dtype == np.uint8
    assert 4 * 144 < sheet.shape[0] < 5 * 144 and sheet.shape[1] > 2 * 144


def test_a_sheet_of_photos_leaves_out_what_cannot_be_read(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    sheet = examples.photo_sheet(predict, str(tmp_path), ["a.png", "b.png"], 4, columns=4)
    assert 144 < sheet.shape[1] < 3 * 144
    with pytest.raises(UserError, match="can be read"):
        examples.photo_sheet(predict, str(tmp_path), ["b.png"], 4, columns=4)


def test_pictures_come_in_the_pages_order(tmp_path):
    for name in ("worst", "best"):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{name}.png")
    assert [picture.caption for picture in examples.pictures(str(tmp_path))] == ["best", "worst"]
