"""The photos that a command reads, and the masks and cut-outs that it writes.

A photo NAME.jpg gives NAME.mask.png (0 and 255) and NAME.cutout.png (the object with a soft edge on
a transparent background). Sub-directories are kept.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from layered_segmentation import files, images, photo
from layered_segmentation.errors import UserError
from layered_segmentation.photo import Photo
from layered_segmentation.segmenter import cut_out, pipeline

STREAM = "-"  # as input, stdin; as --out, stdout
MASK, CUTOUT = ".mask.png", ".cutout"

_KINDS = tuple(CUTOUT + "." + kind for kind in photo.FORMATS)


@dataclasses.dataclass(frozen=True)
class Style:
    """What is written for a photo, and how."""

    threshold: float = 0.5  # least probability of a pixel of the object
    only: str = ""  # `mask`, `cutout`, or empty for both
    mask_format: str = "binary"  # 0 and 255; or `soft`, 255 times the probability
    background: str = ""  # as of `cut_out.put_over`; transparent if empty
    format: str = "png"  # of cut-outs, one of `photo.FORMATS`
    edges: str = "matte"  # of cut-outs: `matte`, from the photo, or `mask`, from the mask alone

    @property
    def endings(self) -> list[str]:
        """Endings of the files that are written."""
        by_part = {"mask": MASK, "cutout": f"{CUTOUT}.{self.format}"}
        return [end for part, end in by_part.items() if self.only in ("", part)]


def find_photos(path: str, out: str, flag: str = "--input") -> tuple[str, list[str]]:
    """Finds the photos to segment.

    Args:
        path: A photo or a directory of photos.
        out: --out; outputs of an earlier run in it are skipped.
        flag: What named the path, for messages.

    Returns:
        A directory, and the photos' paths relative to it.

    Raises:
        UserError: There are no photos, or `out` is a file.
    """
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"--out={out}: a file has this name; name a directory")
    if os.path.isfile(path):
        return os.path.dirname(path), [os.path.basename(path)]
    if not os.path.isdir(path):
        raise UserError(f"{flag}={path}: there is no such photo or directory")
    from layered_segmentation.data import folder  # which imports TensorFlow Datasets

    found = folder.find_photos(path, flag)
    names = [name for name in found if not _is_output(os.path.join(path, name), out)]
    if not names:
        raise UserError(f"{flag}={path}: only the results of --out are in it, no photos")
    return path, names


def find_all(inputs: Sequence[str], out: str) -> dict[str, str]:
    """Finds the photos of several inputs.

    Args:
        inputs: Photos and directories of photos.
        out: --out; if empty, results are written next to the photos.

    Returns:
        The path of each photo by its name: relative to its directory, or the path if `out` is
        empty. A photo that two inputs contain is there once.

    Raises:
        UserError: As of `find_photos`, or two photos have the same name.
    """
    found: dict[str, str] = {}
    known: set[str] = set()  # the files of earlier inputs
    for path in inputs:
        root, names = find_photos(path, out)
        paths = {name: os.path.normpath(os.path.join(root, name)) for name in names}
        new = [name for name in names if os.path.realpath(paths[name]) not in known]
        for name in new:
            key = name if out else paths[name]
            if key in found:
                raise UserError(
                    f"{found[key]} and {paths[name]}: the results of both would be named {key}; "
                    "segment them into two directories"
                )
            found[key] = paths[name]
        known |= {os.path.realpath(paths[name]) for name in new}
    return found


def pixels_of(file: str | bytes) -> int:
    """Returns the number of pixels of a photo, from its header; 0 if it cannot be read."""
    try:
        return math.prod(images.header(file).size)
    except images.UnreadableImage:
        return 0


def batches(root: str, names: Sequence[str], most: int) -> Iterator[list[str]]:
    """Divides photos into batches that fit into memory; reads only their headers.

    Args:
        root: The directory that the names are relative to.
        names: The photos.
        most: Photos in a batch, of at most `pipeline.PIXELS` in all, unless one has more.

    Yields:
        The names of each batch, in order.
    """
    sizes = ((name, pixels_of(os.path.join(root, name))) for name in names)
    for batch in pipeline.batches(sizes, most, pipeline.PIXELS):
        yield batch.photos


def name_outputs(names: Iterable[str], out: str, style: Style | None = None) -> dict[str, str]:
    """Returns the path of each photo's outputs without the ending, by the photo's name.

    Photos whose outputs would have the same names keep their extensions, so no mask overwrites
    another. Names that are too long with the ending are cut and end in a digest.
    """
    room = max(map(len, [_KINDS[0], *(style.endings if style else ())]))
    stems = {name: _cut(os.path.splitext(name)[0], room) for name in names}
    while True:
        counts = collections.Counter(stems.values())
        # With its extension, one photo may take the name that is another's without: a.jpg.png.
        longer = {name: _cut(name, room) for name, stem in stems.items() if counts[stem] > 1}
        shared = {name: stem for name, stem in longer.items() if stem != stems[name]}
        if not shared:
            return {name: os.path.join(out, stem) for name, stem in stems.items()}
        stems |= shared


def _cut(path: str, room: int) -> str:
    """Returns a path whose name leaves room for the endings of outputs, in bytes."""
    folder, name = os.path.split(path)
    most = files.LONGEST_NAME - room
    encoded = os.fsencode(name)
    if len(encoded) <= most:
        return path
    digest = files.digest(name)[:8]
    start = encoded[: most - len(digest) - 1].decode(errors="ignore")
    return os.path.join(folder, f"{start}-{digest}")


def without_results(paths: Mapping[str, str], style: Style) -> dict[str, str]:
    """Returns those of the photos, by name, that lack an output; files are written whole."""
    return {
        name: path
        for name, path in paths.items()
        if not all(os.path.exists(path + end) for end in style.endings)
    }


def require_free(outputs: Iterable[str], style: Style = Style()) -> None:
    """Refuses to overwrite outputs.

    Raises:
        UserError: A mask or a cut-out exists already.
    """
    taken = [path + end for path in outputs for end in style.endings if os.path.exists(path + end)]
    if taken:
        raise UserError(
            f"{taken[0]}: already exists ({len(taken)} such files); name another --out, or add "
            "--overwrite or --skip_existing"
        )


def sync(paths: Iterable[str]) -> None:
    """Waits until the outputs, as of `name_outputs`, are on the disk: once, not for each."""
    folders = {os.path.dirname(path) or os.curdir for path in paths}
    files.sync(*filter(os.path.isdir, folders))


def require_threshold(threshold: float) -> None:
    """Refuses a --threshold that all probabilities pass, or none.

    Raises:
        UserError: The threshold is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise UserError(f"--threshold={threshold}: must be between 0 and 1")


