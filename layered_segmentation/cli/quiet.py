"""Keeps TensorFlow's start-up notes off the screen; errors stay.

TF_CPP_MIN_LOG_LEVEL does not reach what TensorFlow's libraries write while they are loaded, so the
error stream is set aside for as long as `import tensorflow` takes, and what is not such a note is
written afterwards.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from layered_segmentation.import_watch import around_import

_NOTES = re.compile(
    rb"^(WARNING: All log messages before absl::InitializeLog|I0000 |"
    rb"To enable the following instructions)"
)


def silence_tensorflow() -> None:
    """Sets TensorFlow's environment, and watches for its import if that is still to come."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("GLOG_minloglevel", "2")
    around_import("tensorflow", _error_stream_aside)


@contextlib.contextmanager
def _error_stream_aside() -> Iterator[None]:
    try:
        sys.stderr.flush()
        screen = os.dup(2)
    except (OSError, AttributeError):  # no error stream at all
        yield
        return
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            aside.seek(0)
            for line in aside:
                if not _NOTES.match(line):
                    os.write(2, line)
