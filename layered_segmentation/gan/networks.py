"""The trained networks of a run, saved and loaded as Keras files."""

import os
import zipfile
from typing import Any

import keras

from layered_segmentation import files
from layered_segmentation.errors import UserError
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.run_directory import RunDirectory


def save_generator(run: RunDirectory, generator: LayeredGenerator) -> None:
    """Saves the averaged generator, a built one."""
    _save(generator, run.generator_file)


def save_discriminator(run: RunDirectory, discriminator: Discriminator) -> None:
    """Saves the trained discriminator."""
    _save(discriminator, run.discriminator_file)


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
    if not _is_whole(path):
        raise UserError(
            f"{path}: is damaged; delete {run.finished_path} and repeat the command that trained "
            "or converted the run: training writes it again from the last checkpoint"
        )
    return keras.models.load_model(path, compile=False)


def _is_whole(path: str) -> bool:
    """Returns whether all members of a Keras file, a zip archive, have their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError, ValueError):
        return False
