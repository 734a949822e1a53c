import numpy as np
import pytest

from layered_segmentation.gan.composite import (
    Layers,
    compose,
    contrast_jitter,
    perturb,
    scale,
    shift,
    union_mask,
    visible_masks,
)


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def moved_by_hand(image, dx, dy):
    """eq. 2 pixel by pixel: what comes from outside the frame is 0."""
    height, width, _ = image.shape
    moved = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                moved[y, x] = image[y - dy, x - dx]
    return moved


def test_compose_is_eq_1():
    layers = Layers(
        np.full((1, 1, 3, 3), -0.5, np.float32),
        np.full((1, 1, 3, 3), 1.0, np.float32),
        np.array([0.0, 0.25, 1.0], np.float32).reshape(1, 1, 3, 1),
    )
    expected = np.array([-0.5, -0.125, 1.0])
    np.testing.assert_allclose(np.array(compose(layers))[0, 0, :, 0], expected, atol=1e-7)


@pytest.mark.parametrize("offset", [(0, 0), (2, 0), (0, -3), (-1, 2), (5, 5), (4, -5)])
def test_shift_moves_right_and_down_and_fills_with_zero(offset):
    images = random_images(1, 5, 6, 4)
    moved = np.array(shift(images, np.array([offset])))
    np.testing.assert_array_equal(moved[0], moved_by_hand(images[0], *offset))


def test_shift_is_per_sample():
    images = random_images(3, 4, 4, 2)
    offsets = np.array([(1, 0), (0, 1), (-2, -1)])
    moved = np.array(shift(images, offsets))
    for image, result, (dx, dy) in zip(images, moved, offsets, strict=True):
        np.testing.assert_array_equal(result, moved_by_hand(image, dx, dy))


def test_contrast_jitter_by_hand():
    image = np.array([0.0, 0.5, 1.0, 0.5], np.float32).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(
        np.array(contrast_jitter(image, np.array([0.5], np.float32))).ravel(),
        [0.25, 0.5, 0.75, 0.5],
    )
    # A factor above 1 is clipped to the channel's own range: the extremes stay where they are.
    np.testing.assert_allclose(
        np.array(contrast_jitter(image, np.array([1.3], np.float32))).ravel(), [0, 0.5, 1, 0.5]
    )


def test_contrast_jitter_treats_each_channel_and_sample_alone():
    images = random_images(3, 4, 4, 3)
    factors = np.array([0.7, 1.0, 1.3], np.float32)
    together = np.array(contrast_jitter(images, factors))
    np.testing.assert_allclose(together[1], images[1], atol=1e-6)
    for index in range(3):
        for channel in range(3):
            alone = contrast_jitter(
                images[index : index + 1, :, :, channel : channel + 1], factors[index : index + 1]
            )
            np.testing.assert_allclose(
                np.array(alone)[0, ..., 0], together[index, ..., channel], atol=1e-6
            )


def test_perturb_moves_foreground_with_its_mask_and_leaves_the_background():
    layers = Layers(
        random_images(2, 6, 6, 3, seed=1),
        random_images(2, 6, 6, 3, seed=2),
        np.abs(random_images(2, 6, 6, 1, seed=3)),
    )
    offsets = np.array([(1, 2), (-3, 0)])
    moved = perturb(layers, offsets)
    np.testing.assert_array_equal(np.array(moved.background), layers.background)
    for index, (dx, dy) in enumerate(offsets):
        np.testing.assert_array_equal(
            np.array(moved.foreground)[index], moved_by_hand(layers.foreground[index], dx, dy)
        )
        np.testing.assert_array_equal(
            np.array(moved.mask)[index], moved_by_hand(layers.mask[index], dx, dy)
        )


def scaled(signal, factor, offset=0, along="x"):
    """The middle row of an image of equal rows, or column of equal columns."""
    image = np.tile(np.array(signal, np.float32), (9, 1))
    offsets = np.array([(offset, 0) if along == "x" else (0, offset)])
    image = (image if along == "x" else image.T)[None, ..., None]
    result = np.array(scale(image, offsets, np.array([factor], np.float32)))[0, ..., 0]
    return (result if along == "x" else result.T)[4]


@pytest.mark.parametrize("along", ["x", "y"])
def test_scale_by_hand(along):
    # At twice the size, pixels 0, 1 and 2 show the places 0.5, 1 and 1.5.
    np.testing.assert_allclose(scaled([4, 8, 2], 2, along=along), [6, 8, 5])
    np.testing.assert_allclose(scaled([4, 8, 2], 2, offset=1, along=along), [4, 6, 8])
    # At half the size they show -1, 1 and 3, each with the weights 1/4, 1/2 and 1/4 around it.
    np.testing.assert_allclose(scaled([4, 8, 2], 0.5, along=along), [1, 5.5, 0.5])
    # Pixels 0 and 3 of four at 1.25: the places 0.3 and 2.7.
    np.testing.assert_allclose(
        scaled([0, 10, 0, 20], 1.25, along=along)[[0, 3]], [3, 14], rtol=1e-6
    )


