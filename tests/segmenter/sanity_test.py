import numpy as np
import pytest

from layered_segmentation import config as configs
from layered_segmentation.segmenter import sanity

SIDE = 32


def squares(count=20, seed=0):
    """Masks of an object each, at a place of its own inside the frame."""
    masks = np.zeros((count, SIDE, SIDE), bool)
    places = np.random.default_rng(seed).integers(3, SIDE - 17, (count, 2))
    for mask, (top, left) in zip(masks, places, strict=True):
        mask[top : top + 14, left : left + 14] = True
    return masks


def checked(masks):
    return sanity.of_masks([sanity.small(mask) for mask in masks], "train again")


def test_good_masks_pass():
    assert checked(squares()) == []


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (~squares(), "100 % of the photos' edge"),
        (np.repeat(squares(1), 20, axis=0), "all photos have nearly the same mask"),
        (np.concatenate([0 * squares(11), squares(9)]), "11 of 20 masks are empty or cover"),
        (np.concatenate([~(0 * squares(11)), squares(9)]), "11 of 20 masks are empty or cover"),
    ],
    ids=["inverted", "constant", "empty", "full"],
)
def test_each_fault_has_one_line_with_advice(masks, words):
    (line,) = checked(masks.astype(bool))
    assert words in line and line.endswith("; train again")


def test_nothing_is_said_of_a_few_masks():
    assert checked(np.repeat(squares(1), 3, axis=0)) == []


def look(kind="none", undecided=0.02, **more):
    return {"images_seen": 9_000, "look": kind, "mask_undecided": undecided, **more}


def test_the_end_of_a_training_is_judged_by_the_last_look():
    config = configs.load("quickstart")
    assert sanity.of_training([], config) == []
    assert sanity.of_training([look("full"), look(), {"images_seen": 9_500}], config) == []
    (line,) = sanity.of_training([look(), look("background")], config)
    assert "at 9,000 images masks cover the background" in line and "gan.mask_size" in line
    (line,) = sanity.of_training([look(undecided=0.3)], config)
    assert "still grey" in line and "gan.mask_binary_weight" in line


def test_a_collapse_that_was_warned_of_is_not_repeated():
    warned = {"images_seen": 8_000, "collapse": "full", "warning": "warning: …"}
    config = configs.load("quickstart")
    assert sanity.of_training([warned, look("full")], config) == []
    assert len(sanity.of_training([warned, look("alike")], config)) == 1
