"""Tests of the comparison that `port_test.py` uses: what it rejects and what it accepts."""

import functools

import golden_states
import numpy as np
import pytest
from comparison import (
    LEARNING_RATE,
    Values,
    assert_agree,
    assert_outputs_agree,
    assert_weights_agree,
    max_distance,
)
from keras.ops import convert_to_numpy as to_numpy

from layered_segmentation.gan import discriminator as discriminator_module
from layered_segmentation.gan import synthesis as synthesis_module

GENERATOR_CASE = "two_generators/case1"  # 16 px, fading: small, and uses two heads
DISCRIMINATOR_CASE = "discriminator/case1"
STEPS = 3


@pytest.fixture(scope="module")
def golden():
    recording = golden_states.Recording(golden_states.FILE)
    recording.trained = functools.cache(recording.trained)  # only read here
    return recording


@pytest.fixture(scope="module")
def generator(golden):
    return golden.generator("two_generators")


@pytest.fixture(scope="module")
def discriminator(golden):
    return golden.discriminator()


def compare_generator(golden, network):
    layers = golden.layers(network, GENERATOR_CASE)
    for name, layer in layers._asdict().items():
        assert_outputs_agree(name, layer, golden.images(f"{GENERATOR_CASE}/{name}"))


def compare_discriminator(golden, network):
    images, alpha = golden.images(f"{DISCRIMINATOR_CASE}/x"), golden.alpha(DISCRIMINATOR_CASE)
    score = golden[f"{DISCRIMINATOR_CASE}/score"]
    assert_outputs_agree("score", network(images, alpha=alpha), score)


def kernels(network, case, golden):
    return [v for v in network.stage_variables(golden.side(case)) if v.name == "kernel"]


def scaled(kernel):
    return 1.001 * kernel


def exchanged(kernel):
    """Swaps the first two output channels."""
    order = [1, 0, *range(2, kernel.shape[-1])]
    return kernel[..., order]


def rejects(compare, golden, network, variable, fault):
    """Whether the comparison finds a fault of one variable."""
    weights = to_numpy(variable)
    variable.assign(fault(weights))
    try:
        compare(golden, network)
    except AssertionError:
        return True
    finally:
        variable.assign(weights)
    return False


@pytest.mark.parametrize("fault", [scaled, exchanged])
def test_a_faulty_kernel_of_the_generator_is_rejected(golden, generator, fault):
    compare_generator(golden, generator)
    variables = kernels(generator, GENERATOR_CASE, golden)
    assert len(variables) == 42
    for variable in variables:
        assert rejects(compare_generator, golden, generator, variable, fault), variable.path


@pytest.mark.parametrize("fault", [scaled, exchanged])
def test_a_faulty_kernel_of_the_discriminator_is_rejected(golden, discriminator, fault):
    compare_discriminator(golden, discriminator)
    variables = [
        v
        for v in kernels(discriminator, DISCRIMINATOR_CASE, golden)
        if fault is scaled or v.shape[-1] > 1
    ]
    assert len(variables) >= 8
    for variable in variables:
        found = rejects(compare_discriminator, golden, discriminator, variable, fault)
        assert found, variable.path


def test_exchanged_channels_of_an_output_are_rejected(golden):
    image = golden.images(f"{GENERATOR_CASE}/background")
    with pytest.raises(AssertionError, match="exceed"):
        assert_outputs_agree("background", image[..., [1, 0, 2]], image)


def test_a_generator_without_blur_is_rejected(golden, generator, monkeypatch):
    monkeypatch.setattr(synthesis_module, "blur", lambda x: x)
    with pytest.raises(AssertionError, match="exceed"):
        compare_generator(golden, generator)


def test_a_discriminator_without_blur_is_rejected(golden, discriminator, monkeypatch):
    monkeypatch.setattr(discriminator_module, "blur", lambda x: x)
    with pytest.raises(AssertionError, match="exceed"):
        compare_discriminator(golden, discriminator)


def compare_weights(golden, name, weights):
    assert_weights_agree(
        name,
        weights,
        golden.trained(name, STEPS),
        golden.side("trajectory"),
        STEPS,
        is_average=name == "average",
    )


@pytest.mark.parametrize("fault", [scaled, exchanged])
@pytest.mark.parametrize("name", ["generator", "discriminator", "average"])
def test_a_faulty_kernel_among_trained_weights_is_rejected(golden, name, fault):
    network = golden.trained(name, STEPS)
    weights = network.get_weights()
    compare_weights(golden, name, weights)
    for index, variable in enumerate(network.variables):
        if variable.name != "kernel" or (fault is exchanged and variable.shape[-1] == 1):
            continue
        faulty = [*weights[:index], fault(weights[index]), *weights[index + 1 :]]
        with pytest.raises(AssertionError, match=r"exceed"):
            compare_weights(golden, name, faulty)


