import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from layered_segmentation.config import GANConfig
from layered_segmentation.gan.draws import (
    Purpose,
    generator_draws,
    is_swapped,
    replica_share,
    scales,
    step_draws,
    student_draws,
)

GAN = GANConfig(latent_dim=8, mixing=0.9, shift=0.125, contrast_jitter=0.3)


def flat(draws):
    return [np.array(draw) for draw in tf.nest.flatten(draws)]


def draw(seed=0, images_seen=640, purpose=Purpose.GENERATOR, batch=512, noise_images=1, **settings):
    gan = dataclasses.replace(GAN, **settings)
    return step_draws(seed, images_seen, purpose, batch, 16, gan, noise_images)


def test_a_draw_is_a_function_of_its_arguments():
    for once, again in zip(flat(draw()), flat(draw()), strict=True):
        np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"images_seen": 704}, {"purpose": Purpose.DISCRIMINATOR}]
)
def test_another_seed_moment_or_purpose_draws_anew(change):
    for here, there in zip(flat(draw()), flat(draw(**change)), strict=True):
        assert np.mean(here == there) < 0.95  # crossovers and shifts have few values


def test_no_two_draws_of_a_step_are_alike():
    draws = draw()
    latents = np.array(draws.generator.latents)
    assert abs(np.corrcoef(latents[:, 0].ravel(), latents[:, 1].ravel())[0, 1]) < 0.1
    zeta, contrast = np.array(draws.zeta).ravel(), np.array(draws.contrast)
    assert abs(np.corrcoef(zeta, contrast)[0, 1]) < 0.2


def test_ranges_and_moments():
    draws = draw(batch=4096)
    shifts = np.array(draws.shifts)
    assert shifts.min() == -2 and shifts.max() == 2  # δ = 0.125 of 16 px, both ends included
    assert np.bincount(shifts.ravel() + 2).min() > 0.17 * shifts.size
    contrast, zeta = np.array(draws.contrast), np.array(draws.zeta)
    assert contrast.min() >= 0.7 and contrast.max() <= 1.3 and contrast.std() > 0.15
    assert zeta.shape == (4096, 1, 1, 1) and zeta.min() >= 0 and zeta.max() <= 1
    latents = np.array(draws.generator.latents)
    assert latents.shape == (4096, 2, 8)
    assert abs(latents.mean()) < 0.02 and abs(latents.std() - 1) < 0.02
    assert [noise.shape for noise in draws.generator.noise] == [
        (4096, 4, 4, 1),
        (4096, 8, 8, 1),
        (4096, 16, 16, 1),
    ]
    crossover = np.array(draws.generator.crossover)
    assert set(crossover) == {1, 2, 3}  # 3: past the last block, styles are not mixed
    assert np.mean(crossover == 3) == pytest.approx(0.1, abs=0.02)


def test_without_mixing_shift_and_jitter():
    draws = draw(mixing=0.0, shift=0.0, contrast_jitter=0.0)
    assert set(np.array(draws.generator.crossover)) == {3}
    assert not np.array(draws.shifts).any()
    np.testing.assert_array_equal(np.array(draws.contrast), 1)


def test_replicas_share_the_global_draw():
    whole = draw(batch=8)
    parts = [flat(replica_share(whole, replica, 4)) for replica in range(4)]
    for joined, draws in zip(zip(*parts, strict=True), flat(whole), strict=True):
        np.testing.assert_array_equal(np.concatenate(joined), draws)


def test_each_generator_has_its_own_noise():
    one, two = draw().generator, draw(noise_images=2).generator
    assert [noise.shape[-1] for noise in (*one.noise, *two.noise)] == [1, 1, 1, 2, 2, 2]
    for noise in two.noise:
        first, second = np.array(noise)[..., 0], np.array(noise)[..., 1]
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
    for name in ("latents", "crossover"):  # the number of noise images changes no other draw
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_generator_draws_at_eight_pixels_can_mix():
    draws = generator_draws(0, 0, Purpose.SAMPLE, 64, 8, 4, mixing=1.0)
    assert set(np.array(draws.crossover)) == {1}


def test_swaps_and_scales_have_the_probability_and_the_range_that_are_set():
    draws = draw(batch=4096)
    assert np.mean(is_swapped(draws.swap, 0.3)) == pytest.approx(0.3, abs=0.03)
    assert not np.any(is_swapped(draws.swap, 0.0)) and np.all(is_swapped(draws.swap, 1.0))
    factors = np.array(scales(draws.scale, 1.25))
    assert 0.8 <= factors.min() < 0.805 and 1.245 < factors.max() <= 1.25
    assert np.mean(factors > 1) == pytest.approx(0.5, abs=0.03)
    assert np.mean(factors > 1.25**0.5) == pytest.approx(0.25, abs=0.03)  # uniform logarithm


def test_a_students_backgrounds_are_other_scenes_with_the_probability_that_is_set():
    def places(background_swap):
        draws = student_draws(0, tf.constant(3), 512, 8, 10_000, 0.1, 0.3, 0.0, background_swap)
        return np.array(draws.scenes), np.array(draws.backgrounds)

    scenes, own = places(0.0)
    np.testing.assert_array_equal(scenes, own)
    unchanged, neighbours = places(1.0)
    np.testing.assert_array_equal(unchanged, scenes)
    np.testing.assert_array_equal(neighbours, np.roll(scenes, 1))
    assert np.mean(places(0.5)[1] != scenes) == pytest.approx(0.5, abs=0.1)


def test_each_foreground_layer_has_its_own_shift():
    one, two = draw(batch=2048), draw(batch=2048, layers=2)
    assert np.array(one.shifts).shape == (2048, 2)
    shifts = np.array(two.shifts).astype(float)
    assert shifts.shape == (2048, 2, 2) and set(shifts.ravel()) == {-2, -1, 0, 1, 2}
    correlations = np.corrcoef(shifts.reshape(-1, 4).T) - np.eye(4)
    assert np.abs(correlations).max() < 0.1
    for name in ("generator", "contrast", "zeta"):  # the number of layers changes no other draw
        for here, there in zip(flat(getattr(one, name)), flat(getattr(two, name)), strict=True):
            np.testing.assert_array_equal(here, there)
