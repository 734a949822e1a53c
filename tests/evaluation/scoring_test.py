import csv

import cv2
import numpy as np
import pytest

from layered_segmentation import config as configs
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.data.source import Pair
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import scoring, test_sets
from layered_segmentation.evaluation.baselines import GrabCutSettings
from layered_segmentation.evaluation.scoring import iou, score
from layered_segmentation.segmenter import pipeline


def pair(name, truth, ignore=None):
    truth = np.asarray(truth, bool)
    return Pair(name, np.zeros((*truth.shape, 3), np.uint8), truth, ignore)


LEFT = np.tile(np.arange(8) < 4, (8, 1))
TOP = LEFT.T


def test_hand_computed_scores(tmp_path):
    ignore = np.zeros((8, 8), bool)
    ignore[:4, 4:] = True
    pairs = [pair("same", LEFT), pair("crossed", TOP), pair("partly", TOP, ignore)]
    scores = score(lambda images: [LEFT.astype(np.float32)] * len(images), pairs)
    # crossed: 16 common of 48. partly: without the upper right quarter, 16 of 32.
    expected = [1.0, 1 / 3, 1 / 2]
    assert [row.iou for row in scores.rows] == pytest.approx(expected)
    assert scores.miou == pytest.approx(np.mean(expected))
    assert scores.miou_std == pytest.approx(np.std(expected))
    assert scores.images == 3 and scores.ranked() == [1, 2, 0]
    # Full mask: 32 of 64, twice; 16 of 48. Centre box of 16: 8 of 40, twice; 4 of 12 + 16 - 4.
    assert scores.references["full_mask"] == pytest.approx(np.mean([1 / 2, 1 / 2, 1 / 3]))
    assert scores.references["centre_box"] == pytest.approx(np.mean([1 / 5, 1 / 5, 4 / 24]))
    assert scores.references_std["full_mask"] == pytest.approx(np.std([1 / 2, 1 / 2, 1 / 3]))
    assert scores.references_std["centre_box"] == pytest.approx(np.std([1 / 5, 1 / 5, 4 / 24]))

    results = scores.to_results()
    required = {"miou", "miou_std", "images", "references", "seconds", "protocol", "refine"}
    assert required <= set(results)
    assert set(results["references"]) == {"full_mask", "centre_box", "grabcut"}
    assert results["references_std"] == scores.references_std
    assert set(results["references_std"]) == set(results["references"])
    assert "GrabCut" in results["protocol"]
    assert results["seconds"] == round(scores.seconds, 3) and scores.seconds > 0

    scores.write_csv(str(tmp_path / "per_image.csv"))
    with open(tmp_path / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["same", "crossed", "partly"]
    assert [float(row["iou"]) for row in rows] == pytest.approx(expected, abs=1e-6)
    assert set(rows[0]) == {"name", "iou", "full_mask", "centre_box", "grabcut", "found"}
    assert "detected" not in results and "detected" not in results["protocol"]


def mask(text):
    return np.array([[character == "#" for character in row] for row in text.split()])


def test_hand_computed_ious():
    assert iou(mask("##. ##. ..."), mask(".## .## ...")) == pytest.approx(2 / 6)
    assert iou(mask("##. ##."), mask("##. ##.")) == 1.0
    assert iou(mask("##. ..."), mask("... .##")) == 0.0


def test_iou_of_empty_masks():
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


def test_small_predictions_are_enlarged_bilinearly():
    # 0, 1 enlarged fourfold crosses one half in the middle.
    small = np.array([[1.0, 0.0], [1.0, 0.0]])
    scores = score(lambda images: [small[..., None]] * len(images), [pair("a", LEFT)])
    assert scores.rows[0].iou == 1.0
    # Enlarged after the threshold, or by nearest neighbours, it would be a column narrower.
    slanted = np.array([[1.0, 0.25], [1.0, 0.25]])
    wider = np.tile(np.arange(8) < 5, (8, 1))
    scores = score(lambda images: [slanted] * len(images), [pair("a", wider)])
    assert scores.rows[0].iou == 1.0


def test_the_threshold_is_one_half():
    values = np.where(LEFT, 0.5, 0.4999)
    assert score(lambda images: [values] * len(images), [pair("a", LEFT)]).miou == 1.0


def test_pairs_are_read_a_batch_at_a_time():
    held, seen = [], []

    def stream():
        for index in range(10):
            held.append(index)
            yield pair(str(index), LEFT)

    def predict(images):
        seen.append((len(images), len(held)))
        return [LEFT.astype(float) for _ in images]

    done = []
    scores = score(predict, stream(), references=False, batch=4, progress=done.append)
    assert seen == [(4, 4), (4, 8), (2, 10)]
    assert done == [4, 4, 2]
    assert [row.name for row in scores.rows] == [str(index) for index in range(10)]
    assert scores.references == {} and "GrabCut" not in scores.to_results()["protocol"]


def test_refinement_is_applied():
    source = Scenes(0, 12, "test")
    truth = {pair.image.tobytes(): pair.mask for pair in source.pairs(64)}

    def thick(images):
        kernel = np.ones((9, 9), np.uint8)
        masks = [truth[image.tobytes()].astype(np.uint8) for image in images]
        return [cv2.dilate(mask, kernel) for mask in masks]

    plain = score(thick, source.pairs(64), references=False)
    refined = score(thick, source.pairs(64), refine="grabcut", references=False)
    assert refined.miou > plain.miou + 0.02
    assert refined.to_results()["refine"] == "grabcut"


def test_true_masks_of_scenes_score_one_and_beat_the_references():
    source = Scenes(0, 20, "test")
    truth = {pair.image.tobytes(): pair.mask for pair in source.pairs(32)}
    scores = score(lambda images: [truth[i.tobytes()] for i in images], source.pairs(32))
    assert scores.miou == 1.0 and scores.miou_std == 0.0
    references = scores.references
    assert references["full_mask"] < references["centre_box"] < references["grabcut"] < 0.9


def test_nothing_to_score_and_wrong_answers():
    with pytest.raises(UserError, match="nothing to score"):
        score(lambda images: [], [])
    with pytest.raises(ValueError, match="1 masks for 2 photos"):
        score(lambda images: [LEFT], [pair("a", LEFT), pair("b", LEFT)])


def test_binary_takes_masks_with_a_channel():
    image = np.zeros((8, 8, 3), np.uint8)
    assert np.array_equal(scoring.binary(image, LEFT[..., None].astype(float)), LEFT)


def test_detected_and_all_are_reported_separately():
    nothing = np.zeros((8, 8), bool)
    pairs = [pair("a", LEFT), pair("b", TOP), pair("c", nothing), pair("d", nothing)]
    masks = {"a": LEFT, "b": LEFT, "c": LEFT, "d": nothing}
    scores = scoring.score_pairs(
        lambda chunk: [masks[one.name].astype(float) for one in chunk], pairs,
        references=("full_mask",), batch=3,
    )  # fmt: skip
    results = scores.to_results()
    # 1 and 1/3 where there is something; 0, and 1 for agreeing on nothing, where there is not.
    assert results["detected"]["miou"] == pytest.approx(2 / 3)
    assert results["detected"]["miou_std"] == pytest.approx(1 / 3)
    assert results["detected"]["images"] == 2
    assert results["detected"]["references"] == {"full_mask": pytest.approx(1 / 2)}
    assert results["detected"]["references_std"] == {"full_mask": pytest.approx(0)}
    assert results["all"]["miou"] == results["miou"] == pytest.approx((1 + 1 / 3 + 0 + 1) / 4)
    assert results["all"]["images"] == results["images"] == 4
    assert results["all"]["references"] == {"full_mask": pytest.approx(1 / 4)}
    assert results["all"]["references_std"] == {"full_mask": pytest.approx(1 / 4)}
    lines = scores.lines()
    assert lines[0].startswith("mIoU 0.583 ± 0.433 over 4 photos (refine: none, ")
    assert lines[1:] == [
        "  full_mask 0.250 ± 0.250",
        "detected: mIoU 0.667 ± 0.333 over 2 photos in which something is found",
        "  full_mask 0.500 ± 0.000",
    ]
    assert len(scores.detected.lines()) == 2 and len(scores.detected.lines(split=True)) == 4
    assert "detected:" in results["protocol"] and "GrabCut" not in results["protocol"]
    assert [row.found for row in scores.rows] == [True, True, False, False]


def test_a_true_mask_that_is_ignored_entirely_counts_as_empty():
    scores = score(lambda images: [LEFT.astype(float)], [pair("a", LEFT, LEFT)], references=False)
    assert not scores.rows[0].found
    assert scores.to_results()["detected"] == {
        "miou": None, "miou_std": None, "images": 0, "references": {}, "references_std": {},
    }  # fmt: skip
    everywhere = score(lambda images: [LEFT.astype(float)], [pair("a", LEFT)], references=False)
    assert everywhere.to_results(split=True)["detected"]["images"] == 1


def test_the_grabcut_reference_uses_its_settings():
    y, x = np.mgrid[0:40, 0:40]
    disc = (x - 20) ** 2 + (y - 20) ** 2 < 150
    image = np.where(disc[..., None], (200, 40, 30), (50, 130, 60)).astype(np.uint8)
    pairs = [Pair("disc", image, disc, None)]
    tight = GrabCutSettings(margin=0.4, iterations=1, side=32)  # leaves most of the disc outside
    default, small_box = (
        score(lambda images: [disc.astype(float)], pairs, grabcut=settings)
        for settings in (GrabCutSettings(), tight)
    )
    assert default.references["grabcut"] > 0.9 > 0.4 > small_box.references["grabcut"]
    protocol = small_box.to_results()["protocol"]
    assert "40% of each side" in protocol and "1 iterations" in protocol and "32 pixels" in protocol


def test_a_packaged_preset_has_no_test_set_of_the_run_it_is_called_in(tmp_path, monkeypatch):
    config = configs.load("quickstart")
    configs.save(config, str(tmp_path / "config.yaml"))
    (tmp_path / "segmenter").mkdir()
    monkeypatch.chdir(tmp_path)
    assert test_sets.of_run("layered_unet_flowers_64") == ([], "")
    assert len(test_sets.of_run("segmenter", limit=2)[0]) == 2


def test_large_photos_are_scored_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(pipeline, "PIXELS", 200)  # three photos of 64 pixels
    chunks = []

    def predict(images):
        chunks.append(len(images))
        return [LEFT.astype(np.float32)] * len(images)

    large = np.tile(LEFT, (2, 2))  # 256 pixels: alone
    truths = [LEFT] * 4 + [large] * 2 + [LEFT]
    pairs = [pair(str(number), truth) for number, truth in enumerate(truths)]
    scores = score(predict, pairs, references=False)
    assert chunks == [3, 1, 1, 1, 1]
    assert [row.name for row in scores.rows] == list("0123456")


def judged(ious, **columns):
    rows = [
        scoring.Row(str(n), iou, **{name: values[n] for name, values in columns.items()})
        for n, iou in enumerate(ious)
    ]
    return scoring.Scores(rows, 1.0, 1.0, "none").verdict()


def test_a_verdict_compares_image_by_image():
    assert judged([0.8, 0.9, 0.7, 0.8], grabcut=[0.7, 0.8, 0.5, 0.6]) == [
        "better than grabcut: +0.150 ± 0.025"
    ]
    assert judged([0.5, 0.4], full_mask=[0.6, 0.5], grabcut=[0.9, 0.1]) == [
        "worse than full_mask: -0.100 ± 0.000",
        "no better or worse than grabcut: -0.050 ± 0.247",
    ]
    assert judged([0.5, 0.4]) == []


def test_a_verdict_names_masks_that_are_constant_or_inverted():
    (line,) = judged([0.1] * 4, covered=[0.0, 1.0, 0.996, 0.3])
    assert line.startswith("warning: 3 of 4 masks are empty or cover everything")
    assert judged([0.1] * 4, covered=[0.0, 1.0, 0.5, 0.3]) == []
    (line,) = judged([0.1, 0.2], covered=[0.5, 0.5], inverted=[0.7, 0.8])
    assert line.startswith("warning: inverted, the masks would score 0.750")
    scores = score(lambda images: [1 - LEFT.astype(float)], [pair("a", LEFT)], references=False)
    assert scores.rows[0].covered == pytest.approx(1 - LEFT.mean())
    assert scores.rows[0].inverted == 1 and "inverted" in scores.verdict()[0]


def test_a_verdict_names_one_mask_for_all_photos():
    square = np.pad(np.ones((4, 3), bool), ((2, 2), (1, 4)))
    masks = [np.roll(square, number % 4, axis=1) for number in range(8)]
    pairs = [pair(str(number), mask) for number, mask in enumerate(masks)]
    alike = score(lambda images: [square.astype(float)] * len(images), pairs, references=False)
    (line,) = [line for line in alike.verdict() if "same mask" in line]
    assert line.startswith("warning: all photos") and line in alike.to_results()["verdict"]
    right = score(lambda images: [m.astype(float) for m in masks], pairs, references=False)
    assert right.verdict() == []


RIGHT, BOTTOM = ~LEFT, ~TOP
QUARTERS = np.stack([LEFT & TOP, LEFT & BOTTOM])


def test_objects_are_scored_in_the_best_matching(tmp_path):
    truth = pair("a", LEFT)._replace(objects=QUARTERS)
    swapped = np.stack([QUARTERS[1], QUARTERS[0]], axis=-1).astype(np.float32)
    one_of_two = np.stack([LEFT, np.zeros_like(LEFT)], axis=-1).astype(np.float32)
    both_half = np.full((8, 8, 2), 0.4, np.float32)  # each below the threshold, the union above
    pairs = [truth] * 3
    masks = iter([swapped, one_of_two, both_half])
    scores = score(lambda images: [next(masks) for _ in images], pairs)
    assert [row.objects for row in scores.rows] == pytest.approx([1.0, 1 / 4, 0.0])
    assert [row.iou for row in scores.rows] == pytest.approx([1.0, 1.0, 1 / 2])
    results = scores.to_results()
    assert results["objects"]["miou"] == pytest.approx(1.25 / 3)
    assert "best matching" in results["protocol"]
    assert any(line.startswith("objects: mIoU 0.417") for line in scores.lines())
    scores.write_csv(str(tmp_path / "per_image.csv"))
    assert "objects" in (tmp_path / "per_image.csv").read_text().splitlines()[0].split(",")


def test_an_object_that_is_not_visible_is_not_scored():
    hidden = pair("a", LEFT)._replace(objects=np.stack([np.zeros_like(LEFT), LEFT]))
    masks = np.stack([LEFT, RIGHT], axis=-1).astype(np.float32)
    assert scoring.object_iou(hidden, masks) == 1.0
    three = pair("a", LEFT)._replace(objects=np.stack([*QUARTERS, RIGHT]))
    assert scoring.object_iou(three, np.stack([LEFT, RIGHT], axis=-1) * 1.0) == pytest.approx(0.5)
    for unknown in (pair("a", LEFT), hidden._replace(objects=np.zeros((2, 8, 8), bool))):
        assert scoring.object_iou(unknown, masks) is None
    assert scoring.object_iou(hidden, masks[..., :1]) is None
