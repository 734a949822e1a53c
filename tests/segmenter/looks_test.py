import json

import cv2
import numpy as np
import pytest

from layered_segmentation import images as photos
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.segmenter import looks, presets
from layered_segmentation.segmenter.segmenter import create_segmenter

SIDE = 16  # of the network below


def disc(height, width, centre, radius, value=255):
    image = np.full((height, width, 3), 40, np.uint8)
    cv2.circle(image, centre, radius, (value,) * 3, -1)
    return image


def coarse(images):
    """Brightness seen in 16 × 16 pixels, as a student of that side would see it."""
    masks = []
    for image in images:
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        probability = np.clip((small[..., 0].astype(np.float32) - 40) / 215, 0, 1)
        masks.append(cv2.resize(probability, image.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    return masks


def iou(mask, truth):
    prediction, target = mask >= 0.5, truth[..., 0] > 128
    return (prediction & target).sum() / (prediction | target).sum()


def test_a_small_object_is_seen_better_the_second_time():
    images = [disc(120, 200, (60, 50), 15), disc(128, 128, (90, 90), 18)]
    first = looks.predict_masks(coarse, images, 1)
    second = looks.predict_masks(coarse, images, 2)
    for image, once, twice in zip(images, first, second, strict=True):
        assert once.shape == twice.shape == image.shape[:2] and twice.dtype == np.float32
        assert 1 - iou(twice, image) < 0.6 * (1 - iou(once, image))
        assert twice.min() >= 0 and twice.max() <= 1


def test_one_look_returns_the_masks_of_the_segmenter():
    images = [disc(64, 64, (30, 30), 12)]
    np.testing.assert_array_equal(looks.predict_masks(coarse, images, 1)[0], coarse(images)[0])
    with pytest.raises(ValueError, match="looks=3"):
        looks.predict_masks(coarse, images, 3)


@pytest.mark.parametrize(
    "mask",
    [np.zeros((40, 40)), np.ones((40, 40)), np.pad(np.ones((4, 4)), 18)],
    ids=["nothing found", "everything", "too small"],
)
def test_the_first_look_is_kept_if_a_crop_adds_no_detail(mask):
    calls = []

    def predict(images):
        calls.append(len(images))
        return [mask.astype(np.float32) for _ in images]

    result = looks.predict_masks(predict, [np.zeros((40, 40, 3), np.uint8)], 2)[0]
    np.testing.assert_array_equal(result, mask)
    assert calls == [1]


def test_a_second_look_that_finds_nothing_does_not_lose_the_object():
    first = np.zeros((60, 60), np.float32)
    first[20:40, 20:40] = 0.9

    def predict(images):
        return [
            first if image.shape[:2] == (60, 60) else np.zeros(image.shape[:2], np.float32)
            for image in images
        ]

    result = looks.predict_masks(predict, [np.zeros((60, 60, 3), np.uint8)], 2)[0]
    np.testing.assert_array_equal(result, first)


def test_the_box_by_hand():
    mask = np.zeros((100, 200), np.float32)
    mask[30:50, 100:140] = 0.7  # 40 × 20: margin 10
    mask[90, 10] = 1.0  # a speck
    assert looks.crop_box(mask) == (90, 20, 150, 60)
    mask[30:50, 0:20] = 0.7  # half as large: part of it, so 140 wide: margin 35, cut at the frame
    assert looks.crop_box(mask) == (0, 0, 175, 85)


def test_segment_and_evaluate_take_looks(layerseg, tmp_path):
    segmenter = create_segmenter(8, 16)
    presets.save(segmenter, str(tmp_path / "preset"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    images, masks = Scenes(seed=0, count=2, split="test").load_pairs(64)
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        photos.write(str(tmp_path / "photos" / f"{index}.png"), image)
        photos.write(str(tmp_path / "masks" / f"{index}.png"), mask * 255)
    flags = [f"--segmenter={tmp_path / 'preset'}", "--looks=2"]
    done = layerseg(
        "evaluate",
        *flags,
        f"--images={tmp_path / 'photos'}",
        f"--masks={tmp_path / 'masks'}",
        f"--out={tmp_path / 'scores'}",
    )
    assert done.status == 0, done.stderr
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["settings"]["looks"] == 2 and "Two looks" in results["protocol"]
    done = layerseg(
        "segment", *flags, f"--input={tmp_path / 'photos'}", f"--out={tmp_path / 'out'}"
    )
    assert done.status == 0 and (tmp_path / "out" / "0.mask.png").is_file(), done.stderr
    done = layerseg(
        "evaluate",
        f"--predictions={tmp_path / 'masks'}",
        "--looks=2",
        f"--images={tmp_path / 'photos'}",
        f"--masks={tmp_path / 'masks'}",
    )
    assert done.status == 2 and "--looks=2: it goes with --segmenter" in done.stderr
