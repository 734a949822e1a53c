"""What KerasHub's own loading and saving of presets lacks: checks, and safety on a full disk."""

import contextlib
import functools
import io
import os
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from keras.src.saving import saving_lib
from keras_hub.src.utils import preset_utils

from layered_segmentation import files
from layered_segmentation.segmenter import preset_files


def check(preset: str, place: str) -> None:
    """Checks a preset before it is built, one of a hub too; warns if it has no checksums.

    Args:
        preset: A directory, the name of a packaged preset, or the URL of one on a hub.
        place: The preset, for messages.

    Raises:
        UserError: A file has changed since it was saved, or as of `preset_files.require_sane`.
    """

    @functools.cache
    def get(name: str) -> str | None:
        try:
            return str(preset_utils.get_file(preset, name))
        except FileNotFoundError:
            return None

    checksums = get(preset_files.CHECKSUMS)
    if checksums is None:
        print(
            f"warning: {place}: it has no {preset_files.CHECKSUMS}, so damaged or changed files "
            "stay unnoticed",
            file=sys.stderr,
        )
    elif "://" in preset:
        preset_files.verify_downloads(checksums, get, place)
    else:
        preset_files.verify(os.path.dirname(checksums), preset_files.SAVE_AGAIN)
    preset_files.require_sane(place, get)


class CheckedTask:
    """A mixin for tasks, whose own `from_preset` makes all checks of `check`."""

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **kwargs: Any) -> Any:
        """Loads a preset as KerasHub does, after the checks."""
        check(str(preset), str(preset))
        return super().from_preset(preset, load_weights, **kwargs)  # type: ignore[misc]

    def load_task_weights(self, filepath: Any) -> None:
        """Loads the weights that are not the backbone's, unless they are damaged."""
        preset_files.require_whole(os.fspath(filepath))
        super().load_task_weights(filepath)  # type: ignore[misc]


class Checked:
    """A mixin for backbones: KerasHub's own `from_preset` builds no absurd or damaged network."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Builds the network, unless a size cannot be right."""
        preset_files.require_sizes(config, f"{cls.__name__}.from_config")
        return super().from_config(config)  # type: ignore[misc]

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Loads weights, unless they are damaged or not finite."""
        preset_files.require_whole(os.fspath(filepath))
        super().load_weights(filepath, *args, **kwargs)  # type: ignore[misc]


class _Store(saving_lib.H5IOStore):
    """An HDF5 file that is made in memory and written to its path when it is closed."""

    def __init__(self, path: Any, archive: Any = None, mode: str = "r"):
        self._path = None
        if mode == "w" and archive is None and isinstance(path, str | os.PathLike):
            self._path, path = os.fspath(path), io.BytesIO()
        super().__init__(path, archive=archive, mode=mode)

    def close(self) -> None:
        super().close()
        if self._path is not None:
            files.write_bytes(self._path, self.path_or_io.getvalue())
            self._path = None


def round_to_float16(model: Any) -> None:
    """Rounds the weights of a Keras model to 16 bits, in place.

    Raises:
        ValueError: One is too large.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        rounded = [weight.astype(np.float16) for weight in model.get_weights()]
    if not all(np.isfinite(weight).all() for weight in rounded):
        raise ValueError("a weight is too large for float16; save it without float16")
    model.set_weights(rounded)


def store_as_float16(preset: str) -> None:
    """Rewrites a preset's weights with 16 bits for each number; Keras loads them as before."""
    for name in preset_files.WEIGHTS:
        _store_as_float16(os.path.join(preset, name))


def _store_as_float16(path: str) -> None:
    import h5py
    import numpy as np

    content = io.BytesIO()
    with h5py.File(path, "r") as source, h5py.File(content, "w") as target:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                is_number = np.issubdtype(item.dtype, np.floating)
                target[name] = item[()].astype(np.float16 if is_number else item.dtype)
            else:
                target.require_group(name)
            target[name].attrs.update(item.attrs)

        target.attrs.update(source.attrs)
        source.visititems(copy)
    files.write_bytes(path, content.getvalue())


@contextlib.contextmanager
def weights_in_memory() -> Iterator[None]:
    """Lets Keras make weight files in memory: HDF5 crashes the process where the disk is full."""
    with mock.patch.object(saving_lib, "H5IOStore", _Store):
        yield
