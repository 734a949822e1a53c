"""The trained networks of a run, saved and loaded as Keras files."""

import dataclasses
import os
import sys
from typing import Any

import keras

from layered_segmentation import files
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.gan import network_files
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.draws import mean_style_latents
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.run_directory import Finished, RunDirectory


def save_generator(run: RunDirectory, generator: LayeredGenerator) -> None:
    """Saves the averaged generator, a built one."""
    _save(generator, run.generator_file)


def save_discriminator(run: RunDirectory, discriminator: Discriminator) -> None:
    """Saves the trained discriminator."""
    _save(discriminator, run.discriminator_file)


def save_stage(
    run: RunDirectory,
    config: Config,
    networks: tuple[LayeredGenerator, LayeredGenerator, Discriminator],
    finished: Finished,
) -> None:
    """Keeps what a stage has trained as a finished run of its resolution, unless it is kept.

    Args:
        run: The run in training.
        config: Its config, with the stage's resolution as the final one.
        networks: The generator's average, the generator and the discriminator; what only larger
            resolutions need is left out of the files.
        finished: How training went until the end of the stage.
    """
    path = run.stage_path(config.gan.resolution)
    if RunDirectory(path).finished() is not None:
        return
    average, generator, discriminator = (
        network.at_resolution(config.gan.resolution) for network in networks
    )
    average.update_mean_styles(mean_style_latents(config.train.seed, config.gan.latent_dim))
    with files.replacing_directory(path) as partial:
        stage = RunDirectory(partial)
        stage.create_or_resume(config)
        save_discriminator(stage, discriminator)
        _save(generator, stage.trained_generator_file)
        save_generator(stage, average)
        stage.finish(**dataclasses.asdict(finished))


def load_generator(run: RunDirectory) -> LayeredGenerator:
    """Returns the averaged generator.

    Raises:
        UserError: The run has not saved one yet, or its file is damaged.
    """
    generator: LayeredGenerator = _load(run, run.generator_file, "generator")
    return generator


def load_discriminator(run: RunDirectory) -> Discriminator:
    """Returns the trained discriminator.

    Raises:
        UserError: The run has not saved one yet, or its file is damaged.
    """
    discriminator: Discriminator = _load(run, run.discriminator_file, "discriminator")
    return discriminator


def are_whole(run: RunDirectory) -> bool:
    """Returns whether a run's files of networks are undamaged; prints the name of one that is not.

    Runs of early versions have no discriminator.
    """
    for path in (run.generator_file, run.discriminator_file):
        is_needed = path == run.generator_file or os.path.exists(path)
        if is_needed and not network_files.is_whole(path):
            print(f"{path}: is missing or damaged; it is written again", file=sys.stderr)
            return False
    return True


def _save(network: keras.Model, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with files.replacing(path) as partial:
        network.save(partial)


def _load(run: RunDirectory, path: str, name: str) -> Any:
    if not os.path.exists(path):
        finished = run.finished()
        if finished is not None and not finished.images_seen:  # converted: training is no help
            raise UserError(
                f"{run.path}: no {name} in it: it was converted from a file that held none; "
                f"convert one with a {name} in it, as the train_step-N.model of the authors' "
                "script: layerseg convert --checkpoint=FILE --out=ANOTHER_RUN"
            )
        raise UserError(
            f"{run.path}: no {name} in it yet; train it first: "
            f"layerseg train --run_dir={run.path} with the flags it was started with"
        )
    if not network_files.is_whole(path):
        raise UserError(
            f"{path}: is damaged; repeat the command that trained or converted the run: training "
            "writes it again from the last checkpoint"
        )
    return network_files.load(path, name)
