"""Reads, segments and writes photos at the same time, in order and within bounded memory."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar

from layered_segmentation.images import UnreadableImage

T = TypeVar("T")  # what a photo is known by
P = TypeVar("P")  # a photo that was read

_MOST_THREADS = 4  # GrabCut and the guided filter have threads of their own
PIXELS = 1 << 24  # of the photos in memory at once; each pixel takes about 50 bytes
_AHEAD = 2  # batches that are read before they are segmented


class Batch(NamedTuple, Generic[T]):
    """Photos that are segmented together, and their pixels in all."""

    photos: list[T]
    pixels: int


def batches(photos: Iterable[tuple[T, int]], most: int, pixels: int) -> Iterator[Batch[T]]:
    """Divides photos into batches, as a function of the arguments alone.

    Args:
        photos: Photos with their numbers of pixels.
        most: Photos in a batch.
        pixels: Pixels in a batch, unless one photo alone has more.
    """
    batch: list[T] = []
    total = 0
    for photo, size in photos:
        if batch and total + size > pixels:
            yield Batch(batch, total)
            batch, total = [], 0
        batch.append(photo)
        total += size
        if len(batch) == most:  # before the next photo is read
            yield Batch(batch, total)
            batch, total = [], 0
    if batch:
        yield Batch(batch, total)


def run(
    work: Iterator[Batch[T]],
    read: Callable[[T], P],
    predict: Callable[[list[P]], Sequence[Any]],
    write: Callable[[T, P, Any], None],
    pixels: int,
) -> Iterator[tuple[T, UnreadableImage | None]]:
    """Passes photos through three stages that overlap.

    `read` and `write` run in threads, on several photos at once; `predict` runs in this thread,
    batch by batch. A batch enters if all batches in work then have at most `pixels`, or if none is
    in work.

    Args:
        work: The batches.
        read: Reads a photo.
        predict: Returns a mask for each photo.
        write: Finishes and writes the results of a photo and its mask.
        pixels: The most pixels in work at once.

    Yields:
        Each photo, in order, once its results are written; with the error if it cannot be read.

    Raises:
        Exception: What a stage raised for the first photo, in order, for which one did. The
            results of the photos before it are written.
    """
    reading: collections.deque[tuple[Batch[T], list[Future[P]]]] = collections.deque()
    writing: collections.deque[tuple[Batch[T], list[Future[Any]]]] = collections.deque()
    in_work = 0
    entering = next(work, None)
    pool = concurrent.futures.ThreadPoolExecutor(min(_MOST_THREADS, 1 + (os.cpu_count() or 1)))
    try:
        while entering or reading or writing:
            while entering and len(reading) < _AHEAD:
                if in_work and in_work + entering.pixels > pixels:
                    break
                in_work += entering.pixels
                reading.append((entering, [pool.submit(read, one) for one in entering.photos]))
                entering = next(work, None)
            if reading:
                batch, photos = reading.popleft()
                try:
                    writing.append((batch, _segment(pool, batch, photos, predict, write)))
                except Exception as fault:  # raised in its turn, after what was written before
                    failed: Future[Any] = Future()
                    failed.set_exception(fault)
                    writing.append((batch, [failed] * len(photos)))
                    entering, reading = None, collections.deque()
                del photos
            elif writing:
                concurrent.futures.wait(writing[0][1])
            while writing and all(future.done() for future in writing[0][1]):
                batch, results = writing.popleft()
                for photo, future in zip(batch.photos, results, strict=True):
                    error = future.exception()
                    if error is not None and not isinstance(error, UnreadableImage):
                        raise error
                    yield photo, error
                in_work -= batch.pixels
                del results
    finally:
        pool.shutdown(cancel_futures=True)


def _segment(
    pool: concurrent.futures.Executor,
    batch: Batch[T],
    photos: list[Future[P]],
    predict: Callable[[list[P]], Sequence[Any]],
    write: Callable[[T, P, Any], None],
) -> list[Future[Any]]:
    """Segments a batch; a photo that cannot be read stands for its own result."""
    concurrent.futures.wait(photos)
    found = [future.result() for future in photos if not _is_unreadable(future)]
    masks = iter(zip(found, predict(found) if found else [], strict=True))
    return [
        future if _is_unreadable(future) else pool.submit(write, name, *next(masks))
        for name, future in zip(batch.photos, photos, strict=True)
    ]


def _is_unreadable(future: Future[Any]) -> bool:
    return isinstance(future.exception(), UnreadableImage)
