"""A binary mask, or a photo whose background is transparent, one colour or blurred."""

import contextlib

import numpy as np
from PIL import ImageColor

from layered_segmentation.errors import UserError

BLUR = "blur"

_EDGE = 0.5  # range of probabilities over which a cut-out fades out
_BLURRED_SIDE = 512  # longest side at which the background is blurred
_SIGMA = 12.0  # pixels at that side


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


def require_background(background: str) -> None:
    """Refuses a --background that is neither `blur`, a colour nor empty.

    Raises:
        UserError: It is something else.
    """
    if background in ("", BLUR):
        return
    bands = 0
    with contextlib.suppress(ValueError):
        bands = len(ImageColor.getrgb(background))
    if bands != 3:
        raise UserError(
            f"--background={background}: name a colour, such as white or '#30a0ff', or {BLUR}"
        )


def put_over(cutout: np.ndarray, image: np.ndarray, background: str) -> np.ndarray:
    """Puts a cut-out over another background.

    Args:
        cutout: uint8 [H, W, 4].
        image: The photo, uint8 [H, W, 3].
        background: A colour as CSS writes it, or `blur` for the photo's own background, blurred
            without the object's colours.

    Returns:
        uint8 [H, W, 3].
    """
    alpha = cutout[..., 3:].astype(np.uint16)
    if background == BLUR:
        below = _blurred_background(image, cutout[..., 3])
    else:
        below = np.array(ImageColor.getrgb(background)[:3], np.uint8)
    mixed = cutout[..., :3] * alpha
    mixed += below * (255 - alpha) + 127  # at most 65,152
    mixed //= 255
    result: np.ndarray = mixed.astype(np.uint8)
    return result


def _blurred_background(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Returns the photo's background, blurred, uint8 [H, W, 3]."""
    import cv2  # `--help` needs none

    height, width = alpha.shape
    scale = min(1.0, _BLURRED_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    weight = 1 - cv2.resize(alpha, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    weight = np.maximum(weight, 1e-4)[..., None]  # under the object, far from the background
    total = cv2.GaussianBlur(weight, (0, 0), _SIGMA)[..., None]
    blurred = cv2.GaussianBlur(small * weight, (0, 0), _SIGMA) / total
    enlarged = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    result: np.ndarray = np.rint(np.clip(enlarged, 0, 255)).astype(np.uint8)
    return result
