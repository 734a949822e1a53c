"""The held-out scenes that a run on procedural scenes is scored on, also by `quickstart`."""

import os

from layered_segmentation.cli import chain
from layered_segmentation.data import scenes as shapes
from layered_segmentation.images import Pair
from layered_segmentation.run_directory import RunDirectory


def scenes(path: str, limit: int = 0) -> tuple[list[Pair], str]:
    """Returns the scenes and says what they are; none if the segmenter's run has none.

    Args:
        path: The segmenter, a run or a preset in it.
        limit: Only the first so many; 0 for all.
    """
    for run in (RunDirectory(path), RunDirectory(os.path.dirname(os.path.abspath(path)))):
        if path and os.path.isfile(run.config_path) and run.config().data.name == "shapes":
            side = run.config().gan.resolution
            count = min(limit or chain.HELD_OUT, chain.HELD_OUT)
            of = f"{count:,} of " if count < chain.HELD_OUT else ""
            source = shapes.Shapes(chain.HELD_OUT_SEED, count, split="test")
            about = f"{of}{chain.HELD_OUT:,} held-out scenes at {side} px. "
            return list(source.pairs(side)), about
    return [], ""
