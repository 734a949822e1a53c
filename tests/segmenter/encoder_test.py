import os

import keras
import keras_hub
import numpy as np
import pytest

from layered_segmentation.errors import UserError
from layered_segmentation.export import compare, saved_model, tflite
from layered_segmentation.gan.composite import compose
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.images import write
from layered_segmentation.segmenter import encoder as encoders
from layered_segmentation.segmenter import presets
from layered_segmentation.segmenter.encoder import Encoder, EncoderGeneratorBackbone
from layered_segmentation.segmenter.segmenter import (
    EncoderSegmenter,
    LayeredSegmenter,
    create_encoder_segmenter,
)

RESNET_18 = encoders._BLOCKS


pytestmark = pytest.mark.usefixtures("shallow_resnet")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def photos(*sizes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in sizes]


def randomised():
    """An encoder segmenter whose weights, norms included, differ from those it starts with.

    Its photos are smaller than what the encoder works at, so that exports hold the resize too.
    """
    keras.utils.set_random_seed(7)
    generator = LayeredGenerator("two_generators", 8, 8, mapping_layers=1, max_channels=8)
    head = generator.syntheses[-1].to_image[-1]
    head.kernel.assign(0.1 * head.kernel)  # untrained codes are large: keep masks off 0 and 1
    backbone = EncoderGeneratorBackbone.around(
        generator, encoder_resolution=16, encoder_channels=64
    )
    for index, weight in enumerate(backbone.encoder.weights):
        noise = np.random.default_rng(index).uniform(0.5, 1.5, weight.shape)
        weight.assign(np.asarray(weight) * noise + 0.01 * noise)
    return create_encoder_segmenter(backbone)


@pytest.fixture(scope="module")
def segmenter(shallow_resnet):
    return randomised()


def test_the_papers_encoder_is_a_resnet_18_and_one_dense_layer(monkeypatch):
    monkeypatch.setattr(encoders, "_BLOCKS", RESNET_18)
    encoder = Encoder()
    resnet = sum(int(np.prod(v.shape)) for v in encoder.resnet.trainable_variables)
    # torchvision counts 11,689,512 with the 512 × 1000 classifier and its bias.
    assert resnet == 11_689_512 - 513_000
    # 2 × 2 × 512 features, not pooled, to 5 scales × 2 codes × 2 generators of 512.
    assert encoder.dense.kernel.shape == (2048, 20 * 512)
    assert encoder.codes_shape == (2, 5, 2, 512)


@pytest.mark.parametrize("side", [8, 16, 24, 32])
def test_photos_of_other_sides_are_resized(side):
    encoder = Encoder((2, 2, 2, 4), input_resolution=16, max_channels=64)
    codes = np.array(encoder(normal(3, side, side, 3)))
    assert codes.shape == (3, 2, 2, 2, 4) and codes.std() > 0
    if side == 32:
        images = normal(3, 32, 32, 3)
        halved = images.reshape(3, 16, 2, 16, 2, 3).mean((2, 4))
        np.testing.assert_allclose(encoder(images), encoder(halved), atol=1e-4)


def test_the_codes_depend_on_the_position_of_the_object():
    encoder = Encoder((1, 1, 2, 8), input_resolution=64, max_channels=64)
    image = np.zeros((1, 64, 64, 3), np.float32)
    image[:, 8:24, 8:24] = 1
    there = np.roll(image, 32, axis=2)
    assert np.abs(np.array(encoder(image) - encoder(there))).max() > 1e-3


def test_a_generator_without_masks_is_refused():
    generator = LayeredGenerator("single_output", 8, 8, mapping_layers=1, max_channels=8)
    with pytest.raises(ValueError, match="single_output"):
        EncoderGeneratorBackbone.around(generator, 8, 64)


def test_the_generator_is_a_frozen_copy():
    generator = LayeredGenerator("one_generator", 8, 8, mapping_layers=1, max_channels=8)
    backbone = EncoderGeneratorBackbone.around(generator, 0, 64)
    assert backbone.encoder.input_resolution == 8  # 0 is the generator's
    assert backbone.encoder.codes_shape == (1, 2, 2, 8)
    trained = {id(v) for v in backbone.trainable_variables}
    assert trained == {id(v) for v in backbone.encoder.trainable_variables}
    images = normal(2, 8, 8, 3)
    codes = backbone.encoder(images)
    for actual, expected in zip(backbone.draw(images), generator.from_codes(codes), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(10, 37), (8, 8), (64, 48)])
def test_masks_have_the_photos_own_size(segmenter, size):
    (mask,) = segmenter.predict_masks(photos(size))
    assert mask.shape == size and mask.dtype == np.float32
    assert 0 <= mask.min() < mask.max() <= 1


def test_masks_are_those_of_the_layers(segmenter):
    images = photos((8, 8), (8, 8), (8, 8))
    layers = segmenter.predict_layers(images)
    assert [layer.shape for layer in layers] == [(3, 8, 8, 3), (3, 8, 8, 3), (3, 8, 8, 1)]
    masks = segmenter.predict_masks(images)
    for mask, expected, image in zip(masks, layers.mask, images, strict=True):
        np.testing.assert_allclose(mask, expected[..., 0], atol=1e-5)
        np.testing.assert_allclose(segmenter.masks(image[None])[0, ..., 0], mask, atol=1e-5)
    np.testing.assert_allclose(segmenter.reconstruct(images), compose(layers), atol=1e-5)
    assert np.abs(layers.background - layers.foreground).max() > 0.01


def test_a_preset_round_trips_through_kerashub(segmenter, eagerly, tmp_path):
    preset = str(tmp_path / "preset")
    presets.save(segmenter, preset)
    images = photos((20, 30), (16, 16))
    for back in (keras_hub.models.ImageSegmenter.from_preset(preset), presets.load(preset)):
        assert type(back) is EncoderSegmenter and isinstance(back, LayeredSegmenter)
        assert back.backbone.get_config() == segmenter.backbone.get_config()
        for actual, expected in zip(
            segmenter.predict_masks(images), back.predict_masks(images), strict=True
        ):
            np.testing.assert_array_equal(actual, expected)
        assert not back.backbone.generator.trainable_variables
    loaded = keras_hub.models.ImageSegmenterPreprocessor.from_preset(preset)
    np.testing.assert_allclose(
        loaded(images[0][None]), segmenter.prepare(images[0][None]), atol=1e-6
    )


def test_a_keras_file_round_trips(segmenter, eagerly, tmp_path):
    segmenter.save(tmp_path / "segmenter.keras")
    back = keras.models.load_model(tmp_path / "segmenter.keras", compile=False)
    image = photos((20, 30))
    np.testing.assert_array_equal(segmenter.predict_masks(image), back.predict_masks(image))


@pytest.mark.slow
def test_the_exports_compute_what_keras_does(segmenter, tmp_path):
    (tmp_path / "photos").mkdir()
    images = str(tmp_path / "photos")
    write(os.path.join(images, "photo.png"), photos((23, 16))[0])
    model = saved_model.export_saved_model(segmenter, str(tmp_path / "models"), images)
    assert model.difference <= compare.TOLERANCE and os.path.isdir(model.path)
    path = str(tmp_path / "segmenter.tflite")
    with pytest.raises(UserError, match="takes 8 px only"):
        tflite.export_tflite(segmenter, path, input_size=32)
    lite = tflite.export_tflite(segmenter, path, images=images)
    assert lite.difference <= compare.TOLERANCE and "CONV_2D" in lite.operators
