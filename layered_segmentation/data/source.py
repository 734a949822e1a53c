"""Sources of encoded photos: decoded once, resized to squares, never many of them at a time."""

import abc
import collections
import concurrent.futures
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from layered_segmentation import images as photos
from layered_segmentation.errors import UserError
from layered_segmentation.progress import Bar

MOST_SKIPPED = 0.05  # a larger share of unusable photos is an error

_NAMED = 10  # photos that a message names
THREADS = min(16, 2 + (os.cpu_count() or 2))  # decoding releases the interpreter's lock
AHEAD = 4 * THREADS  # photos being decoded, or decoded and not yet taken
_PROGRESS_FROM = 500  # photos; fewer are decoded before a bar is read

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Encoded(NamedTuple):
    """A photo as it is stored.

    Attributes:
        name: What a message calls it.
        file: Its path, or the bytes of its file.
    """

    name: str
    file: str | bytes


class PhotoSource(abc.ABC):
    """A source of training photos of any size; see `pipeline.Source`.

    Attributes:
        name: As in `data.name`.
        origin: Where the photos lie, for messages.
        skipped: After all `squares` were taken: the photos left out, unreadable or too small.
    """

    name: str

    def __init__(self, origin: str, aspect: str = "squash", crop_margin: float = 1.125):
        """Describes how photos become squares.

        Args:
            origin: Where the photos lie, for messages.
            aspect: `squash`, `centre_crop` or `pad` (edges are continued).
            crop_margin: The largest square asked for has this times the training resolution;
                photos may be smaller than the former, not than the latter.
        """
        self.origin = origin
        self.skipped: list[str] = []
        self._aspect = aspect
        self._crop_margin = crop_margin

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns how many photos there are; some may turn out to be unusable."""

    @abc.abstractmethod
    def encoded(self) -> Iterator[Encoded]:
        """Yields the photos as they are stored, in order."""

    @abc.abstractmethod
    def inventory(self) -> list[str]:
        """Returns lines that say which photos are in use, once `skipped` is known."""

    @abc.abstractmethod
    def identity(self) -> list[str]:
        """Returns lines that change if the squares might."""

    def squares(self, sides: Sequence[int]) -> Iterator[tuple[np.ndarray, ...]]:
        """Decodes the photos one after another; what cannot be used is left out.

        Args:
            sides: Of the squares, pixels.

        Yields:
            For each usable photo, in order, a uint8 [side, side, 3] RGB for each side, resized
            from the photo itself.

        Raises:
            UserError: More than 5 % of the photos are unreadable, or too small; it names some.
        """
        least = int(max(sides) / self._crop_margin + 1e-6)

        def decode(photo: Encoded) -> tuple[str, Sequence[np.ndarray] | Exception | None]:
            try:
                return photo.name, _decode(photo, sides, least, self._aspect)
            except photos.UnreadableImage as error:
                return photo.name, error

        unreadable: list[str] = []
        small: list[str] = []
        total = len(self)
        most = max(int(MOST_SKIPPED * total), _NAMED)
        with (
            Bar(total, "decoding photos", "photo", visible=total >= _PROGRESS_FROM) as bar,
            concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
        ):
            for name, squares in in_order(pool, decode, self.encoded(), AHEAD):
                bar.update()
                if squares is not None and not isinstance(squares, Exception):
                    yield tuple(squares)
                    continue
                (small if squares is None else unreadable).append(name)
                if max(len(small), len(unreadable)) > most:
                    break  # enough to name
        self._check(unreadable, small, least)
        self.skipped = sorted(unreadable + small)
        if self.skipped:
            print(
                f"{self.origin}: left out {len(self.skipped)} of {total} photos "
                f"({len(unreadable)} unreadable, {len(small)} smaller than {least} px): "
                f"{some(self.skipped)}",
                file=sys.stderr,
            )

    def load(self, side: int) -> np.ndarray:
        """Decodes all photos, uint8 [N, side, side, 3] RGB, N at most `len(self)`.

        Raises:
            UserError: As `squares` does.
        """
        images = np.empty((len(self), side, side, 3), np.uint8)
        count = 0
        for (image,) in self.squares([side]):
            images[count] = image
            count += 1
        return images[:count]

    def _check(self, unreadable: list[str], small: list[str], least: int) -> None:
        total = len(self)
        if len(unreadable) > MOST_SKIPPED * total:
            raise UserError(
                f"{self.origin}: more than {MOST_SKIPPED:.0%} of the {total} photos cannot be "
                f"read, such as {some(unreadable)}; replace or remove them"
            )
        if len(small) > MOST_SKIPPED * total:
            raise UserError(
                f"{self.origin}: more than {MOST_SKIPPED:.0%} of the {total} photos are smaller "
                f"than the resolution ({least} px), such as {some(small)}; remove them, or train "
                "smaller with --set=gan.resolution="
            )
        if len(unreadable) + len(small) == total:
            raise UserError(f"{self.origin}: no photo is usable: {some(unreadable + small)}")


def encoded_file(photo: Encoded) -> str | io.BytesIO:
    """Returns what Pillow opens."""
    return photo.file if isinstance(photo.file, str) else io.BytesIO(photo.file)


def in_order(
    pool: concurrent.futures.Executor,
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    ahead: int,
) -> Iterator[_Result]:
    """Maps in parallel and in order, as `pool.map` does, but at most `ahead` items ahead."""
    pending: collections.deque[concurrent.futures.Future[_Result]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:  # whoever takes no more need not wait for them
            future.cancel()


def to_square(image: Image.Image, side: int, aspect: str) -> np.ndarray:
    """Resizes an RGB image to a square, antialiased: Pillow's bicubic filter over all its pixels.

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
    resized = image.resize(target, Image.Resampling.BICUBIC, box=box)
    missing = side - target[0], side - target[1]
    ends = [(gap // 2, gap - gap // 2) for gap in missing]
    return np.pad(np.asarray(resized), (ends[1], ends[0], (0, 0)), mode="edge")


def some(names: list[str]) -> str:
    """Returns the first names, and how many more there are."""
    named = ", ".join(names[:_NAMED])
    return named if len(names) <= _NAMED else f"{named} and {len(names) - _NAMED} more"


def _decode(
    photo: Encoded, sides: Sequence[int], least: int, aspect: str
) -> list[np.ndarray] | None:
    """Decodes one photo, once, to a square a side; None if it is too small."""
    width, height = photos.size(encoded_file(photo), photo.name)
    decisive = max(width, height) if aspect == "pad" else min(width, height)
    if decisive < least:
        return None
    # Not `draft`, which decodes a JPEG reduced: squares would differ by more than 2 levels.
    image = photos.open_rgb(encoded_file(photo), photo.name)
    return [to_square(image, side, aspect) for side in sides]
