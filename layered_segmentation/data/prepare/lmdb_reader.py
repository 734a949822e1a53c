"""Keys and values of an LMDB in key order, read in a process of its own.

LMDB trusts its memory-mapped file: read in this process, a truncated database would end a
preparation by SIGBUS instead of an error that names the file. The child process runs this file by
its path, so that it imports no more than the package lmdb:

    lmdb_reader.py DIRECTORY COUNT

It writes one line of JSON, LMDB's statistics; then, COUNT times or to the end, key and value, each
after its length (uint32, little endian).
"""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from layered_segmentation.errors import UserError

FILE = "data.mdb"  # in the directory that is the database


class Summary(NamedTuple):
    """Statistics of an LMDB."""

    entries: int  # how many there are
    size: int  # bytes of its data file


def summary(directory: str) -> Summary:
    """Returns how many entries an LMDB has, reading none.

    Raises:
        UserError: It is not an LMDB, or its file is truncated.
    """
    with _start(directory, 0) as process:
        statistics = _statistics(directory, process)
        _finish(directory, process)
    size = os.path.getsize(os.path.join(directory, FILE))
    whole = (statistics["last_pgno"] + 1) * statistics["psize"]
    if size < whole:
        raise _error(
            directory,
            f"has {size:,} bytes of {whole:,}; it was not copied or unpacked to its end",
        )
    return Summary(statistics["entries"], size)


def entries(directory: str, count: int) -> Iterator[tuple[str, bytes]]:
    """Yields the first entries of an LMDB in the order of the keys' bytes.

    Args:
        directory: Holds `data.mdb`; nothing is written to it.
        count: How many to read; later pages are not touched.

    Raises:
        UserError: Pages of it are damaged, or it has fewer entries.
    """
    with _start(directory, count) as process:
        assert process.stdout is not None
        _statistics(directory, process)
        name = ""
        try:
            for number in range(count):
                key, value = _field(process.stdout), _field(process.stdout)
                if key is None or value is None:
                    after = f" after entry {number:,}" + (f" ({name})" if name else "")
                    _finish(directory, process, after)
                    raise _error(
                        directory, f"ends{after} of {count:,}; unpack or download it again"
                    )
                name = key.decode("utf-8", "backslashreplace")
                yield name, value
        finally:  # also when the caller takes no more
            process.kill()


def _start(directory: str, count: int) -> subprocess.Popen[bytes]:
    if importlib.util.find_spec("lmdb") is None:
        raise _error(
            directory,
            "reading an LMDB needs the package lmdb: pip install 'layered-segmentation[tfds]'",
        )
    command = [sys.executable, "-P", os.path.abspath(__file__), directory, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _statistics(directory: str, process: subprocess.Popen[bytes]) -> dict[str, int]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _finish(directory, process)
    statistics: dict[str, int] = json.loads(line)
    return statistics


def _finish(directory: str, process: subprocess.Popen[bytes], where: str = "") -> None:
    """Waits for the process; raises if it failed."""
    _, message = process.communicate()
    if process.returncode:
        # By a signal: SIGABRT from LMDB's own checks, SIGBUS or SIGSEGV from the memory map.
        lines = message.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines else f"the reader ended with status {process.returncode}"
        raise _error(directory, f"is damaged{where}: {reason}; unpack or download it again")


def _error(directory: str, problem: str) -> "UserError":
    from layered_segmentation.errors import UserError  # the child process cannot import it

    return UserError(f"{os.path.join(directory, FILE)}: {problem}")


def _field(stream: IO[bytes]) -> bytes | None:
    """Reads one field, or None if the stream ends before its end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack("<I", head)
    field = stream.read(length)
    return field if len(field) == length else None


def _dump(directory: str, count: int) -> None:
    """Writes the first `count` entries in key order to standard output; the child's work."""
    import lmdb

    out = sys.stdout.buffer
    # No lock file is written: the archive may lie on a read-only disk.
    with lmdb.open(directory, readonly=True, lock=False, max_readers=1) as environment:
        out.write(json.dumps({**environment.stat(), **environment.info()}).encode() + b"\n")
        out.flush()
        if count:
            with environment.begin() as transaction:
                for number, (key, value) in enumerate(transaction.cursor(), start=1):
                    for field in (key, value):
                        out.write(struct.pack("<I", len(field)))
                        out.write(field)
                    if number == count:  # before the cursor touches the next page
                        break
    out.flush()


if __name__ == "__main__":
    try:
        _dump(sys.argv[1], int(sys.argv[2]))
    except Exception as error:  # one line, as `_finish` shows it
        sys.exit(str(error))
