"""A sheet of photos beside what the generator draws for them."""

import numpy as np

from layered_segmentation import sheets
from layered_segmentation.gan.composite import Layers

ROWS = ("photo", "reconstruction", "background", "foreground", "mask", "cut-out")
_TARGET_SIDE = 96  # small photos are enlarged to about this side


def reconstruction_sheet(photos: np.ndarray, layers: Layers, columns: int = 10) -> np.ndarray:
    """Shows photos as columns: photo, reconstruction, its layers, and the photo cut out.

    Args:
        photos: uint8 [N, R, R, 3].
        layers: What the generator draws for them, arrays [N, R, R, C].
        columns: Photos side by side; more go below, in further bands.

    Returns:
        uint8 [height, width, 3].
    """
    scale = max(1, _TARGET_SIDE // photos.shape[1])
    side = scale * photos.shape[1]
    board = sheets.checkerboard(side, side)
    mask = np.clip(np.asarray(layers.mask, np.float32), 0, 1)
    background, foreground = np.asarray(layers.background), np.asarray(layers.foreground)
    bands = []
    for first in range(0, len(photos), columns):
        part = slice(first, first + columns)
        cut_outs = [
            sheets.over(sheets.enlarge(photo, scale), sheets.enlarge(one, scale), board)
            for photo, one in zip(photos[part], mask[part], strict=True)
        ]
        mixed = background[part] + mask[part] * (foreground[part] - background[part])
        drawn = map(sheets.to_uint8, (mixed, background[part], foreground[part]))
        rows = [
            [sheets.enlarge(image, scale) for image in images]
            for images in (photos[part], *drawn, sheets.grey(mask[part]))
        ]
        bands.append(sheets.grid([*rows, cut_outs], ROWS, min(columns, len(photos))))
    return np.concatenate(bands)
