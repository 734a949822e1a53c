import io
import os

import numpy as np
import pytest
from PIL import Image

from layered_segmentation import images
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


def test_find_has_a_fixed_order_and_finds_photos_only(tmp_path):
    for file in ("b/2.jpg", "a.png", "b/10.JPEG", "b/masks/2.png", "B.webp", "notes.txt",
                 ".hidden/x.jpg", "b/._2.jpg", "b-1.jpg"):  # fmt: skip
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "b" / "up").symlink_to(tmp_path)  # a loop
    expected = ["B.webp", "a.png", "b/10.JPEG", "b/2.jpg", "b-1.jpg"]
    assert images.find(str(tmp_path), excluded=["masks"]) == expected
    assert "b/masks/2.png" in images.find(str(tmp_path))


MASK = np.zeros((6, 8), bool)
MASK[2:5, 1:7] = True


@pytest.mark.parametrize(
    "values",
    [
        MASK,  # one bit
        MASK.astype(np.uint8),  # 0 and 1
        MASK.astype(np.uint8) * 255,
        np.where(MASK, 128, 127).astype(np.uint8),
        MASK.astype(np.uint16) * 65535,
        np.where(MASK, 40000, 20000).astype(np.uint16),
        MASK.astype(np.int32) * 255,
    ],
)
def test_masks_of_any_depth(tmp_path, values):
    path = str(tmp_path / ("mask.tiff" if values.dtype == np.int32 else "mask.png"))
    Image.fromarray(values).save(path)
    mask = images.read_mask(path)
    assert mask.dtype == bool and np.array_equal(mask, MASK)


@pytest.mark.parametrize("palette", [[0, 0, 0, 128, 0, 0], [0, 0, 0, 255, 255, 255]])
def test_masks_with_a_palette(tmp_path, palette):
    image = Image.fromarray(MASK.astype(np.uint8)).convert("P")
    image.putpalette(palette)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(images.read_mask(str(tmp_path / "mask.png")), MASK)


def test_a_palette_in_the_reverse_order(tmp_path):
    image = Image.fromarray((~MASK).astype(np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "mask.png")
    assert np.array_equal(images.read_mask(str(tmp_path / "mask.png")), MASK)


def test_masks_as_colours_and_in_alpha(tmp_path):
    colours = np.repeat(MASK[..., None] * np.uint8(255), 3, axis=2)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    assert np.array_equal(images.read_mask(str(tmp_path / "rgb.png")), MASK)
    white_on_nothing = np.dstack([np.full((6, 8, 3), 255, np.uint8), MASK * np.uint8(255)])
    Image.fromarray(white_on_nothing).save(tmp_path / "alpha.png")
    assert np.array_equal(images.read_mask(str(tmp_path / "alpha.png")), MASK)


def test_empty_and_full_masks(tmp_path):
    for value, expected in ((0, False), (255, True), (1, True)):
        Image.new("L", (5, 4), value).save(tmp_path / "mask.png")
        assert np.all(images.read_mask(str(tmp_path / "mask.png")) == expected)


def test_a_label_map_is_not_a_mask(tmp_path):
    Image.fromarray((MASK * 3).astype(np.uint8)).save(tmp_path / "labels.png")
    with pytest.raises(UserError, match=r"labels\.png.* 3;"):
        images.read_mask(str(tmp_path / "labels.png"))


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


def test_masks_round_trip(tmp_path):
    soft = np.linspace(0, 1, 24 * 40, dtype=np.float32).reshape(24, 40)
    images.write_mask(str(tmp_path / "mask.png"), soft)
    written = np.asarray(Image.open(tmp_path / "mask.png"))
    assert written.dtype == np.uint8 and np.abs(written / 255 - soft).max() < 0.002
    images.write_mask(str(tmp_path / "hard.png"), soft > 0.3)
    assert np.array_equal(images.read_mask(str(tmp_path / "hard.png")), soft > 0.3)
    assert sorted(os.listdir(tmp_path)) == ["hard.png", "mask.png"]


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
