"""Test sets: held-out procedural scenes, and the photos that a run is tested on."""

import os
from collections.abc import Sequence

from layered_segmentation.choices import SourceName
from layered_segmentation.data import folder
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.data.source import Pair
from layered_segmentation.run_directory import RunDirectory

HELD_OUT = 500  # procedural scenes that no run trains on
_SEED = 0  # the same scenes whatever a run's seed, so that seeds can be compared


def held_out_scenes(resolution: int, limit: int = 0, objects: int = 1) -> list[Pair]:
    """Draws the first `limit` held-out scenes (0: all `HELD_OUT`) at `resolution` pixels."""
    count = min(limit or HELD_OUT, HELD_OUT)
    return list(Scenes(_SEED, count, "test", objects).pairs(resolution))


def of_run(segmenter: str, limit: int = 0) -> tuple[Sequence[Pair], str]:
    """Returns the test set of a segmenter's run.

    A run on procedural scenes is tested on the held-out ones; a run on photos, on
    `data.test_path` and `data.test_masks`.

    Args:
        segmenter: A run, or a preset in it.
        limit: How many scenes to draw; 0 draws all. Photos are only read when they are scored.

    Returns:
        The pairs and a sentence that describes them; both empty if the run has no test set.
    """
    is_local = os.path.isdir(segmenter)  # not the name of a packaged preset, nor a URL
    places = (segmenter, os.path.dirname(os.path.abspath(segmenter))) if is_local else ()
    for run in map(RunDirectory, places):
        if not os.path.isfile(run.config_path):
            continue
        config = run.config()
        if config.data.name == SourceName.shapes:
            pairs = held_out_scenes(config.gan.resolution, limit, config.data.objects)
            part = f"{len(pairs):,} of " if len(pairs) < HELD_OUT else ""
            return pairs, f"{part}{HELD_OUT:,} held-out scenes at {config.gan.resolution} px. "
        if config.data.test_path and config.data.test_masks:
            photos = folder.PairFolder(config.data.test_path, config.data.test_masks)
            return photos, f"The run's test photos, {config.data.test_path}. "
    return [], ""
