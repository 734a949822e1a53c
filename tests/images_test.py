import io
import os
import tracemalloc
import zlib

import flowers
import numpy as np
import pytest
from PIL import Image

from layered_segmentation import images, masks
from layered_segmentation.errors import UserError


@pytest.fixture
def picture():
    """Smooth, so that JPEG and WebP hardly change it; not square, its corners all different."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([x * 6, y * 10, 255 - x * 3 - y * 5], axis=2).clip(0, 255).astype(np.uint8)


def closest(image, expected):
    return np.abs(image.astype(int) - expected.astype(int)).mean()


@pytest.mark.parametrize("file", ["a.png", "a.JPG", "a.webp", "a.bmp", "a.tiff"])
def test_formats(tmp_path, picture, file):
    path = str(tmp_path / file)
    Image.fromarray(picture).save(path)
    image = images.read(path)
    assert image.dtype == np.uint8 and image.shape == (24, 40, 3)
    assert closest(image, picture) < 3
    assert images.header(path).upright_size == (40, 24)


def test_grey_palette_and_cmyk(tmp_path, picture):
    grey = picture[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(images.read(str(tmp_path / "grey.png")), np.dstack([grey] * 3))
    Image.fromarray(picture).quantize(256).save(tmp_path / "palette.png")
    assert closest(images.read(str(tmp_path / "palette.png")), picture) < 4
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert closest(images.read(str(tmp_path / "cmyk.jpg")), picture) < 6
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    assert set(np.unique(images.read(str(tmp_path / "bits.png")))) == {0, 255}


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image = images.read(str(tmp_path / "deep.png"))
    assert np.array_equal(image[..., 0], np.arange(256).reshape(16, 16))
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)).save(
        tmp_path / "float.tiff"
    )
    image = images.read(str(tmp_path / "float.tiff"))
    assert np.array_equal(image[..., 1], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(tmp_path, mode):
    image = np.full((8, 8, 4), (40, 40, 40, 255), np.uint8)
    image[:4, :, 3] = 0
    path = str(tmp_path / "a.png")
    if mode == "P":
        indices = Image.fromarray((image[..., 3] == 0).astype(np.uint8)).convert("P")
        indices.putpalette([40, 40, 40, 0, 0, 0])
        indices.save(path, transparency=1)
    else:
        Image.fromarray(image).convert(mode).save(path)
    read = images.read(path)
    assert np.all(read[:4] == 255) and np.all(read[4:] == 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(tmp_path, picture, orientation):
    # The standard's eight ways in which a camera may have stored the upright picture.
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, 1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / "a.jpg")
    Image.fromarray(np.ascontiguousarray(stored)).save(path, quality=98, exif=exif)
    assert closest(images.read(path), picture) < 3
    header = images.header(path)
    assert header.upright_size == (40, 24) and header.orientation == orientation
    assert np.array_equal(images.upright(np.ascontiguousarray(stored), orientation), picture)


def test_bytes_and_paths_are_read_alike(tmp_path, picture):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    data = path.read_bytes()
    assert images.header(data) == images.header(str(path)) == ("PNG", "RGB", (40, 24), 1)
    assert np.array_equal(images.read(data), images.read(str(path)))


def test_messages_do_not_show_buffers():
    for read in (images.header, images.open_rgb, images.read_values):
        with pytest.raises(
            images.UnreadableImage, match=r"^photo 7: cannot be read as an image \(cannot identify"
        ) as error:
            read(b"no image", "photo 7")
        assert "BytesIO" not in str(error.value)


def test_damaged_files_are_named(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("not a photo")
    (tmp_path / "empty.webp").write_bytes(b"")
    changed = bytearray(data)
    changed[60:80] = bytes(20)
    (tmp_path / "changed.png").write_bytes(changed)
    for file in ("cut.png", "text.jpg", "empty.webp", "changed.png", "missing.png"):
        with pytest.raises(images.UnreadableImage, match=file):
            images.read(str(tmp_path / file))
    assert issubclass(images.UnreadableImage, UserError)


@pytest.mark.posix("links without special rights")
def test_find_has_a_fixed_order_and_finds_photos_only(tmp_path):
    for file in ("b/2.jpg", "a.png", "b/10.JPEG", "b/masks/2.png", "B.webp", "notes.txt",
                 ".hidden/x.jpg", "b/._2.jpg", "b-1.jpg"):  # fmt: skip
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "b" / "up").symlink_to(tmp_path)  # a loop
    expected = ["B.webp", "a.png", "b/10.JPEG", "b/2.jpg", "b-1.jpg"]
    found = images.search(str(tmp_path), lambda path, is_directory: "x" * path.endswith("/masks"))
    assert found.images == expected and found.left_out["x"] == ["b/masks"]
    assert "b/masks/2.png" in images.search(str(tmp_path)).images


def test_every_kind_that_pillow_reads_is_found_and_read(tmp_path):
    flowers.write_kinds(tmp_path)
    found = images.search(str(tmp_path), lambda path, is_directory: "")
    assert found.images == [
        "IMG_0002.jpg", "camera.jpg", "from_browser.jfif", "new.avif", "png_named.JPG", "scan.jp2",
        "x.jpe",
    ]  # fmt: skip
    assert found.left_out == {images.OTHER_KIND: ["IMG_0001.HEIC"]}
    with pytest.raises(images.UnreadableImage, match=r"IMG_0002\.jpg: is HEIC.* convert it to"):
        images.read(str(tmp_path / "IMG_0002.jpg"))
    with pytest.raises(images.UnreadableImage, match=r"a: is HEIC"):
        images.read(flowers.HEIC, "a")
    with pytest.raises(images.UnreadableImage, match=r"pip install 'layered-segmentation\[heic\]'"):
        images.read(flowers.HEIC, "a")
    expected = flowers.flower(200, 150)[0]
    for name in found.images[1:]:
        assert closest(images.read(str(tmp_path / name)), expected) < 8


def test_hidden_images_are_counted_and_what_macos_keeps_is_not(tmp_path):
    for name in (".a.jpg", "._a.jpg", ".DS_Store", "a.jpg", "b.txt", ".cache/c.jpg", "run/d.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    found = images.search(str(tmp_path), lambda path, is_directory: "a run" * is_directory)
    assert found == (["a.jpg"], {"hidden": [".a.jpg"], "of another kind": ["b.txt"],
                                 "a run": ["run"]})  # fmt: skip


def test_programs_are_not_run(tmp_path):
    """EPS is a program, which Pillow would hand to Ghostscript."""
    Image.new("RGB", (20, 10), (9, 9, 9)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(images.UnreadableImage, match=r"a\.jpg: cannot be read"):
        images.read(str(tmp_path / "a.jpg"))
    assert ".eps" not in images.EXTENSIONS and ".ps" not in images.EXTENSIONS


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [9_500, 13_300, 30_000])
def test_a_small_file_of_many_pixels_is_not_decoded(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_zeros(side, 4))  # its pixels are not even there
    tracemalloc.start()
    for read in (images.header, images.read, masks.read):
        with pytest.raises(images.UnreadableImage, match=r"bomb\.png: has .* pixels, more than the "
                           r"89,478,485 that are read.*raise --max_pixels"):  # fmt: skip
            read(str(path))
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Image size")
def test_the_bound_of_pixels_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.new("L", (100, 50)).save(tmp_path / "a.png")
    images.allow_pixels(5_000)
    assert images.read(str(tmp_path / "a.png")).shape == (50, 100, 3)
    images.allow_pixels(4_999)
    with pytest.raises(images.UnreadableImage, match=r"has 100 × 50 pixels, more than the 4,999"):
        images.read(str(tmp_path / "a.png"))


def test_results_are_known_by_their_mark(tmp_path, picture):
    for kind, image in (("L", picture[..., 0]), ("RGB", picture)):
        images.write(str(tmp_path / f"{kind}.png"), image, mark=True)
        images.write(str(tmp_path / f"{kind}_plain.png"), image)
        assert images.has_mark(str(tmp_path / f"{kind}.png"))
        assert not images.has_mark(str(tmp_path / f"{kind}_plain.png"))
        assert np.array_equal(Image.open(tmp_path / f"{kind}.png"), image)
    assert not images.has_mark(str(tmp_path / "none.png"))
    (tmp_path / "empty.png").write_bytes(b"")
    assert not images.has_mark(str(tmp_path / "empty.png"))


def png_of_zeros(side, rows):
    """A grey PNG that says it is a square, and holds a few of its rows."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((side + 1) * rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )  # fmt: skip


