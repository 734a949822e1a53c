import numpy as np
import pytest

from layered_segmentation.config import DataConfig
from layered_segmentation.data.batches import Crops, PhotoCache, batches
from layered_segmentation.data.source import open_source
from layered_segmentation.errors import UserError


@pytest.fixture
def cache():
    random = np.random.default_rng(0)
    return PhotoCache(
        {side: random.integers(0, 256, (10, cached, cached, 3), np.uint8)
         for side, cached in ((8, 9), (16, 18))}
    )  # fmt: skip


def numbered(count, side):
    """Photos whose pixels tell the photo, the row and the column."""
    images = np.zeros((count, side, side, 3), np.uint8)
    images[..., 0] = np.arange(count)[:, None, None]
    images[..., 1] = np.arange(side)[:, None]
    images[..., 2] = np.arange(side)
    return images


def as_levels(batch):
    return np.rint((batch + 1) * 127.5).astype(int)


def test_batches_depend_on_the_image_number_only(cache):
    crops = cache.crops(16, seed=5, mirror=True)
    whole = crops.batch_at(0, 37)
    pieces = [crops.batch_at(*piece) for piece in ((0, 4), (4, 13), (17, 1), (18, 19))]
    assert np.array_equal(np.concatenate(pieces), whole)
    again = PhotoCache({16: cache.images[16].copy()}).crops(16, seed=5, mirror=True)
    assert np.array_equal(again.batch_at(17, 20), whole[17:])
    assert not np.array_equal(cache.crops(16, seed=6, mirror=True).batch_at(0, 37), whole)
    assert whole.dtype == np.float32 and whole.shape == (37, 16, 16, 3)
    assert whole.min() >= -1 and whole.max() <= 1


def test_every_epoch_visits_every_photo_once_in_its_own_order():
    crops = Crops(numbered(23, 9), 8, seed=1, mirror=False)
    shown = as_levels(crops.batch_at(0, 5 * 23))[:, 0, 0, 0].reshape(5, 23)
    assert np.array_equal(np.sort(shown, axis=1), np.tile(np.arange(23), (5, 1)))
    assert len({tuple(order) for order in shown}) == 5
    assert np.array_equal(crops.photos_at(20, 10), shown.ravel()[20:30])


def test_crops_are_whole_windows_at_every_place():
    crops = Crops(numbered(3, 18), 16, seed=2, mirror=True)
    batch = as_levels(crops.batch_at(0, 600))
    rows, columns = batch[:, :, 0, 1], batch[:, 0, :, 2]
    assert np.array_equal(batch[..., 1], np.broadcast_to(rows[:, :, None], batch.shape[:3]))
    assert np.array_equal(batch[..., 2], np.broadcast_to(columns[:, None, :], batch.shape[:3]))
    assert np.all(np.diff(rows, axis=1) == 1)
    steps = np.diff(columns, axis=1)
    assert np.all(steps == steps[:, :1]) and set(steps[:, 0]) == {-1, 1}
    is_mirrored = steps[:, 0] == -1
    assert 0.4 < is_mirrored.mean() < 0.6
    lefts, tops = columns.min(axis=1), rows.min(axis=1)
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (tops, lefts), 1)  # offsets 0, 1, 2 each way and no other
    assert counts.min() > 40 and counts.max() < 95  # 600 / 9 = 67
    # The draws do not go together.
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.15
    assert abs(np.corrcoef(lefts, is_mirrored)[0, 1]) < 0.15


def test_mirroring_can_be_switched_off():
    batch = as_levels(Crops(numbered(3, 18), 16, seed=2, mirror=False).batch_at(0, 50))
    assert np.all(np.diff(batch[..., 2], axis=2) == 1)


def test_each_stage_has_photos_of_its_own(cache):
    assert cache.crops(8, 0, True).images is cache.images[8]
    assert len(cache) == 10
    with pytest.raises(ValueError, match=r"resolution=32 .*\[8, 16\]"):
        cache.crops(32, 0, True)


