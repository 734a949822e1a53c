"""Keys and values of an LMDB in key order, read so that a damaged file cannot end this process."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, NamedTuple

from layered_segmentation.errors import UserError

FILE = "data.mdb"  # in the directory that is the database

_DUMP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lmdb_dump.py")
_PAGE_HEADER_SLACK = 1  # `last_pgno` counts from 0


class Summary(NamedTuple):
    """What an LMDB says of itself.

    Attributes:
        entries: How many there are.
        size: Bytes of its data file.
    """

    entries: int
    size: int


def summary(directory: str) -> Summary:
    """Returns how many entries an LMDB has, reading none.

    Raises:
        UserError: It is no LMDB, or its file ends too early.
    """
    with _dump(directory, 0) as process:
        about = _about(directory, process)
        _finish(directory, process, "")
    size = os.path.getsize(os.path.join(directory, FILE))
    whole = (about["last_pgno"] + _PAGE_HEADER_SLACK) * about["psize"]
    if size < whole:
        raise UserError(
            f"{os.path.join(directory, FILE)}: has {size:,} bytes of {whole:,}; it was not copied "
            "or unpacked to its end"
        )
    return Summary(about["entries"], size)


def entries(directory: str, count: int) -> Iterator[tuple[str, bytes]]:
    """Yields the first entries of an LMDB in its own order, that of the keys' bytes.

    Args:
        directory: Holds `data.mdb`; nothing is written to it.
        count: How many to read; nothing behind them is touched.

    Raises:
        UserError: Pages of it are damaged, or it has fewer entries.
    """
    with _dump(directory, count) as process:
        assert process.stdout is not None
        _about(directory, process)
        key = ""
        try:
            for number in range(count):
                raw_key = _field(process.stdout)
                value = _field(process.stdout)
                if raw_key is None or value is None:
                    after = f" after entry {number:,}" + (f" ({key})" if key else "")
                    _finish(directory, process, after)
                    raise UserError(
                        f"{os.path.join(directory, FILE)}: ends{after} of {count:,}; unpack or "
                        "download it again"
                    )
                key = raw_key.decode("utf-8", "backslashreplace")
                yield key, value
        finally:  # also when nobody asks for the rest
            process.kill()


def _dump(directory: str, count: int) -> subprocess.Popen[bytes]:
    if importlib.util.find_spec("lmdb") is None:
        raise UserError(
            f"{directory}: reading an LMDB needs the package lmdb: pip install "
            "'layered-segmentation[tfds]'"
        )
    command = [sys.executable, "-P", _DUMP, directory, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _about(directory: str, process: subprocess.Popen[bytes]) -> dict[str, int]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _finish(directory, process, "")
    return json.loads(line)


def _finish(directory: str, process: subprocess.Popen[bytes], where: str) -> None:
    """Waits for the process; raises if it did not end well."""
    _, message = process.communicate()
    if process.returncode:
        # By a signal: SIGABRT from LMDB's own checks, SIGBUS or SIGSEGV from the memory map.
        lines = message.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines else f"the reader ended with status {process.returncode}"
        raise UserError(
            f"{os.path.join(directory, FILE)}: is damaged{where}: {reason}; unpack or download it "
            "again"
        )


def _field(stream: IO[bytes]) -> bytes | None:
    """Reads one field, or None if the stream ends before or in it."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack("<I", head)
    field = stream.read(length)
    return field if len(field) == length else None
