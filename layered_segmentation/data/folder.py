"""A directory of photos: found in a fixed order, decoded once, small; and photos with masks."""

import collections
import concurrent.futures
import os
import sys
from collections.abc import Iterator

import numpy as np
from PIL import Image

from layered_segmentation.data import photos
from layered_segmentation.data.photos import Pair
from layered_segmentation.errors import UserError
from layered_segmentation.progress import Bar

MASKS = "masks"  # a sub-directory of this name holds true masks, for evaluation only
SEGMENTED = ".mask"  # `layerseg segment` writes NAME.mask.png beside NAME.cutout.png
MOST_SKIPPED = 0.05  # a larger share of unusable files is an error

_NAMED = 10  # files that a message names
_THREADS = 4  # decoding releases the interpreter's lock
_PROGRESS_FROM = 500  # photos; fewer are decoded before a bar is read


class Folder:
    """A source of training photos: a directory, searched with its sub-directories.

    Attributes:
        name: `folder`, as in `data.name`.
        path: The directory.
        files: Paths of the photos, relative to `path`, in a fixed order.
        skipped: After `load`: the files that were left out, unreadable or too small.
    """

    name = "folder"

    def __init__(
        self, path: str, limit: int = 0, aspect: str = "squash", crop_margin: float = 1.125
    ):
        """Finds the photos; decodes nothing.

        Args:
            path: The directory; sub-directories named `masks` are left out.
            limit: Use only the first so many; 0 uses all.
            aspect: `squash`, `centre_crop` or `pad` (edges are continued).
            crop_margin: What `load` will be asked for is this times the training resolution;
                photos may be smaller than the former, not than the latter.

        Raises:
            UserError: There is no such directory, or no photo in it.
        """
        files = find_images(path, "data.path", excluded=[MASKS])
        self.path = path
        self.files = files[:limit] if limit else files
        self.skipped: list[str] = []
        self._aspect = aspect
        self._crop_margin = crop_margin

    def __len__(self) -> int:
        """Returns how many photos were found; `load` may leave some out."""
        return len(self.files)

    def load(self, side: int) -> np.ndarray:
        """Decodes all photos, uint8 [N, side, side, 3] RGB, N at most `len(self)`.

        Raises:
            UserError: More than 5 % of the files are unreadable, or too small; it names some.
        """
        least = int(side / self._crop_margin + 1e-6)
        images = np.empty((len(self), side, side, 3), np.uint8)
        unreadable: list[str] = []
        small: list[str] = []

        def decode(file: str) -> np.ndarray | photos.UnreadableImage | None:
            try:
                return _load(os.path.join(self.path, file), side, least, self._aspect)
            except photos.UnreadableImage as error:
                return error

        count = 0
        most = max(int(MOST_SKIPPED * len(self)), _NAMED)
        with (
            Bar(len(self), "decoding photos", "photo", visible=len(self) >= _PROGRESS_FROM) as bar,
            concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        ):
            for file, image in zip(self.files, pool.map(decode, self.files), strict=True):
                bar.update()
                if isinstance(image, np.ndarray):
                    images[count] = image
                    count += 1
                    continue
                (small if image is None else unreadable).append(file)
                if max(len(small), len(unreadable)) > most:
                    pool.shutdown(cancel_futures=True)  # enough to name; the rest can wait
                    break
        self._check(unreadable, small, least)
        self.skipped = sorted(unreadable + small)
        if self.skipped:
            print(
                f"{self.path}: left out {len(self.skipped)} of {len(self)} files "
                f"({len(unreadable)} unreadable, {len(small)} smaller than {least} px): "
                f"{_some(self.skipped)}",
                file=sys.stderr,
            )
        return images[:count]

    def inventory(self) -> list[str]:
        """Returns, after `load`, name and bytes of each photo in use."""
        skipped = set(self.skipped)
        return [  # quoted: a name may hold a line's end
            f"{file!r}\t{os.path.getsize(os.path.join(self.path, file))}"
            for file in self.files
            if file not in skipped
        ]

    def _check(self, unreadable: list[str], small: list[str], least: int) -> None:
        total = len(self)
        if len(unreadable) > MOST_SKIPPED * total:
            raise UserError(
                f"{self.path}: more than {MOST_SKIPPED:.0%} of the {total} image files cannot be "
                f"read, such as {_some(unreadable)}; replace or remove them"
            )
        if len(small) > MOST_SKIPPED * total:
            raise UserError(
                f"{self.path}: more than {MOST_SKIPPED:.0%} of the {total} photos are smaller than "
                f"the resolution ({least} px), such as {_some(small)}; remove them, or train "
                "smaller with --set=gan.resolution="
            )
        if len(unreadable) + len(small) == total:
            raise UserError(f"{self.path}: no photo is usable: {_some(unreadable + small)}")


