"""Reference methods that need no learning: full mask, centre box, GrabCut."""

import dataclasses

import cv2
import numpy as np

from layered_segmentation.segmenter.refine import GRABCUT_ITERATIONS, run_grabcut


@dataclasses.dataclass(frozen=True)
class GrabCutSettings:
    """Settings of GrabCut; its score depends on all of them."""

    # Share of each side outside the rectangle, in [0, 0.5). Of 0.02, 0.05 and 0.10, 0.05 scores
    # best on scenes and on photos.
    margin: float = 0.05
    iterations: int = GRABCUT_ITERATIONS
    # longest side to work at, pixels; the time grows faster than the number of pixels
    side: int = 256

    @property
    def protocol(self) -> str:
        """The settings as a sentence."""
        return (
            "grabcut: OpenCV's GrabCut started from a centred rectangle that leaves "
            f"{self.margin * 100:.3g}% of each side free (at least 1 pixel), {self.iterations} "
            f"iterations, random seed 0, images reduced to at most {self.side} pixels on the "
            "longer side; an empty result is scored as it is."
        )


DEFAULT_GRABCUT = GrabCutSettings()
FULL_MASK_PROTOCOL = "full_mask: every pixel. "
CENTRE_BOX_PROTOCOL = "centre_box: half the width and half the height, centred. "


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


def grabcut(image: np.ndarray, settings: GrabCutSettings = DEFAULT_GRABCUT) -> np.ndarray:
    """Segments a photo by GrabCut from a rectangle (Rother et al. 2004).

    Args:
        image: uint8 [H, W, 3].
        settings: Rectangle, iterations and size.

    Returns:
        bool [H, W]: empty if GrabCut finds nothing; the rectangle itself if GrabCut cannot start,
        as in a photo of a few pixels.
    """
    height, width = image.shape[:2]
    scale = min(1.0, settings.side / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        mask = _grabcut(cv2.resize(image, size, interpolation=cv2.INTER_AREA), settings)
        enlarged: np.ndarray = cv2.resize(mask.astype(np.float32), (width, height))
        return enlarged >= 0.5
    return _grabcut(image, settings)


def _grabcut(image: np.ndarray, settings: GrabCutSettings) -> np.ndarray:
    height, width = image.shape[:2]
    top = max(1, round(settings.margin * height))
    left = max(1, round(settings.margin * width))
    if 2 * top >= height or 2 * left >= width:  # no room for a rectangle
        return full_mask(height, width)
    box = np.zeros((height, width), bool)
    box[top : height - top, left : width - left] = True
    labels = np.zeros((height, width), np.uint8)
    rectangle = (left, top, width - 2 * left, height - 2 * top)
    try:
        return run_grabcut(image, labels, rectangle, settings.iterations)
    except cv2.error:
        return box
