import threading
import time

import pytest

from layered_segmentation.images import UnreadableImage
from layered_segmentation.segmenter import pipeline


class Stages:
    """Three stages that note what they do; photos are numbers of their pixels."""

    def __init__(self, broken=(), fails=(), slow_read=0.0, slow_write=0.0):
        self.broken, self.fails = broken, fails
        self.slow_read, self.slow_write = slow_read, slow_write
        self.lock = threading.Lock()
        self.in_work, self.most, self.reads = {}, 0, 0
        self.batches, self.written = [], []

    def read(self, photo):
        with self.lock:
            self.in_work[photo] = photo[1]
            self.most = max(self.most, sum(self.in_work.values()))
            self.reads += 1
        time.sleep(self.slow_read)
        if photo[0] in self.broken:
            raise UnreadableImage(f"{photo[0]} is broken")
        return photo

    def predict(self, photos):
        self.batches.append([name for name, _ in photos])
        return [f"mask of {name}" for name, _ in photos]

    def write(self, photo, source, mask):
        assert source == photo and mask == f"mask of {photo[0]}"
        time.sleep(self.slow_write)
        if photo[0] in self.fails:
            raise OSError(f"{photo[0]} cannot be written")
        with self.lock:
            self.written.append(photo[0])

    def run(self, photos, most=1, pixels=100, batch_pixels=100):
        work = pipeline.batches([(photo, photo[1]) for photo in photos], most, batch_pixels)
        for photo, error in pipeline.run(work, self.read, self.predict, self.write, pixels):
            self.in_work.pop(photo)
            yield photo[0], error and str(error)


def numbered(*sizes):
    return list(enumerate(sizes))


def test_results_come_in_order_whatever_takes_long():
    class Uneven(Stages):
        def write(self, photo, source, mask):
            time.sleep(0.02 if photo[0] % 2 else 0)
            super().write(photo, source, mask)

    stages = Uneven(broken={3})
    results = list(stages.run(numbered(*[10] * 8)))
    assert results == [(n, "3 is broken" if n == 3 else None) for n in range(8)]
    assert sorted(stages.written) == [0, 1, 2, 4, 5, 6, 7]


def test_batches_depend_on_nothing_but_the_photos():
    photos = numbered(10, 10, 10, 50, 10, 200, 10)
    expected = [[0, 1], [2, 3], [4], [5], [6]]
    for slow_read, slow_write in ((0, 0), (0.005, 0), (0, 0.005)):
        stages = Stages(slow_read=slow_read, slow_write=slow_write)
        list(stages.run(photos, most=2, pixels=120, batch_pixels=60))
        assert stages.batches == expected
    stages = Stages(broken={0, 4})
    list(stages.run(photos, most=2, pixels=120, batch_pixels=60))
    assert stages.batches == [[1], [2, 3], [5], [6]]


def test_the_pixels_in_work_are_bounded():
    stages = Stages(slow_write=0.01)
    list(stages.run(numbered(40, 40, 40, 40, 10, 10, 10, 90, 10, 40)))
    assert 80 <= stages.most <= 100
    stages = Stages(slow_write=0.01)
    list(stages.run(numbered(10, 300, 10, 300)))  # alone, what is larger than the bound
    assert stages.most == 300


def test_stages_overlap():
    """While a photo is written, the next is read and segmented."""
    segmented = [threading.Event() for _ in range(4)]

    class Waiting(Stages):
        def predict(self, photos):
            segmented[photos[0][0]].set()
            return super().predict(photos)

        def write(self, photo, source, mask):
            assert photo[0] == 3 or segmented[photo[0] + 1].wait(timeout=60)
            super().write(photo, source, mask)

    stages = Waiting()
    assert len(list(stages.run(numbered(10, 10, 10, 10)))) == 4
    assert sorted(stages.written) == [0, 1, 2, 3]


def test_the_first_error_in_order_is_raised_after_what_comes_before_it():
    stages = Stages(fails={2, 4}, slow_write=0.01)
    results = stages.run(numbered(*[10] * 6))
    assert [next(results), next(results)] == [(0, None), (1, None)]
    with pytest.raises(OSError, match="2 cannot be written"):
        next(results)

    class Faulty(Stages):
        def predict(self, photos):
            if photos[0][0] == 3:
                raise RuntimeError("no memory")
            return super().predict(photos)

    stages = Faulty(slow_write=0.01)
    results = stages.run(numbered(*[10] * 6))
    assert [next(results) for _ in range(3)] == [(0, None), (1, None), (2, None)]
    with pytest.raises(RuntimeError, match="no memory"):
        next(results)
    assert sorted(stages.written) == [0, 1, 2]


def test_a_run_that_is_given_up_leaves_no_thread():
    before = threading.active_count()
    results = Stages(slow_write=0.01).run(numbered(*[10] * 50))
    next(results)
    results.close()
    assert threading.active_count() == before


def test_nothing_to_do_is_done():
    assert list(Stages().run([])) == []
