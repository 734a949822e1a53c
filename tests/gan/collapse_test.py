import dataclasses

import numpy as np
import pytest

from layered_segmentation import config as configs
from layered_segmentation.gan import collapse

SHIFT = 0.125
GAN = configs.GANConfig(mask_size=0.2)


def discs(count, radius, spread=0.0, side=16, seed=0):
    """Masks of one disc each, at random places and of random sizes around the radius."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    masks = []
    for _ in range(count):
        x, y = side / 2 - 0.5 + generator.integers(-2, 3, 2)
        size = radius * np.exp(spread * generator.standard_normal())
        masks.append((rows - y) ** 2 + (columns - x) ** 2 < size**2)
    return np.stack(masks)[..., None].astype(np.float32)


def test_statistics_by_hand():
    masks = np.zeros((2, 4, 4, 1), np.float32)
    masks[0, :2, :, 0] = 1  # the upper half
    masks[1, 2:, :, 0] = 0.8  # the lower half, not quite decided
    found = collapse.statistics(masks, shift=0.25)
    assert found.mask_coverage == pytest.approx((8 + 6.4) / 32)
    assert found.mask_edge == pytest.approx((6 + 4.8) / 24)
    assert found.mask_undecided == pytest.approx(0.2 * 8 / 32)
    assert found.mask_other_scene == 0
    assert found.mask_alike == 1  # two rows apart, which a shift of 2 δ explains
    assert collapse.statistics(masks, shift=0.125).mask_alike == pytest.approx(1 / 3)


def test_statistics_do_not_depend_on_the_resolution():
    masks = discs(20, 4, spread=0.3)
    enlarged = masks.repeat(4, axis=1).repeat(4, axis=2)
    small, large = (
        dataclasses.asdict(collapse.statistics(one, SHIFT)) for one in (masks, enlarged)
    )
    assert small == pytest.approx(large, abs=1e-9)


@pytest.mark.parametrize(
    ("masks", "kind"),
    [
        (discs(32, 4, spread=0.3), "none"),
        (discs(32, 6, spread=0.2), "none"),
        (np.zeros((32, 16, 16, 1)), "empty"),
        (np.ones((32, 16, 16, 1)), "full"),
        (1 - discs(32, 4, spread=0.3), "background"),  # inverted
        (1 - discs(32, 7, spread=0.1), "background"),  # covers little, but nearly all of the edge
        (discs(32, 4), "alike"),  # one shape, moved
        (np.full((32, 16, 16, 1), 0.7), "none"),  # not decided yet
    ],
    ids=["varied", "large", "empty", "full", "inverted", "rim", "alike", "grey"],
)
def test_kinds_of_synthetic_masks(masks, kind):
    assert collapse.kind(collapse.statistics(masks, SHIFT), GAN, True) == kind


def test_one_mask_for_all_scenes_is_no_collapse_before_a_stage_is_faded_in():
    found = collapse.statistics(discs(32, 4), SHIFT)
    assert collapse.kind(found, GAN, False) == "none"


def test_masks_at_the_upper_bound_are_no_collapse_if_they_are_objects():
    found = collapse.statistics(discs(32, 6, spread=0.2), SHIFT)
    bounded = configs.GANConfig(mask_size=0.1, mask_size_most=found.mask_coverage)
    assert collapse.kind(found, bounded, True) == "none"


def test_large_masks_are_none_where_objects_are_large():
    found = collapse.statistics(discs(32, 9, spread=0.1), SHIFT)
    assert found.mask_coverage > 0.7
    assert collapse.kind(found, GAN, True) == "background"
    assert collapse.kind(found, configs.GANConfig(mask_size=0.7), True) == "none"


def test_masks_that_cover_all_but_a_corner_are_a_collapse():
    corners = np.ones((32, 16, 16, 1), np.float32)
    for index, size in enumerate(np.random.default_rng(0).integers(5, 9, 32)):
        corners[index, :size, :size] = 0
    assert collapse.kind(collapse.statistics(corners, SHIFT), GAN, False) == "background"


def test_ground_that_reaches_across_the_edge_is_a_collapse_where_objects_have_room():
    ground = discs(32, 4, spread=0.3)
    ground[:, 11:] = 1  # covers 5 of 16 rows
    found = collapse.statistics(ground, SHIFT)
    assert 0.3 < found.mask_coverage < 0.6 and 0.25 < found.mask_edge < 0.5
    bounded = configs.GANConfig(mask_size=0.1, mask_size_most=0.6)
    assert collapse.kind(found, bounded, True) == "edge"
    assert collapse.kind(found, bounded, False) == "none"  # many masks still shrink then
    assert collapse.kind(found, GAN, True) == "none"  # objects may be of any size
    objects = collapse.statistics(discs(32, 6, spread=0.2), SHIFT)
    assert collapse.kind(objects, bounded, True) == "none"


def test_the_next_attempt_depends_on_the_kinds_alone():
    config = configs.load("", ["gan.mask_size=0.2", "train.restarts=3"])
    assert collapse.next_attempt(config, []) == config
    lower = collapse.next_attempt(config, ["background"])
    assert (lower.gan.mask_size, lower.gan.mask_size_most) == (0.1125, 0.45)
    lowest = collapse.next_attempt(config, ["full", "background"])
    assert (lowest.gan.mask_size, lowest.gan.mask_size_most) == (0.09, 0.36)
    higher = collapse.next_attempt(config, ["empty"])
    assert higher.gan.mask_size == pytest.approx(0.3)
    assert higher.gan.mask_size_weight == 4 and higher.gan.mask_size_most == 1
    other = collapse.next_attempt(config, ["alike"])
    assert other.gan == config.gan == collapse.next_attempt(config, ["edge"]).gan
    seeds = {one.train.seed for one in (config, lower, lowest)}
    assert len(seeds) == 3 and other.train.seed == lower.train.seed == higher.train.seed


@pytest.mark.parametrize("kind", collapse.KINDS)
def test_every_attempt_has_possible_settings(kind):
    config = configs.load("", ["gan.mask_size=0.4", "gan.mask_size_most=0.5"])
    for count in range(6):
        settings = collapse.next_attempt(config, [kind] * count).gan
        names = ("mask_size", "mask_size_most", "mask_size_weight")
        configs.load("", [f"gan.{name}={getattr(settings, name)}" for name in names])


@pytest.mark.parametrize("kind", collapse.KINDS)
def test_advice_names_settings_and_their_values(kind):
    text = collapse.advice(kind, configs.load("", ["gan.mask_size=0.2"]))
    assert "In a new run" in text and "gan.mask_size" in text and "0.2" in text
