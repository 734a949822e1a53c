"""A binary mask, or a photo with the background made transparent."""

import numpy as np

_EDGE = 0.5  # range of probabilities over which a cut-out fades out


def binary_mask(mask: np.ndarray, threshold: float) -> np.ndarray:
    """Thresholds probabilities, float [H, W] -> uint8 [H, W] of 0 and 255."""
    return np.where(mask >= threshold, 255, 0).astype(np.uint8)


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
    alpha = np.clip((mask - threshold) / edge + 0.5, 0, 1)
    return np.dstack([image, np.rint(alpha * 255).astype(np.uint8)])
