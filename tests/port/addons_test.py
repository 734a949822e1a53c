"""What stands in for TensorFlow Addons, against numbers that it gave (see `data/README.md`)."""

import os

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from layered_segmentation.gan.composite import shift
from layered_segmentation.gan.layers import AdaIN


@pytest.fixture(scope="module")
def golden():
    path = os.path.join(os.path.dirname(__file__), "..", "data", "tensorflow_addons_0_23.npz")
    return np.load(path)


def test_shift_is_image_translate(golden):
    moved = shift(golden["translate/x"], golden["translate/dx_dy"])
    np.testing.assert_array_equal(to_numpy(moved), golden["translate/y"])


def test_adain_normalises_as_instance_normalization(golden):
    images = golden["instance_norm/x"]
    adain = AdaIN(images.shape[-1])
    adain.build(images.shape, style_dim=3)
    # A style of zeros leaves the bias, which is at first scale 1 and offset 0.
    normalised = adain(images, np.zeros((len(images), 3), np.float32))
    np.testing.assert_allclose(to_numpy(normalised), golden["instance_norm/y"], atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="training needs TensorFlow")
def test_the_generators_average_is_moving_average(golden):
    from layered_segmentation import config as configs
    from layered_segmentation.gan.layered_gan import LayeredGAN

    weights = golden["moving_average/w0"]
    config = configs.Config()
    config.gan.resolution, config.gan.latent_dim, config.gan.mapping_layers = 8, weights.size, 1
    config.gan.max_channels = 1
    config.gan.average_decay = float(golden["moving_average/decay"])
    gan = LayeredGAN.from_run_config(config)
    variable = gan.generator.mappings[0].dense[0].bias
    average = gan.average.mappings[0].dense[0].bias
    variable.assign(weights.ravel())
    average.assign(weights.ravel())
    for gradients in golden["moving_average/grads"]:
        step = float(golden["moving_average/learning_rate"]) * gradients.ravel()
        variable.assign_sub(step)
        gan.update_average()
    np.testing.assert_allclose(
        to_numpy(variable), golden["moving_average/w5"].ravel(), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        to_numpy(average), golden["moving_average/average"].ravel(), rtol=1e-6, atol=1e-7
    )
