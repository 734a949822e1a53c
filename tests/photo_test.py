import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from layered_segmentation import images, photo
from layered_segmentation.photo import Photo

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(channels, side=12):
    return np.random.default_rng(0).integers(0, 256, (side, side + 4, channels), np.uint8)


def test_an_opaque_photo_is_its_pixels():
    pixels = noise(3)
    read = photo.read(saved(Image.fromarray(pixels)))
    np.testing.assert_array_equal(read.image, pixels)
    np.testing.assert_array_equal(read.colours, pixels)
    assert read.alpha is None and read.profile == b"" and read.dpi is None
    full = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    assert photo.read(saved(Image.fromarray(full))).alpha is None


def test_transparent_parts_are_white_for_the_segmenter_and_keep_their_colours():
    pixels = noise(4)
    read = photo.read(saved(Image.fromarray(pixels)))
    np.testing.assert_array_equal(read.alpha, pixels[..., 3])
    np.testing.assert_array_equal(read.colours, pixels[..., :3])
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(read.image, alpha * pixels[..., :3] + (1 - alpha) * 255, atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_profile_is_kept_where_it_is_of_rgb(kind):
    assert (
        photo.read(saved(Image.fromarray(noise(3)), kind, icc_profile=PROFILE)).profile == PROFILE
    )
    grey = bytearray(PROFILE)
    grey[16:20] = b"GRAY"
    other = saved(Image.fromarray(noise(3)), kind, icc_profile=bytes(grey))
    assert photo.read(other).profile == b""


def test_the_resolution_turns_with_the_photo():
    image = Image.fromarray(noise(3))
    exif = image.getexif()
    exif[images.ORIENTATION] = 6
    read = photo.read(saved(image, "JPEG", dpi=(300, 150), exif=exif))
    assert read.image.shape == (16, 12, 3) and read.dpi == (150, 300)
    assert photo.read(saved(image, "JPEG", dpi=(300, 150))).dpi == (300, 150)


@pytest.mark.parametrize("kind", photo.FORMATS)
@pytest.mark.parametrize("channels", [3, 4])
def test_results_keep_profile_and_resolution_and_are_marked(tmp_path, kind, channels):
    pixels = noise(channels)
    source = Photo(pixels[..., :3], pixels[..., :3], None, PROFILE, (300, 200))
    path = tmp_path / f"result.{kind}"
    path.write_bytes(photo.encode(pixels, source, kind))
    with Image.open(path) as file:
        assert file.info["icc_profile"] == PROFILE
        if kind == "png":
            np.testing.assert_array_equal(np.asarray(file), pixels)
            assert np.allclose(file.info["dpi"], (300, 200), atol=0.02)
        else:
            exif = file.getexif()
            assert (exif[0x011A], exif[0x011B], exif[0x0128]) == (300, 200, 2)
            if channels == 4:
                np.testing.assert_array_equal(np.asarray(file)[..., 3], pixels[..., 3])
    assert photo.is_result(str(path))
    plain = tmp_path / f"plain.{kind}"
    Image.fromarray(pixels).save(plain, icc_profile=PROFILE)
    assert not photo.is_result(str(plain))
    assert not photo.is_result(str(tmp_path / f"none.{kind}"))


def test_a_mask_has_the_resolution_but_no_profile():
    source = Photo(noise(3), noise(3), None, PROFILE, (72, 72))
    with Image.open(io.BytesIO(photo.encode(noise(3)[..., 0], source))) as file:
        assert file.mode == "L" and "icc_profile" not in file.info
        assert np.allclose(file.info["dpi"], 72, atol=0.02)
