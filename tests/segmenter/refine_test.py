import itertools

import numpy as np
import pytest

from layered_segmentation.choices import Refinement
from layered_segmentation.evaluation.scoring import iou
from layered_segmentation.segmenter import crf, iem
from layered_segmentation.segmenter.refine import refine, votes


def scene(side):
    """A textured ellipse on a textured background, its mask, and a student's coarse idea of it."""
    import cv2

    y, x = np.mgrid[0:side, 0:side] / side
    mask = ((x - 0.55) / 0.3) ** 2 + ((y - 0.5) / 0.2) ** 2 < 1
    random = np.random.default_rng(0)
    image = np.where(mask[..., None], (210, 90, 40), (60, 110, 150)).astype(float)
    image += 12 * np.sin(40 * x + 25 * y)[..., None] + random.normal(0, 5, (side, side, 1))
    coarse = cv2.resize(mask.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    coarse = np.roll(coarse, 1, axis=1)  # and a little to the side
    probability = np.clip(cv2.resize(coarse, (side, side)), 0.02, 0.98)
    return image.clip(0, 255).astype(np.uint8), mask, probability


@pytest.mark.parametrize(
    "method, least",
    [("guided", 0.03), ("grabcut", 0.15), ("consensus", 0.15), ("crf", 0.15), ("iem", 0.15)],
)
@pytest.mark.parametrize("side", [96, 256])
def test_masks_come_closer_to_the_edges(method, least, side):
    image, mask, probability = scene(side)
    before = iou(probability >= 0.5, mask)
    refined = refine(image, probability, method)
    assert refined.dtype == np.float32 and refined.shape == mask.shape
    assert refined.min() >= 0 and refined.max() <= 1
    assert iou(refined >= 0.5, mask) > before + least
    assert np.array_equal(refine(image, probability, method), refined)


@pytest.mark.parametrize("method", ["grabcut", "consensus", "crf"])
def test_a_photo_larger_than_grabcut_works_at(method):
    image, mask, probability = scene(800)
    refined = refine(image[:600], probability[:600], method)
    assert refined.shape == (600, 800)
    assert iou(refined >= 0.5, mask[:600]) > 0.95


def test_a_consensus_removes_background_that_only_the_mask_includes():
    """The student includes some background; GrabCut from a rectangle does not."""
    import cv2

    image = np.full((120, 160, 3), (60, 120, 60), np.uint8)
    image += np.random.default_rng(0).integers(0, 12, image.shape).astype(np.uint8)
    truth = np.zeros((120, 160), np.uint8)
    cv2.ellipse(truth, (70, 50), (42, 26), 0, 0, 360, 1, -1)
    image[truth > 0] = (230, 120, 30)
    background = np.zeros_like(truth)
    cv2.ellipse(background, (105, 92), (24, 12), 0, 0, 360, 1, -1)
    student = cv2.blur(np.maximum(truth, background).astype(np.float32), (9, 9))
    before = iou(student >= 0.5, truth > 0)
    after = iou(refine(image, student, "consensus") >= 0.5, truth > 0)
    assert before < 0.85 and after > 0.95


def test_a_crf_follows_colours_where_they_tell_and_the_belief_where_they_do_not():
    truth = np.zeros((96, 96), bool)
    truth[20:76, 30:66] = True
    image = np.where(truth[..., None], (230, 120, 30), (60, 120, 60))
    image[48:] = (128, 128, 128)  # the lower half of the object looks like its background
    image = image + np.random.default_rng(0).integers(0, 12, image.shape)
    belief = np.where(np.roll(truth, 3, axis=1), 0.95, 0.05)  # three pixels off
    belief[:36] = 0.2  # too little; the colours say more
    mask = crf.segment(image.astype(np.uint8), belief, np.zeros_like(truth))
    assert iou(mask[:46], truth[:46]) > 0.99
    assert iou(mask[50:], belief[50:] > 0.5) > 0.9


def test_a_crf_leaves_certain_background_out():
    image, mask, probability = scene(96)
    background = np.zeros_like(mask)
    background[:, 60:] = True
    assert not crf.segment(image, probability, background)[:, 60:].any()
    assert crf.segment(image, probability, ~background)[:, 60:].any()  # a part of the object


def test_a_cut_has_the_least_energy_of_all_masks():
    random = np.random.default_rng(0)
    for scale in (2.0, 4.0, 6.0, 8.0, 12.0, 20.0):
        odds = scale * random.normal(size=(3, 4))
        odds[0, 0] = -np.inf
        pixels = random.uniform(size=(3, 4, 3))
        energies = {}
        for values in itertools.product((False, True), repeat=12):
            mask = np.reshape(values, (3, 4))
            finite = np.maximum(odds, -1e3)
            energy = np.where(mask, np.maximum(-finite, 0), np.maximum(finite, 0)).sum()
            energies[values] = energy + _edges(mask, pixels)
        cut = crf._cut(odds, pixels)
        assert not cut[0, 0]
        assert energies[tuple(cut.ravel())] <= min(energies.values()) + 0.1  # it rounds to 0.01


def _edges(mask, pixels):
    """What the neighbours of different labels cost, as GrabCut's energy."""
    places = list(itertools.product(range(mask.shape[0]), range(mask.shape[1])))
    neighbours = [
        (one, other)
        for one, other in itertools.combinations(places, 2)
        if max(abs(one[0] - other[0]), abs(one[1] - other[1])) == 1
    ]
    squares = [np.square(pixels[one] - pixels[other]).sum() for one, other in neighbours]
    return sum(
        8 * np.exp(-square / (2 * np.mean(squares))) / np.hypot(*np.subtract(one, other))
        for (one, other), square in zip(neighbours, squares, strict=True)
        if mask[one] != mask[other]
    )


def test_votes_are_unanimous_where_nothing_is_in_dispute():
    image, mask, probability = scene(96)
    found = votes(image, probability)
    assert found.shape == (3, 96, 96) and found.dtype == bool
    assert iou(found.all(axis=0), mask) > 0.9 and iou(found.any(axis=0), mask) > 0.9


@pytest.mark.parametrize("reach", [-7, -4, 4, 7])
def test_iem_finds_the_edge_from_masks_too_small_or_too_large(reach):
    import cv2

    y, x = np.mgrid[0:64, 0:64] / 64
    mask = np.hypot(x - 0.5, y - 0.45) < 0.25
    noise = np.random.default_rng(0).normal(0, 12, (64, 64, 3))
    image = (np.where(mask, 170, 80)[..., None] + noise).clip(0, 255).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(reach) + 1,) * 2)
    change = cv2.dilate if reach > 0 else cv2.erode
    start = change(mask.astype(np.uint8), kernel) > 0
    assert iou(start, mask) < 0.7
    assert iou(iem.maximise(image, start), mask) > 0.95


