"""Inpainting error maximisation (IEM, Savarese et al. 2021): segments a photo without learning.

Object and background are told apart by how badly each is predicted from the other. The prediction
is a Gaussian filter of the pixels on the other side of the edge. No labels are used.
"""

import cv2
import numpy as np

SIDE = 128  # pixels, the side at which σ is given
_ITERATIONS = 150  # at most; they end early if masks repeat
_SIGMA = 5.0  # of the Gaussian, pixels at `SIDE`
_FAR = 1e-8  # weight of pixels that the filter does not reach
_FLAT = 1e-5  # smaller differences of values in [0, 1] are rounding
_NEIGHBOURS = 4  # of the nine pixels around and including one, to remain object


def maximise(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Moves the edge of a mask to where object and background predict each other worst.

    The error of a mask is the mean error over the object, predicted from the background, plus the
    mean error over the background, predicted from the object. In each iteration, every pixel at
    the edge joins the side that increases the error to first order; then the mask is smoothed.

    Args:
        image: uint8 [S, S, 3].
        mask: Bool [S, S] to start from.

    Returns:
        Bool [S, S]. A mask that is empty or full is returned unchanged, and no other becomes so.
    """
    if not _has_both(mask):
        return mask
    pixels = image.astype(np.float32) / 255
    before = mask
    for _ in range(_ITERATIONS):
        gradient = _gradient(pixels, mask)
        moved = _smooth(np.where(_edge(mask) & (gradient != 0), gradient > 0, mask))
        if not _has_both(moved) or any(np.array_equal(moved, last) for last in (mask, before)):
            break
        before, mask = mask, moved
    return mask


def _gradient(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the derivative of the error by each pixel of the mask.

    Args:
        pixels: Float32 [S, S, 3] in [0, 1].
        mask: Bool [S, S] with both regions.

    Returns:
        Float32 [S, S].
    """
    total = np.zeros(mask.shape, np.float32)
    for sign, region in ((1, mask), (-1, ~mask)):
        inside, outside = region.astype(np.float32), (~region).astype(np.float32)
        # The prediction of a pixel is the weighted mean of the pixels of the other region.
        sums = cv2.merge([*cv2.split(pixels * outside[..., None]), outside])
        blurred = _filter(sums)
        weight = blurred[..., 3]
        predicted = blurred[..., :3] / weight[..., None]
        difference = pixels - predicted
        difference[np.abs(difference) < _FLAT] = 0
        errors = np.abs(difference).mean(axis=-1)
        mean = np.vdot(errors, inside) / inside.sum()
        # By the size of the region, and by what the pixel contributes to the predictions.
        slopes = np.sign(difference) * (inside / (3 * weight))[..., None]
        back = _filter(cv2.merge([*cv2.split(slopes), (slopes * predicted).sum(axis=-1)]))
        predicting = (pixels * back[..., :3]).sum(axis=-1) - back[..., 3]
        total += sign * (errors - mean + predicting) / inside.sum()
    return total


def _filter(maps: np.ndarray) -> np.ndarray:
    """Filters maps, float32 [S, S, C], with the Gaussian; a trace of the sum reaches all pixels."""
    sigma = _SIGMA * len(maps) / SIDE
    size = 2 * int(np.ceil(3 * sigma)) + 1
    blurred = cv2.GaussianBlur(maps, (size, size), sigma, borderType=cv2.BORDER_CONSTANT)
    filtered: np.ndarray = blurred + _FAR * maps.sum(axis=(0, 1))
    return filtered


def _edge(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels at the frame or next to one of the other region, bool [S, S]."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    edge: np.ndarray = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, cross) > 0
    edge[[0, -1]] = edge[:, [0, -1]] = True
    return edge


def _smooth(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels with enough object in the 3 × 3 pixels around them, bool [S, S]."""
    counts = cv2.boxFilter(
        mask.astype(np.uint8), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    smoothed: np.ndarray = counts >= _NEIGHBOURS
    return smoothed


def _has_both(mask: np.ndarray) -> bool:
    """Returns whether a mask shows object and background."""
    return bool(mask.any() and not mask.all())
