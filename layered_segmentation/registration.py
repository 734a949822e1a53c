"""Makes our classes known to KerasHub and TensorFlow Datasets, whichever is imported first.

`keras_hub.models.ImageSegmenter.from_preset(DIR)` and `tfds.load("lsun_objects/car")` find a class
only if its module was imported. Importing it with the package would make `import
layered_segmentation`, and with it `layerseg --help`, wait for TensorFlow; so it is imported right
after the package that looks for it.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator

from layered_segmentation.import_watch import around_import

_KERAS_HUB = "keras_hub"
_MODELS = "layered_segmentation.models."
_SEGMENTER = _MODELS + "segmenter"

_TFDS = "tensorflow_datasets"
_BUILDERS_BASE = "layered_segmentation.data.photo_builder"
_BUILDERS = ("layered_segmentation.data.lsun", "layered_segmentation.data.cub")


def register() -> None:
    """Imports our modules now if the packages that look for them are there, else once they are."""
    if _KERAS_HUB in sys.modules:
        importlib.import_module(_SEGMENTER)
    if _TFDS in sys.modules:
        _import_builders()
    around_import(_KERAS_HUB, _then_segmenter)
    around_import(_TFDS, _then_builders)


@contextlib.contextmanager
def _then_segmenter() -> Iterator[None]:
    yield
    if not _is_importing(_MODELS):
        importlib.import_module(_SEGMENTER)


@contextlib.contextmanager
def _then_builders() -> Iterator[None]:
    yield
    if not _is_importing(_BUILDERS_BASE):
        _import_builders()


def _import_builders() -> None:
    for module in _BUILDERS:
        importlib.import_module(module)


def _is_importing(prefix: str) -> bool:
    """Whether it is one of our modules that imports the package: what we import would import it.

    Whoever imports a network by itself loads no preset; what does, imports the segmenter. It is
    the same with the base of the builders.
    """
    return any(
        getattr(module.__spec__, "_initializing", False)
        for name, module in list(sys.modules.items())
        if name.startswith(prefix)
    )
