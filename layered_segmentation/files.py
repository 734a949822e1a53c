"""What a source is known again by, without reading it: its files' names, sizes and times."""

import hashlib
import os
from collections.abc import Iterable


def of_files(directory: str, files: Iterable[str]) -> str:
    """Returns a text that changes when files come, go, are renamed, or are written anew.

    Args:
        directory: That the names are relative to.
        files: Names, in order; those that are not there count as absent.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            status = os.stat(os.path.join(directory, file))
            about = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            about = "absent"
        digest.update(f"{file!r} {about}\n".encode())
    return f"files:{digest.hexdigest()}"


def of_archives(*archives: str) -> str:
    """Returns a text that changes with the archives' sizes: a second download is the same."""
    return "archives:" + ",".join(str(os.path.getsize(archive)) for archive in archives)


def differ(one: str, other: str) -> bool:
    """Whether two fingerprints are of different sources; of different kinds nobody can say."""
    same_kind = one.partition(":")[0] == other.partition(":")[0]
    return bool(one and other and same_kind and one != other)
