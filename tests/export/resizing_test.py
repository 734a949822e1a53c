"""The resize of `images`: what each way to a segmenter's input makes of the same photo."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from layered_segmentation import images
from layered_segmentation.data.folder import Folder
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.evaluation.scoring import iou
from layered_segmentation.export import signatures, tflite
from layered_segmentation.segmenter import distill, presets, self_training
from layered_segmentation.segmenter.segmenter import create_segmenter

SIDE = 16
FLOWERS = "layered_unet_flowers_64"


def detailed(height, width):
    """Noise, a zone plate and edges: nothing is harder to resize."""
    y, x = np.indices((height, width))
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = np.random.default_rng(0).integers(0, 256, (height, width))
    photo[..., 1] = 127.5 + 127.5 * np.cos((x**2 + y**2) / (width + height))
    photo[..., 2] = 255 * ((x // 5 + y // 7) % 2)
    return photo


def triangle(photo, side):
    """The contract in float64: a mean along each axis, by triangles as wide as a pixel shrinks."""

    def weights(source):
        scale = source / side
        centres = (np.arange(side) + 0.5) * scale
        distances = np.abs(np.arange(source) + 0.5 - centres[:, None]) / max(scale, 1)
        weights = np.maximum(1 - distances, 0)
        return weights / weights.sum(axis=1, keepdims=True)

    height, width = photo.shape[:2]
    return np.einsum("ah,hwc,bw->abc", weights(height), photo.astype(float), weights(width))


@pytest.fixture(params=[(97, 140), (64, 32), (16, 16), (11, 30)], ids=str)
def photo(request):
    return detailed(*request.param)


@pytest.fixture(scope="module")
def segmenter():
    return create_segmenter(8, SIDE)


def levels(prepared):
    return (np.asarray(prepared) + 1) * 127.5


def test_in_float_all_are_the_same(photo, segmenter):
    expected = triangle(photo, SIDE)
    batch = photo[None].astype(np.float32)
    for squares in (
        levels(segmenter.preprocessor(photo[None])),
        levels(segmenter.prepare(photo[None])),
        tf.image.resize(batch, (SIDE, SIDE), antialias=True),
        signatures.resize(tf.constant(batch), SIDE, SIDE),
        distill._resize(tf.constant(batch), SIDE),
    ):
        np.testing.assert_allclose(np.asarray(squares)[0], expected, atol=1e-3)
    np.testing.assert_allclose(
        images.to_square(batch[0, ..., 0], SIDE), expected[..., 0], atol=1e-3
    )


def test_in_bytes_all_are_the_same_within_a_level(photo, segmenter, tmp_path, monkeypatch):
    expected = triangle(photo, SIDE)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    (sample,) = tflite.representative_samples(str(tmp_path), SIDE)
    square = images.to_square(photo, SIDE)
    assert np.abs(square - expected).max() < 1
    (loaded,) = Folder(str(tmp_path), crop_margin=2).load(SIDE)
    for other in (sample, loaded):
        assert np.array_equal(other, square)
    seen = []
    monkeypatch.setattr(
        self_training,
        "probabilities",
        lambda _, photos: seen.append(photos) or np.full(photos.shape[:3], 0.7, np.float32),
    )
    self_training.refined_pairs(segmenter, photo[None], "none")
    assert np.array_equal(seen[0][0], square)


def test_rounded_squares_give_the_packaged_student_the_same_masks():
    student = presets.load(FLOWERS)
    photos = Scenes(0, 12, "test").load(150)
    squares = np.stack([images.to_square(photo, 64) for photo in photos])
    exact = self_training.probabilities(student, levels(student.preprocessor(photos)))
    rounded = self_training.probabilities(student, squares)
    assert np.abs(rounded - exact).mean() < 1e-3
    assert iou(rounded >= 0.5, exact >= 0.5) > 0.99
    # Another filter does not.
    bicubic = [images.to_square(photo, 64, filter=images.BICUBIC) for photo in photos]
    other = self_training.probabilities(student, np.stack(bicubic))
    assert np.abs(other - exact).mean() > 5 * np.abs(rounded - exact).mean()
