"""The held-out scenes that a run on procedural scenes is scored on, also by `quickstart`."""

import os

from layered_segmentation import quickstart
from layered_segmentation.data import shapes
from layered_segmentation.data.photos import Pair
from layered_segmentation.training.run_directory import RunDirectory


def scenes(path: str, limit: int = 0) -> tuple[list[Pair], str]:
    """Returns the scenes and says what they are; none if the segmenter's run has none.

    Args:
        path: The segmenter, a run or a preset in it.
        limit: Only the first so many; 0 for all.
    """
    for run in (RunDirectory(path), RunDirectory(os.path.dirname(os.path.abspath(path)))):
        if path and os.path.isfile(run.config_path) and run.config().data.name == "shapes":
            side = run.config().gan.resolution
            count = min(limit or quickstart.HELD_OUT, quickstart.HELD_OUT)
            of = f"{count:,} of " if count < quickstart.HELD_OUT else ""
            source = shapes.Shapes(quickstart.HELD_OUT_SEED, count, split="test")
            about = f"{of}{quickstart.HELD_OUT:,} held-out scenes at {side} px. "
            return list(source.pairs(side)), about
    return [], ""
