"""Directories of photos, of masks, and of both: found in a fixed order, matched by name."""

import collections
import concurrent.futures
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from layered_segmentation import images, masks
from layered_segmentation.choices import Aspect, SourceName
from layered_segmentation.config import DataConfig
from layered_segmentation.data.source import (
    THREADS,
    Encoded,
    Pair,
    PhotoSource,
    first_few,
    register,
)
from layered_segmentation.errors import UserError
from layered_segmentation.files import digest_of_parts
from layered_segmentation.photo import is_result
from layered_segmentation.run_directory import is_run

MASKS = "masks"  # a sub-directory of this name holds true masks, for evaluation only
_KNOWN = "known"
SEGMENTED = ".mask"  # `layerseg segment` writes NAME.mask.png next to NAME.cutout.png


@register
class Folder(PhotoSource):
    """A source of training photos: a directory, searched with its sub-directories.

    Attributes:
        path: The directory.
        files: Paths of the photos, relative to `path`, in a fixed order.
    """

    name = SourceName.folder

    def __init__(
        self, path: str, limit: int = 0, aspect: str = Aspect.squash, crop_margin: float = 1.125
    ):
        """Finds the photos; decodes nothing.

        Args:
            path: The directory; sub-directories named `masks` are left out.
            limit: Use only the first so many; 0 uses all.
            aspect: As for `PhotoSource`.
            crop_margin: As for `PhotoSource`.

        Raises:
            UserError: There is no such directory, or no photo in it.
        """
        files = find_photos(path, "data.path")
        super().__init__(path, aspect, crop_margin)
        self.path = path
        self.files = files[:limit] if limit else files

    @classmethod
    def from_config(cls, config: DataConfig, seed: int) -> Self:
        """Opens `data.path`."""
        del seed
        return cls(config.path, config.limit, config.aspect, config.crop_margin)

    def __len__(self) -> int:
        """Returns how many photos were found."""
        return len(self.files)

    def encoded(self) -> Iterator[Encoded]:
        """Yields the photos' paths."""
        return (Encoded(file, os.path.join(self.path, file)) for file in self.files)

    def inventory(self) -> list[str]:
        """Returns name, bytes and a hash of each photo in use, once `skipped` is known."""
        skipped = set(self.skipped)
        used = [file for file in self.files if file not in skipped]

        def line(file: str) -> str:
            path = os.path.join(self.path, file)
            # Quoted: a name may hold a line break.
            return f"{file!r}\t{os.path.getsize(path)}\t{digest_of_parts(path)}"

        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(line, used))

    def identity(self) -> list[str]:
        """Returns how squares are made, and name, bytes and time of change of each photo."""
        return [
            f"{os.path.realpath(self.path)} {self._aspect} {self._crop_margin!r}",
            *(f"{file!r}\t{_state(os.path.join(self.path, file))}" for file in self.files),
        ]


class MaskFolder:
    """A directory of masks, each found by the name of its photo.

    Attributes:
        path: The directory.
    """

    def __init__(self, path: str, flag: str, values: Sequence[int] = ()):
        """Finds the masks; decodes nothing.

        Args:
            path: The directory, searched with its sub-directories.
            flag: Its name in messages, such as `--masks`.
            values: As for `masks.read`.

        Raises:
            UserError: There is no such directory or no image in it, or names are ambiguous.
        """
        self.path = path
        self._flag = flag
        self._values = values
        files = find_images(path, flag)
        stems = [os.path.splitext(file)[0] for file in files]
        twice = [stem for stem, count in collections.Counter(stems).items() if count > 1]
        if twice:
            raise UserError(
                f"{flag}={path}: several files differ only in their extension: "
                f"{first_few(twice)}; keep one of each"
            )
        by_stem = dict(zip(stems, files, strict=True))
        names = collections.Counter(map(os.path.basename, stems))
        unique = {
            os.path.basename(stem): file
            for stem, file in by_stem.items()
            if names[os.path.basename(stem)] == 1
        }
        # A path goes before a name, and a mask of its own name before one of `layerseg segment`.
        found = unique | by_stem
        segmented = {
            stem.removesuffix(SEGMENTED): file
            for stem, file in found.items()
            if stem.endswith(SEGMENTED)
        }
        self._segmented, self._files = segmented, segmented | found

    def find(self, name: str) -> str:
        """Returns the path of the mask of a photo, or an empty string.

        Args:
            name: The photo's relative path. Its extension does not count, unless `layerseg
                segment` kept it; nor do its directories, where the mask's file name occurs only
                once.
        """
        stem = os.path.splitext(name)[0]
        file = (
            self._segmented.get(name)
            or self._files.get(stem)
            or self._files.get(os.path.basename(stem))
        )
        return os.path.join(self.path, file) if file else ""

    def require(self, names: Sequence[str]) -> None:
        """Checks that each photo has a mask.

        Args:
            names: As for `find`.

        Raises:
            UserError: Some photos have none.
        """
        lacking = [name for name in names if not self.find(name)]
        if lacking:
            raise UserError(
                f"{self._flag}={self.path}: no mask of the same name for {len(lacking)} of "
                f"{len(names)} photos ({first_few(lacking)}); write a mask of 0 for a photo "
                "without an object"
            )

    def read(self, name: str) -> np.ndarray:
        """Reads the mask of one photo, bool [h, w].

        Raises:
            UserError: There is none, it cannot be read as a mask, or it leaves pixels open.
        """
        mask = self.read_drawn(name)
        if mask.void is not None and not self._values:
            raise UserError(
                f"{self._flag}={self.path}: the mask of {name} is a label map whose value "
                f"{masks.VOID} leaves {mask.void.mean():.1%} of the pixels open; only true masks "
                f"may do that. Name the object's value with {self._value_flag}"
            )
        return mask.inside

    def read_drawn(self, name: str) -> masks.Mask:
        """Reads the mask of one photo with the pixels that it leaves open.

        Raises:
            UserError: There is none, or it cannot be read as a mask.
        """
        self.require([name])
        return masks.read(self.find(name), self._values, self._value_flag)

    @property
    def _value_flag(self) -> str:
        """The flag of `layerseg evaluate` that names the object's value."""
        return {
            "--predictions": "--prediction_value",
            "--detector": "--detector_value",
        }.get(self._flag, "--mask_value")


