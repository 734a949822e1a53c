"""A directory of photos: found in a fixed order, decoded once, small; and photos with masks."""

import collections
import os
from collections.abc import Iterator

from layered_segmentation import images as photos
from layered_segmentation.data.source import Encoded, PhotoSource, some
from layered_segmentation.errors import UserError
from layered_segmentation.images import Pair

MASKS = "masks"  # a sub-directory of this name holds true masks, for evaluation only
SEGMENTED = ".mask"  # `layerseg segment` writes NAME.mask.png beside NAME.cutout.png


class Folder(PhotoSource):
    """A source of training photos: a directory, searched with its sub-directories.

    Attributes:
        name: `folder`, as in `data.name`.
        path: The directory.
        files: Paths of the photos, relative to `path`, in a fixed order.
        skipped: After all `squares` were taken: the files left out, unreadable or too small.
    """

    name = "folder"

    def __init__(
        self, path: str, limit: int = 0, aspect: str = "squash", crop_margin: float = 1.125
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

    def __len__(self) -> int:
        """Returns how many photos were found."""
        return len(self.files)

    def encoded(self) -> Iterator[Encoded]:
        """Yields the photos' paths."""
        return (Encoded(file, os.path.join(self.path, file)) for file in self.files)

    def inventory(self) -> list[str]:
        """Returns name and bytes of each photo in use, once `skipped` is known."""
        skipped = set(self.skipped)
        return [  # quoted: a name may hold a line's end
            f"{file!r}\t{os.path.getsize(os.path.join(self.path, file))}"
            for file in self.files
            if file not in skipped
        ]

    def identity(self) -> list[str]:
        """Returns how squares are made, and name, bytes and time of change of each photo."""
        return [
            f"{os.path.realpath(self.path)} {self._aspect} {self._crop_margin!r}",
            *(f"{file!r}\t{_state(os.path.join(self.path, file))}" for file in self.files),
        ]


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
                f"name in {masks}: {some(lacking)}"
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
            f"{what}={directory}: several files differ only in their extension: {some(twice)}; "
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


def _state(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:  # a link to nowhere, say; decoding will name it
        return "missing"
    return f"{status.st_size}\t{status.st_mtime_ns}"
