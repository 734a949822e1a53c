import keras
import numpy as np
import pytest

from layered_segmentation.gan import layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("resample", ["up", "down"])
@pytest.mark.parametrize("side", [4, 6, 16])
def test_fused_resampling_is_the_unfused_function(resample, side):
    x = normal(2, side, side, 5)
    fused = layers.EqualConv(7, resample=resample, fused=True)
    plain = layers.EqualConv(7, resample=resample, fused=False)
    fused.build(x.shape)
    plain.build(x.shape)
    weights = [normal(3, 3, 5, 7, seed=1), normal(7, seed=2)]
    fused.set_weights(weights)
    plain.set_weights(weights)
    expected = np.array(plain(x))
    side_out = 2 * side if resample == "up" else side // 2
    assert expected.shape == (2, side_out, side_out, 7)
    np.testing.assert_allclose(np.array(fused(x)), expected, atol=2e-5)


def test_equal_conv_scales_by_he():
    layer = layers.EqualConv(1, kernel_size=3)
    layer.build((None, 3, 3, 2))
    layer.set_weights([np.ones((3, 3, 2, 1), np.float32), np.array([0.5], np.float32)])
    middle = np.array(layer(np.ones((1, 3, 3, 2), np.float32)))[0, 1, 1, 0]
    assert middle == pytest.approx(18 * np.sqrt(2 / 18) + 0.5, rel=1e-6)


def test_equal_dense_scales_by_he():
    layer = layers.EqualDense(1)
    layer.build((None, 8))
    layer.set_weights([np.ones((8, 1), np.float32), np.zeros(1, np.float32)])
    assert float(layer(np.ones((1, 8), np.float32))[0, 0]) == pytest.approx(8 * 0.5)


def test_blur_by_hand():
    x = np.zeros((1, 4, 4, 2), np.float32)
    x[0, 0, 1, 0] = 16.0
    blurred = np.array(layers.blur(x))
    np.testing.assert_allclose(
        blurred[0, :, :, 0], [[2, 4, 2, 0], [1, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    )
    assert not blurred[..., 1].any()


def test_upsample_and_downsample():
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32).reshape(1, 2, 2, 1)
    up = np.array(layers.upsample(x))
    np.testing.assert_array_equal(
        up[0, :, :, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    )
    np.testing.assert_array_equal(np.array(layers.downsample(up)), x)


def test_pixel_norm_has_mean_square_one():
    normed = np.array(layers.pixel_norm(10 * normal(3, 8)))
    np.testing.assert_allclose(np.mean(normed**2, axis=-1), 1, rtol=1e-5)


def test_minibatch_std_by_hand():
    x = np.zeros((2, 2, 2, 1), np.float32)
    x[0], x[1] = 1.0, 3.0  # every value has mean 2 and standard deviation 1
    result = np.array(layers.minibatch_std(x))
    np.testing.assert_array_equal(result[..., :1], x)
    np.testing.assert_allclose(result[..., 1], 1.0, rtol=1e-6)
    two = np.concatenate([x, 5 * x])
    np.testing.assert_allclose(
        np.array(layers.minibatch_std(two, batches=2))[:, 0, 0, 1], [1, 1, 5, 5], rtol=1e-6
    )


def test_adain_gives_the_styles_statistics():
    layer = layers.AdaIN(3)
    layer.build((None, None, None, 3), style_dim=4)
    x = 5 * normal(2, 8, 8, 3) + 7
    plain = np.array(layer(x, np.zeros((2, 4), np.float32)))  # the bias starts at (1, 0)
    np.testing.assert_allclose(plain.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(plain.std((1, 2)), 1, atol=1e-3)
    layer.style.kernel.assign(np.zeros((4, 6), np.float32))
    layer.style.bias.assign(np.array([2, 3, 4, -1, 0, 1], np.float32))
    styled = np.array(layer(x, np.ones((2, 4), np.float32)))
    np.testing.assert_allclose(styled.mean((1, 2)), [[-1, 0, 1]] * 2, atol=1e-4)
    np.testing.assert_allclose(styled.std((1, 2)), [[2, 3, 4]] * 2, atol=5e-3)


def test_noise_starts_silent_and_is_scaled():
    layer = layers.Noise()
    x, noise = normal(1, 2, 2, 8), normal(1, 2, 2, 1, seed=1)
    layer.build(x.shape)
    np.testing.assert_array_equal(np.array(layer(x, noise)), x)
    layer.strength.assign(np.full(8, 3.0, np.float32))
    np.testing.assert_allclose(np.array(layer(x, noise)), x + 1.5 * noise, rtol=1e-6, atol=1e-6)


def test_wrong_resampling_is_refused():
    with pytest.raises(ValueError, match="sideways"):
        layers.EqualConv(3, resample="sideways")
    with pytest.raises(ValueError, match="kernel_size=1"):
        layers.EqualConv(3, kernel_size=1, resample="up")


def test_statistics_stay_float32_under_mixed_precision():
    layer = layers.AdaIN(2, dtype=keras.DTypePolicy("mixed_bfloat16"))
    layer.build((None, None, None, 2), style_dim=4)
    x = normal(1, 64, 64, 2) + 100.0  # in bfloat16 the variance would drown
    result = layer(keras.ops.cast(x, "bfloat16"), np.zeros((1, 4), np.float32))
    assert keras.backend.standardize_dtype(result.dtype) == "bfloat16"
    assert np.array(keras.ops.cast(result, "float32")).std() == pytest.approx(1, abs=0.02)
