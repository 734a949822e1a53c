"""Image files: any photo read as RGB, any mask as booleans; and the one resize to a square.

The contract of the resize, `to_square`: along each axis, a pixel of the square is a weighted mean
of the photo's pixels around its centre. Pixel centres lie at whole numbers plus a half. Where the
photo shrinks, the filter is stretched by the same factor (antialiasing). The weights sum to 1, at
the edges too. There are two filters:

- `TRIANGLE` (bilinear) for all that a segmenter sees: photos in prediction, in the SavedModel, in
  the representative data of a quantised file, in the training of students and encoders. In float
  it equals `tf.image.resize(antialias=True)`, which the preprocessor calls and `export.signatures`
  computes by matrices. On uint8 it is Pillow's, less than 1 level of 255 off. That changes the
  masks of the packaged student by 0.0004 on average and 0.02 at most (IoU 0.999, on 120 test
  photos). With bicubic squares, or means over areas, the IoU would be 0.977.
- `BICUBIC` (Keys, a = -0.5) for the photos that a GAN learns from, the default of the method.
"""

import io
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from layered_segmentation import files
from layered_segmentation.config import Aspect
from layered_segmentation.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

TRIANGLE = Image.Resampling.BILINEAR  # for what a segmenter sees
BICUBIC = Image.Resampling.BICUBIC  # for what a GAN learns from

# Damaged files make Pillow's decoders raise nearly anything: OSError, SyntaxError, ValueError,
# struct.error, zlib.error, DecompressionBombError, …
_DAMAGED = Exception
_ORIENTATION = 0x0112  # EXIF's tag


class UnreadableImage(UserError):
    """A file that is not, or no longer, an image; the message names it."""


