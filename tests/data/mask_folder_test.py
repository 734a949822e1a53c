import numpy as np
import pytest
from PIL import Image

from layered_segmentation.data.mask_folder import MaskFolder
from layered_segmentation.errors import UserError

HALF = np.arange(12).reshape(3, 4) < 6


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png", "c.mask.png"):
        Image.fromarray(np.uint8(HALF) * 255).save(tmp_path / name)
    Image.new("RGBA", (4, 3)).save(tmp_path / "c.cutout.png")
    return tmp_path


@pytest.mark.parametrize("name", ["a.jpg", "a", "sub/b.jpeg", "elsewhere/b.jpg", "c.jpg"])
def test_masks_go_by_the_photos_names(directory, name):
    masks = MaskFolder(str(directory), "--predictions")
    masks.require([name])
    assert np.array_equal(masks.read(name), HALF)


def test_what_is_missing_is_named(directory):
    masks = MaskFolder(str(directory), "--predictions")
    with pytest.raises(UserError) as error:
        masks.require(["a.jpg", "x.jpg", "y.jpg"])
    for words in (f"--predictions={directory}", "2 of 3 photos", "x.jpg, y.jpg", "mask of 0"):
        assert words in str(error.value)
    with pytest.raises(UserError, match=r"x\.jpg"):
        masks.read("x.jpg")
    with pytest.raises(UserError, match=r"--detector=nowhere"):
        MaskFolder("nowhere", "--detector")
