"""The one interface of training photos, its registry, and how stored photos are decoded.

To add a dataset, subclass `Source` (or `PhotoSource`, if it has image files), decorate the class
with `register`, import its module in `layered_segmentation.data`, and add its name to `data.name`.
"""

import abc
import collections
import concurrent.futures
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
from PIL.Image import Resampling

from layered_segmentation import images, paths
from layered_segmentation.choices import Aspect
from layered_segmentation.config import DataConfig
from layered_segmentation.errors import UserError
from layered_segmentation.progress import Bar

MOST_SKIPPED = 0.05  # a larger share of unusable photos is an error
_FEW = 300  # photos
THREADS = min(16, 2 + (os.cpu_count() or 2))  # decoding releases the interpreter's lock
AHEAD = 4 * THREADS  # photos being decoded, or decoded and not yet taken

_NAMED = 10  # photos that a message names
_PROGRESS_FROM = 500  # photos; fewer are decoded before a bar can be read

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Pair(NamedTuple):
    """A photo and its true mask."""

    name: str  # its name in tables
    image: np.ndarray  # uint8 [H, W, 3] RGB
    mask: np.ndarray  # bool [H, W], true on the object
    ignore: np.ndarray | None  # bool [H, W], true on pixels that are not scored; or None
    # bool [N, H, W], what is visible of each of several objects; None if that is not known
    objects: np.ndarray | None = None


class Source(abc.ABC):
    """Photos in a fixed order, which become squares of any side.

    Attributes:
        name: As in `data.name`.
        skipped: The photos left out, unreadable or too small. Known after all `squares` were
            taken, or from a cache of them.
    """

    name: ClassVar[str]
    skipped: list[str]

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config: DataConfig, seed: int) -> Self:
        """Opens the source that the section `data` of a config describes.

        Args:
            config: The section.
            seed: `train.seed`, for photos that are drawn.

        Raises:
            UserError: There are no photos.
        """

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns how many photos there are; some may turn out to be unusable."""

    @abc.abstractmethod
    def squares(
        self, sides: Sequence[int], filter: Resampling = images.BICUBIC
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields each usable photo, in order: uint8 [side, side, 3] RGB for each side.

        Args:
            sides: Of the squares, pixels.
            filter: Of the resize. A GAN learns from bicubic squares (see `images`).
        """

    @abc.abstractmethod
    def inventory(self) -> list[str]:
        """Returns lines that name the photos in use, once `skipped` is known.

        They are kept with a run. None are needed where the config already determines the photos.
        """

    @abc.abstractmethod
    def identity(self) -> list[str]:
        """Returns lines that change whenever the squares might; they key the cache."""

    def load(self, side: int, filter: Resampling = images.TRIANGLE) -> np.ndarray:
        """Returns all usable photos, uint8 [N, side, side, 3] RGB, N at most `len(self)`.

        Args:
            side: Pixels.
            filter: Of the resize; by default as a segmenter sees photos.
        """
        squares = np.empty((len(self), side, side, 3), np.uint8)
        count = 0
        for (square,) in self.squares([side], filter):
            squares[count] = square
            count += 1
        return squares[:count]


def note_few(source: Source) -> None:
    """Prints a warning if there are few photos to train on."""
    if isinstance(source, PhotoSource) and len(source) < _FEW:
        print(
            f"warning: {len(source):,} photos are few; collect some thousand, as the sets in "
            "docs/photos.md have",
            file=sys.stderr,
        )


_SOURCES: dict[str, type[Source]] = {}

_SourceType = TypeVar("_SourceType", bound=type[Source])


def register(source: _SourceType) -> _SourceType:
    """Makes a subclass of `Source` available to configs under its `name`."""
    _SOURCES[source.name] = source
    return source


def open_source(config: DataConfig, seed: int) -> Source:
    """Opens the training photos that a config names.

    Args:
        config: The section `data`.
        seed: Seed of procedural scenes; photos do not depend on it.

    Raises:
        UserError: The name is unknown, the path is missing or empty, or the dataset is not
            prepared.
    """
    if config.name not in _SOURCES:
        raise UserError(f"data.name={config.name}: unknown; one of {', '.join(sorted(_SOURCES))}")
    return _SOURCES[config.name].from_config(config, seed)


class Encoded(NamedTuple):
    """A photo as it is stored."""

    name: str  # its name in messages
    file: str | bytes  # its path, or the bytes of its file