def test_a_scale_of_one_is_exactly_the_shift():
    images = random_images(4, 8, 8, 4)
    offsets = np.array([(0, 0), (3, -2), (-7, 7), (8, -8)])
    moved = np.array(scale(images, offsets, np.ones(4, np.float32)))
    np.testing.assert_array_equal(moved, np.array(shift(images, offsets)))


def test_scale_is_per_sample_and_keeps_what_is_constant():
    images = np.ones((3, 16, 16, 1), np.float32)
    result = np.array(scale(images, np.zeros((3, 2), int), np.array([0.8, 1.0, 1.25], np.float32)))
    np.testing.assert_allclose(result[:, 3:13, 3:13], 1, atol=1e-6)
    assert result[0, 0].max() < 0.5  # reduced: the rim shows what is outside
    np.testing.assert_allclose(result[1:], 1, atol=1e-6)
    # The share of the frame that it covers is the factor's square.
    assert result[0].mean() == pytest.approx(0.8**2, abs=0.01)


def test_perturb_scales_foreground_with_its_mask():
    layers = Layers(*(random_images(2, 6, 6, count, seed=count) for count in (3, 3, 1)))
    offsets, factors = np.array([(1, 2), (-3, 0)]), np.array([0.9, 1.2], np.float32)
    moved = perturb(layers, offsets, scales=factors)
    np.testing.assert_array_equal(np.array(moved.background), layers.background)
    for part in ("foreground", "mask"):
        expected = np.array(scale(getattr(layers, part), offsets, factors))
        np.testing.assert_allclose(np.array(getattr(moved, part)), expected, atol=1e-6)


def two_layers():
    """Three pixels: both layers half there, the second alone, the first under a solid second."""
    return Layers(
        np.full((1, 1, 3, 3), -1.0, np.float32),
        np.repeat(np.array([[0.0, 1.0]] * 3, np.float32), 3, axis=-1).reshape(1, 1, 3, 6),
        np.array([[0.5, 0.25], [0.0, 1.0], [1.0, 1.0]], np.float32).reshape(1, 1, 3, 2),
    )


def test_later_layers_lie_over_earlier_ones():
    layers = two_layers()
    # First pixel: half of 0 over -1 is -0.5; a quarter of 1 over that is -0.125.
    np.testing.assert_allclose(np.array(compose(layers))[0, 0, :, 0], [-0.125, 1.0, 1.0])
    np.testing.assert_allclose(
        np.array(visible_masks(layers.mask))[0, 0], [[0.375, 0.25], [0.0, 1.0], [0.0, 1.0]]
    )
    np.testing.assert_allclose(union_mask(layers.mask)[0, 0], [[0.625], [1.0], [1.0]])


def test_the_visible_parts_add_up_to_the_union():
    masks = np.abs(random_images(2, 3, 3, 4))
    visible = np.array(visible_masks(masks))
    assert visible.shape == masks.shape
    expected = 1 - np.prod(1 - masks, axis=-1, keepdims=True)
    np.testing.assert_allclose(visible.sum(axis=-1, keepdims=True), expected, atol=1e-6)
    np.testing.assert_allclose(union_mask(masks), expected, atol=1e-6)


def test_one_mask_is_visible_as_it_is():
    mask = np.abs(random_images(2, 3, 3, 1))
    for function in (visible_masks, union_mask):
        np.testing.assert_array_equal(function(mask), mask)


def test_each_foreground_layer_has_its_own_shift():
    layers = Layers(
        random_images(2, 5, 5, 3, seed=1),
        random_images(2, 5, 5, 6, seed=2),
        np.abs(random_images(2, 5, 5, 2, seed=3)),
    )
    offsets = np.array([[(1, 2), (-1, 0)], [(0, -3), (2, 2)]])
    moved = perturb(layers, offsets)
    for index, of_layers in enumerate(offsets):
        for k, (dx, dy) in enumerate(of_layers):
            rgb = slice(3 * k, 3 * k + 3)
            np.testing.assert_array_equal(
                np.array(moved.foreground)[index, ..., rgb],
                moved_by_hand(layers.foreground[index, ..., rgb], dx, dy),
            )
            np.testing.assert_array_equal(
                np.array(moved.mask)[index, ..., k : k + 1],
                moved_by_hand(layers.mask[index, ..., k : k + 1], dx, dy),
            )
    together = perturb(layers, offsets[:, 0])  # one shift for all layers
    np.testing.assert_array_equal(
        together.foreground, perturb(layers, np.stack([offsets[:, 0]] * 2, axis=1)).foreground
    )
