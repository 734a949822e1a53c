"""A binary mask, or a photo with the background made transparent."""

import numpy as np

_EDGE = 0.5  # range of probabilities over which a cut-out fades out


def binary_mask(mask: np.ndarray, threshold: float) -> np.ndarray:
    """Thresholds probabilities, float [H, W] -> uint8 [H, W] of 0 and 255."""
    binary: np.ndarray = (mask >= threshold) * np.uint8(255)
    return binary


def cut_out(image: np.ndarray, mask: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Returns a photo with its mask as the alpha channel.

    Args:
        image: uint8 [H, W, 3].
        mask: Float [H, W] in [0, 1].
        threshold: Probability at which alpha is one half. Alpha changes linearly around it and
            is 0 for the low probabilities of the background.

    Returns:
        uint8 [H, W, 4].
    """
    edge = min(_EDGE, 2 * threshold, 2 * (1 - threshold))
    alpha = mask - threshold
    alpha /= edge  # in place: a photo may have many pixels
    alpha += 0.5
    np.clip(alpha, 0, 1, out=alpha)
    alpha *= 255
    result = np.empty((*mask.shape, 4), np.uint8)
    result[..., :3] = image
    result[..., 3] = np.rint(alpha, out=alpha)
    return result
