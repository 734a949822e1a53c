import os

import numpy as np
import pytest

from layered_segmentation import config as configs
from layered_segmentation.errors import UserError
from layered_segmentation.gan import networks
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create_or_resume(configs.load("", ["gan.resolution=8", "data.path=photos"]))
    return run


def tiny_generator():
    return LayeredGenerator(resolution=8, latent_dim=6, mapping_layers=1, max_channels=4)


def test_a_generator_comes_back_as_it_was(run):
    with pytest.raises(UserError, match="no generator in it yet"):
        networks.load_generator(run)
    generator = tiny_generator()
    latents = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    before = generator(latents)
    networks.save_generator(run, generator)
    assert os.listdir(run.generator) == ["generator.keras"]
    after = networks.load_generator(run)(latents)
    for saved, loaded in zip(before, after, strict=True):
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(loaded))
    networks.save_generator(run, generator)  # over an older one


def test_a_discriminator_comes_back_as_it_was(run):
    with pytest.raises(UserError, match="no discriminator in it yet"):
        networks.load_discriminator(run)
    discriminator = Discriminator(resolution=8, max_channels=4)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    before = np.asarray(discriminator(images))
    networks.save_discriminator(run, discriminator)
    np.testing.assert_array_equal(np.asarray(networks.load_discriminator(run)(images)), before)


@pytest.mark.parametrize("damage", ["empty", "cut in half", "a bit flipped", "no archive"])
def test_a_damaged_file_is_one_clear_message(run, damage):
    networks.save_generator(run, tiny_generator())
    with open(run.generator_file, "rb") as file:
        content = bytearray(file.read())
    if damage == "empty":
        content = b""
    elif damage == "cut in half":
        del content[len(content) // 2 :]
    elif damage == "a bit flipped":
        content[len(content) // 2] ^= 1
    else:
        content = b"mine" * 100
    with open(run.generator_file, "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match=r"generator\.keras: is damaged; repeat the command"):
        networks.load_generator(run)