def test_iem_follows_the_gradient_of_the_inpainting_error():
    """At the edge, its derivative is that of the error, by finite differences of soft masks."""
    side = 12
    pixels = np.random.default_rng(0).uniform(size=(side, side, 3))
    mask = np.zeros((side, side))
    mask[3:8, 4:9] = 1
    sigma = 5 * side / 128
    steps = np.arange(side)[:, None] - np.arange(side)
    blur = np.exp(-0.5 * (steps / sigma) ** 2) * (np.abs(steps) <= np.ceil(3 * sigma))
    blur /= blur.sum(axis=1).max()

    def error(mask):
        total = 0.0
        for inside in (mask, 1 - mask):
            outside = 1 - inside
            weight = blur @ outside @ blur + 1e-8 * outside.sum()
            sums = [blur @ (c * outside) @ blur for c in pixels.transpose(2, 0, 1)]
            far = 1e-8 * (pixels * outside[..., None]).sum((0, 1))
            predicted = (np.stack(sums, axis=-1) + far) / weight[..., None]
            total += (inside * np.abs(pixels - predicted).mean(-1)).sum() / inside.sum()
        return total

    gradient = iem._gradient(pixels.astype(np.float32), mask > 0)
    for row, column in [(3, 4), (2, 5), (5, 8), (7, 6), (7, 8)]:
        moved = mask.copy()
        moved[row, column] += 1e-6 * (-1 if mask[row, column] else 1)
        slope = (error(moved) - error(mask)) / (moved - mask)[row, column]
        assert gradient[row, column] == pytest.approx(slope, rel=0.02, abs=2e-4)


def test_iem_leaves_what_has_no_edge():
    plain = np.full((40, 40, 3), 128, np.uint8)
    start = np.zeros((40, 40), bool)
    start[10:30, 12:28] = True
    assert iou(iem.maximise(plain, start), start) > 0.95
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    for start in (np.zeros((40, 40), bool), np.ones((40, 40), bool)):
        assert np.array_equal(iem.maximise(noise, start), start)
    start = np.zeros((40, 40), bool)
    start[20, 20] = True  # smoothing would leave nothing of it
    assert iem.maximise(noise, start).any()


def test_the_method_none_changes_nothing():
    image, _, probability = scene(96)
    assert np.array_equal(refine(image, probability, "none"), probability.astype(np.float32))


@pytest.mark.parametrize("method", Refinement)
@pytest.mark.parametrize("value", [0.0, 0.2, 0.7, 1.0])
def test_empty_and_full_masks_stay(method, value):
    image, _, _ = scene(40)
    probability = np.full((40, 40), value)
    assert np.array_equal(refine(image, probability, method), np.full((40, 40), value, np.float32))


@pytest.mark.parametrize("method", Refinement)
@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (2, 300), (24, 24)])
def test_tiny_plain_and_thin_photos(method, shape):
    image = np.full((*shape, 3), 128, np.uint8)
    probability = np.zeros(shape, np.float32)
    probability.flat[0] = 1  # one pixel of object
    refined = refine(image, probability, method)
    assert refined.shape == shape and np.isfinite(refined).all()
    assert refined.min() >= 0 and refined.max() <= 1


def test_unknown_methods_and_other_shapes_are_refused():
    image, _, probability = scene(40)
    with pytest.raises(ValueError, match="snakes"):
        refine(image, probability, "snakes")
    with pytest.raises(ValueError, match="40, 39"):
        refine(image, probability[:, :39], "guided")
    probability[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        refine(image, probability, "crf")
