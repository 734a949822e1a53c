"""Intersection over union of two masks."""

import numpy as np


def iou(prediction: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Returns the intersection over union of two binary masks, in [0, 1].

    Args:
        prediction: bool [H, W].
        truth: bool [H, W].
        ignore: bool [H, W], true on pixels that are left out; None leaves out none.

    Returns:
        |prediction ∩ truth| / |prediction ∪ truth| over the remaining pixels; 1 if both are empty,
        because they agree.

    Raises:
        ValueError: The masks are not boolean, or differ in shape.
    """
    for mask in (prediction, truth) if ignore is None else (prediction, truth, ignore):
        if mask.dtype != bool or mask.shape != prediction.shape:
            raise ValueError(
                f"expected bool {list(prediction.shape)}, got {mask.dtype} {list(mask.shape)}"
            )
    intersection, union = prediction & truth, prediction | truth
    if ignore is not None:
        intersection, union = intersection & ~ignore, union & ~ignore
    total = np.count_nonzero(union)
    return np.count_nonzero(intersection) / total if total else 1.0
