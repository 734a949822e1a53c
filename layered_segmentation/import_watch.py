"""Does something around the import of another package, whenever that comes.

Importing a heavy package only to adjust it would make `import layered_segmentation`, and with it
`layerseg --help`, wait for it; so its import is watched for instead.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager


def around_import(package: str, context: Callable[[], AbstractContextManager[None]]) -> None:
    """Runs a top-level package's import inside a context, once.

    Does nothing if the package was imported already, or is watched by the same context.

    Args:
        package: Name of the package.
        context: Makes the context manager that its import is run in.
    """
    if package in sys.modules:
        return
    for finder in sys.meta_path:
        if isinstance(finder, _Watcher) and (finder.package, finder.context) == (package, context):
            return
    sys.meta_path.insert(0, _Watcher(package, context))


class _Watcher(importlib.abc.MetaPathFinder):
    """Waits for the import of a package, once."""

    def __init__(self, package: str, context: Callable[[], AbstractContextManager[None]]):
        self.package = package
        self.context = context
        self._is_asked = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns the package's own spec with a loader that enters the context."""
        if fullname != self.package or self._is_asked:
            return None
        self._is_asked = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_asked = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads as the loader it wraps, inside a context."""

    def __init__(self, wrapped: importlib.abc.Loader, watcher: _Watcher):
        self._wrapped = wrapped
        self._watcher = watcher

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """Leaves the module to the wrapped loader."""
        return self._wrapped.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        """Runs the module, with its own loader in place."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._wrapped
        # Only now: whoever just asks whether there is such a package does not import it.
        if self._watcher in sys.meta_path:
            sys.meta_path.remove(self._watcher)
        with self._watcher.context():
            self._wrapped.exec_module(module)