@pytest.mark.parametrize("name", ["bias", "strength"])
def test_exchanged_channels_of_a_small_variable_are_rejected(golden, name):
    network = golden.trained("generator", STEPS)
    weights = network.get_weights()
    index = next(i for i, v in enumerate(network.variables) if v.name == name)
    weights[index] = exchanged(weights[index])
    with pytest.raises(AssertionError, match=r"2 of the 16 values of .* where 1 may"):
        compare_weights(golden, "generator", weights)


def before(golden, name):
    """The weights before training."""
    first = "discriminator" if name == "discriminator" else "generator"
    return golden.trained(first, 0).get_weights()


@pytest.mark.parametrize("name", ["generator", "discriminator", "average"])
def test_weights_that_were_not_trained_are_rejected(golden, name):
    with pytest.raises(AssertionError, match="exceed"):
        compare_weights(golden, name, before(golden, name))


@pytest.mark.parametrize("rate", [0.0, 2.0])
def test_a_mapping_network_that_learns_at_another_rate_is_rejected(golden, rate):
    network = golden.trained("generator", STEPS)
    slow = {id(v) for v in network.mapping_variables()}
    weights = [
        first + rate * (last - first) if id(variable) in slow else last
        for variable, first, last in zip(
            network.variables, before(golden, "generator"), network.get_weights(), strict=True
        )
    ]
    with pytest.raises(AssertionError, match="exceed"):
        compare_weights(golden, "generator", weights)


def test_one_mask_value_slightly_further_off_passes():
    mask = np.random.default_rng(0).normal(0.5, 0.292, (4, 128, 128, 1)).astype(np.float32)
    mask *= 0.292 / mask.std()
    other = mask.copy()
    other[2, 30, 40, 0] += 3.06e-5
    assert not np.allclose(other, mask, rtol=0, atol=1e-4 * mask.std())
    assert_outputs_agree("mask", other, mask)


def test_one_weight_with_a_gradient_near_0_passes(golden):
    network = golden.trained("generator", STEPS)
    weights = network.get_weights()
    index = next(i for i, value in enumerate(weights) if value.ndim == 4 and value.shape[0] == 3)
    weights[index][1, 1, 2, 3] += 3.9e-4
    compare_weights(golden, "generator", weights)


def test_a_weight_further_off_than_training_carries_it_is_rejected(golden):
    network = golden.trained("generator", STEPS)
    weights = network.get_weights()
    index = next(i for i, value in enumerate(weights) if value.ndim == 4 and value.shape[0] == 3)
    weights[index][1, 1, 2, 3] += 2.1 * max_distance(LEARNING_RATE, STEPS)
    with pytest.raises(AssertionError, match=r"kernel\[1, 1, 2, 3\].*\n.*limit of every value"):
        compare_weights(golden, "generator", weights)


def test_adam_moves_a_weight_no_further_than_the_max_distance():
    distance, squares = 0.0, 0.0
    for step, gradient in enumerate([1.0, 1e3, 1e6], 1):
        squares = 0.99 * squares + 0.01 * gradient**2
        distance += 0.001 * gradient / np.sqrt(squares / (1 - 0.99**step))
    assert distance == pytest.approx(max_distance(0.001, 3), rel=1e-5)
    assert distance <= max_distance(0.001, 3)


def values(*errors):
    """Zeros against zeros, with errors in terms of the tolerance at the start; 4 is the limit."""

    def array(name, size, beyond):
        actual = np.zeros(size, np.float32)
        actual[: len(beyond)] = beyond
        return Values(name, actual, np.zeros(size, np.float32), 1.0, 4.0)

    return [array(f"array{index}", *error) for index, error in enumerate(errors)]


@pytest.mark.parametrize(
    "arrays",
    [
        [(1999, [2.0])],
        [(2000, [2.0, 2.0])],
        [(3, [2.0]), (997, [])],  # the thousand are those of all arrays
        [(48, [2.0, 2.0]), (1952, [])],
    ],
)
def test_one_value_in_a_thousand_may_exceed_its_tolerance(arrays):
    assert_agree("all", values(*arrays))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([(999, [2.0])], r"1 of 999 values \(0.100%\) exceed their tolerance, where 0 may"),
        ([(1999, [2.0, -3.0])], r"array0\[1\]: -3 instead of 0, 3 off \(tolerance 1, limit 4\)"),
        ([(16, [2.0, 2.0]), (5000, [])], r"2 of the 16 values of array0 \(12.500%\)"),
        ([(2, [2.0]), (5000, [])], r"1 of the 2 values of array0 \(50.000%\) .* where 0 may"),
        ([(5000, [5.0])], r"1 of array0 exceed the limit"),
        ([(5000, [np.nan])], r"array0\[0\]: nan instead of 0"),
    ],
)
def test_more_are_rejected_and_the_message_says_which(arrays, message):
    with pytest.raises(AssertionError, match=message):
        assert_agree("all", values(*arrays))


def test_shapes_are_not_broadcast():
    with pytest.raises(AssertionError, match=r"score is \(4,\), not \(4, 1\)"):
        assert_outputs_agree("score", np.zeros(4), np.zeros((4, 1)))
