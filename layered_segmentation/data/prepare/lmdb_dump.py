"""Writes an LMDB's entries to standard output; what `lmdb_entries` runs in a process of its own.

LMDB reads its file through a memory map and trusts it: a damaged or truncated file ends the whole
process by a signal. Run by its path, so that it needs nothing but the lmdb package.

Usage: lmdb_dump.py DIRECTORY COUNT

First comes one line of JSON with what LMDB says of the file; then, COUNT times or to the end, key
and value, each after its length (uint32, little endian).
"""

import json
import struct
import sys

import lmdb


def main(directory: str, count: int) -> None:
    """Writes the first `count` entries in key order."""
    out = sys.stdout.buffer
    # No lock file is written: the archive may lie on a read-only disk.
    with lmdb.open(directory, readonly=True, lock=False, max_readers=1) as environment:
        about = environment.stat() | environment.info()
        out.write(json.dumps(about).encode() + b"\n")
        out.flush()
        if not count:
            return
        with environment.begin() as transaction:
            for number, (key, value) in enumerate(transaction.cursor(), start=1):
                out.write(struct.pack("<I", len(key)) + key + struct.pack("<I", len(value)))
                out.write(value)
                if number == count:  # before the cursor touches the next page
                    break
    out.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except lmdb.Error as error:
        sys.exit(str(error))
