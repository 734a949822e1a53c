"""What is prepared and read does not have to fit in memory."""

import subprocess
import sys

import lmdb_files
import pytest

_SCRIPT = """
import sys
from layered_segmentation.config import DataConfig
from layered_segmentation.data import batches
from layered_segmentation.data.prepare import builder, prepare
from layered_segmentation.data.source import open_source

def megabytes(field):
    with open("/proc/self/status") as file:
        return int(dict(line.split(":", 1) for line in file)[field].split()[0]) // 1000

source, data_dir = sys.argv[1:]
builder.SHARD_BYTES = 1 << 22
done = prepare.prepare("lsun_objects/car", source, data_dir)
prepared = megabytes("VmHWM")  # not getrusage's, which begins with the parent's
data = DataConfig(name="tfds", dataset=done.dataset, data_dir=data_dir)
photos = open_source(data, 0)
cache = batches.PhotoCache.open(photos, [8, 64], memory=0, directory=data_dir + "/cache")
elements = batches.batches(cache, 64, 50, True, 0, 0, len(cache))
seen = sum(int(images.shape[0]) for images in elements)
# Without the mapped files' pages, which may go at any time.
print(len(cache), seen, prepared, megabytes("RssAnon"))
"""


def megabytes(tmp_path, count):
    """Prepares photos, makes the squares of two stages on disk, reads them all once.

    Returns:
        The most memory until all were prepared, and what is in use once all were read, MB.
    """
    some = [lmdb_files.photo(number, side=100, format="PNG") for number in range(20)]  # 32 KB each
    values = {lmdb_files.key(number): some[number % 20] for number in range(count)}
    lmdb_files.write(tmp_path / str(count) / "car", values)
    arguments = [str(tmp_path / str(count)), str(tmp_path / f"data{count}")]
    command = [sys.executable, "-c", _SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    images, seen, *memory = map(int, done.stdout.split()[-4:])
    assert images == seen == count
    return memory


@pytest.mark.slow
@pytest.mark.linux("/proc")
def test_memory_does_not_grow_with_the_number_of_photos(tmp_path):
    few = megabytes(tmp_path, 600)  # 20 MB of files, 10 MB of squares
    many = megabytes(tmp_path, 3000)  # 97 MB, 47 MB
    for less, more in zip(few, many, strict=True):
        assert more < less + 35, (few, many)