def test_crops_of_a_memory_map_and_of_an_array_are_equal(tmp_path, cache):
    for resolution, images in cache.images.items():
        np.save(tmp_path / "cache.npy", images)
        mapped = PhotoCache({resolution: np.load(tmp_path / "cache.npy", mmap_mode="r")})
        assert np.array_equal(
            mapped.crops(resolution, 0, True).batch_at(3, 9),
            cache.crops(resolution, 0, True).batch_at(3, 9),
        )


@pytest.mark.parametrize(
    "images", [np.zeros((2, 17, 17, 3), np.uint8), np.zeros((2, 18, 18, 3)), np.zeros(2, np.uint8)]
)
def test_arrays_of_a_wrong_size_or_type_are_refused(images):
    with pytest.raises(ValueError, match="18"):
        PhotoCache({16: images})


def test_stages_with_different_numbers_of_photos_are_refused():
    images = {8: np.zeros((3, 9, 9, 3), np.uint8), 16: np.zeros((2, 18, 18, 3), np.uint8)}
    with pytest.raises(ValueError, match=r"\[3, 18, 18, 3\]"):
        PhotoCache(images)


def test_replicas_divide_the_global_batch_in_order(cache):
    one = batches(cache, 8, batch=6, mirror=True, seed=3, first_image=12, count=24)
    whole = [element.numpy() for element in one]
    assert [len(element) for element in whole] == [6] * 4
    expected = cache.crops(8, 3, True).batch_at(12, 24)
    assert np.array_equal(np.concatenate(whole), expected)

    three = batches(cache, 8, 6, True, 3, 12, 24, replicas=3)
    assert three.element_spec.shape == (2, 8, 8, 3)
    shares = [element.numpy() for element in three]
    assert len(shares) == 12
    assert np.array_equal(np.concatenate(shares), expected)

    # Two workers of a cluster: replicas 0 and 1 here, replica 2 there.
    here = [e.numpy() for e in batches(cache, 8, 6, True, 3, 12, 24, 3, local_replicas=[0, 1])]
    there = [e.numpy() for e in batches(cache, 8, 6, True, 3, 12, 24, 3, local_replicas=[2])]
    assert np.array_equal(np.concatenate([here[2], here[3], there[1]]), whole[1])


def test_resuming_in_the_middle_gives_the_same_elements(cache):
    whole = [e.numpy() for e in batches(cache, 16, 4, True, 0, 0, 40)]
    rest = [e.numpy() for e in batches(cache, 16, 4, True, 0, 28, 12)]
    assert np.array_equal(whole[7:], rest)


def test_any_number_of_workers_gives_the_same_images(cache):
    whole = np.concatenate([e.numpy() for e in batches(cache, 8, 12, True, 3, 24, 48)])
    for workers in (2, 3, 6):
        own = [
            [e.numpy() for e in batches(cache, 8, 12, True, 3, 24, 48, workers, [worker])]
            for worker in range(workers)
        ]
        steps = [np.concatenate(step) for step in zip(*own, strict=True)]
        assert np.array_equal(np.concatenate(steps), whole)


@pytest.mark.parametrize("batch, count, replicas", [(6, 12, 4), (6, 13, 1)])
def test_uneven_shares_are_refused(cache, batch, count, replicas):
    with pytest.raises(ValueError, match="multiple"):
        batches(cache, 8, batch, True, 0, 0, count, replicas)


def test_a_cache_of_a_source_opened_by_name(tmp_path):
    source = open_source(DataConfig(name="shapes", limit=3), seed=1)
    assert len(source) == 3 and source.name == "shapes"
    assert len(open_source(DataConfig(name="shapes"), seed=1)) == 20_000
    cache = PhotoCache.open(source, [8, 16])
    assert cache.images[16].shape == (3, 18, 18, 3) and cache.images[8].shape == (3, 9, 9, 3)
    with pytest.raises(UserError, match="missing"):
        open_source(DataConfig(name="folder", path=str(tmp_path / "missing")), seed=1)
