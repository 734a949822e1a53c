"""A run with an untrained generator that draws arbitrary scenes."""

import dataclasses

from tiny_networks import draw_weights

from layered_segmentation import config as configs
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.run_directory import RunDirectory


def generator(variant="two_generators", first=0):
    """Returns a generator of 8 px; `first` chooses its weights."""
    network = LayeredGenerator(variant, 8, 6, 1, 8)
    draw_weights(network, first)
    return network


def run(path):
    """Returns a run directory with it, on procedural scenes."""
    config = configs.Config()
    config.data = dataclasses.replace(config.data, name="shapes", limit=20)
    config.gan = dataclasses.replace(
        config.gan, resolution=8, latent_dim=6, mapping_layers=1, max_channels=8
    )
    directory = RunDirectory(str(path))
    directory.create_or_resume(config)
    directory.save_generator(generator())
    return directory
