"""Image files: any photo read as RGB; and the one resize to a square.

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

import contextlib
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from layered_segmentation import files, paths
from layered_segmentation.choices import Aspect
from layered_segmentation.errors import UserError

# Pillow knows the files of these formats but does not decode them; for EPS it runs a program that
# runs the file.
_UNREAD = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF", "EPS"}

Image.preinit()  # Pillow tries the common formats first
Image.init()
with contextlib.suppress(ImportError):  # an extra: `pip install '.[heic]'`
    import pillow_heif

    pillow_heif.register_heif_opener()
FORMATS = tuple(name for name in Image.ID if name not in _UNREAD)
EXTENSIONS = tuple(
    extension
    for extension, name in sorted(Image.EXTENSION.items())
    if name in FORMATS or name == "MPO"  # JPEG files that begin with one photo of several
)
HEIC_EXTENSIONS = (".heic", ".heif")
HEIC_HINT = "HEIC needs a plug-in: `pip install 'layered-segmentation[heic]'`"
KINDS = "JPEG, PNG, WebP, AVIF, TIFF and what else Pillow reads"  # for messages

TRIANGLE = Image.Resampling.BILINEAR  # for what a segmenter sees
BICUBIC = Image.Resampling.BICUBIC  # for what a GAN learns from

# Damaged files make Pillow's decoders raise nearly anything: OSError, SyntaxError, ValueError,
# struct.error, zlib.error, DecompressionBombError, …
_DAMAGED = Exception
ORIENTATION, SOFTWARE = 0x0112, 0x0131  # EXIF's tags
MARK = b"layered_segmentation"  # the software, in files that are results, never photos
_MARK_CHUNK = b"tEXtSoftware\0" + MARK
_MARK_AT = 33  # bytes: after the signature and the first chunk
_AVIF = (b"ftypavif", b"ftypavis")
_HEIF = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")

# `_open` refuses the photos that Pillow only warns of.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImage(UserError):
    """A file that is not, or no longer, an image; the message names it."""


class Header(NamedTuple):
    """The header of an image file, read without decoding it."""

    format: str  # Pillow's name, such as `JPEG`
    mode: str  # Pillow's name, such as `RGB`
    size: tuple[int, int]  # width and height as stored, pixels
    orientation: int  # EXIF's, 1 to 8

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once the image is turned upright."""
        width, height = self.size
        return (height, width) if self.orientation >= 5 else (width, height)


class Found(NamedTuple):
    """The files under a directory."""

    images: list[str]  # paths of the image files relative to it, sorted by their parts
    # The others, and directories that were not searched, by why they are left out.
    left_out: dict[str, list[str]]


OTHER_KIND = "of another kind"


def allow_pixels(most: int) -> None:
    """Sets how many pixels a photo may have, for this process.

    By default there may be 89,478,485, which Pillow takes for the most that a photo has: a file
    of some kilobytes can hold more than fit into memory. It is Pillow's own
    `PIL.Image.MAX_IMAGE_PIXELS`, above which Pillow only warns.
    """
    Image.MAX_IMAGE_PIXELS = most


def search(
    directory: str, leave_out: Callable[[str, bool], str] = lambda path, is_directory: ""
) -> Found:
    """Finds the image files under a directory, by extension, in an order that never varies.

    Args:
        directory: Searched with its sub-directories, also through links. Hidden files and
            directories are passed over; of hidden files, images are counted as left out.
        leave_out: Returns why a sub-directory or an image file is left out, or an empty text;
            called with its path, and whether it is a directory. By default none is.
    """
    found: list[str] = []
    left_out: dict[str, list[str]] = {}
    visited = set()

    def keeps(folder: str, name: str, is_directory: bool) -> bool:
        path = os.path.join(folder, name)
        reason = "hidden" if name.startswith(".") else leave_out(path, is_directory)
        if reason:
            left_out.setdefault(reason, []).append(os.path.relpath(path, directory))
        return not reason

    for folder, folders, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and keeps(folder, name, True)
        )
        for name in sorted(names):
            path = os.path.relpath(os.path.join(folder, name), directory)
            if name.lower().endswith(EXTENSIONS):
                # `._a.jpg` is what macOS keeps about a.jpg.
                if not name.startswith("._") and keeps(folder, name, False):
                    found.append(path)
            elif not name.startswith("."):
                left_out.setdefault(OTHER_KIND, []).append(path)
    return Found(sorted(found, key=lambda path: path.split(os.sep)), left_out)


def header(file: str | bytes, name: str = "") -> Header:
    """Reads an image file's header.

    Args:
        file: As for `open_rgb`.
        name: As for `open_rgb`.

    Raises:
        UnreadableImage: The file cannot be read as an image.
    """
    with decoding(file, name) as image:
        orientation = image.getexif().get(ORIENTATION, 1)
        return Header(image.format or "", image.mode, image.size, orientation)


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
    with decoding(file, name) as image:
        return to_rgb(ImageOps.exif_transpose(image))


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
    with decoding(file, name) as image:
        is_stored = len(image.getbands()) == 1 and not luminance
        return np.asarray(image if is_stored else image.convert("L"))


