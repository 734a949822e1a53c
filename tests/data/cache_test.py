import errno
import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from layered_segmentation import files
from layered_segmentation.data import batches, cache
from layered_segmentation.data.cache import RECORD, bytes_of, open_cache
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.errors import UserError

SIDES = [9, 18]


class Photos:
    """A source of known squares; counts how often it is read."""

    def __init__(self, count=12, skipped=("bad.jpg",), state="first"):
        self.skipped = []
        self.reads = 0
        self._count = count
        self._found = list(skipped)
        self._state = state

    def __len__(self):
        return self._count + len(self._found)

    def squares(self, sides):
        self.reads += 1
        for index in range(self._count):
            yield tuple(self.square(index, side) for side in sides)
        self.skipped = self._found

    def identity(self):
        return [self._state]

    @staticmethod
    def square(index, side):
        return np.random.default_rng([index, side]).integers(0, 256, (side, side, 3), np.uint8)

    def expected(self, side):
        return np.stack([self.square(index, side) for index in range(self._count)])


def on_disk(source, directory):
    return open_cache(source, SIDES, memory=0, directory=str(directory))


def caches(directory):
    return sorted(p for p in directory.iterdir() if p.is_dir())


def test_memory_and_disk_hold_the_same(tmp_path):
    source = Photos()
    needed = bytes_of(13, SIDES)
    assert needed == 13 * 3 * (81 + 324)
    in_memory = open_cache(source, SIDES, memory=needed, directory=str(tmp_path))
    assert not list(tmp_path.iterdir())
    mapped = open_cache(source, SIDES, memory=needed - 1, directory=str(tmp_path))
    for arrays in (in_memory, mapped):
        assert list(arrays) == SIDES
        for side in SIDES:
            assert arrays[side].dtype == np.uint8
            assert np.array_equal(arrays[side], source.expected(side))
    (directory,) = caches(tmp_path)
    assert np.array_equal(np.load(directory / "0018.npy"), source.expected(18))
    with pytest.raises(TypeError):  # it is read only
        mapped[9][0, 0:1, 0:1] = 0


def test_a_cache_is_made_once_and_records_skipped_photos(tmp_path):
    on_disk(Photos(), tmp_path)
    again = Photos()
    arrays = on_disk(again, tmp_path)
    assert again.reads == 0 and again.skipped == ["bad.jpg"]
    assert np.array_equal(arrays[18], again.expected(18))


def test_different_photos_or_sides_get_different_caches(tmp_path):
    on_disk(Photos(), tmp_path)
    others = Photos(state="second"), Photos()
    on_disk(others[0], tmp_path)
    open_cache(others[1], [9], memory=0, directory=str(tmp_path))
    assert [source.reads for source in others] == [1, 1]
    assert len(caches(tmp_path)) == 3


@pytest.mark.parametrize("damage", ["no record", "half a record", "other record", "short", "gone"])
def test_an_incomplete_cache_is_made_again(tmp_path, capsys, damage):
    on_disk(Photos(), tmp_path)
    (directory,) = caches(tmp_path)
    record, file = directory / RECORD, directory / "0009.npy"
    if damage == "no record":
        record.unlink()
    elif damage == "half a record":
        record.write_text(record.read_text()[:40])
    elif damage == "other record":
        record.write_text(json.dumps({**json.loads(record.read_text()), "fingerprint": "x"}))
    elif damage == "short":
        os.truncate(file, file.stat().st_size - 1)
    else:
        file.unlink()
    again = Photos()
    arrays = on_disk(again, tmp_path)
    assert again.reads == 1 and "damaged" in capsys.readouterr().err
    assert np.array_equal(arrays[9], again.expected(9))


@pytest.mark.parametrize("left", [0, 100, 2_000, 11_300])
def test_a_cache_that_is_truncated_while_in_use_is_an_error(tmp_path, left):
    """Of a memory map, this would end the process (SIGBUS)."""
    source = Photos()
    arrays = on_disk(source, tmp_path)
    (directory,) = caches(tmp_path)
    os.truncate(directory / "0018.npy", left)
    with pytest.raises(UserError, match=r"0018\.npy: was truncated .* run the same command again"):
        arrays[18][11, 2:10, 4:12]
    assert np.array_equal(arrays[9][11, 2:7, 4:8], source.square(11, 9)[2:7, 4:8])
    again = Photos()
    arrays = on_disk(again, tmp_path)
    assert again.reads == 1 and np.array_equal(arrays[18], again.expected(18))


def test_a_failing_file_ends_a_dataset_with_its_own_error(tmp_path):
    arrays = on_disk(Photos(), tmp_path)
    photos = batches.PhotoCache({16: arrays[18]})
    elements = iter(batches.batches(photos, 16, 4, False, 0, 0, 400))
    (directory,) = caches(tmp_path)
    with pytest.raises(UserError, match="was truncated"), photos.failures():
        next(elements)
        os.truncate(directory / "0018.npy", 500)
        for _ in elements:
            pass


def test_an_interrupted_cache_is_never_used(tmp_path):
    class Stopped(Photos):
        def squares(self, sides):
            yield next(super().squares(sides))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_disk(Stopped(), tmp_path)
    assert not caches(tmp_path)
    # A process that was killed leaves its part.
    source = Photos()
    on_disk(source, tmp_path)
    (directory,) = caches(tmp_path)
    directory.rename(files.partial_path(str(directory)))
    again = Photos()
    on_disk(again, tmp_path)
    assert again.reads == 1 and caches(tmp_path) == [directory]


def make(directory, results):
    source = Photos()
    arrays = on_disk(source, directory)
    results.put((source.reads, int(np.asarray(arrays[18]).sum())))


def test_concurrent_processes_make_the_same_cache_once(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=make, args=(tmp_path, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(reads for reads, _ in found) == [0, 0, 1]
    assert {total for _, total in found} == {int(Photos().expected(18).sum())}


def test_scenes_are_averaged_down_from_the_largest_side():
    scenes = Scenes(seed=3, count=4)
    arrays = open_cache(scenes, [9, 36])
    assert np.array_equal(arrays[36], scenes.load(36))
    expected = arrays[36].reshape(4, 9, 4, 9, 4, 3).mean(axis=(2, 4))
    assert np.abs(arrays[9] - expected).max() <= 0.51
    assert scenes.identity() != Scenes(seed=4, count=4).identity()
    assert scenes.identity() != Scenes(seed=3, count=5).identity()


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["12k"], indirect=True)
@pytest.mark.parametrize("is_known", [True, False], ids=["before", "on the way"])
def test_a_full_disk_is_an_error_that_names_the_setting(small_disk, monkeypatch, is_known):
    if not is_known:  # a quota, or another process that takes what was free
        usage = shutil.disk_usage(small_disk)._replace(free=10**9)
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)
    source = Photos()
    with pytest.raises(UserError, match=r"data\.cache_dir=.*no space.*data\.cache_memory=1$"):
        on_disk(source, small_disk)
    assert source.reads == (0 if is_known else 1)
    assert not caches(small_disk)


def test_a_disk_that_fills_during_a_write(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(UserError, match=r"data\.cache_dir=.*No space left"):
        on_disk(Photos(), tmp_path)
    assert not caches(tmp_path)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(UserError, match=r"data\.cache_dir=.*file.*cannot be written"):
            on_disk(Photos(), path)
    assert (tmp_path / "file").read_text() == "mine"