def test_values_are_read_as_stored():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(images.read_values(images.encode_png(labels), ""), labels)
    palette = Image.fromarray(labels % 2).convert("P")
    palette.putpalette([0, 0, 0, 90, 90, 90])
    file = io.BytesIO()
    palette.save(file, format="PNG")
    assert np.array_equal(images.read_values(file.getvalue(), ""), labels % 2)
    luminance = images.read_values(file.getvalue(), "", luminance=True)
    assert np.array_equal(luminance, labels % 2 * 90)
    colours = np.repeat(labels[..., None], 3, axis=2)
    assert np.array_equal(images.read_values(images.encode_png(colours), ""), labels)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = str(tmp_path / "mask.png")
    images.write(path, np.full((4, 4), 7, np.uint8))
    with pytest.raises(TypeError):
        images.write(path, np.zeros((4, 4, 3), np.complex64))
    assert np.all(np.asarray(Image.open(path)) == 7)
    assert os.listdir(tmp_path) == ["mask.png"]


def test_aspects():
    # Left third red, middle green, right blue; three times as wide as tall.
    stripes = np.zeros((20, 60, 3), np.uint8)
    for index in range(3):
        stripes[:, 20 * index : 20 * index + 20, index] = 255
    image = Image.fromarray(stripes)

    squashed = images.to_square(image, 12, "squash")
    assert np.array_equal(squashed[6, [1, 6, 10]], np.eye(3) * 255)
    assert np.array_equal(squashed[0, [1, 6, 10]], np.eye(3) * 255)

    cropped = images.to_square(image, 12, "centre_crop")
    assert np.all(cropped[:, 2:-2] == (0, 255, 0))

    padded = images.to_square(image, 12, "pad")
    assert np.array_equal(padded[6, [1, 6, 10]], np.eye(3) * 255)
    assert np.array_equal(padded[0], padded[4])  # the first row, continued
    for array in (squashed, cropped, padded):
        assert array.shape == (12, 12, 3) and array.dtype == np.uint8


