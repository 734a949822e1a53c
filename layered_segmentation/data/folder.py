"""Directories of photos, of masks, and of both: found in a fixed order, matched by name."""

import collections
import concurrent.futures
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Self, overload

import numpy as np

from layered_segmentation import images
from layered_segmentation.config import Aspect, DataConfig, SourceName
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

MASKS = "masks"  # a sub-directory of this name holds true masks, for evaluation only
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
        files = find_images(path, "data.path", excluded=[MASKS])
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

    def __init__(self, path: str, flag: str):
        """Finds the masks; decodes nothing.

        Args:
            path: The directory, searched with its sub-directories.
            flag: Its name in messages, such as `--masks`.

        Raises:
            UserError: There is no such directory or no image in it, or names are ambiguous.
        """
        self.path = path
        self._flag = flag
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
        self._files = segmented | found

    def find(self, name: str) -> str:
        """Returns the path of the mask of a photo, or an empty string.

        Args:
            name: The photo's relative path. Its extension does not count; nor do its directories,
                where the mask's file name occurs only once.
        """
        stem = os.path.splitext(name)[0]
        file = self._files.get(stem) or self._files.get(os.path.basename(stem))
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
            UserError: There is none, or it cannot be read as a mask.
        """
        self.require([name])
        return images.read_mask(self.find(name))


class PairFolder(Sequence[Pair]):
    """Photos and their masks in two directories, matched by name; read one at a time.

    Attributes:
        files: Paths of the photos, relative to the directory.
    """

    def __init__(self, photos: str, masks: str, ignore: str = ""):
        """Matches files; decodes nothing.

        Args:
            photos: Directory of photos.
            masks: Directory of masks, see `MaskFolder`.
            ignore: Directory of masks of the pixels to leave out, or empty. A photo without one
                is scored everywhere.

        Raises:
            UserError: A directory is missing or empty, photos lack masks, or names are ambiguous.
        """
        # Masks inside the photos' directory are not photos.
        inside = [os.path.realpath(path) for path in (masks, ignore) if path]
        self.files = [
            file
            for file in find_images(photos, "images", excluded=[MASKS])
            if not any(_is_within(os.path.join(photos, file), path) for path in inside)
        ]
        if not self.files:
            raise UserError(f"{photos}: there are only masks in it")
        self._photos = photos
        self._masks = MaskFolder(masks, "masks")
        self._ignore = MaskFolder(ignore, "ignore") if ignore else None
        self._masks.require(self.files)

    def __len__(self) -> int:
        """Returns how many pairs there are."""
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...

    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        """Reads one pair, or several.

        Raises:
            UserError: A file is unreadable, or photo and mask differ in size.
        """
        if isinstance(index, slice):
            return [self._read(file) for file in self.files[index]]
        return self._read(self.files[index])

    def _read(self, file: str) -> Pair:
        path, mask_path = os.path.join(self._photos, file), self._masks.find(file)
        ignore_path = self._ignore.find(file) if self._ignore else ""
        image, mask = images.read(path), images.read_mask(mask_path)
        ignore = images.read_mask(ignore_path) if ignore_path else None
        for other, name in ((mask, mask_path), (ignore, ignore_path)):
            if other is not None and other.shape != image.shape[:2]:
                raise UserError(
                    f"{name} is {other.shape[1]} × {other.shape[0]} pixels, its photo {path} is "
                    f"{image.shape[1]} × {image.shape[0]}; a mask must have its photo's size"
                )
        return Pair(file.replace(os.sep, "/"), image, mask, ignore)


def find_images(directory: str, flag: str, excluded: Iterable[str] = ()) -> list[str]:
    """Returns the image files under a directory, as `images.find` does.

    Args:
        directory: Searched with its sub-directories.
        flag: Its name in messages: a flag or a field.
        excluded: Names of sub-directories to leave out.

    Raises:
        UserError: There is no such directory, or no image in it.
    """
    if not directory:
        raise UserError(f"{flag} is not set: name a directory of photos")
    if not os.path.exists(directory):
        raise UserError(f"{flag}={directory}: there is no such directory")
    if not os.path.isdir(directory):
        raise UserError(f"{flag}={directory} is a file; it must be a directory of images")
    files = images.find(directory, excluded)
    if not files:
        kinds = " ".join(images.EXTENSIONS)
        raise UserError(f"{flag}={directory}: there is no image in it ({kinds})")
    return files


def _is_within(path: str, directory: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(directory, ""))


def _state(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:  # a broken link, say; decoding names it
        return "missing"
    return f"{status.st_size}\t{status.st_mtime_ns}"
