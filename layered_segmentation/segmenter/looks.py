"""A second look: the object found in a photo is segmented again in a crop around it.

A student sees a whole photo at a low resolution. If the object is small in the frame, a crop shows
it larger, at about its size in the training photos. No labels are used.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

MARGIN = 0.25  # around the object's box, as a fraction of its longer side
LEAST = 16  # pixels: a smaller crop has no more detail
PROTOCOL = (
    f"Two looks: the object found first is segmented again in a crop around it (margin {MARGIN} of "
    "the longer side of its box). "
)
_FULL = 0.9  # of the frame: a larger crop has no more detail

Predict = Callable[[list[np.ndarray]], Sequence[np.ndarray]]
Box = tuple[int, int, int, int]  # left, top, right, bottom


def predict_masks(
    predict: Predict,
    images: Sequence[np.ndarray],
    looks: int,
    watch: Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], None] | None = None,
) -> list[np.ndarray]:
    """Segments photos, and with two looks the objects found in them a second time.

    Args:
        predict: A segmenter's `predict_masks`.
        images: uint8 [H, W, 3] of any sizes.
        looks: 1 for `predict` alone, 2 to add the second look.
        watch: Called with the photos and the masks of the first look.

    Returns:
        For each photo a float32 [H, W] in [0, 1]: the mask of the second look inside the crop, and
        0 outside. The mask of the first look is kept if it shows no object, if the object fills
        the photo, or if the second look finds nothing.

    Raises:
        ValueError: `looks` is neither 1 nor 2.
    """
    if looks not in (1, 2):
        raise ValueError(f"looks={looks}: must be 1 or 2")
    masks = [np.array(mask, np.float32) for mask in predict(list(images))]
    if watch is not None:
        watch(images, masks)
    if looks == 1:
        return masks
    boxes = {index: box for index, mask in enumerate(masks) if (box := crop_box(mask)) is not None}
    if not boxes:
        return masks
    crops = [
        np.asarray(images[index])[top:bottom, left:right]
        for index, (left, top, right, bottom) in boxes.items()
    ]
    for (index, box), second in zip(boxes.items(), predict(crops), strict=True):
        if (second >= 0.5).any():
            left, top, right, bottom = box
            masks[index] = np.zeros_like(masks[index])
            masks[index][top:bottom, left:right] = second
    return masks


def crop_box(mask: np.ndarray) -> Box | None:
    """Returns the crop for the second look, or None if it would add no detail.

    Args:
        mask: Float [H, W] in [0, 1].

    Returns:
        (left, top, right, bottom) in pixels: a box with a margin around the largest connected
        component at threshold 0.5 and all others of at least a tenth of its area, inside the
        frame.
    """
    height, width = mask.shape
    found = (mask >= 0.5).astype(np.uint8)
    count, _, parts, _ = cv2.connectedComponentsWithStats(found)
    if count < 2:
        return None
    parts = parts[1:]  # the first is the background
    parts = parts[parts[:, cv2.CC_STAT_AREA] >= 0.1 * parts[:, cv2.CC_STAT_AREA].max()]
    low = parts[:, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP]]
    high = low + parts[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    (left, top), (right, bottom) = low.min(axis=0), high.max(axis=0)
    margin = max(1, round(MARGIN * max(right - left, bottom - top)))
    left, top = max(0, left - margin), max(0, top - margin)
    right, bottom = min(width, right + margin), min(height, bottom + margin)
    is_full = (right - left) * (bottom - top) > _FULL * height * width
    if is_full or min(right - left, bottom - top) < LEAST:
        return None
    return int(left), int(top), int(right), int(bottom)