class PairFolder(Sequence[Pair]):
    """Photos and their masks in two directories, matched by name; read one at a time.

    Attributes:
        files: Paths of the photos, relative to the directory.
    """

    def __init__(self, photos: str, masks: str, ignore: str = "", values: Sequence[int] = ()):
        """Matches files; decodes nothing.

        Args:
            photos: Directory of photos.
            masks: Directory of masks, see `MaskFolder`. Pixels that they leave open are not scored.
            ignore: Directory of masks of the pixels to leave out, or empty. A photo without one
                is scored everywhere, as far as its mask is.
            values: Stored values of the object in `masks`, as for `masks.read`.

        Raises:
            UserError: A directory is missing or empty, photos lack masks, or names are ambiguous.
        """
        # Masks inside the photos' directory are not photos.
        self.files = find_photos(photos, "images", [path for path in (masks, ignore) if path])
        self._photos = photos
        self._masks = MaskFolder(masks, "masks", values)
        self._ignore = MaskFolder(ignore, "ignore") if ignore else None
        self._masks.require(self.files)

    def __len__(self) -> int:
        """Returns how many pairs there are."""
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        """Reads one pair.

        Raises:
            UserError: A file is unreadable, or photo and mask differ in size.
        """
        file = self.files[index]
        path, mask_path = os.path.join(self._photos, file), self._masks.find(file)
        ignore_path = self._ignore.find(file) if self._ignore else ""
        image, drawn = images.read(path), self._masks.read_drawn(file)
        _require_size(drawn.inside, mask_path, image, path)
        ignore = drawn.void
        if self._ignore and ignore_path:
            ignore = self._ignore.read(file)
            _require_size(ignore, ignore_path, image, path)
            ignore = ignore if drawn.void is None else ignore | drawn.void
        return Pair(file.replace(os.sep, "/"), image, drawn.inside, ignore)


def find_photos(directory: str, flag: str, masks: Sequence[str] = ()) -> list[str]:
    """Returns the photos under a directory; what is left out is counted and named on stderr.

    Left out are sub-directories named `masks`, run directories, and files that this package
    wrote as results.

    Args:
        directory: Searched with its sub-directories.
        flag: Its name in messages: a flag or a field.
        masks: Directories of masks, which may be inside; they are left out without a word.

    Raises:
        UserError: There is no such directory, or no photo in it.
    """
    _require_directory(directory, flag)
    known = {os.path.realpath(path) for path in masks}

    def leave_out(path: str, is_directory: bool) -> str:
        if is_directory:
            if known and os.path.realpath(path) in known:
                return _KNOWN
            if os.path.basename(path) == MASKS:
                return "for masks"
            return "of a run" if is_run(path) else ""
        return "written by layerseg" if is_result(path) else ""

    found = images.search(directory, leave_out)
    found.left_out.pop(_KNOWN, None)
    left_out = "; ".join(
        f"{len(names)} {reason}: {first_few(names)}" for reason, names in found.left_out.items()
    )
    others = found.left_out.get(images.OTHER_KIND, [])
    if any(name.lower().endswith(images.HEIC_EXTENSIONS) for name in others):
        left_out += f" ({images.HEIC_HINT})"
    if not found.images:
        raise UserError(
            f"{flag}={directory}: there is no image in it ({images.KINDS})"
            + (f"; left out: {left_out}" if left_out else "")
        )
    if left_out:
        _say_once(f"{directory}: left out {left_out}")
    return found.images


def find_images(directory: str, flag: str) -> list[str]:
    """Returns the image files under a directory, masks say, as `images.search` does.

    Args:
        directory: Searched with its sub-directories.
        flag: Its name in messages: a flag or a field.

    Raises:
        UserError: There is no such directory, or no image in it.
    """
    _require_directory(directory, flag)
    files = images.search(directory).images
    if not files:
        raise UserError(f"{flag}={directory}: there is no image in it ({images.KINDS})")
    return files


def _require_directory(directory: str, flag: str) -> None:
    if not directory:
        raise UserError(f"{flag} is not set: name a directory of photos")
    if not os.path.exists(directory):
        raise UserError(f"{flag}={directory}: there is no such directory")
    if not os.path.isdir(directory):
        raise UserError(f"{flag}={directory} is a file; it must be a directory of images")


def _require_size(mask: np.ndarray, mask_path: str, image: np.ndarray, path: str) -> None:
    if mask.shape == image.shape[:2]:
        return
    header = images.header(path)
    hint = ""
    if mask.shape == header.size[::-1]:
        hint = (
            f". The photo is turned upright, by its EXIF orientation {header.orientation}; the "
            "mask has the size of the photo as it is stored: turn it likewise"
        )
    raise UserError(
        f"{mask_path} is {mask.shape[1]} × {mask.shape[0]} pixels, its photo {path} is "
        f"{image.shape[1]} × {image.shape[0]}; a mask must have its photo's size{hint}"
    )


@functools.cache
def _say_once(message: str) -> None:
    """Prints a note to stderr; verbs look for photos more than once."""
    print(message, file=sys.stderr, flush=True)


def _state(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:  # a broken link, say; decoding names it
        return "missing"
    return f"{status.st_size}\t{status.st_mtime_ns}"
