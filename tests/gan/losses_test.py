import numpy as np
import pytest

from layered_segmentation.gan import losses
from layered_segmentation.gan.composite import Layers


def masks(*means):
    return np.stack([np.full((4, 4, 1), mean, np.float32) for mean in means])


def test_mask_size_is_a_hinge_per_sample():
    # Coverages 0.1, 0.3 and 0.2 against η = 0.25: hinges 0.15, 0 and 0.05.
    assert float(losses.mask_size(masks(0.1, 0.3, 0.2), 0.25)) == pytest.approx(0.2 / 3)


def test_mask_size_punishes_nothing_from_eta_on():
    assert float(losses.mask_size(masks(0.25, 0.9), 0.25)) == pytest.approx(0, abs=1e-8)


def test_mask_size_has_an_upper_bound_only_where_one_is_given():
    # Coverages 0.1, 0.3 and 0.9 in [0.25, 0.5]: hinges 0.15, 0 and 0.4.
    covers = masks(0.1, 0.3, 0.9)
    assert float(losses.mask_size(covers, 0.25, 0.5)) == pytest.approx(0.55 / 3)
    assert float(losses.mask_size(masks(1.0), 0.25)) == 0


def test_mask_binary_by_hand():
    mask = np.array([0.0, 1.0, 0.5, 0.2, 0.9, 0.6], np.float32).reshape(1, 2, 3, 1)
    assert float(losses.mask_binary(mask)) == pytest.approx((0.5 + 0.2 + 0.1 + 0.4) / 6)


def one_pixel(*values):
    """Two scenes of one pixel whose channels are equal."""
    return np.repeat(np.array(values, np.float32).reshape(2, 1, 1, 1), 3, axis=-1)


def test_independence_by_hand():
    background, foreground = one_pixel(0.5, -0.25), one_pixel(1.0, 0.0)
    mask = np.array([1.0, 0.5], np.float32).reshape(2, 1, 1, 1)
    # m·B is 0.5 and -0.125, m·F is 1 and 0: other scene 1.125 and 0.5, same scene 0.5 and 0.125.
    # (1 - m)·F is 0 and 0, (1 - m)·B is 0 and -0.125: 0 and 0.125, as in the same scene.
    expected = (1.125 + 0.5) / 2 - (0.5 + 0.125) / 2
    value = losses.independence(
        Layers(background, foreground, mask), lambda x: np.roll(np.array(x), 1, 0)
    )
    assert float(value) == pytest.approx(expected)


def test_independence_of_layers_that_resemble_each_other_is_larger():
    generator = np.random.default_rng(0)
    background, other = (generator.uniform(-1, 1, (64, 4, 4, 3)).astype(np.float32) for _ in "bo")
    mask = np.ones((64, 4, 4, 1), np.float32)

    def value(foreground):
        return float(
            losses.independence(
                Layers(background, foreground, mask), lambda x: np.roll(np.array(x), 1, 0)
            )
        )

    assert value(background) > 0.5
    assert abs(value(other)) < 0.05


def test_background_objects_by_hand():
    found = np.array([0.0, 0.5, 0.5, 0.0], np.float32).reshape(1, 2, 2, 1)
    assert float(losses.background_objects(found)) == pytest.approx(np.log(2) / 2, rel=1e-4)
    everything = float(losses.background_objects(np.ones((1, 2, 2, 1), np.float32)))
    assert 10 < everything < 20  # finite


def test_objects_that_a_segmenter_is_sure_of_have_gradients():
    import tensorflow as tf

    logits = tf.constant([10.0, 0.0, -10.0])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = losses.background_objects(tf.reshape(tf.sigmoid(logits), [1, 1, 3, 1]))
    np.testing.assert_allclose(tape.gradient(value, logits), [0.33, 1 / 6, 0.0], atol=0.02)


