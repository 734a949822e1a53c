"""A detector for generated scenes without colour: the embedded scenes' stand-in for Mask R-CNN.

Table 1 of the paper scores generated masks by a detector that was trained elsewhere, with labels.
For the embedded scenes such a detector can be trained: on other scenes and their true masks, in
grey, so that it must know objects by outline and texture and cannot repeat what a mask that follows
a palette would say. It serves for scoring alone; nothing that is scored ever sees it.
"""

import numpy as np

from layered_segmentation.config import StudentConfig
from layered_segmentation.data import scenes as shapes
from layered_segmentation.segmenter import distill
from layered_segmentation.segmenter import segmenter as segmenters
from layered_segmentation.segmenter.segmenter import LayeredSegmenter

SEED = 1_000_003  # no run's seed, so that no scene is shared with a run's training
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luminance of RGB (ITU-R BT.601)


def train(resolution: int, steps: int, scenes: int, width: int = 24) -> LayeredSegmenter:
    """Trains a segmenter on scenes in grey and their true masks.

    Args:
        resolution: Side of the scenes, pixels.
        steps: Training steps, of 64 scenes.
        scenes: How many scenes.
        width: Channels of its first level.

    Returns:
        A segmenter of RGB photos whose output depends on their luminance alone.
    """
    images, masks = shapes.Shapes(SEED, scenes).load_pairs(resolution)
    pool = distill.Pool.from_pairs(to_grey(images), masks)
    detector = segmenters.create(width, resolution)
    distill.initialise(detector, SEED)
    settings = StudentConfig(width=width, steps=steps, augment=0.0)
    distill.fit(detector, pool, settings, SEED)
    see_grey(detector)
    return detector


def to_grey(images: np.ndarray) -> np.ndarray:
    """Returns uint8 [..., 3] RGB with each pixel's three values replaced by its luminance."""
    grey = np.rint(images.astype(np.float32) @ _GREY)
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)


def see_grey(segmenter: LayeredSegmenter) -> None:
    """Folds the conversion to grey into the first convolution of a student, in place.

    On images whose three channels are equal it computes what it did before; on all others, what it
    did on their luminance.
    """
    first = next(layer for layer in segmenter.backbone.layers if hasattr(layer, "kernel"))
    kernel = np.asarray(first.kernel).sum(axis=2, keepdims=True)
    first.kernel.assign(kernel * _GREY[:, None])
