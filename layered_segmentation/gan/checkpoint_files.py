"""The files of checkpoints: listed by themselves, with checksums, and verified before use.

A checkpoint of n images seen is ckpt-n.index and ckpt-n.data-*, as TensorFlow writes them, and
ckpt-n.json, the SHA-256 of each, which is written last. Checkpoints of version 0.1.0 lack the last.
"""

import contextlib
import os
import re
from collections.abc import Iterator

import tensorflow as tf

from layered_segmentation import files

_FILE = re.compile(r"ckpt-(?P<number>\d+)\.(index|json|data-\d+-of-\d+)")
_ANY = re.compile(r"ckpt-(?P<number>\d+)[._].*")  # also what TensorFlow leaves if it is killed
_STATE = "checkpoint"  # for TensorFlow's tools; never read here


class CheckpointFiles:
    """The checkpoints in a directory.

    Args:
        directory: Created with the first checkpoint.
    """

    def __init__(self, directory: str):
        self.directory = directory

    def prefix(self, number: int) -> str:
        """Returns the path of a checkpoint as TensorFlow names it."""
        return os.path.join(self.directory, f"ckpt-{number}")

    def numbers(self) -> list[int]:
        """Returns the images seen of all checkpoints, damaged ones too, newest first."""
        found = {int(match["number"]) for name in self._names() if (match := _FILE.fullmatch(name))}
        return sorted(found, reverse=True)

    def problem(self, number: int) -> str | None:
        """Returns the file of a checkpoint that is missing or damaged, and how; or None."""
        prefix = self.prefix(number)
        sums = files.read_json(f"{prefix}.json")
        if not isinstance(sums, dict) or not sums:
            return _unreadable(prefix)
        for name, expected in sums.items():
            path = os.path.join(self.directory, name)
            try:
                if files.digest_of_files(path) != expected:
                    return f"{path}: its SHA-256 has changed"
            except OSError as error:
                return f"{path}: {error.strerror}"
        return None

    @contextlib.contextmanager
    def adding(self, number: int) -> Iterator[str]:
        """Adds a checkpoint: whole and on the disk, or not at all.

        Yields:
            The path for TensorFlow to write to.
        """
        os.makedirs(self.directory, exist_ok=True)
        self._remove({number})
        try:
            yield self.prefix(number)
            names = [name for name in self._names() if _number(name) == number]
            sums = {}
            for name in sorted(names):
                path = os.path.join(self.directory, name)
                files.sync(path)
                sums[name] = files.digest_of_files(path)
            files.write_json(f"{self.prefix(number)}.json", sums)
        except BaseException:
            self._remove({number})
            raise

    def keep(self, count: int, newest: int) -> None:
        """Removes all checkpoints but the last ones; newer ones than `newest` are damaged."""
        before = [number for number in self.numbers() if number <= newest]
        kept = before[:count]
        names = [f'model_checkpoint_path: "ckpt-{kept[0]}"']
        names += [f'all_model_checkpoint_paths: "ckpt-{number}"' for number in reversed(kept)]
        files.write_text(os.path.join(self.directory, _STATE), "\n".join(names) + "\n")
        found = {_number(name) for name in self._names()} - {None}
        self._remove({number for number in found if number not in kept})

    def _names(self) -> list[str]:
        return os.listdir(self.directory) if os.path.isdir(self.directory) else []

    def _remove(self, numbers: set[int | None]) -> None:
        for name in self._names():
            if _number(name) in numbers:
                files.remove(os.path.join(self.directory, name))


def _number(name: str) -> int | None:
    match = _ANY.fullmatch(name)
    return int(match["number"]) if match else None


def _unreadable(prefix: str) -> str | None:
    """Returns what is wrong with a checkpoint by TensorFlow's own checksums, or None."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception as error:  # of several kinds, by what is damaged
        return f"{prefix}: {error}"
    return None
