"""A GAN of several foreground layers; that one layer is as before, other tests assert."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_runs

from layered_segmentation import LayeredGAN, LayeredGenerator, sheets
from layered_segmentation.evaluation import generated
from layered_segmentation.gan import composite
from layered_segmentation.gan.draws import Purpose, generator_draws

SIZES = {"latent_dim": 8, "mapping_layers": 1, "max_channels": 4, "mask_size": 0.1}


def create(**changes):
    gan = LayeredGAN(8, **{**SIZES, "layers": 2, "shift": 0.25, **changes})
    gan.compile()
    return gan


def photos(count=12):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


def draws_of(gan, batch=4):
    return gan._draws(tf.constant(0, tf.int64), Purpose.GENERATOR, batch)


def test_layers_have_the_channels_of_their_number():
    layers = create().generate(3)
    assert [part.shape for part in layers] == [(3, 8, 8, 3), (3, 8, 8, 6), (3, 8, 8, 2)]
    assert 0 <= layers.mask.min() < layers.mask.max() <= 1
    assert np.abs(layers.mask[..., 0] - layers.mask[..., 1]).max() > 0.01


def test_each_layer_has_its_own_networks_and_noise():
    one, two = (LayeredGenerator("two_generators", 8, 8, 1, 4, foreground_layers=k) for k in (1, 2))
    for networks in ("mappings", "syntheses"):
        background, first, second = getattr(two, networks)
        shapes = [[v.shape for v in network.variables] for network in getattr(one, networks)]
        assert [[v.shape for v in network.variables] for network in (background, first)] == shapes
        assert [v.shape for v in second.variables] == shapes[1]
    assert (two.noise_images, two.codes_shape) == (3, (3, 2, 2, 8))
    draws = generator_draws(0, 0, Purpose.SAMPLE, 2, 8, 8, 0.0, two.noise_images)
    for network in two.syntheses:
        for block in network.blocks:
            for noise in block.noises:
                noise.strength.assign(noise.strength + 0.5)
    layers = two(draws.latents, noise=draws.noise)
    other = two(draws.latents, noise=[noise * [1.0, 1.0, -1.0] for noise in draws.noise])
    changed = [np.abs(a - b).max() > 1e-3 for a, b in zip(layers, other, strict=True)]
    assert changed == [False, True, True]
    np.testing.assert_array_equal(layers.mask[..., 0], other.mask[..., 0])
    for variant in ("one_generator", "shared_mapping", "single_output"):
        with pytest.raises(ValueError, match=f"foreground_layers=2.*{variant}"):
            LayeredGenerator(variant, 8, 8, 1, 4, foreground_layers=2)


@pytest.mark.slow
@pytest.mark.parametrize("on", ["unshifted", "shifted"])
def test_each_mask_has_its_own_shift_and_size_loss(on, eagerly):
    gan = create(mask_size=0.3, mask_size_most=0.4, mask_losses_on=on)
    # The first mask is too small, the second too large; their mean is neither.
    for synthesis, logit in zip(gan.generator.syntheses[1:], (-3, 3), strict=True):
        synthesis.to_image[1].bias.assign([0, 0, 0, logit])
    draws = draws_of(gan)
    latents, noise, crossover = draws.generator
    layers = gan.generator(latents, noise=noise, crossover=crossover, resolution=8)
    moved = composite.perturb(layers, draws.shifts)
    image, masks = gan.composite(draws, 1.0)
    np.testing.assert_allclose(image, composite.compose(moved), atol=1e-6)
    expected = np.array((moved if on == "shifted" else layers).mask)
    np.testing.assert_allclose(masks, expected, atol=1e-6)
    coverage = expected.mean(axis=(1, 2))
    size = np.mean(np.maximum(0, 0.3 - coverage) + np.maximum(0, coverage - 0.4), axis=0).sum()
    assert size > 0.3
    binary = np.mean(np.minimum(expected, 1 - expected), axis=(0, 1, 2)).sum()
    logs = gan.generator_step(draws, 1.0)
    score = np.mean(LayeredGAN(8, **SIZES).discriminator(image))
    assert float(logs["g_loss"]) == pytest.approx(2 * size + 2 * binary - score, rel=1e-3)
    assert float(logs["binarisation"]) == pytest.approx(binary, rel=1e-4)
    assert float(logs["coverage"]) == pytest.approx(expected.mean(), rel=1e-5)
    for k in (0, 1):
        assert float(logs[f"coverage_{k + 1}"]) == pytest.approx(coverage[:, k].mean(), rel=1e-5)


def test_gradients_of_the_score_reach_every_layer_and_mask():
    gan = create(mask_size_weight=0.0, mask_binary_weight=0.0)
    heads = [synthesis.to_image[1].kernel.value for synthesis in gan.generator.syntheses]
    with tf.GradientTape() as tape:
        loss, _ = gan._generator_loss(draws_of(gan), 1.0)
    gradients = [np.abs(one).sum(axis=(0, 1, 2)) for one in tape.gradient(loss, heads)]
    assert [len(one) for one in gradients] == [3, 4, 4]
    assert min(one.min() for one in gradients) > 1e-6


@pytest.mark.slow
def test_a_saved_gan_goes_on_as_if_it_had_not_been_saved(tmp_path, eagerly):
    gan, uninterrupted = create(), create()
    gan.fit(photos(), batch_size=8, verbose=0, shuffle=False)
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert loaded.get_config() == gan.get_config() and loaded.get_config()["layers"] == 2
    loaded.fit(photos(), batch_size=8, verbose=0, shuffle=False)
    uninterrupted.fit(photos(), batch_size=8, epochs=2, verbose=0, shuffle=False)
    for here, there in zip(loaded.generate(2), uninterrupted.generate(2), strict=True):
        np.testing.assert_array_equal(here, there)


def test_a_scene_has_the_union_of_its_masks():
    generator = tiny_runs.generator(foreground_layers=2)
    scenes = generated.GeneratedScenes(generator, seed=3)
    layers = scenes.layers(2)
    for index, scene in enumerate(scenes.first(2)):
        expected = 1 - np.prod(1 - layers.mask[index], axis=-1)
        np.testing.assert_allclose(scene.mask, expected, atol=1e-6)
        image = sheets.to_uint8(composite.compose(layers))[index]
        np.testing.assert_array_equal(scene.image, image)
