"""Keeps TensorFlow's start-up notes off the screen; errors stay.

TF_CPP_MIN_LOG_LEVEL does not reach what TensorFlow's libraries write while they are loaded, so the
error stream is set aside for as long as `import tensorflow` takes, and what is not such a note is
written afterwards.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
import tempfile
import types
from collections.abc import Sequence

_WATCHED = "tensorflow"
_NOTES = re.compile(
    rb"^(WARNING: All log messages before absl::InitializeLog|I0000 |"
    rb"To enable the following instructions)"
)


def silence_tensorflow() -> None:
    """Sets TensorFlow's environment, and watches for its import if that is still to come."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("GLOG_minloglevel", "2")
    is_watching = any(isinstance(finder, _Watcher) for finder in sys.meta_path)
    if _WATCHED not in sys.modules and not is_watching:
        sys.meta_path.insert(0, _Watcher())


class _Watcher(importlib.abc.MetaPathFinder):
    """Waits for the import of TensorFlow, once."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns TensorFlow's own spec with a loader that sets the error stream aside."""
        if fullname != _WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(importlib.abc.Loader):
    """Loads as the loader it wraps, with the error stream set aside."""

    def __init__(self, wrapped: importlib.abc.Loader):
        self._wrapped = wrapped

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """Leaves the module to the wrapped loader."""
        return self._wrapped.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        """Runs the module, with its own loader in place."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._wrapped
        try:
            sys.stderr.flush()
            screen = os.dup(2)
        except (OSError, AttributeError):  # no error stream at all
            self._wrapped.exec_module(module)
            return
        with tempfile.TemporaryFile() as aside:
            os.dup2(aside.fileno(), 2)
            try:
                self._wrapped.exec_module(module)
            finally:
                sys.stderr.flush()
                os.dup2(screen, 2)
                os.close(screen)
                aside.seek(0)
                for line in aside:
                    if not _NOTES.match(line):
                        os.write(2, line)