@contextlib.contextmanager
def decoding(file: str | bytes, name: str = "") -> Iterator[Image.Image]:
    """Opens an image for a block that decodes it: the one place that opens images of users.

    Args:
        file: As for `open_rgb`.
        name: As for `open_rgb`.

    Raises:
        UnreadableImage: The file cannot be read as an image, or has too many pixels.
    """
    try:
        stream = io.BytesIO(file) if isinstance(file, bytes) else file
        with Image.open(stream, formats=FORMATS) as image:
            width, height = image.size
            most = Image.MAX_IMAGE_PIXELS
            if most is not None and width * height > most:
                raise Image.DecompressionBombError(f"{width:,} × {height:,}")
            yield image
    except _DAMAGED as error:
        raise _unreadable(file, name, error) from error


def write(path: str, image: np.ndarray, **options: Any) -> None:
    """Writes an image as a PNG file; image and options are as for `encode_png`."""
    files.write_bytes(path, encode_png(image, **options))


def write_mask(path: str, mask: np.ndarray) -> None:
    """Writes a mask, bool or float in [0, 1], [H, W], as a grey PNG of 0 to 255."""
    write(path, to_uint8_mask(mask))


def encode_png(image: np.ndarray, mark: bool = False, **options: Any) -> bytes:
    """Returns a uint8 image, [H, W], [H, W, 3] or [H, W, 4], as the bytes of a PNG.

    Args:
        image: The image.
        mark: Whether it is a result that must not be taken for a photo later; see `has_mark`.
        **options: Of Pillow's writer of PNG files.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    png = file.getvalue()
    if not mark:
        return png
    # Where `has_mark` reads it; Pillow would put an ICC profile before it.
    checksum = struct.pack(">I", zlib.crc32(_MARK_CHUNK))
    length = struct.pack(">I", len(_MARK_CHUNK) - 4)
    return png[:_MARK_AT] + length + _MARK_CHUNK + checksum + png[_MARK_AT:]


def has_mark(path: str) -> bool:
    """Returns whether a file was written with `mark`; reads a few bytes of PNG files only."""
    if not path.lower().endswith(".png"):
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(_MARK_AT + 4 + len(_MARK_CHUNK))
    except OSError:  # reading it later names the reason
        return False
    return start.endswith(_MARK_CHUNK)


def to_uint8_mask(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, bool or float in [0, 1], as uint8 of 0 to 255."""
    return np.rint(np.clip(np.asarray(mask, np.float32), 0, 1) * 255).astype(np.uint8)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image, [H, W] or [H, W, C], upright that is stored in one of EXIF's orientations."""
    stored = Image.fromarray(image)
    stored.getexif()[ORIENTATION] = orientation
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


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an upright image of any mode to RGB; transparent parts become white."""
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


def _unreadable(file: str | bytes, name: str, error: BaseException) -> UnreadableImage:
    path = file if isinstance(file, str) else ""
    name = paths.printable(name or path) or "the file"
    if isinstance(error, FileNotFoundError):
        return UnreadableImage(f"{name}: there is no such file")
    if isinstance(error, IsADirectoryError):
        return UnreadableImage(f"{name}: is a directory, not an image")
    reason = str(error)
    if isinstance(error, Image.DecompressionBombError):
        size = reason if "×" in reason else "too many"
        return UnreadableImage(
            f"{name}: has {size} pixels, more than the {Image.MAX_IMAGE_PIXELS:,} that are read; "
            "for photos that you trust, raise --max_pixels (in Python, PIL.Image.MAX_IMAGE_PIXELS)"
        )
    kind = _start(file)[4:12] if isinstance(error, UnidentifiedImageError) else b""
    if kind in _HEIF and "HEIF" not in FORMATS:
        return UnreadableImage(f"{name}: is HEIC. {HEIC_HINT}; or convert it to JPEG")
    if kind in _AVIF and not features.check("avif"):
        return UnreadableImage(
            f"{name}: is AVIF, which this Pillow lacks: `pip install --upgrade 'pillow>=11.3'`; or "
            "convert it to JPEG"
        )
    if path:
        reason = paths.printable(reason.replace(f" {path!r}", "").replace(path, "it"))
    reason = re.sub(r" <_io\.BytesIO[^>]*>", "", reason)  # the bytes of a file
    return UnreadableImage(f"{name}: cannot be read as an image ({reason})")


def _start(file: str | bytes) -> bytes:
    if isinstance(file, bytes):
        return file[:12]
    with contextlib.suppress(OSError), open(file, "rb") as stream:
        return stream.read(12)
    return b""
