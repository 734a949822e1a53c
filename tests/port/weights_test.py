"""Conversion of the authors' state dicts; `port_test.py` tests that the networks agree."""

import golden_states
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from layered_segmentation.errors import UserError
from layered_segmentation.port.weights import (
    discriminator_from_state_dict,
    generator_from_state_dict,
)


@pytest.fixture(scope="module")
def states():
    return golden_states.read()


@pytest.mark.parametrize(
    ("section", "variant"),
    [
        ("two_generators", "two_generators"),
        ("one_generator", "one_generator"),
        ("shared_style", "shared_mapping"),
    ],
)
def test_variant_and_sizes_are_inferred(states, section, variant):
    generator = generator_from_state_dict(states[section], resolution=16)
    assert generator.variant == variant
    assert (generator.resolution, generator.latent_dim) == (16, 16)
    assert (generator.mapping_layers, generator.max_channels) == (8, 16)


def test_all_blocks_are_kept_by_default(states):
    assert generator_from_state_dict(states["one_generator"]).resolution == 1024
    discriminator = discriminator_from_state_dict(states["discriminator"])
    assert (discriminator.resolution, discriminator.max_channels) == (1024, 16)
    assert discriminator.minibatch_std


def test_a_discriminator_without_minibatch_std(states):
    state = dict(states["discriminator"])
    key = "progression.8.conv1.0.conv.weight_orig"
    state[key] = state[key][:, :16]
    assert not discriminator_from_state_dict(state, 8).minibatch_std


FUSED = "generator_bg.generator.progression.5.conv1.0"


def test_kernels_are_kept_as_they_are_stored(states):
    # So that a weight's step counts for as much as it does in the authors' training: from 128 px
    # the gain of a quarter is the layer's, not the kernel's.
    generator = generator_from_state_dict(states["two_generators"], 128)
    up = generator.syntheses[0].blocks[5].up
    stored = states["two_generators"][f"{FUSED}.weight"]
    np.testing.assert_array_equal(to_numpy(up.kernel), stored.transpose(2, 3, 0, 1)[::-1, ::-1])
    gains = [block.up.scale / np.sqrt(2 / (9 * 16)) for block in generator.syntheses[0].blocks[1:]]
    np.testing.assert_allclose(gains, [1, 1, 1, 1, 0.25], rtol=1e-6)


def test_a_model_without_fused_convolutions_is_the_same_model(states):
    fused = states["two_generators"]
    plain = {}
    for key, value in fused.items():
        net, _, rest = key.partition(".progression.5.conv1.")
        name = f"{net}.progression.5.conv1.1.conv."
        if rest == "0.weight":  # IOHW, flipped, the mean of four -> OIHW, the sum
            plain[f"{name}weight_orig"] = value.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1] / 4
        elif rest == "0.bias":
            plain[f"{name}bias"] = value
        elif rest not in ("1.weight", "1.weight_flip"):
            plain[key] = value
    converted, expected = (
        generator_from_state_dict(state, 128).get_weights() for state in (plain, fused)
    )
    for one, other in zip(converted, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_missing_and_unexpected_keys_are_listed(states):
    state = dict(states["two_generators"])
    del state["generator_objects.generator.progression.1.noise2.weight_orig"]
    state["generator_bg.extra"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as error:
        generator_from_state_dict(state, 8)
    assert "missing generator_objects.generator.progression.1.noise2.weight_orig;" in str(
        error.value
    )
    assert "unexpected generator_bg.extra" in str(error.value)


def test_missing_and_unexpected_keys_of_a_discriminator(states):
    state = {
        ("renamed" if k == "linear.linear.bias" else k): v
        for k, v in states["discriminator"].items()
    }
    with pytest.raises(UserError, match=r"missing linear\.linear\.bias; unexpected renamed"):
        discriminator_from_state_dict(state, 8)


def test_blocks_above_the_resolution_may_be_missing(states):
    state = {k: v for k, v in states["two_generators"].items() if "progression.5" not in k}
    assert generator_from_state_dict(state, 64).resolution == 64
    with pytest.raises(UserError, match=r"missing generator_bg\.generator\.progression\.5"):
        generator_from_state_dict(state, 128)


def test_a_state_dict_of_another_network():
    with pytest.raises(UserError, match=r"not the authors' generator: it holds conv\.weight"):
        generator_from_state_dict({"conv.weight": np.zeros((3, 3))})
    with pytest.raises(UserError, match="not the authors' discriminator: it holds none"):
        discriminator_from_state_dict({})


def test_unsupported_widths(states):
    state = dict(states["two_generators"])
    key = "generator_bg.generator.progression.1.conv2.conv.weight_orig"
    state[key] = state[key][:12]
    with pytest.raises(UserError, match=r"channels at 4, 8 px are 16, 12;.* that is 16, 16"):
        generator_from_state_dict(state, 8)


@pytest.mark.parametrize("shape", [(16,), (2, 4, 4, 4)])
def test_a_wrong_shape(states, shape):
    key = "generator_objects.generator.progression.0.conv1.input"
    state = {**states["two_generators"], key: np.zeros(shape, np.float32)}
    with pytest.raises(UserError) as error:
        generator_from_state_dict(state, 8)
    assert f"{key}: its shape is {list(shape)}" in str(error.value)
    assert "[1, 4, 4, 16]" in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(states, value):
    for section, key, convert in (
        ("two_generators", "generator_bg.style.1.linear.bias", generator_from_state_dict),
        ("discriminator", "linear.linear.weight_orig", discriminator_from_state_dict),
    ):
        state = {**states[section], key: states[section][key].copy()}
        state[key].flat[2] = value
        with pytest.raises(UserError) as error:
            convert(state, 8)
        assert str(error.value).startswith(f"{key}: 1 of its ")


@pytest.mark.parametrize("resolution", [4, 24, 2048])
def test_impossible_resolutions(states, resolution):
    with pytest.raises(UserError, match=f"resolution={resolution}: .* from 8 to 1024"):
        generator_from_state_dict(states["two_generators"], resolution)
