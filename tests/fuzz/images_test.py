"""Photos, masks and folders of them, damaged and hostile."""

import io
import os
import tempfile

import fuzzing
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from layered_segmentation import images, masks
from layered_segmentation.data import folder

PIXELS = 1 << 20  # that a photo may have here, so that the bound of memory can be tight
MOST = 64  # megabytes: 60 bytes for each of these pixels

_SAVED = (
    "PNG", "JPEG", "GIF", "WEBP", "AVIF", "TIFF", "JPEG2000", "BMP", "ICO", "ICNS", "PPM", "TGA",
    "DDS", "PCX", "SGI", "SPIDER", "IM", "MSP", "XBM", "BLP", "QOI", "DIB", "MPO",
)  # fmt: skip
_MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F")
# Formats that Pillow reads and does not write.
_MAGIC = (
    b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\x10\0\0\0\x10\0\x08\0\3", b"/* XPM */\nstatic char *x[]={",
    b"SIMPLE  =                    T", b"\0\0\2\0\1\0", b"\x59\xa6\x6a\x95", b"FTEX",
    b"\x0a\x05\x01\x08",
    b"\xb1\x68\xde\x3a", b"\0\0\0\x1c\0\0\0\x02GIMP", b"\x10\0\0\0\x11\xaf", b"\x12\xaf",
    b"\x1c\x02", b"P7 332\n", b"P6\n99999999 99999999\n255\n", b"P5 1 1 65535 ", b"PyCMYK",
    b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51", b"\0\0\0\x1cftypavif", b"\0\0\0\x18ftypheic", b"RIFF\0\0\0\0WEBPVP8X",
    b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", 
    b"qoif\xff\xff\xff\xff\xff\xff\xff\xff\4\0",
    b"icns\0\0\xff\xff", b"DDS \x7c\0\0\0", b"\x01\xda\0\1\0\2", b"BM", b"IDLEI",
)  # fmt: skip


def _files():
    rng = np.random.default_rng(0)
    found = []
    for mode in _MODES:
        levels = rng.integers(0, 2, (12, 16), dtype=np.uint8) * 255
        image = Image.fromarray(levels)
        image = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
        for kind in _SAVED:
            file = io.BytesIO()
            try:
                image.save(file, format=kind)
            except Exception:  # not every format has every mode
                continue
            found.append(file.getvalue())
    photo = Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    others = [
        {"format": "JPEG", "exif": exif}, {"format": "JPEG", "progressive": True},
        {"format": "PNG", "exif": exif}, {"format": "WEBP", "lossless": True},
        {"format": "GIF", "save_all": True, "append_images": [photo.rotate(9)]},
        {"format": "PNG", "save_all": True, "append_images": [photo.rotate(9)]},
        *({"format": "TIFF", "compression": name} for name in ("tiff_lzw", "jpeg", "packbits")),
    ]  # fmt: skip
    for options in others:
        file = io.BytesIO()
        photo.save(file, **options)
        found.append(file.getvalue())
    return [file for file in found if len(file) < 8000]


FILES = _files()
any_file = st.one_of(
    fuzzing.damaged(FILES),
    fuzzing.damaged(FILES),
    fuzzing.damaged([magic + bytes(range(200)) for magic in _MAGIC]),
    st.builds(bytes.__add__, st.sampled_from(_MAGIC), st.binary(max_size=200)),
)


@pytest.fixture(autouse=True, scope="module")
def few_pixels():
    before = Image.MAX_IMAGE_PIXELS
    images.allow_pixels(PIXELS)
    yield
    images.allow_pixels(before)


def test_there_are_files_of_all_kinds():
    kinds = {images.header(file).format for file in FILES}
    assert len(kinds) > 18 and len(FILES) > 60


@fuzzing.fuzz(any_file, share=0.22, quick=60)
def test_photos(data):
    with fuzzing.refused("test_photos", MOST):
        photo = images.read(data)
        assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 and photo.size


@fuzzing.fuzz(any_file, share=0.06, quick=20)
def test_headers(data):
    with fuzzing.refused("test_headers", 8):
        header = images.header(data, "a photo")
        assert header.format and all(side > 0 for side in header.size)


@fuzzing.fuzz(any_file, share=0.06, quick=20)
def test_stored_values(data):
    with fuzzing.refused("test_stored_values", MOST):
        assert images.read_values(data, "a mask").ndim == 2


@fuzzing.fuzz(st.tuples(any_file, st.lists(st.integers(0, 70000), max_size=2)), share=0.1, quick=40)
def test_masks(data):
    content, stored = data
    with tempfile.TemporaryDirectory() as directory:
        path = fuzzing.write(directory, "mask.png", content)
        with fuzzing.refused("test_masks", MOST):
            images.has_mark(path)
            mask = masks.read(path, stored)
            assert mask.inside.dtype == bool and mask.inside.ndim == 2
            assert mask.void is None or mask.void.shape == mask.inside.shape


_names = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
        lambda name: name not in (".", "..") and len(name.encode()) < 200
    ),
    st.sampled_from(["a", "A", "masks", ".hidden", "._a", "a b", "config.yaml", "lock", "é", "-x"]),
)
_extensions = st.sampled_from(["", ".jpg", ".JPG", ".png", ".mask.png", ".heic", ".txt", ".jpeg"])
_kinds = st.sampled_from(["file", "file", "file", "link", "loop", "directory", "nowhere"])
_folders = st.lists(
    st.tuples(_names, st.one_of(st.just(""), _names), _extensions, _kinds, any_file), max_size=8
)


def _fill(directory, entries):
    for outer, inner, extension, kind, content in entries:
        path = os.path.join(directory, *filter(None, [outer, inner])) + extension
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if kind == "file":
                fuzzing.write(directory, path, content)
            elif kind == "directory":
                os.makedirs(path, exist_ok=True)
            else:
                target = {"link": "a.jpg", "loop": os.pardir, "nowhere": "no/where"}[kind]
                os.symlink(target, path)
        except OSError:  # a file where a directory should be
            continue


@fuzzing.fuzz(st.tuples(_folders, _folders), share=0.03, quick=8)
def test_folders(data):
    with fuzzing.confined() as directory:
        photos, truth = os.path.join(directory, "photos"), os.path.join(directory, "truth")
        for path, entries in zip((photos, truth), data, strict=True):
            os.makedirs(path)
            _fill(path, entries)
        with fuzzing.refused("test_folders", 2 * MOST):
            source = folder.Folder(photos)
            assert len(list(source.squares([8]))) + len(source.skipped) == len(source)
            source.inventory(), source.identity()
        with fuzzing.refused("test_folders", 2 * MOST):
            pairs = folder.PairFolder(photos, truth)
            for pair in pairs:
                assert pair.mask.shape == pair.image.shape[:2]
