"""Fits a soft, low-resolution mask to the edges of its photo at the photo's own size; no labels."""

import functools
from collections.abc import Callable

import cv2
import numpy as np

from layered_segmentation.choices import RECOMMENDED_REFINEMENT, Refinement
from layered_segmentation.images import to_square
from layered_segmentation.segmenter import iem

GRABCUT_ITERATIONS = 5
_RADIUS = 1 / 16  # of the longer side: about two pixels of a mask of 32 px
_SMOOTHNESS = 1e-2  # variance of the photo, in [0, 1], above which an edge is kept
_MARGIN = 0.05  # of each side: in this rim, pixels outside the mask are background for certain
_GRABCUT_SIDE = 512  # longest side GrabCut works at
_VOTING_SIDE = 256  # longest side at which `crf` lets GrabCut vote; it finds the edges itself
_REACH = 0.8  # times the square root of the mask's area: how far around it the object may extend


def refine(
    image: np.ndarray,
    probability: np.ndarray,
    method: Refinement | str = RECOMMENDED_REFINEMENT,
    iterations: int = GRABCUT_ITERATIONS,
) -> np.ndarray:
    """Fits a mask to the edges of its photo.

    Args:
        image: uint8 [H, W, 3].
        probability: Float [H, W] in [0, 1].
        method: A `Refinement` or its value: `none`; `guided`, a guided filter (He et al. 2010),
            which keeps the mask soft; `grabcut`, GrabCut (Rother et al. 2004) started from the
            mask; `consensus`, a vote of GrabCut started from the mask, from its surroundings and
            from a rectangle, with a final GrabCut that decides where the three disagree. It takes
            four times as long. Photos larger than GrabCut's working size get its result enlarged
            and softened by the guided filter. `crf` takes the mean of the mask and of the votes of
            `consensus` at a smaller size, and finds the mask that fits it, the colours and the
            edges (`crf.segment`). `iem` moves the mask's edge to where object and background
            predict each other worst, on a square of `iem.SIDE` pixels.
        iterations: Iterations of each GrabCut.

    Returns:
        Float32 [H, W] in [0, 1]. A mask that is empty or full at 0.5 is returned unchanged.

    Raises:
        ValueError: The method is unknown, the shapes differ, or the mask has NaN.
    """
    if method not in list(Refinement):
        raise ValueError(f"refine={method!r}: must be one of {', '.join(Refinement)}")
    if probability.shape != image.shape[:2]:
        raise ValueError(
            f"the mask is {list(probability.shape)}, the photo {list(image.shape)}: height and "
            "width must be equal"
        )
    probability = np.clip(np.asarray(probability, np.float32), 0, 1)
    if np.isnan(probability).any():
        raise ValueError("the mask has values that are no numbers (NaN); it must be in [0, 1]")
    is_object = probability >= 0.5
    if method == Refinement.none or is_object.all() or not is_object.any():
        return probability
    if method == Refinement.guided:
        return _guided(image, probability, max(image.shape) * _RADIUS)
    if method == Refinement.iem:
        return _iem(image, probability)
    runs = {
        Refinement.grabcut: _grabcut,
        Refinement.consensus: _consensus,
        Refinement.crf: _crf,
    }
    run = functools.partial(runs[Refinement(method)], iterations=iterations)
    return _at_working_size(run, image, probability)


def votes(
    image: np.ndarray, probability: np.ndarray, iterations: int = GRABCUT_ITERATIONS
) -> np.ndarray:
    """Returns the masks that `consensus` and `crf` count, none of which is the mask itself.

    Args:
        image: uint8 [H, W, 3], of at most about 512 pixels a side.
        probability: Float [H, W] in [0, 1]. Where GrabCut finds nothing, it counts instead.
        iterations: Iterations of each GrabCut.

    Returns:
        Bool [3, H, W]: of GrabCut started from the mask, from its surroundings and from a
        rectangle.
    """
    is_object = probability >= 0.5
    reach = max(1, int(_REACH * np.sqrt(is_object.sum())))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    masks = [_grabcut(image, probability, iterations) >= 0.5]
    for inside in (cv2.dilate(is_object.astype(np.uint8), kernel) > 0, np.ones_like(is_object)):
        labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
        labels[_rim(is_object.shape)] = cv2.GC_BGD
        mask = _run(image, labels, iterations)
        masks.append(is_object if mask is None else mask)
    return np.stack(masks)


