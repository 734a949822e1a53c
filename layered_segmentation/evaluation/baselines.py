"""What a method must beat without having learnt anything: full mask, centre box, GrabCut."""

import cv2
import numpy as np

GRABCUT_MARGIN = 0.05  # of each side; the strongest of 0.02, 0.05, 0.10 on scenes and on photos
GRABCUT_ITERATIONS = 5
GRABCUT_SIDE = 256  # longest side it works at; its time grows faster than the pixels

PROTOCOL = (
    "full_mask: every pixel. centre_box: half the width and half the height, centred. "
    f"grabcut: OpenCV's GrabCut started from a centred rectangle that leaves {GRABCUT_MARGIN:.0%} "
    f"of each side free (at least 1 pixel), {GRABCUT_ITERATIONS} iterations, random seed 0, photos "
    f"reduced to at most {GRABCUT_SIDE} pixels on the longer side; an empty result counts as it is."
)


def full_mask(height: int, width: int) -> np.ndarray:
    """Returns a mask of every pixel, bool [height, width]."""
    return np.ones((height, width), bool)


def centre_box(height: int, width: int) -> np.ndarray:
    """Returns a centred box of half the height and half the width, bool [height, width]."""
    mask = np.zeros((height, width), bool)
    tall, wide = max(1, round(height / 2)), max(1, round(width / 2))
    top, left = (height - tall) // 2, (width - wide) // 2
    mask[top : top + tall, left : left + wide] = True
    return mask


def grabcut(image: np.ndarray) -> np.ndarray:
    """Segments a photo by GrabCut from a rectangle (Rother et al. 2004), as `PROTOCOL` says.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        bool [H, W], empty where GrabCut finds nothing; the rectangle itself where it cannot start,
        as in a photo of a few pixels.
    """
    height, width = image.shape[:2]
    scale = min(1.0, GRABCUT_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        mask = _grabcut(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        enlarged = cv2.resize(mask.astype(np.float32), (width, height))
        return enlarged >= 0.5
    return _grabcut(image)


def run_grabcut(image: np.ndarray, labels: np.ndarray, rectangle: tuple | None) -> np.ndarray:
    """Runs OpenCV's GrabCut from a fixed random seed.

    Args:
        image: uint8 [H, W, 3].
        labels: uint8 [H, W] of `cv2.GC_*`; not read if a rectangle is given. Not changed.
        rectangle: (left, top, width, height), or None to start from the labels.

    Returns:
        bool [H, W].

    Raises:
        cv2.error: Foreground or background has too few pixels to be modelled.
    """
    labels = labels.copy()
    models = np.zeros((1, 65)), np.zeros((1, 65))
    mode = cv2.GC_INIT_WITH_MASK if rectangle is None else cv2.GC_INIT_WITH_RECT
    cv2.setRNGSeed(0)  # its mixtures start from k-means, which draws
    cv2.grabCut(np.ascontiguousarray(image), labels, rectangle, *models, GRABCUT_ITERATIONS, mode)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _grabcut(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if min(height, width) < 3:
        return full_mask(height, width)
    top = max(1, round(GRABCUT_MARGIN * height))
    left = max(1, round(GRABCUT_MARGIN * width))
    box = np.zeros((height, width), bool)
    box[top : height - top, left : width - left] = True
    labels = np.zeros((height, width), np.uint8)
    try:
        return run_grabcut(image, labels, (left, top, width - 2 * left, height - 2 * top))
    except cv2.error:
        return box
