"""One photo with all that its cut-out keeps: transparency, colour profile and resolution."""

import io
import os
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from layered_segmentation import images

FORMATS = ("png", "webp")  # of results

_WEBP_QUALITY = 90  # visually lossless; transparency is always lossless
_RGB_PROFILE = b"RGB "  # colour space in the header of an ICC profile
_X_RESOLUTION, _Y_RESOLUTION, _UNIT = 0x011A, 0x011B, 0x0128  # EXIF's tags
_INCH = 2
_START = 1024  # bytes of a GIF file: a comment comes after the palette
_END = 512  # bytes of a WebP file in which its EXIF block is, the last one


class Photo(NamedTuple):
    """A photo, upright."""

    # uint8 [H, W, 3] RGB, white where the photo is transparent: what a segmenter sees
    image: np.ndarray
    # uint8 [H, W, 3], the colours as stored, also where the photo is transparent
    colours: np.ndarray
    alpha: np.ndarray | None = None  # uint8 [H, W], or None if the photo is opaque
    profile: bytes = b""  # its ICC profile, for RGB; empty without one
    dpi: tuple[float, float] | None = None  # horizontal and vertical; None if unknown


def read(file: str | bytes, name: str = "") -> Photo:
    """Reads a photo; see `images.open_rgb`.

    Raises:
        UnreadableImage: The file cannot be read as an image.
    """
    with images.decoding(file, name) as stored:
        profile, dpi = stored.info.get("icc_profile") or b"", _dpi(stored)
        upright = ImageOps.exif_transpose(stored)
        image = np.asarray(images.to_rgb(upright))
        profile = profile if profile[16:20] == _RGB_PROFILE else b""  # not of CMYK or grey
        if not upright.has_transparency_data:
            return Photo(image, image, None, profile, dpi)
        pixels = np.asarray(upright.convert("RGBA"))
        if pixels[..., 3].min() == 255:
            return Photo(image, image, None, profile, dpi)
        return Photo(image, pixels[..., :3], pixels[..., 3], profile, dpi)


def encode(image: np.ndarray, photo: Photo, kind: str = "png") -> bytes:
    """Returns a result, marked as one, as the bytes of a file.

    Args:
        image: uint8 mask [H, W], or cut-out [H, W, 3 or 4].
        photo: The photo whose resolution and, for colours, ICC profile it gets.
        kind: One of `FORMATS`.
    """
    options: dict[str, object] = {}
    if photo.profile and image.ndim == 3:
        options["icc_profile"] = photo.profile
    if kind == "webp":
        picture, file = Image.fromarray(image), io.BytesIO()
        exif = picture.getexif()
        exif[images.SOFTWARE] = images.MARK.decode()
        if photo.dpi:
            exif[_X_RESOLUTION], exif[_Y_RESOLUTION], exif[_UNIT] = *photo.dpi, _INCH
        picture.save(file, "WEBP", quality=_WEBP_QUALITY, exif=exif, **options)
        return file.getvalue()
    if photo.dpi:
        options["dpi"] = photo.dpi
    # Level 1 is four times faster than 6 on colours, for files that are a quarter larger.
    level = 1 if image.ndim == 3 else 6
    return images.encode_png(image, mark=True, compress_level=level, **options)


def is_result(path: str) -> bool:
    """Returns whether a file is a result of this package, a picture or an animation."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".gif", ".webp"):
        return images.has_mark(path)
    try:
        with open(path, "rb") as file:
            if suffix == ".gif":
                return bytes([len(images.MARK)]) + images.MARK in file.read(_START)
            file.seek(max(0, file.seek(0, os.SEEK_END) - _END))
            return images.MARK + b"\0" in file.read()
    except OSError:  # reading it later names the reason
        return False


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Returns the resolution of a stored image once it is upright."""
    stored = image.info.get("dpi")
    if not stored or not all(0 < value < 1e5 for value in stored):  # nan, too
        return None
    x, y = map(float, stored)
    return (y, x) if image.getexif().get(images.ORIENTATION, 1) >= 5 else (x, y)
