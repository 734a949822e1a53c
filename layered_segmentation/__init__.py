"""Learns to segment the object in photos from unlabelled photos of one kind of object.

The names below are the public interface. Each is imported on first use, so that
`import layered_segmentation` and `layerseg --help` do not import TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layered_segmentation.config import Config as Config
    from layered_segmentation.errors import UserError as UserError
    from layered_segmentation.gan.composite import Layers as Layers
    from layered_segmentation.gan.composite import compose as compose
    from layered_segmentation.gan.composite import contrast_jitter as contrast_jitter
    from layered_segmentation.gan.composite import shift as shift
    from layered_segmentation.gan.discriminator import Discriminator as Discriminator
    from layered_segmentation.gan.generator import LayeredGenerator as LayeredGenerator
    from layered_segmentation.gan.layered_gan import LayeredGAN as LayeredGAN
    from layered_segmentation.run_directory import RunDirectory as RunDirectory
    from layered_segmentation.segmenter.autoencoder import Autoencoder as Autoencoder
    from layered_segmentation.segmenter.cut_out import cut_out as cut_out
    from layered_segmentation.segmenter.encoder import Encoder as Encoder
    from layered_segmentation.segmenter.refine import refine as refine
    from layered_segmentation.segmenter.segmenter import EncoderSegmenter as EncoderSegmenter
    from layered_segmentation.segmenter.segmenter import LayeredSegmenter as LayeredSegmenter

__version__ = "0.1.0"

_MODULE_OF = {
    "Autoencoder": "segmenter.autoencoder",
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

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
