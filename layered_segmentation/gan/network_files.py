"""Keras files of networks: those of runs, and the generators that come with the package.

A packaged generator is a finished run without photos and checkpoints: its config.yaml,
finished.json, generator/generator.keras, a model card and checksums.
"""

import os
import zipfile
from typing import Any

from layered_segmentation import files, records
from layered_segmentation.errors import UserError

CHECKSUMS = "checksums.json"

_PRESETS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "presets")
_GENERATOR = os.path.join("generator", "generator.keras")


def names() -> list[str]:
    """Returns the names of the packaged generators, sorted."""
    found = os.listdir(_PRESETS) if os.path.isdir(_PRESETS) else []
    return sorted(n for n in found if os.path.isfile(os.path.join(_PRESETS, n, _GENERATOR)))


def packaged(name: str) -> str:
    """Returns the directory of a packaged generator, a run.

    Raises:
        UserError: There is none of that name, or a file was changed after it was packaged.
    """
    if name not in names():
        raise UserError(f"{name!r}: the packaged generators are {', '.join(names()) or 'none'}")
    directory = os.path.join(_PRESETS, name)
    path = os.path.join(directory, CHECKSUMS)
    sums = records.read(path, records.table(records.is_text)) or {}
    for file in sums or [CHECKSUMS]:
        path = os.path.join(directory, *file.split("/"))
        is_whole = file in sums and os.path.isfile(path)
        if not is_whole or files.digest_of_files(path) != sums[file]:
            raise UserError(f"{path}: the installed package is damaged; install it again")
    return directory


def load_packaged(name: str) -> Any:
    """Returns a packaged generator.

    Raises:
        UserError: As of `packaged`.
    """
    return load(os.path.join(packaged(name), _GENERATOR), "generator")


def load(path: str, name: str) -> Any:
    """Returns the network in a Keras file; `name` is what it is, for the message.

    Raises:
        UserError: It cannot be loaded.
    """
    import keras  # here: `names` and `packaged` need none

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises nearly anything
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{path}: cannot be loaded as a {name} ({type(error).__name__}: {reason})"
        ) from error


def is_whole(path: str) -> bool:
    """Returns whether all members of a Keras file, a zip archive, have their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # of many kinds: an encrypted member, an unknown compression, …
        return False
