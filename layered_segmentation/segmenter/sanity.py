"""Sanity checks at the end of a training or an evaluation, which need no true masks.

Each returns a line of what is wrong and what to do for each fault it finds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layered_segmentation import images
from layered_segmentation.config import Config
from layered_segmentation.gan import collapse

SIDE = 16  # at which masks are compared

_LEAST = 8  # masks; of fewer nothing can be said
_EMPTY = 0.005  # share of the pixels: a mask that covers less is as good as empty
_AT_EDGE = 0.5
_ALIKE = 0.9  # mean IoU of two photos' masks


def small(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, bool or float [H, W], at `SIDE`, float32, for `of_masks`."""
    return images.to_square(np.asarray(mask, np.float32), SIDE)


def of_masks(masks: Sequence[np.ndarray], advice: str) -> list[str]:
    """Checks the masks of photos: empty or full, mostly background, the same for all photos.

    Args:
        masks: Of different photos, each as of `small`.
        advice: What to do about masks that are wrong, as the end of a sentence.

    Returns:
        A line for each fault.
    """
    if len(masks) < _LEAST:
        return []
    stacked = np.stack(masks)
    covered = stacked.mean(axis=(1, 2))
    blank = int(np.count_nonzero((covered < _EMPTY) | (covered > 1 - _EMPTY)))
    if blank > len(masks) / 2:
        return [f"{blank} of {len(masks)} masks are empty or cover everything; {advice}"]
    found = collapse.statistics(stacked[..., None], shift=0.0)
    lines = []
    if found.mask_edge > _AT_EDGE:
        lines.append(
            f"masks cover {100 * found.mask_edge:.0f} % of the photos' edge, so they may show the "
            f"background instead of the object; {advice}"
        )
    if found.mask_other_scene > _ALIKE:
        lines.append(
            f"all photos have nearly the same mask (IoU of two photos' masks "
            f"{found.mask_other_scene:.2f}), so it follows no object; {advice}"
        )
    return lines


def of_training(records: Sequence[Mapping[str, Any]], config: Config) -> list[str]:
    """Checks the last look at generated masks in the log of a finished training.

    Args:
        records: Of log.jsonl.
        config: The run's config, whose values the advice quotes.

    Returns:
        A line for a collapse that was not warned of during training, or for masks that are grey.
    """
    last = next((record for record in reversed(records) if "look" in record), None)
    if last is None:
        return []
    kind, seen, undecided = last["look"], last["images_seen"], last.get("mask_undecided")
    if kind == "none" and isinstance(undecided, float) and undecided > collapse.UNDECIDED:
        return [
            f"masks are still grey at {seen:,} images (mean of min(m, 1 - m) {undecided:.2f}); "
            "train on more images, or raise gan.mask_binary_weight (γ2, "
            f"now {config.gan.mask_binary_weight:g})"
        ]
    if kind not in collapse.KINDS or any(record.get("collapse") == kind for record in records):
        return []
    return [f"at {seen:,} images {collapse.advice(kind, config)}"]
