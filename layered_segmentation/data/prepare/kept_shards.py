"""Complete shards that a stopped preparation leaves to the next one.

Without them, every stop of a preparation that takes hours (the LSUN cars are 186 GB) starts it from
the first photo again. Each is a hard link to TFDS's own file, in a directory next to the dataset,
with a record of its contents. The directory also holds a plan: when that changes, it is removed.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tensorflow_datasets.core import writer

from layered_segmentation import files

PREFIX = "partial."  # of the directory, before the version

_PLAN = "plan.json"


class Shard(NamedTuple):
    """A shard that was written."""

    images: int  # how many records it has
    taken: int  # entries of the split's source that were read when it was complete
    skipped: list[tuple[str, str]]  # of those, the ones left out of this shard: name and reason


class KeptShards:
    """The shards of one dataset, by the names of their files.

    Args:
        directory: Where they lie; made with the first of them.
        plan: What must be the same for them to be reused; None keeps nothing.
    """

    def __init__(self, directory: str, plan: Any):
        self._directory = directory
        self._plan = plan
        if plan is None or files.read_json(self._path(_PLAN)) != plan:
            self.remove()

    def leading(self, names: Sequence[str]) -> list[Shard]:
        """Returns the records of the kept shards, up to the first file that is not kept."""
        shards = []
        for name in names:
            record = files.read_json(self._path(f"{name}.json"))
            if record is None or not os.path.exists(self._path(name)):
                break
            images, taken, skipped = record
            shards.append(Shard(images, taken, [(photo, reason) for photo, reason in skipped]))
        return shards

    def keep(self, path: str, shard: Shard) -> None:
        """Keeps a complete shard, where the disk supports hard links."""
        if self._plan is None:
            return
        file = os.path.basename(path)
        with contextlib.suppress(OSError):  # without it the next run starts over
            os.makedirs(self._directory, exist_ok=True)
            files.write_json(self._path(_PLAN), self._plan)
            os.link(path, self._path(file))
            files.write_json(self._path(f"{file}.json"), shard)

    def restore(self, path: str) -> bool:
        """Links a kept shard to its place in the dataset; returns whether there is one."""
        file = os.path.basename(path)
        if not os.path.exists(self._path(f"{file}.json")):
            return False
        os.link(self._path(file), path)
        return True

    def remove(self) -> None:
        """Removes the directory; shards that became part of a dataset stay there."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)


class Writer(writer.ExampleWriter):
    """TFDS's writer of shards, which restores a kept shard instead of writing it again.

    Args:
        kept: The shards.
        written: The records of the shards, by file, once their examples were all taken.
        file_format: TFDS's.
    """

    def __init__(self, kept: KeptShards, written: dict[str, Shard], file_format: Any):
        super().__init__(file_format)
        self._kept = kept
        self._written = written

    def write(self, path: Any, examples: Iterable[Any]) -> Any:
        """Writes and keeps a shard, or restores it."""
        path = os.fspath(path)
        if self._kept.restore(path):
            return None
        positions = super().write(path, examples)
        self._kept.keep(path, self._written[os.path.basename(path)])
        return positions
