"""Networks, losses and training against numbers that the authors' code gave.

`pytest tests/port/port_test.py --golden=FILE` replays another recording of any sizes. The
keys are explained in `data/README.md`, how close the numbers must be in `comparison.py`.
"""

import functools
import os

import golden_states
import keras
import numpy as np
import pytest
from comparison import LEARNING_RATE, TOLERANCE, assert_outputs_agree, assert_weights_agree
from keras.ops import convert_to_numpy as to_numpy

from layered_segmentation import choices
from layered_segmentation.gan import composite, losses
from layered_segmentation.port.weights import (
    discriminator_from_state_dict,
    generator_from_state_dict,
)

NETWORKS = ("generator", "discriminator", "average")
LOSSES = {"d_loss": "d_loss", "gradient_penalty": "gradient_penalty_x10", "g_loss": "g_loss"}


@functools.cache
def recording(path):
    return golden_states.Recording(path)


@functools.cache
def generator(path, section):
    return recording(path).generator(section)


@functools.cache
def discriminator(path):
    return recording(path).discriminator()


def golden_path(config):
    return config.getoption("--golden") or golden_states.FILE


def pytest_generate_tests(metafunc):
    golden = recording(golden_path(metafunc.config))
    for name, cases in (
        ("generator_case", golden.generator_cases()),
        ("discriminator_case", golden.discriminator_cases()),
    ):
        if name in metafunc.fixturenames:
            ids = [
                f"{case.replace('/', '-')}-{golden.side(case)}px-alpha{golden.alpha(case):g}"
                for case in cases
            ]
            metafunc.parametrize(name, cases, ids=ids)
    if "iteration" in metafunc.fixturenames:
        iterations = golden.cases(r"(trajectory/it\d+)/real$")
        metafunc.parametrize("iteration", range(len(iterations)))


@pytest.fixture(scope="module")
def path(pytestconfig):
    return golden_path(pytestconfig)


@pytest.fixture
def golden(path):
    return recording(path)


def need(golden, section):
    if section not in golden:
        pytest.skip(f"the recording has no {section}")


def test_generator(golden, path, generator_case):
    layers = golden.layers(generator(path, generator_case.split("/")[0]), generator_case)
    for name, layer in layers._asdict().items():
        assert_outputs_agree(name, layer, golden.images(f"{generator_case}/{name}"))


def test_truncation(golden, path):
    need(golden, "truncation")
    background = generator_from_state_dict(
        golden.state("two_generators/state"), golden["truncation/background"].shape[-1]
    )
    background.mappings[0].mean_style.assign(golden["truncation/mean_style"].ravel())
    layers = background(
        golden["two_generators/z"][1],
        noise=golden.noise("truncation"),
        truncation=float(golden["truncation/psi"]),
    )
    expected = golden.images("truncation/background")
    assert_outputs_agree("background", layers.background, expected)


def test_discriminator(golden, path, discriminator_case):
    images, alpha = golden.images(f"{discriminator_case}/x"), golden.alpha(discriminator_case)
    network = discriminator(path)
    score = golden[f"{discriminator_case}/score"]
    assert_outputs_agree("score", network(images, alpha=alpha), score)
    if f"{discriminator_case}/features4" in golden.names:
        features = golden.images(f"{discriminator_case}/features4")
        assert_outputs_agree("features", network.features(images, alpha, side=4), features)


def test_shift(golden):
    need(golden, "shift")
    moved = composite.shift(golden.images("shift/x"), golden["shift/shift_xy"])
    np.testing.assert_array_equal(to_numpy(moved), golden.images("shift/y"))


def test_contrast_jitter(golden):
    need(golden, "contrast")
    jittered = composite.contrast_jitter(golden.images("contrast/x"), golden["contrast/factor"])
    assert_outputs_agree("contrast", jittered, golden.images("contrast/y"))


def test_mask_losses(golden):
    need(golden, "mask_loss")
    mask = golden.images("mask_loss/mask")
    size, binary = losses.mask_size(mask, 0.25), losses.mask_binary(mask)
    total = losses.generator(np.zeros((len(mask), 1), "float32"), size, binary, 2.0, 2.0)
    for name, loss in (("size", size), ("binary", binary), ("total", total)):
        assert float(loss) == pytest.approx(float(golden[f"mask_loss/{name}"]), rel=TOLERANCE), name


@pytest.fixture(scope="module")
def trajectory(path):
    """Trains as the recording did, with its draws; returns the GAN and each iteration's losses."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("training needs TensorFlow")
    golden = recording(path)
    need(golden, "trajectory")

    from layered_segmentation import config as configs
    from layered_segmentation.gan.layered_gan import LayeredGAN

    side = golden.side("trajectory")
    first = generator_from_state_dict(golden.state("trajectory/generator0"), side)
    judge = discriminator_from_state_dict(golden.state("trajectory/discriminator0"), side)
    config = configs.Config()
    for name in ("variant", "latent_dim", "mapping_layers", "max_channels"):
        setattr(config.gan, name, getattr(first, name))
    config.gan.resolution = config.gan.initial_resolution = side
    config.gan.minibatch_std = judge.minibatch_std
    config.gan.mask_losses_on = choices.MaskLosses.shifted
    jitters = golden.cases(r"(trajectory/it\d+/\w/.*(?:contrast|factor).*)")
    config.gan.contrast_jitter = 0.3 if jitters else 0.0
    config.schedule.learning_rate = {"default": LEARNING_RATE}
    gan = LayeredGAN.from_run_config(config)
    gan.generator.set_weights(first.get_weights())
    gan.average.set_weights(first.get_weights())
    gan.discriminator.set_weights(judge.get_weights())
    gan.set_stage(gan.stages[0])
    alpha, logs = golden.alpha("trajectory"), []
    for iteration in golden.cases(r"(trajectory/it\d+)/real$"):
        real = golden.images(f"{iteration}/real")
        log = gan.discriminator_step(real, draws(golden, f"{iteration}/d"), alpha)
        log |= gan.generator_step(draws(golden, f"{iteration}/g"), alpha)
        gan.update_average()
        logs.append({name: float(value) for name, value in log.items()})
    return gan, logs


def draws(golden, section):
    """The recorded draws of one step."""
    import tensorflow as tf

    from layered_segmentation.gan.draws import GeneratorDraws, StepDraws

    latents = golden.latents(f"{section}/z")
    start = int(golden["trajectory/mixing_start"])
    factors = golden.cases(rf"({section}/.*(?:contrast|factor).*)")
    return StepDraws(
        GeneratorDraws(
            tf.constant(latents),
            [tf.constant(noise) for noise in golden.noise(section)],
            tf.fill([len(latents)], start),
        ),
        tf.constant(golden[f"{section}/shift_xy"], tf.int32),
        tf.constant(golden[factors[0]].ravel()) if factors else tf.ones([len(latents)]),
        tf.constant(golden[f"{os.path.dirname(section)}/eps"].reshape(-1, 1, 1, 1)),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_trajectory_losses(golden, trajectory, iteration, name):
    _, logs = trajectory
    recorded = float(golden[f"trajectory/it{iteration}/{LOSSES[name]}"])
    assert logs[iteration][name] == pytest.approx(recorded, rel=TOLERANCE)


@pytest.mark.parametrize("name", NETWORKS)
def test_trajectory_weights(golden, trajectory, name):
    gan, logs = trajectory
    assert_weights_agree(
        name,
        getattr(gan, name).get_weights(),
        golden.trained(name, len(logs)),
        resolution=golden.side("trajectory"),
        steps=len(logs),
        is_average=name == "average",
    )
