"""Image files: any photo in as RGB, any mask in as booleans, results out whole or not at all."""

import os
import re
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from layered_segmentation.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# Damaged files make Pillow's decoders raise nearly anything: OSError, SyntaxError, ValueError,
# struct.error, zlib.error, DecompressionBombError, …
_DAMAGED = Exception


class UnreadableImage(UserError):
    """A file that is not, or no longer, an image; the message names it."""


class Pair(NamedTuple):
    """A photo and its true mask.

    Attributes:
        name: What to call it in a table.
        image: uint8 [H, W, 3] RGB.
        mask: bool [H, W], true on the object.
        ignore: bool [H, W], true on pixels that are not scored; or None.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    ignore: np.ndarray | None


def find(directory: str, excluded: Iterable[str] = ()) -> list[str]:
    """Returns the image files under a directory, by extension, in an order that never varies.

    Args:
        directory: Searched with its sub-directories, also through links; hidden ones are not.
        excluded: Names of sub-directories to leave out, at any depth.

    Returns:
        Paths relative to `directory`, sorted by their parts.
    """
    excluded = set(excluded)
    found, visited = [], set()
    for folder, folders, files in os.walk(directory, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(
            name for name in folders if name not in excluded and not name.startswith(".")
        )
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                found.append(os.path.relpath(os.path.join(folder, name), directory))
    return sorted(found, key=lambda path: path.split(os.sep))


def read(path: str) -> np.ndarray:
    """Reads a photo, uint8 [H, W, 3] RGB, upright; transparent parts become white.

    Raises:
        UnreadableImage: The file cannot be read as an image.
    """
    return np.asarray(open_rgb(path))


def open_rgb(file: str | BinaryIO, name: str = "") -> Image.Image:
    """Reads a photo as an upright RGB image.

    Args:
        file: Any format and mode that Pillow reads; the first frame of an animation.
        name: What a message calls it; its path if empty.

    Raises:
        UnreadableImage: The file cannot be read as an image.
    """
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            return _to_rgb(upright)
    except _DAMAGED as error:
        raise _unreadable(name or str(file), error) from error


def size(file: str | BinaryIO, name: str = "") -> tuple[int, int]:
    """Returns a photo's width and height, upright, without decoding it.

    Args:
        file: As for `open_rgb`.
        name: As for `open_rgb`.

    Raises:
        UnreadableImage: The file cannot be read as an image.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            is_lying = image.getexif().get(0x0112, 1) >= 5  # orientations with sides swapped
    except _DAMAGED as error:
        raise _unreadable(name or str(file), error) from error
    return (height, width) if is_lying else (width, height)


def read_mask(path: str) -> np.ndarray:
    """Reads a mask, bool [H, W]: values of at least half of their range are the object.

    The range is that of the mode; a file whose largest value is 1 counts from 0 to 1, and a
    palette counts to the luminance of its brightest colour in use.

    Raises:
        UnreadableImage: The file cannot be read as an image.
        UserError: Its values are those of a label map, not of a mask.
    """
    try:
        with Image.open(path) as image:
            is_palette = image.mode == "P"
            is_float = image.mode == "F"
            values = _to_grey(ImageOps.exif_transpose(image))
    except _DAMAGED as error:
        raise _unreadable(path, error) from error
    largest = float(values.max())
    if is_palette or largest <= 1:
        full = largest
    elif is_float or largest <= 255:
        full = 255.0
    else:
        full = 65535.0
    if full and largest < full / 2:
        raise UserError(
            f"{path}: its largest value is {largest:g}; a mask holds 0 and {full:g}, or 0 and 1 "
            "(of a label map, write the object's label as 255 and the rest as 0)"
        )
    return values >= full / 2 if full else np.zeros(values.shape, bool)


def write(path: str, image: np.ndarray) -> None:
    """Writes a uint8 image, [H, W], [H, W, 3] or [H, W, 4], as PNG: whole or not at all."""
    partial = f"{path}.partial"
    try:
        Image.fromarray(image).save(partial, format="PNG")
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.remove(partial)
        raise


def write_mask(path: str, mask: np.ndarray) -> None:
    """Writes a mask, bool or float in [0, 1], [H, W], as a grey PNG of 0 to 255."""
    write(path, to_uint8_mask(mask))


def write_cutout(path: str, image: np.ndarray, mask: np.ndarray) -> None:
    """Writes a photo, uint8 [H, W, 3], as RGBA PNG with its mask, [H, W] in [0, 1], as alpha."""
    write(path, np.dstack([image, to_uint8_mask(mask)]))


def to_uint8_mask(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, bool or float in [0, 1], as uint8 of 0 to 255."""
    return np.rint(np.clip(np.asarray(mask, np.float32), 0, 1) * 255).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, np.float32)
        largest = float(grey.max())
        if image.mode == "F" and largest <= 1:
            full = 1.0
        elif image.mode.startswith("I;16") or largest > 255:
            full = 65535.0
        else:
            full = 255.0
        scaled = np.rint(np.clip(grey / full, 0, 1) * 255).astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_grey(image: Image.Image) -> np.ndarray:
    """Returns a mask's values, float32 [H, W]; transparent parts are 0."""
    if image.mode == "1":
        return np.asarray(image, np.float32) * 255
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image, np.float32)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.asarray(image.convert("L"), np.float32)


def _unreadable(path: str, error: BaseException) -> UnreadableImage:
    if isinstance(error, FileNotFoundError):
        return UnreadableImage(f"{path}: there is no such file")
    if isinstance(error, IsADirectoryError):
        return UnreadableImage(f"{path}: is a directory, not an image")
    reason = str(error).replace(f" {path!r}", "").replace(str(path), "it")
    reason = re.sub(r" <_io\.BytesIO[^>]*>", "", reason)  # the bytes of a file, not the file
    return UnreadableImage(f"{path}: cannot be read as an image ({reason})")
