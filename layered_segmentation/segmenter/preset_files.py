"""The files of presets: where they are, their checksums and model cards, and what is in them.

A preset is a directory that KerasHub can load. This module imports neither Keras nor TensorFlow;
`presets` loads and saves. Checksums show that files are whole, not that they are harmless: their
author wrote both. So one from elsewhere is checked before a network is built from it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from layered_segmentation import files, records
from layered_segmentation.errors import UserError

DEFAULT = "layered_unet_flowers_64"  # of the packaged presets
CARD = "README.md"
CHECKSUMS = "checksums.json"
DOMAIN = "domain.json"
TFLITE = "segmenter.tflite"
# What KerasHub writes for a segmenter, with this package's four files and a licence: all that a
# preset shares.
SHARED = (
    CARD,
    CHECKSUMS,
    "LICENSE",
    "config.json",
    DOMAIN,
    "image_converter.json",
    "metadata.json",
    "model.weights.h5",
    "preprocessor.json",
    TFLITE,
    "task.json",
    "task.weights.h5",
)

SAVE_AGAIN = "save it again, or copy it again from an intact one"  # what to do if it is damaged

_LOADED = set(SHARED) - {CARD, CHECKSUMS, DOMAIN, TFLITE, "LICENSE"}  # by KerasHub
_OLD_CARD = "README.old.md"
_PACKAGED = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "presets")

# Far above what trains; a network of these sizes still fits into memory.
_LARGEST = {
    "width": 512,
    "levels": 16,
    "resolution": 1024,
    "image_size": 4096,
    "latent_dim": 2048,
    "mapping_layers": 64,
    "max_channels": 2048,
    "encoder_resolution": 1024,
    "encoder_channels": 2048,
    "foreground_layers": 16,
    "num_masks": 16,
}
_CONFIGS = ("config.json", "image_converter.json", "preprocessor.json", "task.json")
WEIGHTS = ("model.weights.h5", "task.weights.h5")
_SLACK = 4  # how many times larger values may be than the file that stores them


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
                verify(candidate, SAVE_AGAIN)
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
    written = records.read(os.path.join(before, CHECKSUMS), records.table(records.is_text)) or {}
    if _checksums(before)[CARD] != written.get(CARD):
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
    expected = records.read(path, records.table(records.is_text))
    if expected is None:
        raise UserError(f"{path}: cannot be read; {advice}")
    found = _checksums(directory)
    checked = expected.keys() | found.keys()
    if not directory.startswith(_PACKAGED):
        checked = expected.keys() - {CARD, _OLD_CARD} | found.keys() & _LOADED
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
    expected = records.read(checksums, records.table(records.is_text))
    if expected is None:
        raise UserError(f"{place}: {CHECKSUMS} cannot be read; ask its author")
    for name in sorted(_LOADED):
        path = get(name)
        found = files.digest_of_files(path) if path else None
        if found != expected.get(name):
            raise UserError(
                f"{place}: {name} does not match {CHECKSUMS}; download it again, or ask its author"
            )


def require_sane(place: str, get: Callable[[str], str | None]) -> None:
    """Refuses a preset whose sizes cannot be right or whose weights are not finite.

    Args:
        place: The preset, for messages.
        get: Returns the local path of a file of the preset, or None if it has no such file.

    Raises:
        UserError: A size is out of range, the weights are too few for the sizes, or a weight is
            not finite.
    """
    configs = {}
    for name in _CONFIGS:
        if path := get(name):
            configs[name] = _read_config(path, f"{place}: {name}")
    for name, config in configs.items():
        require_sizes(config, f"{place}: {name}")
    for name in WEIGHTS:
        if path := get(name):
            if name == "model.weights.h5":
                _require_enough(configs.get("config.json"), os.path.getsize(path), place)
            _require_finite(path, f"{place}: {name}")


def require_sizes(config: Any, place: str) -> None:
    """Raises a UserError if a size in a config, with configs inside, is out of range."""
    for key, value in _numbers(config):
        if not 0 < value <= _LARGEST[key]:
            shown = f"{value:g}" if abs(value) < 1e300 else "far too large"
            raise UserError(f"{place}: {key} is {shown}; it must be in [1, {_LARGEST[key]:,}]")


def require_whole(path: str) -> None:
    """Refuses a preset's file of weights that is damaged, or differs from its checksums.

    Raises:
        UserError: It does; the message names the file.
    """
    directory, name = os.path.split(path)
    if name in WEIGHTS:
        if os.path.isfile(os.path.join(directory, CHECKSUMS)):
            verify(directory, SAVE_AGAIN)
        _require_finite(path, path)


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


def _read_config(path: str, place: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{place}: cannot be read ({type(error).__name__})") from error


def _numbers(config: Any) -> Iterator[tuple[str, float]]:
    """Yields the sizes in a config by name."""
    left = [config]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left.extend(node)
        if not isinstance(node, dict):
            continue
        for key, value in node.items():
            if key in _LARGEST:
                for one in value if isinstance(value, list) else [value]:
                    if isinstance(one, int | float):
                        yield key, one
            left.append(value)


def _require_enough(config: Any, size: int, place: str) -> None:
    """Refuses a network with a layer that is larger than the whole file of weights."""
    sizes = dict(_numbers(config))
    if "width" in sizes:  # of the U-Net: 3 × 3 convolutions between levels
        least = 27 * sizes["width"] if sizes.get("levels", 1) < 2 else 9 * sizes["width"] ** 2
    else:  # the encoder's dense layer, from at least a 32nd of its side
        side = max(1, int(sizes.get("encoder_resolution", 1)) // 32)
        codes = 2 * sizes.get("latent_dim", 1)
        least = codes * side**2 * sizes.get("encoder_channels", 1)
    if 4 * least > _SLACK * size:
        raise UserError(
            f"{place}: the network of config.json has more than {least:,.0f} parameters, and "
            f"model.weights.h5 has {size:,} bytes"
        )


def _require_finite(path: str, place: str) -> None:
    import h5py
    import numpy as np

    size = os.path.getsize(path)
    try:
        with h5py.File(path, "r") as file:
            for name, data in _datasets(file, place):
                if data.external or data.is_virtual:
                    raise UserError(f"{place}: {name} is stored in another file")
                if data.nbytes > _SLACK * size:
                    raise UserError(
                        f"{place}: {name} has {data.nbytes:,} bytes, more than the file"
                    )
                is_number = np.issubdtype(data.dtype, np.floating)
                if is_number and not np.isfinite(data[()]).all():
                    raise UserError(f"{place}: {name} has values that are not finite")
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{place}: cannot be read as HDF5 ({reason})") from error


def _datasets(group: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yields the arrays of an HDF5 group; a link could lead to another file, or around."""
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UserError(f"{place}: {group.name}/{name} is a link")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, place)
        elif isinstance(item, h5py.Dataset):
            yield item.name, item