class PhotoSource(Source):
    """A source of image files, decoded once and never many of them at a time.

    Attributes:
        origin: Where the photos lie, for messages.
    """

    def __init__(self, origin: str, aspect: str = Aspect.squash, crop_margin: float = 1.125):
        """Describes how photos become squares.

        Args:
            origin: Where the photos lie, for messages.
            aspect: As for `images.to_square`.
            crop_margin: The largest square asked for has this times the training resolution;
                photos may be smaller than the former, not than the latter.
        """
        self.origin = origin
        self.skipped = []
        self._aspect = aspect
        self._crop_margin = crop_margin

    @abc.abstractmethod
    def encoded(self) -> Iterator[Encoded]:
        """Yields the photos as they are stored, in order."""

    def squares(
        self, sides: Sequence[int], filter: Resampling = images.BICUBIC
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Decodes the photos; each square is resized from the photo itself.

        Raises:
            UserError: More than 5 % of the photos are unreadable, or too small.
        """
        least = int(max(sides) / self._crop_margin + 1e-6)

        def decode(photo: Encoded) -> tuple[str, Any]:
            try:
                return photo.name, _decode(photo, sides, least, self._aspect, filter)
            except images.UnreadableImage as error:
                return photo.name, error

        unreadable: list[str] = []
        small: list[str] = []
        total = len(self)
        most = most_skipped(total)
        with Bar(total, "decoding photos", "photo", visible=total >= _PROGRESS_FROM) as bar:
            for name, squares in in_order(decode, self.encoded()):
                bar.update()
                if isinstance(squares, tuple):
                    yield squares
                    continue
                (small if squares is None else unreadable).append(name)
                if max(len(small), len(unreadable)) > most:
                    break  # enough to name
        self._require_few(unreadable, small, least)
        self.skipped = sorted(unreadable + small)
        if self.skipped:
            print(
                f"{self.origin}: left out {len(self.skipped)} of {total} photos "
                f"({len(unreadable)} unreadable, {len(small)} smaller than {least} px): "
                f"{first_few(self.skipped)}",
                file=sys.stderr,
            )

    def _require_few(self, unreadable: list[str], small: list[str], least: int) -> None:
        total = len(self)
        advice = "replace or remove them"
        require_few(self.origin, unreadable, total, "photos cannot be read", advice)
        problem = f"photos are smaller than the resolution ({least} px)"
        advice = "remove them, or train smaller with --set=gan.resolution="
        require_few(self.origin, small, total, problem, advice)
        if len(unreadable) + len(small) == total:
            raise UserError(f"{self.origin}: no photo is usable: {first_few(unreadable + small)}")


def in_order(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Maps in threads and in order, at most `AHEAD` items ahead of the caller."""
    pending: collections.deque[concurrent.futures.Future[_Result]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:  # a caller that stops early does not wait for them
                future.cancel()


def most_skipped(total: int) -> int:
    """Returns how many of `total` photos are read although they are unusable: enough to name."""
    return max(int(MOST_SKIPPED * total), _NAMED)


def require_few(place: str, skipped: Sequence[str], total: int, problem: str, advice: str) -> None:
    """Raises a UserError if more than `MOST_SKIPPED` of a source's photos are skipped."""
    if len(skipped) > MOST_SKIPPED * total:
        raise UserError(
            f"{place}: more than {MOST_SKIPPED:.0%} of the {total:,} {problem}, such as "
            f"{first_few(skipped)}; {advice}"
        )


def first_few(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are."""
    named = ", ".join(map(paths.printable, names[:_NAMED]))
    return named if len(names) <= _NAMED else f"{named} and {len(names) - _NAMED} more"


def _decode(
    photo: Encoded, sides: Sequence[int], least: int, aspect: str, filter: Resampling
) -> tuple[np.ndarray, ...] | None:
    """Decodes one photo, once, to a square for each side; None if it is too small."""
    width, height = images.header(photo.file, photo.name).upright_size
    decisive = max(width, height) if aspect == Aspect.pad else min(width, height)
    if decisive < least:
        return None
    # Not `draft`, which decodes a JPEG reduced: squares would differ by more than 2 levels.
    image = images.open_rgb(photo.file, photo.name)
    return tuple(images.to_square(image, side, aspect, filter) for side in sides)
