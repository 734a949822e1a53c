"""The trained segmenters that come with the package, by name, and the checksums of presets."""

import json
import os
import shutil
from typing import Any

from layered_segmentation import files
from layered_segmentation.errors import UserError

CARD = "README.md"
CHECKSUMS = "checksums.json"

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
    """Returns the directory of a packaged preset, or None where there is none of that name.

    Raises:
        UserError: A file of it is not what was packaged.
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
        with open(os.path.join(directory, "metadata.json"), encoding="utf-8") as file:
            parameters = json.load(file)["parameter_count"]
        with open(os.path.join(directory, CARD), encoding="utf-8") as file:
            description = _first_paragraph(file.read())
        presets[name] = {
            "metadata": {"description": description, "params": parameters, "path": "layered_unet"},
            # KerasHub takes any address that it can load from here: this one is on the disk.
            "kaggle_handle": directory,
        }
    return presets


def write_card(directory: str, card: str) -> None:
    """Writes a preset's model card and its checksums anew."""
    files.write_text(os.path.join(directory, CARD), card)
    write_checksums(directory)


def keep_edited_card(before: str, after: str) -> None:
    """Takes a card that somebody has worked on over into the preset that replaces its own.

    Args:
        before: A preset that is about to be replaced; it need not exist.
        after: The one that takes its place; the card becomes its README.old.md.
    """
    card = os.path.join(before, CARD)
    if not os.path.isfile(card):
        return
    try:
        with open(os.path.join(before, CHECKSUMS), encoding="utf-8") as file:
            written = json.load(file).get(CARD)
    except (OSError, ValueError, AttributeError):
        written = None
    if _checksums(before)[CARD] != written:
        shutil.copyfile(card, os.path.join(after, _OLD_CARD))
        write_checksums(after)


def write_checksums(directory: str) -> None:
    """Writes the SHA-256 of every file of a preset into its checksums.json."""
    path = os.path.join(directory, CHECKSUMS)
    files.write_json(path, _checksums(directory), sort_keys=True)


def verify(directory: str, advice: str) -> None:
    """Checks a preset's files against its checksums.json.

    One's own may have more files, and another card, than when it was saved; a packaged one not.

    Args:
        directory: The preset.
        advice: What to do where they do not agree.

    Raises:
        UserError: There is no checksums.json, or a file is missing, unknown or has changed.
    """
    path = os.path.join(directory, CHECKSUMS)
    try:
        with open(path, encoding="utf-8") as file:
            expected = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {advice}") from error
    found = _checksums(directory)
    is_packaged = directory.startswith(_PACKAGED)
    names = expected.keys() | found.keys() if is_packaged else expected.keys() - {CARD, _OLD_CARD}
    for name in sorted(names):
        if name not in found:
            raise UserError(f"{os.path.join(directory, name)}: is missing; {advice}")
        if name not in expected:
            raise UserError(f"{os.path.join(directory, name)}: is not in {CHECKSUMS}; {advice}")
        if found[name] != expected[name]:
            raise UserError(
                f"{os.path.join(directory, name)}: its SHA-256 is {found[name][:12]}…, not "
                f"{str(expected[name])[:12]}…; {advice}"
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
    """Returns the first paragraph of text of a Markdown card, behind front matter and title."""
    text = card.split("\n---\n", 1)[1] if card.startswith("---\n") else card
    for paragraph in text.split("\n\n"):
        if paragraph.strip() and not paragraph.lstrip().startswith("#"):
            return " ".join(paragraph.split())
    return ""
