"""What a person gets from a mask: black and white, or the photo with the object cut out."""

import numpy as np

_EDGE = 0.5  # range of probabilities over which a cut-out fades


def binary_mask(mask: np.ndarray, threshold: float) -> np.ndarray:
    """Returns probabilities, float [H, W], as uint8 0 and 255."""
    return np.where(mask >= threshold, 255, 0).astype(np.uint8)


def cut_out(image: np.ndarray, mask: np.ndarray, threshold: float) -> np.ndarray:
    """Returns a photo with the mask as its alpha.

    Args:
        image: uint8 [H, W, 3].
        mask: Float [H, W] in [0, 1].
        threshold: Where alpha is half; it fades linearly around it, so that the faint
            probabilities of the background do not show.

    Returns:
        uint8 [H, W, 4].
    """
    edge = min(_EDGE, 2 * threshold, 2 * (1 - threshold))
    alpha = np.clip((mask - threshold) / edge + 0.5, 0, 1)
    return np.dstack([image, np.rint(alpha * 255).astype(np.uint8)])
