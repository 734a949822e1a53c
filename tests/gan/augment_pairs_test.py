import numpy as np
import pytest
import tensorflow as tf

from layered_segmentation.gan import augment, draws

SIDE, BATCH = 16, 32


def draw(strength=1.0, seed=(1, 2), batch=BATCH):
    return draws.pair_augmentation(tf.constant(seed), batch, SIDE, strength)


def geometry_only(augmentation):
    nothing = draw(strength=0.0, batch=augmentation.transforms.shape[0])
    return nothing._replace(transforms=augmentation.transforms)


def discs(batch=BATCH, seed=0):
    """Masks of discs, and images that are -1 outside and 1 inside."""
    generator = np.random.default_rng(seed)
    centres = generator.uniform(5, 11, (batch, 2, 1, 1))
    rows, columns = np.indices((SIDE, SIDE))
    distance = np.hypot(rows - centres[:, 0], columns - centres[:, 1])
    masks = (distance < 4).astype(np.float32)[..., None]
    return np.repeat(2 * masks - 1, 3, axis=-1), masks


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_image_and_mask_stay_aligned(strength):
    images, masks = discs()
    moved, moved_masks = augment.augment_pairs(images, masks, geometry_only(draw(strength)))
    np.testing.assert_allclose(moved[..., :1], 2 * moved_masks - 1, atol=1e-5)
    changed = np.abs(np.asarray(moved_masks) - masks).max(axis=(1, 2, 3)) > 0.1
    assert changed.mean() > 0.9


def test_colours_leave_the_mask_alone():
    images, masks = discs()
    augmentation = draw()._replace(transforms=draw(strength=0.0).transforms)
    coloured, same = augment.augment_pairs(images, masks, augmentation)
    np.testing.assert_allclose(same, masks, atol=1e-6)
    assert np.abs(np.asarray(coloured) - images).mean() > 0.02
    # The object can still be told from the background.
    inside = np.where(masks > 0, coloured, np.nan)
    outside = np.where(masks > 0, np.nan, coloured)
    assert np.all(np.nanmean(inside, axis=(1, 2, 3)) > np.nanmean(outside, axis=(1, 2, 3)) + 0.3)


def test_strength_zero_changes_nothing():
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (BATCH, SIDE, SIDE, 3)).astype(np.float32)
    masks = generator.uniform(0, 1, (BATCH, SIDE, SIDE, 1)).astype(np.float32)
    actual, actual_masks = augment.augment_pairs(images, masks, draw(strength=0.0))
    np.testing.assert_allclose(actual, images, atol=1e-5)
    np.testing.assert_allclose(actual_masks, masks, atol=1e-6)


def test_ranges_and_shapes_hold_at_any_strength():
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (BATCH, SIDE, SIDE, 3)).astype(np.float32)
    masks = generator.uniform(0, 1, (BATCH, SIDE, SIDE, 1)).astype(np.float32)
    actual, actual_masks = (
        np.asarray(part) for part in augment.augment_pairs(images, masks, draw(3.0))
    )
    assert actual.shape == images.shape and actual_masks.shape == masks.shape
    assert np.isfinite(actual).all() and actual.min() >= -1 and actual.max() <= 1
    assert actual_masks.min() >= 0 and actual_masks.max() <= 1


def test_draws_are_a_function_of_the_seed():
    for actual, same, other in zip(draw(), draw(), draw(seed=(1, 3)), strict=True):
        np.testing.assert_array_equal(actual, same)
        assert np.any(np.asarray(actual) != np.asarray(other))


def test_each_pair_has_its_own_draw():
    for part in draw():
        rows = np.asarray(part).reshape(BATCH, -1)
        assert len(np.unique(rows, axis=0)) > BATCH // 2


def test_half_of_the_pairs_are_mirrored_and_half_are_turned():
    transforms = np.asarray(draw(batch=4000).transforms)
    mirrored = transforms[:, 0] < 0
    turned = np.abs(transforms[:, 1]) > 1e-6
    assert abs(mirrored.mean() - 0.5) < 0.05
    assert abs(turned.mean() - 0.5) < 0.05


def test_a_transform_without_turning_moves_by_whole_pixels():
    transforms = np.asarray(draw(batch=200).transforms)
    straight = transforms[np.abs(transforms[:, 1]) < 1e-6]
    plain = straight[straight[:, 0] > 0]
    assert len(plain) > 10
    np.testing.assert_allclose(plain[:, 2], np.rint(plain[:, 2]), atol=1e-4)
    images, masks = discs(len(plain))
    augmentation = draw(strength=0.0, batch=len(plain))._replace(transforms=tf.constant(plain))
    moved = np.asarray(augment.augment_pairs(images, masks, augmentation)[1])
    for before, after, transform in zip(masks, moved, plain, strict=True):
        dx, dy = round(float(transform[2])), round(float(transform[5]))
        inner = slice(3, SIDE - 3)
        expected = before[3 + dy : SIDE - 3 + dy, 3 + dx : SIDE - 3 + dx]
        np.testing.assert_allclose(after[inner, inner], expected, atol=1e-4)