def test_pixels_out_of_range_are_only_moved_inside():
    import tensorflow as tf

    images = tf.constant([-2.0, -2.0, -0.5, 0.5, 2.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(images)
        inside = losses.within_range(images)
        value = tf.reduce_sum(inside * [1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    np.testing.assert_array_equal(inside, [-1, -1, -0.5, 0.5, 1, 1])
    np.testing.assert_array_equal(tape.gradient(value, images), [0, -1, 1, -1, 1, 0])


def test_independence_pushes_nothing_out_of_range():
    import tensorflow as tf

    background, foreground = tf.constant(one_pixel(1.5, -0.5)), tf.constant(one_pixel(-1.0, 0.5))
    mask = tf.ones((2, 1, 1, 1))
    with tf.GradientTape() as tape:
        tape.watch(background)
        value = losses.independence(
            Layers(background, foreground, mask), lambda x: tf.roll(x, 1, 0)
        )
    gradient = np.array(tape.gradient(value, background))
    assert not gradient[0].any() and gradient[1].all()


def test_generator_by_hand():
    score = np.array([[2.0], [-1.0]], np.float32)
    assert float(losses.generator(score, 0.1, 0.3, 2.0, 4.0)) == pytest.approx(-0.5 + 0.2 + 1.2)


def test_interpolate_is_real_where_zeta_is_one():
    real, fake = np.ones((2, 1, 1, 3), np.float32), np.zeros((2, 1, 1, 3), np.float32)
    zeta = np.array([1.0, 0.25], np.float32).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(
        np.array(losses.interpolate(real, fake, zeta))[:, 0, 0, 0], [1, 0.25]
    )


def test_gradient_penalty_by_hand():
    gradients = np.zeros((2, 1, 2, 3), np.float32)
    gradients[0, 0, 0] = (3.0, 4.0, 0.0)  # norm 5, penalty 16
    gradients[1, 0, 1, 2] = 0.5  # norm 0.5, penalty 0.25
    assert float(losses.gradient_penalty(gradients)) == pytest.approx(16.25 / 2, rel=1e-6)


def test_discriminator_by_hand():
    real = np.array([[1.0], [3.0]], np.float32)
    fake = np.array([[0.0], [-2.0]], np.float32)
    # E D(fake) - E D(real) + λ·penalty + ε·E D(real)² = -1 - 2 + 10·0.2 + 0.001·5
    loss = losses.discriminator(real, fake, 0.2, 10.0, 0.001)
    assert float(loss) == pytest.approx(-1 - 2 + 2 + 0.005)


def test_encoder_by_hand():
    images = np.zeros((2, 1, 1, 3), np.float32)
    reconstruction = np.array([[0.3, -0.3, 0.0], [0.0, 0.0, 0.6]], np.float32).reshape(2, 1, 1, 3)
    features = np.array([[5.0, 5.0], [5.0, 5.0]], np.float32).reshape(2, 1, 1, 2)
    reconstruction_features = np.array([[4.0, 7.0], [5.0, 2.0]], np.float32).reshape(2, 1, 1, 2)
    four = reconstruction, images, reconstruction_features, features
    # Per sample, L1 sums to 0.6 and 0.6, squared distances to 5 and 9; three values an image.
    assert float(losses.encoder(*four)) == pytest.approx((0.6 + 7) / 3, rel=1e-6)
    # Mean of |0.3|, |0.3|, 0, 0, 0, |0.6|, and of 1, 4, 0, 9.
    assert float(losses.encoder(*four, "mean")) == pytest.approx(0.2 + 3.5, rel=1e-6)


def test_the_encoders_terms_have_the_papers_ratio_at_64_px():
    images, features = np.zeros((1, 64, 64, 3), np.float32), np.zeros((1, 8, 8, 512), np.float32)
    pixels = float(losses.encoder(images + 0.5, images, features, features))
    distance = float(losses.encoder(images, images, features + 2, features))
    assert distance / pixels == pytest.approx(4 * 8 * 8 * 512 / (0.5 * 64 * 64 * 3), rel=1e-5)