def run_grabcut(
    image: np.ndarray,
    labels: np.ndarray,
    rectangle: tuple[int, int, int, int] | None = None,
    iterations: int = GRABCUT_ITERATIONS,
) -> np.ndarray:
    """Runs OpenCV's GrabCut with a fixed random seed.

    Args:
        image: uint8 [H, W, 3].
        labels: uint8 [H, W] of `cv2.GC_*`; ignored if a rectangle is given. Not modified.
        rectangle: (left, top, width, height), or None to start from the labels.
        iterations: Iterations of GrabCut.

    Returns:
        Bool [H, W].

    Raises:
        cv2.error: Foreground or background has too few pixels to be modelled.
    """
    labels = labels.copy()
    models = np.zeros((1, 65)), np.zeros((1, 65))
    mode = cv2.GC_INIT_WITH_MASK if rectangle is None else cv2.GC_INIT_WITH_RECT
    cv2.setRNGSeed(0)  # the mixtures are initialised by k-means, which is random
    cv2.grabCut(np.ascontiguousarray(image), labels, rectangle, *models, iterations, mode)
    is_object: np.ndarray = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return is_object


def _guided(image: np.ndarray, probability: np.ndarray, radius: float) -> np.ndarray:
    guide = image.astype(np.float32) / 255
    filtered = cv2.ximgproc.guidedFilter(guide, probability, max(1, round(radius)), _SMOOTHNESS)
    clipped: np.ndarray = np.clip(filtered, 0, 1)
    return clipped


def _at_working_size(
    method: Callable[[np.ndarray, np.ndarray], np.ndarray],
    image: np.ndarray,
    probability: np.ndarray,
) -> np.ndarray:
    small = _reduced(image, _GRABCUT_SIDE)
    if small is image:
        return method(image, probability)
    mask = method(small, _reduced(probability, _GRABCUT_SIDE))
    enlarged = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return _guided(image, enlarged, 2 * max(image.shape) / _GRABCUT_SIDE)


def _reduced(image: np.ndarray, side: int) -> np.ndarray:
    """Reduces an image or mask whose longer side has more than `side` pixels; else returns it."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(1, round(scale * length)) for length in image.shape[1::-1]]
    reduced: np.ndarray = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return reduced


def _grabcut(image: np.ndarray, probability: np.ndarray, iterations: int) -> np.ndarray:
    is_object = probability >= 0.5
    labels = np.where(is_object, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[_rim(is_object.shape) & ~is_object] = cv2.GC_BGD
    mask = _run(image, labels, iterations)
    return probability if mask is None else mask.astype(np.float32)


def _consensus(image: np.ndarray, probability: np.ndarray, iterations: int) -> np.ndarray:
    masks = votes(image, probability, iterations)
    counts = np.sum(masks, axis=0)
    labels = np.where(counts >= 2, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[counts == len(masks)] = cv2.GC_FGD
    labels[counts == 0] = cv2.GC_BGD
    mask = _run(image, labels, iterations)
    return (masks[1] if mask is None else mask).astype(np.float32)


def _crf(image: np.ndarray, probability: np.ndarray, iterations: int) -> np.ndarray:
    # SciPy takes a quarter of a second to import, which `segment` does not need otherwise.
    from layered_segmentation.segmenter import crf

    small, start = (_reduced(part, _VOTING_SIDE) for part in (image, probability))
    voted = votes(small, start, iterations).mean(axis=0, dtype=np.float32)
    voted = cv2.resize(voted, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    belief = (probability + voted) / 2
    mask = crf.segment(image, belief, _rim(belief.shape) & (belief < 0.5))
    return mask.astype(np.float32) if mask.any() and not mask.all() else probability


def _iem(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    square, start = (to_square(part, iem.SIDE) for part in (image, probability))
    mask = iem.maximise(square, start >= 0.5)
    if not mask.any() or mask.all():  # it is so at this size
        return probability
    size = image.shape[1::-1]
    enlarged = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    clipped: np.ndarray = np.clip(enlarged, 0, 1)
    return clipped


def _rim(shape: tuple[int, ...]) -> np.ndarray:
    """Returns the margin along the frame, bool [H, W]."""
    height, width = shape
    top, left = max(1, round(_MARGIN * height)), max(1, round(_MARGIN * width))
    is_rim = np.ones(shape, bool)
    is_rim[top : height - top, left : width - left] = False
    return is_rim


def _run(image: np.ndarray, labels: np.ndarray, iterations: int) -> np.ndarray | None:
    """Runs GrabCut. Returns None if it cannot start, or if its mask is empty or full."""
    try:
        mask = run_grabcut(image, labels, iterations=iterations)
    except cv2.error:  # too few pixels of one kind to model
        return None
    return mask if mask.any() and not mask.all() else None
