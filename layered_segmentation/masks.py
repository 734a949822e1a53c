"""Mask files: the forms that data sets and programs use, read as booleans, or refused.

A file is a mask if the object can be told from its values alone:

- Grey, or one channel: two levels that lie well apart, such as 0 and 255 or 0 and 1, with soft
  edges between them.
- Transparency that varies: the object is what is at least half opaque, whatever its colours.
- A palette, or colours: two of them, of which the brighter one is the object.
- A label map with the labels 0 and 1, and 255 for the pixels around the object that its annotators
  left open, the void.

Anything else would give a low score without a word: other labels, several objects, photos. It is
refused with the values found, unless the caller names those of the object.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from layered_segmentation import images
from layered_segmentation.errors import UserError

VOID = 255  # of a label map

_MOST_LABEL = 32  # larger values are levels of grey, not labels
_FEW = 4  # levels: soft edges have more
_APART = 0.25  # of the range, between two levels
_MOST_BETWEEN = 1 / 3  # of the pixels: soft edges are fewer, photos more
_LEAST_OBJECT = 0.2  # of the pixels that are void: less is noise at the foot of a soft mask
_VOTES = 5  # annotators, whose mean is a mask with as many levels
_GREY = 16  # levels by which the channels of a grey image may differ, as JPEG leaves them
_SHOWN = 8  # values in a message


class Mask(NamedTuple):
    """A mask as it was drawn."""

    inside: np.ndarray  # bool [H, W], true on the object
    # bool [H, W], true on pixels that its annotators left open; None without any
    void: np.ndarray | None = None


class _Unclear(Exception):
    """The values do not tell the object; the message describes them."""


def read(path: str, values: Sequence[int] = (), flag: str = "--mask_value") -> Mask:
    """Reads a mask, upright.

    Args:
        path: A file of any format and mode that Pillow reads.
        values: The stored values of the object, for label maps. 255 is then void, unless it is
            one of them. If empty, the values must tell the object.
        flag: The flag for `values`, in messages.

    Raises:
        UnreadableImage: The file cannot be read as an image.
        UserError: Its values do not tell the object.
    """
    with images.decoding(path) as image:
        upright = ImageOps.exif_transpose(image)
        upright.load()
    try:
        return _labelled(upright, values) if values else _read(upright)
    except _Unclear as error:
        raise UserError(
            f"{path}: is not a mask: {error}. A mask has two levels well apart, such as 0 and 255 "
            f"or 0 and 1, or the object in its transparency. Of a label map, name the object's "
            f"value with {flag}, or write it as 255 and the rest as 0"
        ) from None


def _read(image: Image.Image) -> Mask:
    if image.mode == "P":
        indices = np.asarray(image)
        used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
        colours = _colours(image)
        is_grey = _is_grey(colours[used]) and (
            len(used) > _FEW or np.array_equal(colours[used, 0], used)
        )
        if len(used) <= _MOST_LABEL and not is_grey:
            return _of_palette(indices, colours, used)
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 128:  # else nothing is transparent, and the colours may be the mask
            if 0 < alpha.max() < 128:
                raise _Unclear(f"its transparency holds {_described(alpha)}")
            return Mask(alpha >= 128)
        image = image.convert("RGBA").convert("RGB")
    if image.mode == "1":
        return Mask(np.asarray(image))
    if image.mode.startswith(("I", "F")):
        return _of_levels(np.asarray(image))
    if len(image.getbands()) > 1 or image.mode == "P":
        colours = np.asarray(image.convert("RGB"))
        if not _is_grey(colours):
            return _of_colours(colours)
    return _of_levels(np.asarray(image.convert("L")))


def _labelled(image: Image.Image, values: Sequence[int]) -> Mask:
    """Returns the mask of an object whose values in a label map are known."""
    if len(image.getbands()) > 1:
        raise _Unclear(f"it holds {image.mode} colours, not one value a pixel")
    stored = np.asarray(image).astype(np.int64)
    void = (stored == VOID) & (VOID not in values)
    return Mask(np.isin(stored, values), void if void.any() else None)


def _of_palette(indices: np.ndarray, colours: np.ndarray, used: np.ndarray) -> Mask:
    """Returns the mask of few colours of a palette, whose indices may be labels."""
    if set(used) == {0, 1, VOID}:
        return _with_void(indices)
    # Transparent entries, alpha 0, are as dark as can be.
    luminance = (colours[:, :3] @ (0.299, 0.587, 0.114)) * (colours[:, 3] > 127)
    if len(used) > 2:
        raise _Unclear(f"its palette has {_described(indices)}")
    darker, brighter = sorted((luminance[used[0]], luminance[used[-1]]))
    if len(used) == 1:
        return Mask(np.full(indices.shape, brighter > 0))
    if darker > brighter / 2:
        raise _Unclear(f"its palette has two colours, {_described(indices)}, of like brightness")
    return Mask(luminance[indices] > brighter / 2)


def _of_colours(colours: np.ndarray) -> Mask:
    """Returns the mask of two colours, of which the brighter is the object."""
    codes = colours.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    found = np.unique(codes[:: max(1, len(codes) // 64)])  # a photo is known by a few of its rows
    found = np.unique(codes) if len(found) <= 2 else found
    if len(found) != 2:
        raise _Unclear("it holds colours, as a photo or a coloured label map does")
    luminance = (found >> 16) * 0.299 + (found >> 8 & 255) * 0.587 + (found & 255) * 0.114
    if luminance.min() > luminance.max() / 2:
        raise _Unclear("it holds two colours of like brightness")
    return Mask(codes == found[luminance.argmax()])


def _of_levels(values: np.ndarray) -> Mask:
    """Returns the mask of one channel."""
    levels, counts = _levels(values)
    smallest, largest = float(levels[0]), float(levels[-1])
    full = 1.0 if largest <= 1 else 255.0 if largest <= 255 or values.dtype.kind == "f" else 65535.0
    unclear = _Unclear(f"it holds {_described(values)}")
    if not np.isfinite((smallest, largest)).all() or smallest < 0:
        raise unclear
    if len(levels) == 1:
        if largest and largest < full * (1 - _APART / 2):
            raise unclear
        return Mask(np.full(values.shape, largest > 0))
    if levels.tolist() == [0, 1, VOID]:
        return _with_void(values)
    is_label = full == 255 and np.all((levels <= _MOST_LABEL) | (levels == VOID))
    if is_label and levels.tolist() != [0, VOID]:
        raise unclear
    between = (levels > full * _APART / 2) & (levels < full * (1 - _APART / 2))
    is_vote = np.all(levels % (full / _VOTES) == 0)
    if 2 < len(levels) <= _FEW and between.any() and not is_vote:
        raise unclear
    middle = (levels >= full * _APART) & (levels < full * (1 - _APART))
    if len(levels) > 2 and counts[middle].sum() > _MOST_BETWEEN * counts.sum():
        raise unclear
    lower, upper = levels[levels < full / 2], levels[levels >= full / 2]
    if not len(upper) or (len(lower) and upper[-1] - lower[0] < _APART * full):
        raise unclear
    return Mask(values >= full / 2)


def _with_void(labels: np.ndarray) -> Mask:
    """Returns the mask of the labels 0, 1 and `VOID`."""
    inside, void = labels == 1, labels == VOID
    if inside.sum() < _LEAST_OBJECT * void.sum():
        raise _Unclear(f"it holds {_described(labels)}")
    return Mask(inside, void)


def _colours(image: Image.Image) -> np.ndarray:
    """Returns the colours of a palette, uint8 [256, 4] RGBA."""
    entries = Image.fromarray(np.arange(256, dtype=np.uint8)[None], "P")
    entries.putpalette(image.getpalette("RGB") or [], "RGB")
    transparency = image.info.get("transparency")
    if transparency is not None:
        entries.info["transparency"] = transparency
    return np.asarray(np.asarray(entries.convert("RGBA"))[0])


def _is_grey(colours: np.ndarray) -> bool:
    """Returns whether 99 % of the colours, uint8 [..., 3 or 4], have about equal channels."""
    channels = colours[..., :3]
    spread = channels.max(axis=-1).astype(int) - channels.min(axis=-1)
    return bool((spread > _GREY).mean() <= 0.01)


def _levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the different values, sorted, and how many pixels have each."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:  # without sorting
        counts = np.bincount(values.ravel())
        levels = np.flatnonzero(counts)
        return levels, counts[levels]
    levels, counts = np.unique(values, return_counts=True)
    return levels, counts


def _described(values: np.ndarray) -> str:
    """Returns the most frequent values with their shares of the pixels."""
    levels, counts = _levels(values)
    first = np.sort(np.argsort(-counts, kind="stable")[:_SHOWN])
    shown = ", ".join(f"{levels[i]:g} ({counts[i] / values.size:.1%})" for i in first)
    return shown if len(levels) <= _SHOWN else f"{shown} and {len(levels) - _SHOWN} other values"
