import numpy as np
import pytest

from layered_segmentation.data.scenes import KINDS, Scenes, render
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import baselines
from layered_segmentation.evaluation.scoring import iou


@pytest.fixture(scope="module")
def held_out():
    return Scenes(0, 150, "test").load_pairs(32)


def area_of(outline):
    x, y = outline.T
    return 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))


def test_a_scene_depends_on_seed_split_and_index_only():
    images = Scenes(3, 6).load(16)
    assert np.array_equal(Scenes(3, 6).load(16), images)
    assert np.array_equal(Scenes(3, 2).load(16), images[:2])  # nor on how many there are
    assert images.dtype == np.uint8 and images.shape == (6, 16, 16, 3)
    for other in (Scenes(4, 6), Scenes(3, 6, "test")):
        assert not np.any(np.all(other.load(16) == images, axis=(1, 2, 3)))
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6


def test_load_and_pairs_show_the_same_scenes():
    source = Scenes(1, 4, "test")
    images, masks = source.load_pairs(16)
    assert np.array_equal(source.load(16), images)
    pairs = list(source.pairs(16))
    assert np.array_equal([pair.image for pair in pairs], images)
    assert np.array_equal([pair.mask for pair in pairs], masks)
    assert len({pair.name for pair in pairs}) == 4


def test_the_same_scene_at_two_sides():
    source = Scenes(0, 20)
    small, small_masks = source.load_pairs(18)
    # Up to 36 px all are drawn on one canvas; beyond, on finer ones, where edges are sharper.
    for side, furthest, mean in ((36, 1.01, 0.5), (72, 12, 0.7), (144, 12, 0.7)):
        large, large_masks = source.load_pairs(side)
        times = side // 18
        reduced = large.reshape(20, 18, times, 18, times, 3).mean(axis=(2, 4))
        assert np.abs(reduced - small).max() < furthest
        assert np.abs(reduced - small).mean() < mean
        coverage = large_masks.reshape(20, 18, times, 18, times).mean(axis=(2, 4))
        assert np.mean((coverage >= 0.5) == small_masks) > 0.98  # ties: 2 of 4


@pytest.mark.parametrize("side", [36, 64, 100])
def test_masks_cover_the_described_outline(side):
    source = Scenes(0, 40)
    for index in range(40):
        scene = source.scene(index)
        if scene.outline.min() < 0 or scene.outline.max() > 1:
            continue  # the frame cuts some of it off
        _, mask = render(scene, side)
        assert mask.mean() == pytest.approx(area_of(scene.outline), abs=0.012)
        rows, columns = np.nonzero(mask)
        low = (np.array([columns.min(), rows.min()])) / side
        high = (np.array([columns.max(), rows.max()]) + 1) / side
        assert np.abs(low - scene.outline.min(axis=0)).max() < 4 / side  # tips are thin
        assert np.abs(high - scene.outline.max(axis=0)).max() < 4 / side


def test_image_changes_only_where_the_object_is():
    # The background is drawn as if there were no object: what lies outside the mask does not
    # depend on where the object is.
    import dataclasses

    scene = Scenes(0, 1).scene(0)
    moved = dataclasses.replace(scene, outline=scene.outline * 0.5)
    image, mask = render(scene, 36)
    other, other_mask = render(moved, 36)
    free = ~(np.pad(mask | other_mask, 1).astype(bool))
    free = free[1:-1, 1:-1] & free[:-2, 1:-1] & free[2:, 1:-1] & free[1:-1, :-2] & free[1:-1, 2:]
    assert free.mean() > 0.2
    assert np.array_equal(image[free], other[free])
    assert not np.array_equal(image, other)


def test_statistics_of_the_masks(held_out):
    _, masks = held_out
    areas = masks.mean(axis=(1, 2))
    assert 0.24 < areas.mean() < 0.31
    assert areas.min() > 0.12 and areas.max() < 0.45
    box = baselines.centre_box(32, 32)
    centre = np.mean([iou(box, mask.astype(bool)) for mask in masks])
    assert 0.40 < centre < 0.52
    # Objects lie all over the frame, not around its middle only.
    places = np.array([np.argwhere(mask).mean(axis=0) for mask in masks])
    assert places.std(axis=0).min() > 2.5
    kinds = {Scenes(0, 60).scene(index).kind for index in range(60)}
    assert kinds == set(KINDS)


def test_grabcut_does_not_solve_it(held_out):
    images, masks = held_out
    for side, least, most in ((16, 0.35, 0.70), (32, 0.45, 0.80)):
        if side == 16:
            images, masks = Scenes(0, 150, "test").load_pairs(16)
        else:
            images, masks = held_out
        score = np.mean(
            [
                iou(baselines.grabcut(image), mask.astype(bool))
                for image, mask in zip(images, masks, strict=True)
            ]
        )
        assert least < score < most


def test_colour_alone_does_not_solve_it():
    # The best guess from a pixel's colour, learnt with labels from 800 other scenes.
    images, masks = Scenes(1, 800).load_pairs(16)
    bins = (images // 16).astype(int) @ [256, 16, 1]
    objects = np.bincount(bins.ravel(), masks.ravel(), minlength=4096)
    likely = (objects + 0.3) / (np.bincount(bins.ravel(), minlength=4096) + 1)
    images, masks = Scenes(0, 150, "test").load_pairs(16)
    guesses = likely[(images // 16).astype(int) @ [256, 16, 1]] > 0.4
    score = np.mean(
        [iou(guess, mask.astype(bool)) for guess, mask in zip(guesses, masks, strict=True)]
    )
    assert 0.4 < score < 0.72


@pytest.mark.parametrize("arguments", [(0, 0), (0, 5, "validation")])
def test_impossible_sources_are_refused(arguments):
    with pytest.raises(UserError):
        Scenes(*arguments)


def test_scenes_of_several_objects_have_a_mask_for_each():
    for pair in Scenes(0, 20, "test", objects=3).pairs(32):
        assert pair.objects.shape == (3, 32, 32) and pair.objects.dtype == bool
        assert pair.objects.sum(axis=0).max() == 1  # a pixel shows one object
        # Half of a pixel may be covered by two objects of which neither covers half.
        assert not np.any(pair.objects.any(axis=0) & ~pair.mask)
        assert np.mean(pair.objects.any(axis=0) != pair.mask) < 0.02
    assert all(pair.objects is None for pair in Scenes(0, 2).pairs(16))


def test_later_objects_lie_over_earlier_ones():
    import dataclasses

    from layered_segmentation.data.scenes import object_masks

    scene = Scenes(0, 1, objects=2).scene(0)
    (other,) = scene.others
    alone = object_masks(dataclasses.replace(scene, outline=other.outline, others=()), 36)[0]
    under = dataclasses.replace(scene, outline=other.outline * 0.5 + 0.5 * other.outline.mean(0))
    first, second = object_masks(under, 36)
    assert alone.any() and np.array_equal(second, alone) and first.sum() < 0.02 * alone.sum()
    image, mask = render(under, 36)
    # What the later object hides changes nothing.
    hidden = dataclasses.replace(under, surface_colours=255 - under.surface_colours)
    assert np.array_equal(render(hidden, 36)[0], image) and np.array_equal(mask, alone)


def test_several_objects_are_smaller():
    masks = np.stack([pair.objects for pair in Scenes(0, 100, objects=2).pairs(32)])
    areas = masks.mean(axis=(0, 2, 3))
    assert 0.12 < areas[1] < 0.16 and areas[0] < areas[1]  # 7.5 to 20 %, the first partly hidden
