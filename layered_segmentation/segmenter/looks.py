"""A second look: the object, once found, is segmented again from a crop around it.

A student sees a whole photo in few pixels. Where the object is small in the frame, a crop around
it shows it larger, at about the size at which training photos show it. No label is involved.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

MARGIN = 0.25  # of the longer side of the object's box, left free around it
LEAST = 16  # pixels: a smaller crop shows nothing more
PROTOCOL = (
    f"Two looks: what the first finds is segmented again from a crop around it (margin {MARGIN} of "
    "the longer side of its box). "
)
_FULL = 0.9  # of the frame: a crop that is larger shows nothing more

Predict = Callable[[list[np.ndarray]], Sequence[np.ndarray]]
Box = tuple[int, int, int, int]  # left, top, right, bottom


def predict_masks(predict: Predict, images: Sequence[np.ndarray], looks: int) -> list[np.ndarray]:
    """Segments photos, and what was found there again from a crop around it.

    Args:
        predict: A segmenter's `predict_masks`.
        images: uint8 [H, W, 3], any sizes.
        looks: 1 is `predict` alone, 2 adds the second look.

    Returns:
        For each photo a float32 [H, W] in [0, 1]: inside the crop the second look's, outside of
        it, where the first saw next to nothing, 0. A photo in which nothing is found, or which
        the object fills, keeps the first look's mask.

    Raises:
        ValueError: `looks` is neither 1 nor 2.
    """
    if looks not in (1, 2):
        raise ValueError(f"looks={looks}: 1 or 2")
    masks = [np.array(mask, np.float32) for mask in predict(list(images))]
    if looks == 1:
        return masks
    boxes = {}
    for index, mask in enumerate(masks):
        box = crop_box(mask)
        if box is not None:
            boxes[index] = box
    if not boxes:
        return masks
    crops = [_crop(np.asarray(images[index]), box) for index, box in boxes.items()]
    for (index, box), second in zip(boxes.items(), predict(crops), strict=True):
        left, top, right, bottom = box
        if not (second >= 0.5).any():  # it lost what the first had found
            continue
        masks[index] = np.zeros_like(masks[index])
        masks[index][top:bottom, left:right] = second
    return masks


def crop_box(mask: np.ndarray) -> Box | None:
    """Returns where to look again, or None where that would show nothing more.

    Args:
        mask: float [H, W] in [0, 1].

    Returns:
        (left, top, right, bottom) in pixels, a box around the largest connected part at 0.5 and
        all others of at least a tenth of its size, with a margin; inside the frame.
    """
    height, width = mask.shape
    found = (mask >= 0.5).astype(np.uint8)
    count, _, parts, _ = cv2.connectedComponentsWithStats(found)
    if count < 2:
        return None
    parts = parts[1:]  # the first is the ground
    parts = parts[parts[:, cv2.CC_STAT_AREA] >= 0.1 * parts[:, cv2.CC_STAT_AREA].max()]
    low = parts[:, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP]]
    high = low + parts[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    (left, top), (right, bottom) = low.min(axis=0), high.max(axis=0)
    margin = max(1, round(MARGIN * max(right - left, bottom - top)))
    left, top = max(0, left - margin), max(0, top - margin)
    right, bottom = min(width, right + margin), min(height, bottom + margin)
    if (right - left) * (bottom - top) > _FULL * height * width:
        return None
    if min(right - left, bottom - top) < LEAST:
        return None
    return int(left), int(top), int(right), int(bottom)


def _crop(image: np.ndarray, box: Box) -> np.ndarray:
    left, top, right, bottom = box
    return image[top:bottom, left:right]
