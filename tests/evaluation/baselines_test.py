import cv2
import numpy as np
import pytest

from layered_segmentation.data.scenes import Scenes
from layered_segmentation.evaluation import baselines
from layered_segmentation.evaluation.scoring import iou


def disc(side, noise=6):
    """A red disc on green grass, and its mask."""
    y, x = np.mgrid[0:side, 0:side] / side
    mask = (x - 0.45) ** 2 + (y - 0.55) ** 2 < 0.09
    image = np.where(mask[..., None], (200, 40, 30), (50, 130, 60))
    image = image + np.random.default_rng(0).normal(0, noise, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


def test_full_mask():
    assert baselines.full_mask(3, 5).shape == (3, 5) and baselines.full_mask(3, 5).all()


@pytest.mark.parametrize(
    "height, width, rows, columns",
    [(8, 12, (2, 6), (3, 9)), (16, 16, (4, 12), (4, 12)), (6, 10, (1, 4), (2, 7))],
)
def test_centre_box_is_half_each_way(height, width, rows, columns):
    expected = np.zeros((height, width), bool)
    expected[slice(*rows), slice(*columns)] = True
    assert np.array_equal(baselines.centre_box(height, width), expected)


def test_centre_box_is_never_empty():
    assert baselines.centre_box(1, 1).sum() == 1


@pytest.mark.parametrize("side", [32, 100, 300])  # the last is larger than it works at
def test_grabcut_finds_a_disc(side):
    image, mask = disc(side)
    found = baselines.grabcut(image)
    assert found.dtype == bool and found.shape == mask.shape
    assert iou(found, mask) > 0.95


def test_grabcut_is_the_same_every_time():
    images = Scenes(0, 12, "test").load(32)
    first = [baselines.grabcut(image) for image in images]
    cv2.setRNGSeed(77)
    cv2.randu(np.empty(9, np.uint8), 0, 255)
    assert np.array_equal([baselines.grabcut(image) for image in images[::-1]], first[::-1])
    assert 0.1 < np.mean(first) < 0.5


def test_grabcut_stays_within_its_rectangle():
    image, _ = disc(60)
    image[:, :20] = (200, 40, 30)  # the object's colour up to the left edge
    assert not baselines.grabcut(image)[:, :3].any()


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (3, 3), (4, 40), (24, 24)])
def test_grabcut_handles_uniform_photos(shape):
    mask = baselines.grabcut(np.full((*shape, 3), 90, np.uint8))
    assert mask.shape == shape and mask.dtype == bool


def test_grabcut_uses_the_given_margin():
    image, mask = disc(60)
    settings = baselines.GrabCutSettings(margin=0.18)
    found = baselines.grabcut(image, settings)
    assert mask[:, :11].any() and not found[:, :11].any()  # 18 % of 60 pixels are 11
    assert iou(found[:, 11:], mask[:, 11:]) > 0.9
    assert "18% of each side" in settings.protocol
    assert "5% of each side" in baselines.DEFAULT_GRABCUT.protocol


def test_grabcut_works_at_the_given_size():
    image, mask = disc(64, noise=0)
    small = baselines.grabcut(image, baselines.GrabCutSettings(side=16))
    assert small.shape == mask.shape
    assert 0.8 < iou(small, mask) < iou(baselines.grabcut(image), mask)
