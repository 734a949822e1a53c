"""Mattes of drawn objects whose transparency is known."""

import cv2
import numpy as np
import pytest

from layered_segmentation.photo import Photo
from layered_segmentation.segmenter import outputs
from layered_segmentation.segmenter.cut_out import cut_out
from layered_segmentation.segmenter.matte import matte
from layered_segmentation.segmenter.refine import refine

SIDE = 256


def textured(draws, colour, amplitude, cells):
    noise = draws.normal(0, 1, (cells, cells, 3)).astype(np.float32)
    enlarged = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip(colour + amplitude * enlarged, 0, 255)


def drawn(seed):
    """Returns a photo of a lobed object with hair, its alpha and the object's colours."""
    draws = np.random.default_rng(seed)
    hue = draws.permutation(3)
    background = np.array([60, 120, 90.0])[hue] + draws.uniform(-30, 30, 3)
    inside = textured(draws, np.array([210, 90, 60.0])[hue], 18, 12)
    outside = textured(draws, background, 22, int(draws.integers(6, 30)))
    large, centre = np.zeros((4 * SIDE, 4 * SIDE), np.uint8), 2 * SIDE
    turn = np.linspace(0, 2 * np.pi, 400)
    radius = 1.1 * SIDE * (1 + 0.25 * np.sin(draws.integers(5, 9) * turn + draws.uniform(0, 6)))
    outline = centre + radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    cv2.fillPoly(large, [outline.astype(np.int32)], 255)
    for angle in draws.uniform(0, 2 * np.pi, 40):
        ends = [
            (int(centre + length * np.cos(angle)), int(centre + length * np.sin(angle)))
            for length in (SIDE, SIDE * draws.uniform(1.35, 1.6))
        ]
        cv2.line(large, *ends, 255, int(draws.integers(3, 8)))
    alpha = cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    alpha = cv2.GaussianBlur(alpha, (0, 0), draws.uniform(0.6, 3))
    image = alpha[..., None] * inside + (1 - alpha[..., None]) * outside
    image = np.clip(image + draws.normal(0, 3, image.shape), 0, 255)
    return np.rint(image).astype(np.uint8), alpha, inside


def of_student(alpha):
    """A mask as a student of 64 px draws it."""
    small = cv2.resize(alpha, (64, 64), interpolation=cv2.INTER_AREA)
    certain = (1 / (1 + np.exp(-12 * (small - 0.5)))).astype(np.float32)
    return cv2.resize(certain, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def halo(cutout, alpha, inside, level):
    """Mean difference of a composite over grey `level` from the true one, around the edge."""
    opacity = cutout[..., 3:] / 255
    composite = opacity * cutout[..., :3] + (1 - opacity) * level
    expected = alpha[..., None] * inside + (1 - alpha[..., None]) * level
    soft = ((alpha > 0.02) & (alpha < 0.98)).astype(np.uint8)
    edge = cv2.dilate(soft, np.ones((9, 9), np.uint8)) > 0
    return np.abs(composite - expected)[edge].mean()


@pytest.mark.parametrize(("method", "least"), [("grabcut", 0.25), ("guided", 0.1), ("none", 0.15)])
def test_a_matte_has_less_halo_over_black_and_over_white(method, least):
    for seed in range(2):
        image, alpha, inside = drawn(seed)
        mask = refine(image, of_student(alpha), method)
        found, colours = matte(image, mask)
        soft = np.dstack([colours, np.rint(255 * found).astype(np.uint8)])
        hard = cut_out(image, mask)
        for level in (0, 255):
            before, after = (halo(one, alpha, inside, level) for one in (hard, soft))
            assert after < (1 - least) * before, (seed, level, before, after)
        assert np.abs(found - alpha).mean() < np.abs(hard[..., 3] / 255 - alpha).mean()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_the_mask_is_where_the_matte_is_at_least_half(threshold):
    image, alpha, _ = drawn(0)
    mask = of_student(alpha)
    found, colours = matte(image, mask, threshold)
    assert found.dtype == np.float32 and colours.dtype == np.uint8
    np.testing.assert_array_equal(np.rint(255 * found) >= 128, mask >= threshold)
    assert 0.02 < ((found > 0) & (found < 1)).mean() < 0.3
    np.testing.assert_array_equal(colours[(found == 0)], image[found == 0])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_without_an_edge_nothing_changes(value):
    image, alpha, _ = drawn(0)
    found, colours = matte(image, np.full_like(alpha, value))
    assert (found == value).all() and np.array_equal(colours, image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (7, 5), (900, 1100)])
def test_photos_of_any_size(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    mask = np.zeros(shape, np.float32)
    mask[: shape[0] // 2 + 1, : shape[1] // 2] = 1
    found, colours = matte(image, mask)
    assert found.shape == shape and colours.shape == image.shape
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


def test_a_large_photo_gets_the_matte_of_a_small_one():
    image, alpha, _ = drawn(1)
    mask = of_student(alpha)
    small, _ = matte(image, mask)
    large, _ = matte(*(cv2.resize(one, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
                       for one in (image, mask)))  # fmt: skip
    reduced = cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced - small).mean() < 0.01


@pytest.mark.parametrize("edges", ["matte", "mask"])
def test_a_transparent_photo_gives_alpha_times_the_mask_and_its_own_colours(edges, tmp_path):
    image, alpha, _ = drawn(0)
    stored = image[..., ::-1].copy()
    opacity = np.linspace(0, 255, SIDE).astype(np.uint8)[None].repeat(SIDE, axis=0)
    mask = of_student(alpha)
    plain, transparent = Photo(image, image), Photo(image, stored, opacity)
    style = outputs.Style(edges=edges, only="cutout")
    results = []
    for name, source in (("plain", plain), ("transparent", transparent)):
        outputs.write(str(tmp_path / name), source, mask, style)
        results.append(cv2.imread(str(tmp_path / f"{name}.cutout.png"), cv2.IMREAD_UNCHANGED))
    expected = results[0][..., 3] / 255 * opacity
    np.testing.assert_allclose(results[1][..., 3], expected, atol=1)
    np.testing.assert_array_equal(results[1][..., 2::-1], stored)
