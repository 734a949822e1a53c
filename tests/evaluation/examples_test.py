import numpy as np
import pytest
from PIL import Image

from layered_segmentation.data.source import Pair
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


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        # Ranked, 0.8 0.4 0.2 of photos 5, 1 and 3: best 5, middle 1, worst 3.
        ([1, 3, 5], [5, 1, 3]),
        ([], [0, 3, 2]),  # nothing anywhere: of all of them, 1 0.8 0.4 0.2 0 0
    ],
)
def test_the_overview_leaves_out_empty_true_masks(monkeypatch, found, shown):
    ious = {0: 1.0, 1: 0.4, 2: 0.0, 3: 0.2, 4: 0.0, 5: 0.8}
    rows = [Row(str(index), iou, found=index in found) for index, iou in ious.items()]
    scores = Scores(rows, 1.0, 1.0, "none")
    photos = [np.full((20, 20, 3), 40 * index, np.uint8) for index in ious]
    truths = [np.full((20, 20), index in found) for index in ious]
    pairs = [Pair(str(i), photos[i], truths[i], None) for i in ious]
    drawn = {}
    monkeypatch.setattr(
        examples.sheets,
        "segmentation_sheet",
        lambda images, masks, predicted, scores, columns, labels: drawn.update(
            photos=[int(image[0, 0, 0]) // 40 for image in images],
            truths=[bool(mask.any()) for mask in masks],
            predicted=predicted,
            ious=scores,
        ),
    )
    examples.overview_sheet(lambda shown: [pair.name for pair in shown], pairs, scores, 1)
    assert drawn["photos"] == shown
    assert drawn["predicted"] == [str(index) for index in drawn["photos"]]
    assert drawn["ious"] == [ious[index] for index in drawn["photos"]]
    assert all(drawn["truths"]) == bool(found)


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