def test_pad_keeps_a_tall_photo_upright():
    image = Image.fromarray(
        np.repeat(np.arange(60, dtype=np.uint8)[:, None, None], 20, 1).repeat(3, 2)
    )
    padded = images.to_square(image, 30, "pad")
    assert padded.shape == (30, 30, 3)
    assert np.all(np.diff(padded[:, 15, 0].astype(int)) >= 1)
    assert np.array_equal(padded[:, 0], padded[:, 29])


def test_avif_that_this_pillow_lacks_is_named(monkeypatch):
    broken = b"\0\0\0\x1cftypavif" + bytes(20)
    with pytest.raises(images.UnreadableImage, match=r"a: cannot be read as an image"):
        images.read(broken, "a")
    monkeypatch.setattr(images.features, "check", lambda name: name != "avif")
    with pytest.raises(images.UnreadableImage, match=r"a: is AVIF, .* 'pillow>=11\.3'"):
        images.read(broken, "a")


def test_heic_is_read_with_the_plug_in(tmp_path):
    plug_in = pytest.importorskip("pillow_heif", reason="pip install '.[heic]'")
    picture = flowers.flower(64, 48)[0]
    path = tmp_path / "photo.HEIC"
    plug_in.from_pillow(Image.fromarray(picture)).save(path, quality=95)
    assert images.search(str(tmp_path), lambda path, is_directory: "").images == ["photo.HEIC"]
    assert np.abs(images.read(str(path)).astype(int) - picture).mean() < 8
    assert images.header(str(path)).format == "HEIF"
