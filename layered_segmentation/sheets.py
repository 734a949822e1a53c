"""Sheets: one image that shows many, for a person to look at. Pure numpy and Pillow."""

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from layered_segmentation.gan.composite import Layers

LAYER_ROWS = ("background", "foreground", "mask", "masked foreground", "composite")

_PAPER = 255
_INK = (60, 60, 60)
_GAP = 3
_TARGET_SIDE = 96  # small images are enlarged to about this side
_CHECKS = (200, 232)


def layers_sheet(layers: "Layers", columns: int = 10, scale: int = 0) -> np.ndarray:
    """Shows scenes as columns: background, foreground, mask, masked foreground, composite.

    Args:
        layers: Layers of arrays, each [B, R, R, C]; images in about [-1, 1], masks in [0, 1].
        columns: Scenes side by side; more scenes go below, in further bands.
        scale: Whole number by which pixels are enlarged; 0 chooses one so that they are visible.

    Returns:
        Uint8 [height, width, 3].
    """
    background = to_uint8(np.asarray(layers.background))
    foreground = to_uint8(np.asarray(layers.foreground))
    mask = np.clip(np.asarray(layers.mask, np.float32), 0, 1)
    mixed = np.asarray(layers.background) * (1 - mask) + np.asarray(layers.foreground) * mask
    side = background.shape[1]
    scale = scale or max(1, _TARGET_SIDE // side)
    board = checkerboard(side * scale, side * scale)
    bands = []
    for start in range(0, len(background), columns):
        part = slice(start, start + columns)
        cut_outs = [
            over(enlarge(image, scale), enlarge(m, scale), board)
            for image, m in zip(foreground[part], mask[part], strict=True)
        ]
        rows = [
            [enlarge(image, scale) for image in background[part]],
            [enlarge(image, scale) for image in foreground[part]],
            [enlarge(image, scale) for image in grey(mask[part])],
            cut_outs,
            [enlarge(image, scale) for image in to_uint8(mixed[part])],
        ]
        bands.append(grid(rows, LAYER_ROWS, columns=min(columns, len(background))))
    return _stack(bands)


def segmentation_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray] | None,
    predictions: Sequence[np.ndarray],
    ious: Sequence[float] | None = None,
    side: int = 144,
    columns: int = 8,
    labels: tuple[str, str, str, str] = ("photo", "true mask", "our mask", "cut-out"),
) -> np.ndarray:
    """Shows photos with their predicted masks, cut-outs and, where known, true masks.

    Args:
        images: Uint8 [H, W, 3], of any sizes.
        truths: Masks in [0, 1] or bool, [H, W]; None leaves the row out.
        predictions: Masks in [0, 1], [H, W].
        ious: Score of each, written below it.
        side: Side of the square each is fitted into, pixels.
        columns: Photos side by side.
        labels: Of the rows: photos, true masks, predictions, cut-outs.

    Returns:
        Uint8 [height, width, 3].
    """
    bands = []
    for start in range(0, len(images), columns):
        part = slice(start, start + columns)
        photos = [fit(image, side) for image in images[part]]
        masks = [np.asarray(mask, np.float32) for mask in predictions[part]]
        cut_outs = []
        for image, mask in zip(images[part], masks, strict=True):
            height, width = image.shape[:2]
            board = checkerboard(height, width, cell=max(1, max(height, width) // 18))
            cut_outs.append(fit(over(image, mask[..., None], board), side))
        rows = [photos]
        shown = [labels[0]]
        if truths is not None:
            rows.append([fit(grey(np.asarray(truth, np.float32)), side) for truth in truths[part]])
            shown.append(labels[1])
        rows += [[fit(grey(mask), side) for mask in masks], cut_outs]
        shown += labels[2:]
        captions = None if ious is None else [f"IoU {iou:.2f}" for iou in ious[part]]
        bands.append(grid(rows, shown, min(columns, len(images)), captions))
    return _stack(bands)


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str],
    columns: int,
    captions: Sequence[str] | None = None,
) -> np.ndarray:
    """Lays equally large images out in labelled rows.

    Args:
        rows: Rows of uint8 [H, W, 3].
        labels: One a row, at its left.
        columns: Width of the grid in images; shorter rows leave room.
        captions: One a column, below the last row.

    Returns:
        Uint8 [height, width, 3].
    """
    height, width = rows[0][0].shape[:2]
    font = _font(max(11, min(16, height // 7)))
    margin = 2 * _GAP + max(int(font.getlength(label)) for label in labels)
    foot = font.size + 2 * _GAP if captions else 0
    canvas = np.full(
        (
            len(rows) * (height + _GAP) + _GAP + foot,
            margin + columns * (width + _GAP) + _GAP,
            3,
        ),
        _PAPER,
        np.uint8,
    )
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = _GAP + y * (height + _GAP), margin + _GAP + x * (width + _GAP)
            canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for y, label in enumerate(labels):
        middle = _GAP + y * (height + _GAP) + height // 2
        draw.text((margin - _GAP, middle), label, fill=_INK, font=font, anchor="rm")
    for x, caption in enumerate(captions or []):
        left = margin + _GAP + x * (width + _GAP) + width // 2
        draw.text((left, canvas.shape[0] - _GAP), caption, fill=_INK, font=font, anchor="mb")
    return np.asarray(picture)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Returns images in [-1, 1], of any shape, as uint8; what lies outside is clipped."""
    return np.rint(np.clip(np.asarray(images, np.float32) * 127.5 + 127.5, 0, 255)).astype(np.uint8)


def grey(masks: np.ndarray) -> np.ndarray:
    """Returns masks in [0, 1], [..., H, W, 1] or [H, W], as uint8 [..., H, W, 3]."""
    masks = masks if masks.ndim > 2 else masks[..., None]
    values = np.rint(np.clip(masks, 0, 1) * 255).astype(np.uint8)
    return np.repeat(values, 3, axis=-1)


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Returns [H, W, C] with every pixel repeated `scale` times both ways."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """Returns a uint8 image scaled into the middle of a white square, shape and all kept."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
    square = Image.new("RGB", (side, side), (_PAPER,) * 3)
    resized = Image.fromarray(image).resize(size, method)
    square.paste(resized, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(square)


def over(image: np.ndarray, mask: np.ndarray, board: np.ndarray) -> np.ndarray:
    """Returns a uint8 image laid over a board by its mask in [0, 1], [H, W, 1]."""
    mask = np.clip(np.asarray(mask, np.float32), 0, 1)
    return np.rint(board * (1 - mask) + image * mask).astype(np.uint8)


def checkerboard(height: int, width: int, cell: int = 8) -> np.ndarray:
    """Returns the grey board that stands for transparency, uint8 [H, W, 3]."""
    rows, columns = np.indices((height, width)) // cell
    values = np.where((rows + columns) % 2, *_CHECKS).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=-1)


def save_png(image: np.ndarray, path: str) -> None:
    """Writes a uint8 image as PNG beside `path`, then renames it."""
    partial = f"{path}.partial"
    with open(partial, "wb") as file:
        file.write(png(image))
    os.replace(partial, path)


def png(image: np.ndarray) -> bytes:
    """Returns a uint8 image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _stack(bands: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(bands, axis=0)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
