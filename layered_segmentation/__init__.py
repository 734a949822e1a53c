"""Learns to segment the object in photos from unlabelled photos of one kind of object.

The names below are the public interface. Each is imported on first use, so that
`import layered_segmentation` and `layerseg --help` do not import TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layered_segmentation.config import Config
    from layered_segmentation.errors import UserError
    from layered_segmentation.gan.composite import Layers, compose, contrast_jitter, shift
    from layered_segmentation.gan.discriminator import Discriminator
    from layered_segmentation.gan.generator import LayeredGenerator
    from layered_segmentation.gan.layered_gan import LayeredGAN
    from layered_segmentation.run_directory import RunDirectory
    from layered_segmentation.segmenter.cut_out import cut_out
    from layered_segmentation.segmenter.encoder import Encoder
    from layered_segmentation.segmenter.refine import refine
    from layered_segmentation.segmenter.segmenter import EncoderSegmenter, LayeredSegmenter

__version__ = "0.1.0"

_MODULE_OF = {
    "Config": "config",
    "Discriminator": "gan.discriminator",
    "Encoder": "segmenter.encoder",
    "EncoderSegmenter": "segmenter.segmenter",
    "LayeredGAN": "gan.layered_gan",
    "LayeredGenerator": "gan.generator",
    "LayeredSegmenter": "segmenter.segmenter",
    "Layers": "gan.composite",
    "RunDirectory": "run_directory",
    "UserError": "errors",
    "compose": "gan.composite",
    "contrast_jitter": "gan.composite",
    "cut_out": "segmenter.cut_out",
    "refine": "segmenter.refine",
    "shift": "gan.composite",
}

__all__ = [
    "Config",
    "Discriminator",
    "Encoder",
    "EncoderSegmenter",
    "LayeredGAN",
    "LayeredGenerator",
    "LayeredSegmenter",
    "Layers",
    "RunDirectory",
    "UserError",
    "compose",
    "contrast_jitter",
    "cut_out",
    "refine",
    "shift",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
