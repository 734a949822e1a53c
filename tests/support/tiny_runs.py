"""A run whose generator draws arbitrary scenes at once: no training."""

import dataclasses

import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation.gan import networks
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.run_directory import RunDirectory


def generator(variant="two_generators", first=0, foreground_layers=1):
    """A generator of 8 px; `first` chooses its weights."""
    network = LayeredGenerator(variant, 8, 6, 1, 8, foreground_layers=foreground_layers)
    for index, weight in enumerate(network.trainable_variables):
        if weight.name in ("kernel", "constant"):
            weight.assign(tf.random.stateless_normal(weight.shape, (first + index, 0)))
    return network


def run(path, foreground_layers=1):
    """A run directory of it, on procedural scenes with as many objects as there are layers."""
    config = configs.Config()
    config.data = dataclasses.replace(
        config.data, name="shapes", limit=20, objects=foreground_layers
    )
    sizes = {"latent_dim": 6, "mapping_layers": 1, "max_channels": 8, "layers": foreground_layers}
    config.gan = dataclasses.replace(config.gan, resolution=8, **sizes)
    made = RunDirectory(str(path))
    made.create_or_resume(config)
    networks.save_generator(made, generator(foreground_layers=foreground_layers))
    return made
