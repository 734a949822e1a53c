import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import tiny_config

from layered_segmentation.gan import augment, losses
from layered_segmentation.gan.draws import AugmentationDraws, Purpose, augmentation_draws
from layered_segmentation.gan.layered_gan import LayeredGAN


def draw(strength=1.0, seed=0, images_seen=64, purpose=Purpose.DISCRIMINATOR, batch=256):
    return augmentation_draws(seed, images_seen, purpose, batch, 16, strength)


def flat(draws):
    return [np.asarray(part) for part in tf.nest.flatten(draws)]


def test_draws_are_a_function_of_their_arguments():
    for once, again in zip(flat(draw()), flat(draw()), strict=True):
        np.testing.assert_array_equal(once, again)
    for change in ({"seed": 1}, {"images_seen": 65}, {"purpose": Purpose.GENERATOR}):
        for here, there in zip(flat(draw()), flat(draw(**change)), strict=True):
            assert np.mean(here == there) < 0.95
    real, fake = draw()
    assert np.abs(real.brightness - fake.brightness).max() > 0.1


def test_ranges_are_the_papers():
    real, _ = draw(batch=2000)
    brightness, saturation, contrast = (np.asarray(part) for part in real[:3])
    for part, low, high in ((brightness, -0.5, 0.5), (saturation, 0, 2), (contrast, 0.5, 1.5)):
        assert low <= part.min() < low + 0.02 and high - 0.02 < part.max() <= high
    shifts = np.asarray(real.shifts)
    assert (shifts.min(), shifts.max()) == (-2, 2)  # an eighth of 16 px
    holes = (1 - np.asarray(real.kept)).sum((1, 2, 3))
    assert holes.max() == 64 and 16 <= holes.min() < 30  # half the side, cut by the frame


def test_one_image_by_hand():
    ramp = np.linspace(-1, 1, 16, dtype=np.float32)
    image = np.stack([np.tile(ramp, (16, 1))] * 3, -1)[None] * np.array([1, 0.5, 0], np.float32)
    kept = np.ones((1, 16, 16, 1), np.float32)
    kept[:, 4:8, 4:8] = 0
    one = np.ones((1, 1, 1, 1), np.float32)
    draws = AugmentationDraws(0.25 * one, 0 * one, 2 * one, np.array([[3, 0]]), kept)
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1) + 0.25
    expected = grey.mean() + 2 * (grey - grey.mean())
    expected = np.concatenate([np.zeros_like(expected[:, :, :3]), expected[:, :, :-3]], 2) * kept
    np.testing.assert_allclose(augment.augment(image, draws), expected, atol=1e-6)


def test_no_strength_changes_nothing_and_gradients_pass():
    image = tf.random.stateless_normal([8, 16, 16, 3], (1, 2))
    real, _ = draw(strength=0.0, batch=8)
    np.testing.assert_allclose(augment.augment(image, real), image, atol=1e-6)
    real, _ = draw(batch=8)
    with tf.GradientTape() as tape:
        tape.watch(image)
        total = tf.reduce_sum(augment.augment(image, real) ** 2)
    gradients = np.abs(tape.gradient(total, image)).sum((1, 2, 3))
    assert np.isfinite(gradients).all() and gradients.min() > 0


def test_r1_by_hand():
    gradients = np.zeros((2, 2, 2, 3), np.float32)
    gradients[0, 0, 0] = (1, 2, 2)  # squared norm 9; the other's is 0
    assert float(losses.r1(gradients)) == pytest.approx(0.5 * 9 / 2)


def gan(**changes):
    config = tiny_config()
    config.gan = dataclasses.replace(config.gan, **changes)
    config.schedule = dataclasses.replace(config.schedule, batch={8: 8}, images_per_stage=64)
    built = LayeredGAN.from_run_config(config)
    for index, weight in enumerate(built.discriminator.trainable_variables):
        if weight.name == "kernel":
            weight.assign(tf.random.stateless_normal(weight.shape, (index, 5)))
    return built


def d_loss(model, real, augmentations=None):
    draws = model._draws(tf.constant(0, tf.int64), Purpose.DISCRIMINATOR, 8)
    return model.discriminator_step(real, draws, 1.0, augmentations)


def test_r1_is_added_to_the_discriminators_loss(eagerly):
    real = tf.random.stateless_normal([8, 8, 8, 3], (3, 4)) / 2
    plain, with_r1 = gan(), gan(r1=2.0)
    expected = float(losses.r1(plain._score_gradients(real, 1.0)))
    assert expected > 1e-3
    difference = float(d_loss(with_r1, real)["d_loss"] - d_loss(plain, real)["d_loss"])
    assert difference == pytest.approx(2.0 * expected, rel=1e-3)
    before, after = (
        [np.asarray(w) for w in model.discriminator.weights] for model in (plain, with_r1)
    )
    assert any(np.abs(a - b).max() > 1e-5 for a, b in zip(before, after, strict=True))


def test_real_and_generated_images_are_augmented_in_both_steps(eagerly, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "layered_segmentation.gan.steps.augment",
        lambda images, draws: seen.append(images.shape) or augment.augment(images, draws),
    )
    real = tf.random.stateless_normal([8, 8, 8, 3], (3, 4)) / 2
    plain, augmenting = gan(), gan(augment=1.0)
    logs = [model.train_step(real) for model in (plain, augmenting)]
    assert seen == [real.shape] * 3  # real and fake for the discriminator, fake for the generator
    assert abs(float(logs[0]["d_loss"] - logs[1]["d_loss"])) > 1e-3
    assert all(np.isfinite(float(value)) for value in logs[1].values())