def write(path: str, source: Photo, mask: np.ndarray, style: Style) -> None:
    """Writes a photo's mask and cut-out.

    Args:
        path: Path of the outputs without the ending; its directory is created.
        source: The photo, [H, W].
        mask: Float [H, W] in [0, 1].
        style: What is written.
    """
    os.makedirs(os.path.dirname(path) or os.curdir, exist_ok=True)
    for end in style.endings:
        files.write_bytes(path + end, encode(end, source, mask, style), durable=False)


def encode(end: str, source: Photo, mask: np.ndarray, style: Style) -> bytes:
    """Returns the content of one of a photo's outputs; arguments as of `write`.

    Args:
        end: One of `style.endings`.
        source: The photo.
        mask: Its mask.
        style: How it is written.
    """
    if end == MASK:
        if style.mask_format == "soft":
            return photo.encode(images.to_uint8_mask(mask), source)
        return photo.encode(cut_out.binary_mask(mask, style.threshold), source)
    if style.edges == "matte":
        from layered_segmentation.segmenter.matte import matte  # with OpenCV: `--help` needs none

        alpha, colours = matte(source.image, mask, style.threshold)
        # White shines through what is transparent; there the stored colours are the object's own.
        colours = colours if source.alpha is None else source.colours
        result = np.dstack([colours, np.rint(255 * alpha).astype(np.uint8)])
    else:
        result = cut_out.cut_out(source.colours, mask, style.threshold)
    if source.alpha is not None:
        result[..., 3] = (result[..., 3] * source.alpha.astype(np.uint16) + 127) // 255
    if style.background:
        result = cut_out.put_over(result, source.image, style.background)
    return photo.encode(result, source, style.format)


def _is_output(path: str, out: str) -> bool:
    """Whether a photo is an output of an earlier run inside the input directory."""
    inside = os.path.realpath(path).startswith(os.path.join(os.path.realpath(out), ""))
    return inside and path.endswith((MASK, *_KINDS))
