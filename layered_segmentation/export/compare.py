"""What both exports do before a file gets its final name: compare it with Keras on real images."""

import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from layered_segmentation.errors import UserError

TOLERANCE = 1e-4
DRAWN = 16  # scenes, where no images are given
_DRAWN_SIDES = (48, 64, 97)  # a batch can hold one size only, so several are tried


def images_to_compare(
    directory: str = "", limit: int = 32, flag: str = "--images"
) -> list[np.ndarray]:
    """Returns images to compare on, uint8 [H, W, 3].

    Args:
        directory: Photos; procedural scenes are drawn if empty.
        limit: At most so many photos, spread evenly over the directory.
        flag: What named the directory.

    Raises:
        UserError: The directory is missing or holds no readable image.
    """
    if not directory:
        from layered_segmentation.data.scenes import Scenes

        return [
            image
            for side in _DRAWN_SIDES
            for image in Scenes(seed=0, count=DRAWN, split="test").load(side)
        ]
    from layered_segmentation import images as photos
    from layered_segmentation.data import folder

    if not os.path.isdir(directory):
        raise UserError(f"{flag}={directory}: there is no such directory")
    paths = photos.find(directory, [folder.MASKS])
    images = []
    for index in np.unique(np.linspace(0, len(paths) - 1, min(limit, len(paths))).astype(int)):
        try:
            images.append(photos.read(os.path.join(directory, paths[index])))
        except photos.UnreadableImage:
            continue
    if not images:
        raise UserError(f"{flag}={directory}: holds no readable image")
    return images


def largest_difference(
    exported: Callable[[np.ndarray], np.ndarray],
    keras_masks: Callable[[np.ndarray], np.ndarray],
    images: Sequence[np.ndarray],
) -> float:
    """Returns the largest difference of two functions from images to masks; inf for a NaN.

    Args:
        exported: The exported model, uint8 [1, H, W, 3] -> float [1, h, w, 1].
        keras_masks: The Keras model, likewise.
        images: uint8 [H, W, 3].

    Raises:
        UserError: The shapes differ.
    """
    largest = 0.0
    for image in images:
        ours, theirs = exported(image[None]), keras_masks(image[None])
        if ours.shape != theirs.shape:
            raise UserError(
                f"the exported model gives masks of shape {ours.shape}, Keras {theirs.shape}"
            )
        difference = float(np.abs(ours - theirs).max())
        largest = max(largest, difference if np.isfinite(difference) else float("inf"))
    return largest


def require_close(difference: float, images: int) -> None:
    """Refuses an export that does not compute what the Keras model does.

    Raises:
        UserError: The difference is over the tolerance.
    """
    if not difference <= TOLERANCE:
        raise UserError(
            f"the exported model's masks differ from the Keras model's by {difference:.2g} on "
            f"{images} images (at most {TOLERANCE:g} is allowed); nothing was written"
        )


def median_latency(call: Callable[[], object], repeats: int = 50) -> float:
    """Returns the median time of a call, milliseconds, after a few that do not count."""
    for _ in range(5):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