class PairFolder:
    """Photos and their masks in two directories, matched by name; read one at a time.

    Attributes:
        files: Paths of the photos, relative to the directory.
    """

    def __init__(self, images: str, masks: str, ignore: str = ""):
        """Matches files; decodes nothing.

        Args:
            images: Directory of photos.
            masks: Directory of masks, each under its photo's path but for the extension; where
                it is flat, under the photo's file name.
            ignore: Directory of masks of the pixels to leave out, or empty. A photo without one
                is scored everywhere.

        Raises:
            UserError: A directory is missing or empty, photos lack masks, or names are ambiguous.
        """
        # Masks that lie inside the photos' directory are not photos.
        inside = {os.path.realpath(path) for path in (masks, ignore) if path}
        self.files = [
            file
            for file in find_images(images, "images", excluded=[MASKS])
            if not any(_is_within(os.path.join(images, file), path) for path in inside)
        ]
        if not self.files:
            raise UserError(f"{images}: there are only masks in it")
        mask_of = by_stem(masks, "masks")
        ignore_of = by_stem(ignore, "ignore") if ignore else {}
        self._images = images
        self._masks = [match(file, mask_of) for file in self.files]
        self._ignores = [match(file, ignore_of) for file in self.files]
        lacking = [file for file, mask in zip(self.files, self._masks, strict=True) if not mask]
        if lacking:
            raise UserError(
                f"{len(lacking)} of {len(self.files)} photos in {images} have no mask of the same "
                f"name in {masks}: {_some(lacking)}"
            )

    def __len__(self) -> int:
        """Returns how many pairs there are."""
        return len(self.files)

    def __getitem__(self, index: int) -> Pair:
        """Reads one pair.

        Raises:
            UserError: A file is unreadable, or photo and mask differ in size.
        """
        path, mask_path = os.path.join(self._images, self.files[index]), self._masks[index]
        image, mask = photos.read(path), photos.read_mask(mask_path)
        ignore_path = self._ignores[index]
        ignore = photos.read_mask(ignore_path) if ignore_path else None
        for other, name in ((mask, mask_path), (ignore, ignore_path)):
            if other is not None and other.shape != image.shape[:2]:
                raise UserError(
                    f"{name} is {other.shape[1]} × {other.shape[0]} pixels, its photo {path} is "
                    f"{image.shape[1]} × {image.shape[0]}; a mask must have its photo's size"
                )
        return Pair(self.files[index].replace(os.sep, "/"), image, mask, ignore)

    def __iter__(self) -> Iterator[Pair]:
        """Reads all pairs in order."""
        return (self[index] for index in range(len(self)))


def pairs(images_dir: str, masks_dir: str, ignore_dir: str | None = None) -> PairFolder:
    """Returns the photos of a directory with their masks; see `PairFolder`."""
    return PairFolder(images_dir, masks_dir, ignore_dir or "")


def _load(path: str, side: int, least: int, aspect: str) -> np.ndarray | None:
    """Decodes and resizes one photo, uint8 [side, side, 3]; None if it is too small."""
    width, height = photos.size(path)
    decisive = max(width, height) if aspect == "pad" else min(width, height)
    if decisive < least:
        return None
    return to_square(photos.open_rgb(path, at_least=2 * side), side, aspect)


def to_square(image: Image.Image, side: int, aspect: str) -> np.ndarray:
    """Resizes an RGB image to a square, antialiased.

    Args:
        image: Any size.
        side: Of the result, pixels.
        aspect: `squash` changes the aspect ratio, `centre_crop` cuts the longer side's ends off,
            `pad` keeps everything and continues the edges.

    Returns:
        uint8 [side, side, 3].
    """
    width, height = image.size
    box = (0.0, 0.0, float(width), float(height))
    target = (side, side)
    if aspect == "centre_crop":
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
    elif aspect == "pad":
        scale = side / max(width, height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = image.resize(target, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    missing = side - target[0], side - target[1]
    ends = [(gap // 2, gap - gap // 2) for gap in missing]
    return np.pad(np.asarray(resized), (ends[1], ends[0], (0, 0)), mode="edge")


def find_images(directory: str, what: str, excluded: list[str] | None = None) -> list[str]:
    """Returns the image files under a directory, as `photos.find` does.

    Args:
        directory: Searched with its sub-directories.
        what: What a message calls it: a field or a flag.
        excluded: Names of sub-directories to leave out.

    Raises:
        UserError: There is no such directory, or no image in it.
    """
    if not directory:
        raise UserError(f"{what} is not set: name a directory of photos")
    if not os.path.exists(directory):
        raise UserError(f"{what}={directory}: there is no such directory")
    if not os.path.isdir(directory):
        raise UserError(f"{what}={directory} is a file; it must be a directory of images")
    files = photos.find(directory, excluded or [])
    if not files:
        kinds = " ".join(photos.EXTENSIONS)
        raise UserError(f"{what}={directory}: there is no image in it ({kinds})")
    return files


def by_stem(directory: str, what: str) -> dict[str, str]:
    """Maps the extensionless relative paths, and the unique file names, to paths.

    Raises:
        UserError: There is no such directory, no image in it, or names are ambiguous.
    """
    files = find_images(directory, what)
    stems = [os.path.splitext(file)[0] for file in files]
    twice = [stem for stem, count in collections.Counter(stems).items() if count > 1]
    if twice:
        raise UserError(
            f"{what}={directory}: several files differ only in their extension: {_some(twice)}; "
            "keep one of each"
        )
    names = collections.Counter(os.path.basename(stem) for stem in stems)
    found = {}
    for stem, file in zip(stems, files, strict=True):
        if names[os.path.basename(stem)] == 1:
            found[os.path.basename(stem)] = os.path.join(directory, file)
    for stem, file in zip(stems, files, strict=True):
        found[stem] = os.path.join(directory, file)
    for stem, path in list(found.items()):
        if stem.endswith(SEGMENTED):
            found.setdefault(stem.removesuffix(SEGMENTED), path)
    return found


def match(file: str, by_stem: dict[str, str]) -> str:
    """Returns the path that goes with a photo's path or name, or an empty text."""
    stem = os.path.splitext(file)[0]
    return by_stem.get(stem) or by_stem.get(os.path.basename(stem)) or ""


def _is_within(path: str, directory: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(directory, ""))


def _some(files: list[str]) -> str:
    named = ", ".join(files[:_NAMED])
    return named if len(files) <= _NAMED else f"{named} and {len(files) - _NAMED} more"