class Header(NamedTuple):
    """The header of an image file, read without decoding it.

    Attributes:
        format: Pillow's name, such as `JPEG`.
        mode: Pillow's name, such as `RGB`.
        size: Width and height as stored, pixels.
        orientation: EXIF's, 1 to 8.
    """

    format: str
    mode: str
    size: tuple[int, int]
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once the image is turned upright."""
        width, height = self.size
        return (height, width) if self.orientation >= 5 else (width, height)


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
    for folder, folders, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(
            name for name in folders if name not in excluded and not name.startswith(".")
        )
        for name in names:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                found.append(os.path.relpath(os.path.join(folder, name), directory))
    return sorted(found, key=lambda path: path.split(os.sep))


def header(file: str | bytes, name: str = "") -> Header:
    """Reads an image file's header.

    Args:
        file: As for `open_rgb`.
        name: As for `open_rgb`.

    Raises:
        UnreadableImage: The file cannot be read as an image.
    """
    try:
        with _open(file) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
            return Header(image.format or "", image.mode, image.size, orientation)
    except _DAMAGED as error:
        raise _unreadable(file, name, error) from error


def read(file: str | bytes, name: str = "") -> np.ndarray:
    """Reads a photo, uint8 [H, W, 3] RGB, upright; transparent parts become white.

    Args:
        file: As for `open_rgb`.
        name: As for `open_rgb`.

    Raises:
        UnreadableImage: The file cannot be read as an image.
    """
    return np.asarray(open_rgb(file, name))


def open_rgb(file: str | bytes, name: str = "") -> Image.Image:
    """Reads a photo as an upright RGB image.

    Args:
        file: A path, or the bytes of a file, of any format and mode that Pillow reads; of an
            animation, the first frame.
        name: Its name in messages; by default its path.

    Raises:
        UnreadableImage: The file cannot be read as an image.
    """
    try:
        with _open(file) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except _DAMAGED as error:
        raise _unreadable(file, name, error) from error


def read_values(file: bytes, name: str, luminance: bool = False) -> np.ndarray:
    """Reads a mask's values as they are stored, [H, W], neither scaled nor turned upright.

    Args:
        file: The bytes of its file.
        name: Its name in messages.
        luminance: Whether the indices of a palette become the luminance of their colours, as
            several channels always do.

    Raises:
        UnreadableImage: The file cannot be read as an image.
    """
    try:
        with _open(file) as image:
            is_stored = len(image.getbands()) == 1 and not luminance
            return np.asarray(image if is_stored else image.convert("L"))
    except _DAMAGED as error:
        raise _unreadable(file, name, error) from error


def read_mask(path: str) -> np.ndarray:
    """Reads a mask, bool [H, W]: values of at least half of their range are the object.

    The range is that of the mode; a file whose largest value is 1 counts from 0 to 1, and a
    palette counts to the luminance of its brightest colour in use.

    Raises:
        UnreadableImage: The file cannot be read as an image.
        UserError: Its values are those of a label map, not of a mask.
    """
    try:
        with _open(path) as image:
            is_palette = image.mode == "P"
            is_float = image.mode == "F"
            values = _to_grey(ImageOps.exif_transpose(image))
    except _DAMAGED as error:
        raise _unreadable(path, "", error) from error
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


def write(path: str, image: np.ndarray, durable: bool = False) -> None:
    """Writes a uint8 image, [H, W], [H, W, 3] or [H, W, 4], as PNG; see `files.replacing`."""
    files.write_bytes(path, encode_png(image), durable)


def write_mask(path: str, mask: np.ndarray) -> None:
    """Writes a mask, bool or float in [0, 1], [H, W], as a grey PNG of 0 to 255."""
    write(path, to_uint8_mask(mask))


def encode_png(image: np.ndarray) -> bytes:
    """Returns a uint8 image, [H, W], [H, W, 3] or [H, W, 4], as the bytes of a PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def to_uint8_mask(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, bool or float in [0, 1], as uint8 of 0 to 255."""
    return np.rint(np.clip(np.asarray(mask, np.float32), 0, 1) * 255).astype(np.uint8)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image, [H, W] or [H, W, C], upright that is stored in one of EXIF's orientations."""
    stored = Image.fromarray(image)
    stored.getexif()[_ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(stored))


def to_square(
    image: Image.Image | np.ndarray,
    side: int,
    aspect: str = Aspect.squash,
    filter: Image.Resampling = TRIANGLE,
) -> np.ndarray:
    """Resizes an image to a square, antialiased; the contract is this module's.

    Args:
        image: A photo of any size, an RGB image or uint8 [H, W, 3]; or a mask, float32 [H, W].
        side: Of the result, pixels.
        aspect: `squash` changes the aspect ratio, `centre_crop` cuts the longer side's ends off,
            `pad` keeps everything and continues the edges. A padded photo is first resized to
            whole pixels.
        filter: `TRIANGLE` or `BICUBIC`.

    Returns:
        The type of the image, [side, side, 3] or [side, side].
    """
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    width, height = image.size
    box = (0.0, 0.0, float(width), float(height))
    target = (side, side)
    if aspect == Aspect.centre_crop:
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
    elif aspect == Aspect.pad:
        scale = side / max(width, height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = np.asarray(image.resize(target, filter, box=box))
    ends = [(gap // 2, gap - gap // 2) for gap in (side - target[1], side - target[0])]
    return np.pad(resized, [*ends, (0, 0)][: resized.ndim], mode="edge")


def _open(file: str | bytes) -> Image.Image:
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


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


def _unreadable(file: str | bytes, name: str, error: BaseException) -> UnreadableImage:
    path = file if isinstance(file, str) else ""
    name = name or path or "the file"
    if isinstance(error, FileNotFoundError):
        return UnreadableImage(f"{name}: there is no such file")
    if isinstance(error, IsADirectoryError):
        return UnreadableImage(f"{name}: is a directory, not an image")
    reason = str(error)
    if path:
        reason = reason.replace(f" {path!r}", "").replace(path, "it")
    reason = re.sub(r" <_io\.BytesIO[^>]*>", "", reason)  # the bytes of a file
    return UnreadableImage(f"{name}: cannot be read as an image ({reason})")
