"""Sheets: grids of arrays for a person to look at. Pure NumPy and Pillow; no networks."""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from layered_segmentation import files, images

# Background, foreground and mask, each [B, R, R, C]; images in about [-1, 1], masks in [0, 1]. With
# K foreground layers, foreground has 3·K channels and mask K. `gan.composite.Layers` is one.
LayerArrays = tuple[Any, Any, Any]
Sheet = np.ndarray  # uint8 [height, width, 3]

_PAPER = 255
_INK = (60, 60, 60)
_GAP = 3
_SIDE = 144  # of the square that a photo is fitted into, pixels
_TARGET_SIDE = 96  # small images are enlarged to about this side
_CHECKS = (200, 232)
_COLOURS = 255  # of a GIF, besides the one that stands for an unchanged pixel
LABELS = ("photo", "true mask", "predicted mask", "cut-out")  # of a segmentation sheet's rows
_COMPARED_SIDE = 480  # the longer one of a photo next to its cut-out, pixels at most


def layers_sheet(layers: LayerArrays, columns: int = 10) -> Sheet:
    """Shows scenes as columns: background, foreground, mask, masked foreground, composite.

    Of several foreground layers, each has its own rows.

    Args:
        layers: The layers of B scenes.
        columns: Scenes in a band; others go below, in further bands.
    """
    background, drawn = _arrays(layers)
    composite = _composite(layers)
    scale = _scale(background)

    def rows(part: slice) -> dict[str, np.ndarray]:
        shown = {"background": enlarge(to_uint8(background[part]), scale)}
        for number, foreground, mask in drawn:
            levels = to_uint8(foreground[part])
            shown |= {
                f"foreground{number}": enlarge(levels, scale),
                f"mask{number}": enlarge(grey(mask[part]), scale),
                f"masked foreground{number}": _cut_outs(levels, mask[part], scale),
            }
        return {**shown, "composite": enlarge(to_uint8(composite[part]), scale)}

    return _bands(rows, len(background), columns)


def composites_sheet(rows: Sequence[tuple[str, LayerArrays]]) -> Sheet:
    """Shows composites only: rows of scenes, each with a label."""
    images = [_composite(layers) for _, layers in rows]
    shown = [enlarge(to_uint8(part), _scale(part)) for part in images]
    return grid([list(row) for row in shown], [label for label, _ in rows], len(shown[0]))


def reconstruction_sheet(photos: np.ndarray, layers: LayerArrays, columns: int = 10) -> Sheet:
    """Shows photos as columns: photo, reconstruction, its layers, and the photo cut out.

    Args:
        photos: uint8 [B, R, R, 3].
        layers: The layers that the generator draws for the photos.
        columns: Photos in a band; more photos go below, in further bands.
    """
    background, drawn = _arrays(layers)
    composite, union = background, np.zeros_like(drawn[0][2])
    for _, foreground, mask in drawn:
        composite = composite + mask * (foreground - composite)
        union = union + mask * (1 - union)
    scale = _scale(photos)

    def rows(part: slice) -> dict[str, np.ndarray]:
        shown = {
            "photo": enlarge(photos[part], scale),
            "reconstruction": enlarge(to_uint8(composite[part]), scale),
            "background": enlarge(to_uint8(background[part]), scale),
        }
        for number, foreground, mask in drawn:
            shown |= {
                f"foreground{number}": enlarge(to_uint8(foreground[part]), scale),
                f"mask{number}": enlarge(grey(mask[part]), scale),
            }
        return {**shown, "cut-out": _cut_outs(photos[part], union[part], scale)}

    return _bands(rows, len(photos), columns)


