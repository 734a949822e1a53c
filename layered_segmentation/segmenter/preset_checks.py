"""Checks of a preset from elsewhere before a network is built from it.

Checksums show that files are whole, not that they are harmless: their author wrote both.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from layered_segmentation.errors import UserError

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
}
_CONFIGS = ("config.json", "image_converter.json", "preprocessor.json", "task.json")
_WEIGHTS = ("model.weights.h5", "task.weights.h5")
_SLACK = 4  # how many times larger values may be than the file that stores them


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
        for key, value in _numbers(config):
            if not 0 < value <= _LARGEST[key]:
                raise UserError(
                    f"{place}: {name}: {key} is {value:g}; it must be in [1, {_LARGEST[key]:,}]"
                )
    for name in _WEIGHTS:
        if path := get(name):
            if name == "model.weights.h5":
                _require_enough(configs.get("config.json"), os.path.getsize(path), place)
            _require_finite(path, f"{place}: {name}")


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
