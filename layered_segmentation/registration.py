"""Makes our classes known to KerasHub once both packages are imported, in either order.

`keras_hub.models.ImageSegmenter.from_preset(DIR)` finds a class only if its module was imported.
Importing it with the package would make `import layered_segmentation`, and with it `layerseg
--help`, wait for TensorFlow; so it is imported right after KerasHub is.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence

_WATCHED = "keras_hub"
_MODELS = "layered_segmentation.models."
_SEGMENTER = _MODELS + "segmenter"


def register_with_keras_hub() -> None:
    """Imports the segmenter's module now if KerasHub is there, else as soon as it is."""
    if _WATCHED in sys.modules:
        importlib.import_module(_SEGMENTER)
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


class _Watcher(importlib.abc.MetaPathFinder):
    """Waits for the import of KerasHub, once."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns KerasHub's own spec with a loader that registers afterwards."""
        if fullname != _WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    """Loads as the loader it wraps, then imports our segmenter."""

    def __init__(self, wrapped: importlib.abc.Loader):
        self._wrapped = wrapped

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """Leaves the module to the wrapped loader."""
        return self._wrapped.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        """Runs the module, with its own loader in place, then registers."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._wrapped
        self._wrapped.exec_module(module)
        if not _is_importing_models():
            importlib.import_module(_SEGMENTER)


def _is_importing_models() -> bool:
    """Whether it is one of our networks that imports KerasHub: the segmenter would import it back.

    Whoever imports a network by itself loads no preset; what does, imports the segmenter.
    """
    return any(
        getattr(module.__spec__, "_initializing", False)
        for name, module in list(sys.modules.items())
        if name.startswith(_MODELS)
    )
