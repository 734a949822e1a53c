"""Learns from unlabelled photos of one kind of thing to cut that thing out.

The names below are the public interface. They are imported when they are first used, so that
`import layered_segmentation` and `layerseg --help` do not wait for TensorFlow.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from layered_segmentation.registration import register

if TYPE_CHECKING:
    from layered_segmentation.composite import Layers, compose, contrast_jitter, shift
    from layered_segmentation.config import Config
    from layered_segmentation.errors import UserError
    from layered_segmentation.models.discriminator import Discriminator
    from layered_segmentation.models.generator import LayeredGenerator
    from layered_segmentation.models.segmenter import LayeredSegmenter
    from layered_segmentation.training.run_directory import RunDirectory

__version__ = "0.1.0"

_MODULE_OF = {
    "Config": "config",
    "Discriminator": "models.discriminator",
    "LayeredGenerator": "models.generator",
    "LayeredSegmenter": "models.segmenter",
    "Layers": "composite",
    "RunDirectory": "training.run_directory",
    "UserError": "errors",
    "compose": "composite",
    "contrast_jitter": "composite",
    "shift": "composite",
}

__all__ = [
    "Config",
    "Discriminator",
    "LayeredGenerator",
    "LayeredSegmenter",
    "Layers",
    "RunDirectory",
    "UserError",
    "compose",
    "contrast_jitter",
    "shift",
]

# In a checkout configs/ and export/ lie beside the package, not in it. An install maps them; a
# checkout that is first on sys.path (`python -m` from its root) finds them here.
_checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if all(
    os.path.isfile(os.path.join(_checkout, *parts))
    for parts in (("setup.py",), ("configs", "__init__.py"), ("export", "__init__.py"))
):
    __path__.append(_checkout)

register()


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
