"""The photos that a command reads, and the masks and cut-outs that it writes.

A photo NAME.jpg gives NAME.mask.png (0 and 255) and NAME.cutout.png (the object with a soft edge on
a transparent background). Sub-directories are kept.
"""

import collections
import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from layered_segmentation import files
from layered_segmentation.errors import UserError

MASK, CUTOUT = ".mask.png", ".cutout.png"
PIXELS = 1 << 24  # of the photos in memory at once; each pixel takes about 30 bytes


def find_photos(path: str, out: str) -> tuple[str, list[str]]:
    """Finds the photos to segment.

    Args:
        path: --input, a photo or a directory of photos.
        out: --out; outputs of an earlier run in it are skipped.

    Returns:
        A directory, and the photos' paths relative to it.

    Raises:
        UserError: There are no photos, or `out` is a file.
    """
    from layered_segmentation.data import folder

    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"--out={out}: a file has this name; name a directory")
    if os.path.isfile(path):
        return os.path.dirname(path), [os.path.basename(path)]
    if not os.path.isdir(path):
        raise UserError(f"--input={path}: there is no such photo or directory")
    found = folder.find_photos(path, "--input")
    names = [name for name in found if not _is_output(os.path.join(path, name), out)]
    if not names:
        raise UserError(f"--input={path}: only the results of --out are in it, no photos")
    return path, names


def batches(root: str, names: Sequence[str], most: int) -> Iterator[list[str]]:
    """Divides photos into batches that fit into memory; reads only their headers.

    Args:
        root: The directory that the names are relative to.
        names: The photos.
        most: Photos in a batch. They have at most `PIXELS` in all, unless one alone has more.

    Yields:
        The names of each batch, in order.
    """
    from layered_segmentation import images

    batch: list[str] = []
    total = 0
    for name in names:
        pixels = 0  # unless it can be read
        with contextlib.suppress(images.UnreadableImage):
            pixels = math.prod(images.header(os.path.join(root, name)).size)
        if batch and (len(batch) == most or total + pixels > PIXELS):
            yield batch
            batch, total = [], 0
        batch.append(name)
        total += pixels
    if batch:
        yield batch


def name_outputs(names: list[str], out: str) -> dict[str, str]:
    """Returns the path of each photo's outputs without the ending, by the photo's name.

    Photos whose outputs would have the same names keep their extensions, so no mask overwrites
    another. Names that are too long with the ending are cut and end in a digest.
    """
    stems = {name: _cut(os.path.splitext(name)[0]) for name in names}
    while True:
        counts = collections.Counter(stems.values())
        # With its extension, one photo may take the name that is another's without: a.jpg.png.
        shared = [name for name, stem in stems.items() if counts[stem] > 1 and stem != _cut(name)]
        if not shared:
            return {name: os.path.join(out, stem) for name, stem in stems.items()}
        stems |= {name: _cut(name) for name in shared}


def _cut(path: str) -> str:
    """Returns a path whose name leaves room for the endings of outputs."""
    folder, name = os.path.split(path)
    most = files.LONGEST_NAME - len(CUTOUT)
    encoded = os.fsencode(name)
    if len(encoded) <= most:
        return path
    digest = files.digest(name)[:8]
    start = encoded[: most - len(digest) - 1].decode(errors="ignore")
    return os.path.join(folder, f"{start}-{digest}")


def require_free(outputs: Iterable[str]) -> None:
    """Refuses to overwrite outputs.

    Raises:
        UserError: A mask or a cut-out exists already.
    """
    taken = [path + end for path in outputs for end in (MASK, CUTOUT) if os.path.exists(path + end)]
    if taken:
        raise UserError(
            f"{taken[0]}: already exists ({len(taken)} such files); name another --out or add "
            "--overwrite"
        )


def require_threshold(threshold: float) -> None:
    """Refuses a --threshold that all probabilities pass, or none.

    Raises:
        UserError: The threshold is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise UserError(f"--threshold={threshold}: must be between 0 and 1")


def write(path: str, image: np.ndarray, mask: np.ndarray, threshold: float) -> None:
    """Writes a photo's mask and cut-out.

    Args:
        path: Path of the outputs without the ending; its directory is created.
        image: uint8 [H, W, 3].
        mask: Float [H, W] in [0, 1].
        threshold: Least probability of a pixel of the object.
    """
    from layered_segmentation import images
    from layered_segmentation.segmenter.cut_out import binary_mask, cut_out

    os.makedirs(os.path.dirname(path), exist_ok=True)
    images.write(path + MASK, binary_mask(mask, threshold), mark=True)
    images.write(path + CUTOUT, cut_out(image, mask, threshold), mark=True)


def _is_output(path: str, out: str) -> bool:
    """Whether a photo is an output of an earlier run inside the input directory."""
    inside = os.path.realpath(path).startswith(os.path.join(os.path.realpath(out), ""))
    return inside and path.endswith((MASK, CUTOUT))