def segmentation_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray] | None,
    predictions: Sequence[np.ndarray],
    ious: Sequence[float] | None = None,
    columns: int = 8,
    labels: tuple[str, str, str, str] = LABELS,
) -> Sheet:
    """Shows photos with their predicted masks, cut-outs and, where known, true masks.

    Args:
        images: uint8 [H, W, 3], of any sizes.
        truths: Masks in [0, 1] or bool, [H, W]; None leaves the row out.
        predictions: Masks in [0, 1], [H, W].
        ious: Score of each photo, written below it.
        columns: Photos in a band; more photos go below, in further bands.
        labels: Labels of the rows: photos, true masks, predictions, cut-outs.
    """
    photo, true_mask, predicted_mask, cut_out = labels

    def rows(part: slice) -> dict[str, list[np.ndarray]]:
        masks = [np.asarray(mask, np.float32) for mask in predictions[part]]
        shown = {photo: [fit(image, _SIDE) for image in images[part]]}
        if truths is not None:
            shown[true_mask] = [
                fit(grey(np.asarray(one, np.float32)), _SIDE) for one in truths[part]
            ]
        shown[predicted_mask] = [fit(grey(mask), _SIDE) for mask in masks]
        shown[cut_out] = []
        for image, mask in zip(images[part], masks, strict=True):
            board = checkerboard(image, max(image.shape[:2]) // 18)
            shown[cut_out].append(fit(over(image, mask[..., None], board), _SIDE))
        return shown

    captions = None if ious is None else [f"IoU {iou:.2f}" for iou in ious]
    return _bands(rows, len(images), columns, captions)


def before_after(image: np.ndarray, mask: np.ndarray) -> Sheet:
    """Shows a photo and its cut-out next to each other, uint8 [h, 2 * w, 3].

    Args:
        image: uint8 [H, W, 3].
        mask: In [0, 1] or bool, [H, W].
    """
    height, width = image.shape[:2]
    board = checkerboard(image, max(height, width) // 18)
    cut_out = over(image, np.asarray(mask, np.float32)[..., None], board)
    factor = min(1.0, _COMPARED_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = Image.Resampling.LANCZOS
    halves = [np.asarray(Image.fromarray(half).resize(size, method)) for half in (image, cut_out)]
    return np.concatenate(halves, axis=1)


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str],
    columns: int,
    captions: Sequence[str] | None = None,
) -> Sheet:
    """Lays out images of one size in labelled rows.

    Args:
        rows: Rows of uint8 [H, W, 3].
        labels: One per row, to its left.
        columns: Images per row; shorter rows leave a gap.
        captions: One per column, below the last row.
    """
    height, width = rows[0][0].shape[:2]
    font = _font(max(11, min(16, height // 7)))
    margin = 2 * _GAP + max(int(font.getlength(label)) for label in labels)
    foot = font.size + 2 * _GAP if captions else 0
    shape = (len(rows) * (height + _GAP) + _GAP + foot, margin + columns * (width + _GAP) + _GAP, 3)
    canvas = np.full(shape, _PAPER, np.uint8)
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


def stacked(sheet: Sheet, columns: int = 4) -> Sheet:
    """Cuts a wide sheet into parts below each other, for narrow screens.

    Args:
        sheet: Of `grid`, or several of them below each other.
        columns: Images per row of a part, at most.

    Returns:
        The parts, each with the labels. It is the sheet itself if that has no more columns, or if
        they cannot be found: white edges of photos look like gaps.
    """
    drawn = (sheet != _PAPER).any(axis=(0, 2))
    margin = end = sheet.shape[1] - _GAP
    width = int(np.argmin(drawn[:end][::-1]))  # of the last column
    pitch = width + _GAP
    while (
        width
        and margin > pitch
        and drawn[margin - width : margin].all()
        and not drawn[margin - pitch : margin - width].any()
    ):
        margin -= pitch
    labels, count = sheet[:, :margin], (end - margin) // pitch
    is_text = labels.min() >= min(_INK) and not np.ptp(labels, axis=2).any()
    if count <= columns or not is_text:
        return sheet
    each = math.ceil(count / math.ceil(count / columns))
    length = each * pitch + _GAP
    parts = []
    for left in range(margin, end, each * pitch):
        part = sheet[:, left : left + length]
        gap = ((0, 0), (0, length - part.shape[1]), (0, 0))
        parts.append(np.hstack([labels, np.pad(part, gap, constant_values=_PAPER)]))
    return np.concatenate(parts)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Returns images in [-1, 1], of any shape, as uint8; values outside are clipped."""
    levels = np.clip(np.asarray(images, np.float32) * 127.5 + 127.5, 0, 255)
    return np.asarray(np.rint(levels).astype(np.uint8))


def grey(masks: np.ndarray) -> np.ndarray:
    """Returns masks in [0, 1], [..., H, W, 1] or [H, W], as uint8 [..., H, W, 3]."""
    masks = masks if masks.ndim > 2 else masks[..., None]
    values = np.rint(np.clip(masks, 0, 1) * 255).astype(np.uint8)
    return np.repeat(values, 3, axis=-1)


def enlarge(images: np.ndarray, scale: int) -> np.ndarray:
    """Returns images, [..., H, W, C], with every pixel repeated `scale` times both ways."""
    return images.repeat(scale, axis=-3).repeat(scale, axis=-2)


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """Returns a uint8 image scaled to fit a white square, centred, its aspect ratio kept."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
    square = Image.new("RGB", (side, side), (_PAPER,) * 3)
    resized = Image.fromarray(image).resize(size, method)
    square.paste(resized, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(square)


def over(images: np.ndarray, masks: np.ndarray, board: np.ndarray) -> np.ndarray:
    """Composites uint8 images, [..., H, W, 3], over a board by masks in [0, 1], [..., H, W, 1]."""
    masks = np.clip(np.asarray(masks, np.float32), 0, 1)
    return np.asarray(np.rint(board * (1 - masks) + images * masks).astype(np.uint8))


def checkerboard(images: np.ndarray, cell: int = 8) -> np.ndarray:
    """Returns the grey board that stands for transparency behind images, uint8 [H, W, 3]."""
    rows, columns = np.indices(images.shape[-3:-1]) // max(1, cell)
    values = np.where((rows + columns) % 2, *_CHECKS).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=-1)


def save_png(image: np.ndarray, path: str) -> None:
    """Writes a sheet as a small PNG file that is known as a result."""
    images.write(path, image, mark=True, optimize=True)


def save_animation(frames: Sequence[Sheet], path: str, milliseconds: int = 80) -> None:
    """Writes sheets of one size as an animation that repeats for ever, a GIF or WebP file.

    Like a picture of `save_png`, it is known as a result.

    Args:
        frames: The sheets, one after the other.
        path: Ends with .gif or .webp.
        milliseconds: Duration of a frame.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    if path.lower().endswith(".gif"):
        # One palette for all frames, so that what stands still keeps its colours.
        palette = Image.fromarray(np.concatenate(frames)).quantize(_COLOURS)
        pictures = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]
    exif = Image.Exif()
    exif[images.SOFTWARE] = images.MARK.decode()
    file = io.BytesIO()
    pictures[0].save(
        file,
        "GIF" if path.lower().endswith(".gif") else "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=milliseconds,
        loop=0,
        lossless=True,
        method=6,  # half the size
        minimize_size=True,
        comment=images.MARK,  # of a GIF file
        exif=exif,  # of a WebP file
    )
    files.write_bytes(path, file.getvalue())


def _arrays(layers: LayerArrays) -> tuple[np.ndarray, list[tuple[str, np.ndarray, np.ndarray]]]:
    """Returns the background, and of each foreground layer the end of its label, image and mask."""
    background, foreground, mask = (np.asarray(layer) for layer in layers)
    mask = np.clip(mask.astype(np.float32), 0, 1)
    count = mask.shape[-1]
    drawn = [
        (f" {k + 1}" if count > 1 else "", foreground[..., 3 * k : 3 * k + 3], mask[..., k : k + 1])
        for k in range(count)
    ]
    return background, drawn


def _composite(layers: LayerArrays) -> np.ndarray:
    composite, drawn = _arrays(layers)
    for _, foreground, mask in drawn:
        composite = composite * (1 - mask) + foreground * mask
    return composite


def _scale(images: np.ndarray) -> int:
    side: int = images.shape[1]
    return max(1, _TARGET_SIDE // side)


def _cut_outs(images: np.ndarray, masks: np.ndarray, scale: int) -> np.ndarray:
    enlarged = enlarge(images, scale)
    return over(enlarged, enlarge(masks, scale), checkerboard(enlarged))


def _bands(
    rows: Callable[[slice], dict[str, Any]],
    count: int,
    columns: int,
    captions: Sequence[str] | None = None,
) -> Sheet:
    """Lays out `count` columns in bands; `rows` returns the rows of a band by their labels."""
    bands = []
    for start in range(0, count, columns):
        part = slice(start, start + columns)
        shown = rows(part)
        below = captions and captions[part]
        bands.append(grid(list(shown.values()), list(shown), min(columns, count), below))
    return np.concatenate(bands)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
