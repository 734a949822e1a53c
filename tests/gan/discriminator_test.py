import keras
import numpy as np
import pytest

from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.layers import downsample


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tiny(**kwargs):
    return Discriminator(**{"resolution": 32, "max_channels": 8, **kwargs})


def test_scores_every_stage():
    discriminator = tiny()
    for side in (8, 16, 32):
        assert discriminator(normal(3, side, side, 3), alpha=0.5).shape == (3, 1)


def test_alpha_zero_scores_the_smaller_image():
    discriminator = tiny()
    images = normal(3, 16, 16, 3)
    np.testing.assert_allclose(
        np.array(discriminator(images, alpha=0.0)),
        np.array(discriminator(np.array(downsample(images)))),
        atol=1e-5,
    )


def test_fused_is_the_unfused_discriminator():
    fused, plain = tiny(), tiny(fused=False)
    plain.set_weights(fused.get_weights())
    images = normal(3, 32, 32, 3)
    np.testing.assert_allclose(np.array(fused(images)), np.array(plain(images)), atol=1e-5)


def test_minibatch_std_lets_a_sample_see_its_batch():
    image = normal(1, 8, 8, 3)
    alike = np.concatenate([image, image])
    mixed = np.concatenate([image, 3 * normal(1, 8, 8, 3, seed=1)])
    with_std, without = tiny(), tiny(minibatch_std=False)
    assert abs(float(with_std(alike)[0, 0]) - float(with_std(mixed)[0, 0])) > 1e-4
    assert float(without(alike)[0, 0]) == pytest.approx(float(without(mixed)[0, 0]), abs=1e-5)


def test_features_of_eq_7():
    assert tiny().features(normal(2, 32, 32, 3), side=8).shape == (2, 8, 8, 8)


def test_stage_variables_cover_all():
    discriminator = tiny()
    used = {id(v) for side in (8, 16, 32) for v in discriminator.stage_variables(side)}
    assert used == {id(v) for v in discriminator.trainable_variables}


def test_save_and_load(tmp_path):
    discriminator = tiny()
    discriminator.save(tmp_path / "discriminator.keras")
    loaded = keras.models.load_model(tmp_path / "discriminator.keras", compile=False)
    images = normal(2, 32, 32, 3)
    np.testing.assert_array_equal(np.array(discriminator(images)), np.array(loaded(images)))


def test_images_larger_than_it_was_made_for_are_refused():
    with pytest.raises(ValueError, match="64 px"):
        tiny()(normal(1, 64, 64, 3))


@pytest.mark.parametrize("minibatch_std", [True, False])
def test_cut_to_a_stage_it_gives_the_stages_scores(minibatch_std):
    discriminator = Discriminator(32, max_channels=8, minibatch_std=minibatch_std)
    for side in (8, 16, 32):
        cut = discriminator.at_resolution(side)
        assert (cut.resolution, cut.minibatch_std) == (side, minibatch_std)
        images = np.random.default_rng(side).normal(size=(4, side, side, 3)).astype(np.float32)
        np.testing.assert_array_equal(np.array(cut(images)), np.array(discriminator(images)))
