"""Which mask the losses of eq. 3 and 4 act on."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import tiny_config

from layered_segmentation.gan import composite, losses
from layered_segmentation.gan.draws import Purpose
from layered_segmentation.gan.layered_gan import LayeredGAN


@pytest.mark.parametrize("on", ["unshifted", "shifted"])
def test_mask_losses_act_on_the_mask_that_is_set(on, eagerly):
    config = tiny_config()
    config.gan.mask_losses_on = on
    config.gan.shift = 0.5
    config.gan.mask_size = 0.99
    config.schedule.batch = {8: 4}
    gan = LayeredGAN.from_run_config(config)
    draws = gan._draws(tf.constant(0, tf.int64), Purpose.GENERATOR, 4)
    assert np.array(draws.shifts).any(axis=1).all()
    latents, noise, crossover = draws.generator
    layers = gan.generator(latents, noise=noise, crossover=crossover, resolution=8)
    shifted = composite.shift(layers.mask, draws.shifts)
    masks = {"unshifted": np.array(layers.mask), "shifted": np.array(shifted)}
    image, mask = gan.composite(draws, 1.0)
    np.testing.assert_allclose(mask, masks[on], atol=1e-6)
    # The composite itself is always shifted (eq. 2).
    moved = composite.perturb(layers, draws.shifts)
    np.testing.assert_allclose(image, composite.compose(moved), atol=1e-6)

    score = np.mean(gan.discriminator(image))
    size, binary = losses.mask_size(masks[on], 0.99), losses.mask_binary(masks[on])
    logs = gan.generator_step(draws, 1.0)
    assert float(logs["coverage"]) == pytest.approx(masks[on].mean(), rel=1e-5)
    assert float(logs["binarisation"]) == pytest.approx(float(binary), rel=1e-5)
    assert float(logs["g_loss"]) == pytest.approx(float(2 * size + 2 * binary) - score, rel=1e-4)
    assert abs(masks["shifted"].mean() - masks["unshifted"].mean()) > 0.05


def created(**settings):
    config = tiny_config()
    for name, value in settings.items():
        setattr(config.gan, name, value)
    config.schedule.batch = {8: 4}
    gan = LayeredGAN.from_run_config(config)
    draws = gan._draws(tf.constant(0, tf.int64), Purpose.GENERATOR, 4)
    latents, noise, crossover = draws.generator
    layers = gan.generator(latents, noise=noise, crossover=crossover, resolution=8)
    return gan, draws, layers


def test_swapped_scenes_have_the_background_before_theirs(eagerly):
    gan, draws, layers = created(background_swap=0.5)
    draws = draws._replace(swap=tf.constant([0.4, 0.6, 0.0, 0.5]))
    expected = np.array(layers.background)[[3, 1, 1, 3]]
    moved = composite.perturb(layers._replace(background=expected), draws.shifts)
    image, mask = gan.composite(draws, 1.0)
    np.testing.assert_allclose(image, composite.compose(moved), atol=1e-6)
    np.testing.assert_allclose(mask, layers.mask, atol=1e-6)


def test_the_perturbation_scales_where_that_is_set(eagerly):
    gan, draws, layers = created(scale=1.25)
    draws = draws._replace(scale=tf.constant([-1.0, 0.0, 0.5, 1.0]))
    factors = np.array([0.8, 1.0, 1.25**0.5, 1.25], np.float32)
    moved = composite.perturb(layers, draws.shifts, scales=factors)
    np.testing.assert_allclose(gan.composite(draws, 1.0)[0], composite.compose(moved), atol=1e-5)


def test_independence_adds_to_the_generators_loss(eagerly):
    gan, draws, layers = created(independence=3.0)
    plain, _, _ = created()
    logs, without = gan.generator_step(draws, 1.0), plain.generator_step(draws, 1.0)
    term = losses.independence(layers, roll=lambda x: tf.roll(x, 1, axis=0))
    assert float(logs["independence"]) == pytest.approx(float(term), rel=1e-4)
    assert float(logs["g_loss"] - without["g_loss"]) == pytest.approx(3 * float(term), rel=1e-3)
    assert "independence" not in without
