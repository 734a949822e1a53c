"""Soft edges for cut-outs: the transparency and the colours of the pixels around a mask's edge.

In a band around the edge a pixel I mixes the object's colour F with the background's B,
I = αF + (1 - α)B. F and B are the mean colours of what lies certainly inside and outside nearby. α
is the place of I between them, or that of a guided filter (He et al. 2010) where the colours of
object and background are too much alike to tell.
"""

import cv2
import numpy as np

_BAND = 1 / 60  # half the band's width, of the longer side
_NEARBY = 3  # times that: how far away F and B are taken from
_EPSILON = 1e-4  # of the guided filter
_SPREAD = 4.0  # how many variances of the colours count as the squared difference of F and B
_SIDE = 768  # longest side at which F and B are estimated, pixels


def matte(
    image: np.ndarray, mask: np.ndarray, threshold: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates a cut-out's transparency and colours.

    Args:
        image: uint8 [H, W, 3].
        mask: Float [H, W] in [0, 1].
        threshold: Probability at which a pixel is of the object.

    Returns:
        α, float32 [H, W]: at least one half exactly where the mask reaches the threshold, and 0 or
        1 outside the band. Colours, uint8 [H, W, 3]: the object's in the band, else the photo's.
    """
    is_object = mask >= threshold
    alpha = is_object.astype(np.float32)
    height, width = mask.shape
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    band, statistics = _estimate(small, cv2.resize(alpha, size, interpolation=cv2.INTER_AREA))
    rows, columns = np.nonzero(cv2.resize(band, (width, height), interpolation=cv2.INTER_NEAREST))
    if not len(rows):
        return alpha, image
    foreground, background, weight, guided = _sample(statistics, rows, columns, mask.shape)
    pixels = image[rows, columns].astype(np.float32) / 255
    between = foreground - background
    place = np.sum((pixels - background) * between, -1) / (np.sum(between**2, -1) + 1e-3)
    values = weight * np.clip(place, 0, 1) + (1 - weight) * np.clip(guided, 0, 1)
    inside = is_object[rows, columns]
    # 127 and 128 of 255 are the levels next to one half.
    values = np.where(inside, np.maximum(values, 128 / 255), np.minimum(values, 127 / 255))
    alpha[rows, columns] = values
    values = values[:, None]
    residual = pixels - values * foreground - (1 - values) * background
    own = np.clip(foreground + values * residual, 0, 1)
    colours = image.copy()
    colours[rows, columns] = np.rint(255 * own)
    return alpha, colours


def _estimate(image: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the band, uint8 [h, w], and for each pixel F, B, a weight and the guided α."""
    radius = max(2, round(_BAND * max(inside.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    binary = (inside >= 0.5).astype(np.uint8)
    inner, within = cv2.erode(binary, kernel), cv2.dilate(binary, kernel)
    foreground, spread, has_foreground = _colours_nearby(image, inner, _NEARBY * radius)
    background, other, has_background = _colours_nearby(image, 1 - within, _NEARBY * radius)
    squared = (foreground - background) ** 2
    contrast = squared.sum(-1)
    spread = ((spread + other) * squared).sum(-1) / (contrast + 1e-6)
    weight = contrast / (contrast + _SPREAD * spread + 1e-3) * (has_foreground & has_background)
    guided = cv2.ximgproc.guidedFilter(image, inside, radius, _EPSILON)
    parts = [foreground, background, weight[..., None], guided[..., None]]
    return within - inner, np.concatenate(parts, axis=-1).astype(np.float32)


def _colours_nearby(
    image: np.ndarray, where: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean and variance of the colours in a window, and whether it has any pixel."""
    weight = where.astype(np.float32)
    share = _mean(weight, radius)
    has_any = share > 1e-3
    share = np.maximum(share, 1e-3)[..., None]
    mean = _mean(image * weight[..., None], radius) / share
    squares = _mean(image**2 * weight[..., None], radius) / share
    mean = np.where(has_any[..., None], mean, image)
    return mean, np.maximum(squares - mean**2, 0), has_any


def _mean(values: np.ndarray, radius: int) -> np.ndarray:
    side = 2 * radius + 1
    mean: np.ndarray = cv2.blur(values, (side, side), borderType=cv2.BORDER_REPLICATE)
    return mean


def _sample(
    statistics: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Interpolates statistics at pixels of the photo: F [N, 3], B [N, 3], weight [N], α [N]."""
    height, width = statistics.shape[:2]
    y = np.clip((rows + 0.5) * (height / shape[0]) - 0.5, 0, height - 1)
    x = np.clip((columns + 0.5) * (width / shape[1]) - 0.5, 0, width - 1)
    top, left = y.astype(np.intp), x.astype(np.intp)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down = (y - top).astype(np.float32)[:, None]
    along = (x - left).astype(np.float32)[:, None]
    upper = statistics[top, left] * (1 - along) + statistics[top, right] * along
    lower = statistics[bottom, left] * (1 - along) + statistics[bottom, right] * along
    found = upper * (1 - down) + lower * down
    return found[:, :3], found[:, 3:6], found[:, 6], found[:, 7]
