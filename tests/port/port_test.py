"""Our networks, losses and training against numbers that the authors' code gave.

`pytest tests/port_test.py --golden=FILE` replays another recording; all sizes are the file's. The
keys are explained in `data/README.md`.
"""

import functools
import os
import re

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from layered_segmentation.gan import composite, losses
from layered_segmentation.port.weights import (
    discriminator_from_state_dict,
    generator_from_state_dict,
)

RECORDING = os.path.join(os.path.dirname(__file__), "..", "data", "perturbed_seg_w16.npz")
TOLERANCE = 1e-4  # of an output's standard deviation, of a loss, of a weight
NETWORKS = {"generator": "generator", "discriminator": "discriminator", "average": "ema"}
LOSSES = {"d_loss": "d_loss", "gradient_penalty": "gradient_penalty_x10", "g_loss": "g_loss"}


class Recording:
    """A file of golden values, in our layout."""

    def __init__(self, path):
        self.file = np.load(path)
        self.names = self.file.files

    def __getitem__(self, name):
        return self.file[name]

    def __contains__(self, section):
        return any(name.startswith(f"{section}/") for name in self.names)

    def images(self, name):
        """NCHW -> NHWC."""
        return self.file[name].transpose(0, 2, 3, 1)

    def state(self, section):
        prefix = f"{section}/"
        return {n.removeprefix(prefix): self.file[n] for n in self.names if n.startswith(prefix)}

    def cases(self, pattern):
        """The parts of all names that match, in order."""
        return sorted({m[1] for m in (re.match(pattern, name) for name in self.names) if m})

    def side(self, section):
        return 4 * 2 ** int(self.file[f"{section}/step"])

    def alpha(self, section):
        alpha = float(self.file[f"{section}/alpha"])
        return 1.0 if alpha < 0 else alpha

    def noise(self, section):
        blocks = len(self.cases(rf"({re.escape(section)}/noise\d+)$"))
        return [self.images(f"{section}/noise{block}") for block in range(blocks)]

    def latents(self, name):
        """[2, B, D] -> [B, 2, D]; [B, D] stays."""
        latents = self.file[name]
        return latents.transpose(1, 0, 2) if latents.ndim == 3 else latents


@functools.cache
def recording(path):
    return Recording(path)


@functools.cache
def generator(path, section):
    """The generator of a section, as large as its largest case."""
    golden = recording(path)
    cases = golden.cases(rf"({section}/case\d+)/step$")
    side = max(map(golden.side, cases), default=None)
    return generator_from_state_dict(golden.state(f"{section}/state"), side)


@functools.cache
def discriminator(path):
    golden = recording(path)
    side = max(golden.images(f"{case}/x").shape[1] for case in discriminator_cases(golden))
    return discriminator_from_state_dict(golden.state("discriminator/state"), side)


def generator_cases(golden):
    sections = golden.cases(r"(?!discriminator/)(\w+/case\d+)/step$")
    return sorted(sections, key=lambda case: (case.split("/")[0], golden.side(case)))


def discriminator_cases(golden):
    return sorted(golden.cases(r"(discriminator/case\d+)/x$"), key=golden.side)


def golden_path(config):
    return config.getoption("--golden") or RECORDING


def pytest_generate_tests(metafunc):
    golden = recording(golden_path(metafunc.config))
    for name, cases in (
        ("generator_case", generator_cases(golden)),
        ("discriminator_case", discriminator_cases(golden)),
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


def assert_close(ours, theirs, what):
    """Within a ten thousandth of the standard deviation."""
    ours = to_numpy(ours)
    scale = theirs.std() or np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * scale, err_msg=what)


def test_generator(golden, path, generator_case):
    section = generator_case.split("/")[0]
    latents = golden.latents(f"{section}/z")
    start = int(golden[f"{generator_case}/mixing_start"])
    layers = generator(path, section)(
        latents,
        noise=golden.noise(generator_case),
        crossover=np.full(len(latents), start),
        alpha=golden.alpha(generator_case),
        resolution=golden.side(generator_case),
    )
    for name, layer in layers._asdict().items():
        assert_close(layer, golden.images(f"{generator_case}/{name}"), name)


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
    assert_close(layers.background, golden.images("truncation/background"), "background")


def test_discriminator(golden, path, discriminator_case):
    images, alpha = golden.images(f"{discriminator_case}/x"), golden.alpha(discriminator_case)
    network = discriminator(path)
    score = golden[f"{discriminator_case}/score"]
    assert_close(network(images, alpha=alpha), score, "score")
    if f"{discriminator_case}/features4" in golden.names:
        features = golden.images(f"{discriminator_case}/features4")
        assert_close(network.features(images, alpha, side=4), features, "features")


def test_shift(golden):
    need(golden, "shift")
    moved = composite.shift(golden.images("shift/x"), golden["shift/shift_xy"])
    np.testing.assert_array_equal(to_numpy(moved), golden.images("shift/y"))


def test_contrast_jitter(golden):
    need(golden, "contrast")
    ours = composite.contrast_jitter(golden.images("contrast/x"), golden["contrast/factor"])
    assert_close(ours, golden.images("contrast/y"), "contrast")


def test_mask_losses(golden):
    need(golden, "mask_loss")
    mask = golden.images("mask_loss/mask")
    size, binary = losses.mask_size(mask, 0.25), losses.mask_binary(mask)
    total = losses.generator(np.zeros((len(mask), 1), "float32"), size, binary, 2.0, 2.0)
    for name, ours in (("size", size), ("binary", binary), ("total", total)):
        assert float(ours) == pytest.approx(float(golden[f"mask_loss/{name}"]), rel=TOLERANCE), name


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
    jitters = golden.cases(r"(trajectory/it\d+/\w/.*(?:contrast|factor).*)")
    config.gan.contrast_jitter = 0.3 if jitters else 0.0
    config.schedule.learning_rate = {"default": 0.001}
    gan = LayeredGAN(config)
    gan.generator.set_weights(first.get_weights())
    gan.average.set_weights(first.get_weights())
    gan.discriminator.set_weights(judge.get_weights())
    gan.set_stage(gan.run_stages[0])
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
    theirs = float(golden[f"trajectory/it{iteration}/{LOSSES[name]}"])
    assert logs[iteration][name] == pytest.approx(theirs, rel=TOLERANCE)


@pytest.mark.parametrize("name", NETWORKS)
def test_trajectory_weights(golden, trajectory, name):
    gan, logs = trajectory
    convert = (
        discriminator_from_state_dict if name == "discriminator" else generator_from_state_dict
    )
    state = golden.state(f"trajectory/{NETWORKS[name]}{len(logs)}")
    theirs = convert(state, golden.side("trajectory"))
    for ours, expected in zip(getattr(gan, name).variables, theirs.variables, strict=True):
        np.testing.assert_allclose(
            to_numpy(ours), to_numpy(expected), rtol=0, atol=TOLERANCE, err_msg=ours.path
        )
