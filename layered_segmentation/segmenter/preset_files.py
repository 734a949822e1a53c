"""The files of presets: where they are, their checksums and their model cards.

A preset is a directory that KerasHub can load. This module imports neither Keras nor TensorFlow;
`presets` loads and saves.
"""

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

from layered_segmentation import files
from layered_segmentation.errors import UserError

DEFAULT = "layered_unet_flowers_64"  # of the packaged presets
CARD = "README.md"
CHECKSUMS = "checksums.json"
# What KerasHub writes for a segmenter, with this package's two files and a licence: all that a
# preset shares.
SHARED = (
    CARD,
    CHECKSUMS,
    "LICENSE",
    "config.json",
    "image_converter.json",
    "metadata.json",
    "model.weights.h5",
    "preprocessor.json",
    "task.json",
    "task.weights.h5",
)

_OLD_CARD = "README.old.md"
_PACKAGED = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "presets")


def names() -> list[str]:
    """Returns the names of the packaged presets, sorted."""
    return sorted(
        name
        for name in os.listdir(_PACKAGED)
        if os.path.isfile(os.path.join(_PACKAGED, name, "task.json"))
    )


def packaged(name: str) -> str | None:
    """Returns the directory of a packaged preset, or None if there is none of that name.

    Raises:
        UserError: A file of the preset was changed after it was packaged.
    """
    if name not in names():
        return None
    directory = os.path.join(_PACKAGED, name)
    verify(directory, "the installed package is damaged; install it again")
    return directory


def catalogue() -> dict[str, dict[str, Any]]:
    """Returns the packaged presets as KerasHub's `register_presets` takes them."""
    presets = {}
    for name in names():
        directory = os.path.join(_PACKAGED, name)
        parameters = files.read_json(os.path.join(directory, "metadata.json"))["parameter_count"]
        with open(os.path.join(directory, CARD), encoding="utf-8") as file:
            description = _first_paragraph(file.read())
        presets[name] = {
            "metadata": {"description": description, "params": parameters, "path": "layered_unet"},
            # Despite the name, KerasHub accepts a local directory here.
            "kaggle_handle": directory,
        }
    return presets


def find(path: str, flag: str = "--segmenter") -> str:
    """Returns the directory of a local preset, with its checksums verified.

    Args:
        path: A run directory, a preset directory or the name of a packaged preset.
        flag: The command-line flag that gave the path, for error messages.

    Raises:
        UserError: There is no preset, or a file was changed after it was saved.
    """
    if not os.path.lexists(path) and (directory := packaged(path)):
        return directory
    for candidate in (path, os.path.join(path, "segmenter")):
        if os.path.isfile(os.path.join(candidate, "task.json")):
            if os.path.isfile(os.path.join(candidate, CHECKSUMS)):
                verify(candidate, "save it again, or copy it again from an intact one")
            return candidate
    if os.path.isfile(os.path.join(path, "config.yaml")):
        raise UserError(
            f"no segmenter in {path} yet: run `layerseg distill --run_dir={path}` first"
        )
    if os.path.isdir(path):
        raise UserError(
            f"{flag}={path}: neither a run directory (no config.yaml) nor a preset (no task.json)"
        )
    raise UserError(
        f"{flag}={path}: there is no such directory, and no such preset in the package "
        f"({', '.join(names())})"
    )


def write_card(directory: str, card: str) -> None:
    """Writes a preset's model card and updates its checksums."""
    files.write_text(os.path.join(directory, CARD), card)
    write_checksums(directory)


def keep_edited_card(before: str, after: str) -> None:
    """Copies an edited model card to the preset that replaces it, as README.old.md.

    A card was edited if it does not match its checksum. There need not be a preset `before`.
    """
    card = os.path.join(before, CARD)
    if not os.path.isfile(card):
        return
    written = files.read_json(os.path.join(before, CHECKSUMS))
    if not isinstance(written, dict) or _checksums(before)[CARD] != written.get(CARD):
        shutil.copyfile(card, os.path.join(after, _OLD_CARD))
        write_checksums(after)


def write_checksums(directory: str) -> None:
    """Writes the SHA-256 of each file of a preset to its checksums.json."""
    path = os.path.join(directory, CHECKSUMS)
    files.write_json(path, _checksums(directory), sort_keys=True)


def verify(directory: str, advice: str) -> None:
    """Checks a preset's files against its checksums.json.

    Users may edit the card of their own presets and add files to them. The packaged presets must
    match exactly.

    Args:
        directory: The preset.
        advice: What the user should do about a damaged preset; ends the message.

    Raises:
        UserError: checksums.json cannot be read, or a file is missing, unknown or has changed.
    """
    path = os.path.join(directory, CHECKSUMS)
    try:
        with open(path, encoding="utf-8") as file:
            expected = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {advice}") from error
    found = _checksums(directory)
    is_packaged = directory.startswith(_PACKAGED)
    checked = expected.keys() | found.keys() if is_packaged else expected.keys() - {CARD, _OLD_CARD}
    for name in sorted(checked):
        if name not in found:
            raise UserError(f"{os.path.join(directory, name)}: is missing; {advice}")
        if name not in expected:
            raise UserError(f"{os.path.join(directory, name)}: is not in {CHECKSUMS}; {advice}")
        if found[name] != expected[name]:
            raise UserError(
                f"{os.path.join(directory, name)}: its SHA-256 is {found[name][:12]}…, not "
                f"{str(expected[name])[:12]}…; {advice}"
            )


def verify_downloads(checksums: str, get: Callable[[str], str | None], place: str) -> None:
    """Checks the files that are loaded from a hub against its checksums.json.

    Args:
        checksums: The local path of checksums.json.
        get: Returns the local path of a file of the preset, or None if it has no such file.
        place: The preset, for messages.

    Raises:
        UserError: checksums.json cannot be read, or a file is missing or has changed.
    """
    expected = files.read_json(checksums)
    if not isinstance(expected, dict):
        raise UserError(f"{place}: {CHECKSUMS} cannot be read; ask its author")
    for name in sorted(set(SHARED) - {CARD, CHECKSUMS, "LICENSE"}):
        path = get(name)
        found = files.digest_of_files(path) if path else None
        if found != expected.get(name):
            raise UserError(
                f"{place}: {name} does not match {CHECKSUMS}; download it again, or ask its author"
            )


def _checksums(directory: str) -> dict[str, str]:
    sums = {}
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name == CHECKSUMS or not os.path.isfile(path):
            continue
        sums[name] = files.digest_of_files(path)
    return sums


def _first_paragraph(card: str) -> str:
    """Returns the first paragraph of a Markdown card after the front matter and the title."""
    text = card.split("\n---\n", 1)[1] if card.startswith("---\n") else card
    for paragraph in text.split("\n\n"):
        if paragraph.strip() and not paragraph.lstrip().startswith("#"):
            return " ".join(paragraph.split())
    return ""
