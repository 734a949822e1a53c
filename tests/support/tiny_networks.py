"""Networks of a few channels that draw scenes with something to see, and a config for them."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.segmenter.encoder import EncoderGeneratorBackbone
from layered_segmentation.segmenter.segmenter import create_encoder_segmenter, create_segmenter


def tiny_config(**changes):
    config = configs.Config()
    config.data = dataclasses.replace(config.data, name="shapes", limit=12)
    config.gan = dataclasses.replace(
        config.gan, resolution=16, latent_dim=8, mapping_layers=2, max_channels=8
    )
    settings = {"batch": 8, "input_resolution": 16, "max_channels": 64, "learning_rate": 1e-3}
    config.encoder = configs.EncoderConfig(**{**settings, **changes})
    return config


def tiny_run_config(*overrides):
    """Returns the config of a run with small networks up to 16 px."""
    sizes = ["resolution=16", "latent_dim=8", "mapping_layers=2", "max_channels=8"]
    return configs.load("", [*(f"gan.{size}" for size in sizes), *overrides])


def tiny_networks(config):
    gan = config.gan
    generator = LayeredGenerator(gan.variant, gan.resolution, gan.latent_dim, 2, gan.max_channels)
    discriminator = Discriminator(gan.resolution, gan.max_channels)
    for network in (generator, discriminator):
        for index, weight in enumerate(network.trainable_variables):
            if weight.name in ("kernel", "constant"):
                weight.assign(tf.random.stateless_normal(weight.shape, (index, 1)))
    # Soft textures on a dark background and a light object: scenes in range, with masks to be seen.
    for synthesis, level in zip(generator.syntheses, (-0.6, 0.6), strict=True):
        head = synthesis.to_image[-1]
        head.kernel.assign(head.kernel * np.array([0.1, 0.1, 0.1, 1.0][: head.channels]))
        head.bias.assign(np.array([level, level, level, 0.0][: head.channels]))
    generator.update_mean_styles(tf.random.stateless_normal([500, 8], (3, 3)))
    return generator, discriminator


def encoder_segmenter():
    """An encoder before such a generator, with weights that differ from those it starts with."""
    generator, _ = tiny_networks(tiny_config())
    segmenter = create_encoder_segmenter(EncoderGeneratorBackbone.around(generator, 16, 64))
    draws = np.random.default_rng(0)
    for weight in segmenter.backbone.encoder.trainable_weights:
        weight.assign(np.asarray(weight) + 0.05 * draws.standard_normal(weight.shape))
    return segmenter


def random_student(width=8, resolution=16, seed=0, num_masks=1):
    """A student whose weights, norms included, differ from those it starts with."""
    keras.utils.set_random_seed(seed)  # some networks without training magnify every rounding
    segmenter = create_segmenter(width, resolution, num_masks=num_masks)
    generator = np.random.default_rng(seed)
    for weight in segmenter.weights:
        noise = generator.uniform(0.5, 1.5, weight.shape)
        weight.assign(np.asarray(weight) * noise + 0.01 * noise)
    return segmenter


def scenes(side, count=3):
    """Drawn scenes, uint8 [count, side, side, 3]."""
    return Scenes(seed=1, count=count, split="test").load(side)
