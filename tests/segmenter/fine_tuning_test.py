"""Masks and photos as Keras users have them: in `fit` and in `predict`."""

import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import random_student

from layered_segmentation.errors import UserError
from layered_segmentation.images import to_square
from layered_segmentation.segmenter import presets


def photos(*sizes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in sizes]


@pytest.mark.parametrize("aspect", ["squash", "pad"])
def test_masks_of_the_photos_size_become_the_networks(aspect):
    preprocessor = random_student().preprocessor
    preprocessor.image_converter.aspect = aspect
    image = photos((40, 20))[0]
    inside = np.zeros((40, 20), bool)
    inside[8:32, 5:15] = True
    square = inside.astype(np.float32)
    if aspect == "pad":
        square = np.pad(square, ((0, 0), (10, 10)))
    expected = to_square(square, 16)
    for mask in (
        inside.astype(np.float32),
        inside,
        inside.astype(np.uint8),
        255 * inside.astype(np.uint8),
    ):
        for shaped in (mask, mask[..., None]):
            _, target = preprocessor(image[None], shaped[None])
            assert target.shape == (1, 16, 16, 1)
            np.testing.assert_allclose(np.asarray(target)[0, ..., 0], expected, atol=1e-5)
    own = np.random.default_rng(0).random((1, 16, 16, 1))
    np.testing.assert_array_equal(np.asarray(preprocessor(image[None], own)[1]), own)


def test_it_can_be_fine_tuned_on_masks_of_the_photos_size(eagerly):
    segmenter = random_student()
    images = np.stack(photos(*[(30, 20)] * 8))
    masks = np.zeros((8, 30, 20), np.uint8)
    masks[:, 10:25, 5:15] = 255
    segmenter.compile(optimizer=keras.optimizers.Adam(1e-2))
    losses = segmenter.fit(images, masks, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    with pytest.raises(UserError, match=r"from 0 to 0.12.*np\.rint\(255 \* image\)"):
        segmenter.fit(np.linspace(0, 1, 8 * 30 * 20 * 3).reshape(8, 30, 20, 3), masks)


@pytest.mark.slow
def test_the_guide_to_fine_tuning_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    guide = os.path.join(os.path.dirname(__file__), "../../docs/how-to/fine-tuning.md")
    with open(guide, encoding="utf-8") as file:
        (code,) = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    images = np.stack(photos(*[(96, 80)] * 8))
    masks = (images[..., 0] > 128).astype(np.float32)
    exec(code.replace("epochs=10", "epochs=2"), {"photos": images, "masks": masks})
    assert presets.load("flowers_fine_tuned").predict(images).shape == (8, 96, 80, 1)
    assert os.path.exists("flowers_fine_tuned/segmenter.tflite")


def test_one_photo_is_one_photo_whatever_holds_it():
    segmenter = random_student()
    image = photos((20, 30))[0]
    (expected,) = segmenter.predict_masks([image])
    for one in (image, tf.constant(image), image.tolist()):
        if isinstance(one, list):
            with pytest.raises(UserError, match="int64"):
                segmenter.predict_masks(one)
            continue
        mask = segmenter.predict_masks(one)
        assert mask.shape == (20, 30)
        np.testing.assert_allclose(mask, expected, atol=1e-6)


def test_predict_gives_masks_of_the_photos_size_for_everything():
    segmenter = random_student()
    images = np.stack(photos(*[(20, 30)] * 5))
    expected = np.stack(segmenter.predict_masks(list(images)))[..., None]
    dataset = tf.data.Dataset.from_tensor_slices((images, images[..., :1]))

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return images[2 * index : 2 * index + 2]

    for given in (
        images,
        tf.constant(images),
        dataset.batch(2),
        dataset,
        dataset.map(lambda image, _: image).batch(2),
        Batches(),
        iter([images[:3], images[3:]]),
    ):
        masks = segmenter.predict(given)
        assert isinstance(masks, np.ndarray)
        np.testing.assert_allclose(masks, expected, atol=1e-6)
    assert segmenter.predict(dataset.batch(2), steps=2).shape == (4, 20, 30, 1)
    assert segmenter.predict(images[0]).shape == (20, 30, 1)
    several = segmenter.predict(list(photos((8, 9), (9, 8))))
    assert [mask.shape for mask in several] == [(8, 9, 1), (9, 8, 1)]
