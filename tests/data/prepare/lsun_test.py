"""The LSUN builder on real LMDBs in the published layout."""

import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

import lmdb_files
import numpy as np
import pytest
import simple_parsing
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.scripts.cli import build

from layered_segmentation.data.prepare import builder as photo_builder
from layered_segmentation.data.prepare import lmdb_reader, lsun
from layered_segmentation.errors import UserError

COUNT = 12
PAGE = 4096


@pytest.mark.usefixtures("own_archives")
class LsunObjectsTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own checks, on one category unpacked and one in its zip."""

    DATASET_CLASS = lsun.LsunObjects
    BUILDER_CONFIG_NAMES_TO_TEST = ["car", "tv-monitor"]  # noqa: RUF012
    SPLITS = {"train": COUNT}  # noqa: RUF012

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = tempfile.mkdtemp()
        values = lmdb_files.photos(COUNT)
        lmdb_files.write(os.path.join(cls.EXAMPLE_DIR, "car"), values)
        other = lmdb_files.write(os.path.join(cls.EXAMPLE_DIR, "tv-monitor"), values)
        lmdb_files.zip_directory(other, other + ".zip")
        shutil.rmtree(other)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.EXAMPLE_DIR)


@pytest.fixture(scope="module")
def values():
    """Images in three formats, by key."""
    formats = ["WEBP", "JPEG", "PNG"]
    return {
        lmdb_files.key(number): lmdb_files.photo(number, format=formats[number % 3])
        for number in range(COUNT)
    }


@pytest.fixture
def source(tmp_path, values):
    """The parent of an unpacked archive."""
    lmdb_files.write(tmp_path / "lsun" / "car", values)
    return tmp_path / "lsun"


def prepare(source, data_dir, limit=None):
    builder = lsun.LsunObjects(config="car", data_dir=data_dir, source=str(source))
    config = tfds.download.DownloadConfig(max_examples_per_split=limit)
    builder.download_and_prepare(download_config=config)
    return builder


def read(builder, split="train"):
    """The stored bytes by key, in order."""
    skip = {"image": tfds.decode.SkipDecoding()}
    examples = tfds.as_numpy(builder.as_dataset(split=split, decoders=skip))
    return {example["key"].decode(): example["image"] for example in examples}


def overwrite_page(source, number, content):
    with open(source / "car" / "data.mdb", "r+b") as file:
        file.seek(number * PAGE)
        file.write(content)


def pages_of_kind(source, flag):
    """The numbers of the pages with a flag: 1 branch, 2 leaf, 4 overflow."""
    data = (source / "car" / "data.mdb").read_bytes()
    heads = [struct.unpack_from("<QHH", data, at) for at in range(0, len(data), PAGE)]
    return [
        page for page, (number, _, flags) in enumerate(heads) if (number, flags) == (page, flag)
    ]


def test_bytes_and_order_are_those_of_the_archive(source, values, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_builder, "SHARD_BYTES", PAGE)  # so that there are several
    builder = prepare(source, tmp_path / "data")
    stored = read(builder)
    assert len(builder.info.splits["train"].shard_lengths) > 2
    assert list(stored) == sorted(values)  # LMDB's order: that of the keys
    assert list(stored) != list(values)
    assert stored == values
    size = (source / "car" / "data.mdb").stat().st_size
    assert dict(builder.info.metadata) == {
        "limit": 0,
        "entries": {"train": COUNT},
        "skipped": {"train": {}},
        "source": {"train": [COUNT, size]},
        "fingerprint": f"lmdb:{COUNT} {size}",
    }


def test_images_loaded_by_name_are_decoded(source, values, tmp_path):
    prepare(source, tmp_path / "data")
    loaded, info = tfds.load(
        "lsun_objects/car", split="train", data_dir=tmp_path / "data", with_info=True
    )
    assert info.splits["train"].num_examples == COUNT
    for example in tfds.as_numpy(loaded):
        file = io.BytesIO(values[example["key"].decode()])
        assert np.array_equal(example["image"], np.asarray(Image.open(file).convert("RGB")))


def test_the_first_images_have_the_smallest_keys(source, values, tmp_path):
    first = sorted(values)[:5]
    whole = prepare(source, tmp_path / "whole")
    limited = prepare(source, tmp_path / "limited", limit=5)
    assert list(read(limited)) == first
    assert read(limited) == read(whole, "train[:5]")
    assert limited.info.metadata["limit"] == 5
    assert prepare(source, tmp_path / "more", limit=99).info.metadata["entries"] == {"train": COUNT}


def test_pages_after_the_limit_are_not_touched(tmp_path):
    # 300 keys fill several leaves; the last of them, in key order, is made unreadable.
    values = {lmdb_files.key(number): lmdb_files.photo(0) for number in range(300)}
    source = tmp_path / "lsun"
    lmdb_files.write(source / "car", values)
    data = (source / "car" / "data.mdb").read_bytes()
    last = sorted(values)[-1].encode()
    (page,) = {at // PAGE for at in find_all(data, last) if at // PAGE in pages_of_kind(source, 2)}
    overwrite_page(source, page, bytes(PAGE))
    assert len(read(prepare(source, tmp_path / "data", limit=20))) == 20
    with pytest.raises(UserError, match=r"data\.mdb: is damaged after entry .*again"):
        prepare(source, tmp_path / "whole")
    assert not list((tmp_path / "whole").rglob("dataset_info.json"))
    assert not list((tmp_path / "whole").rglob("*.tfrecord*"))


def find_all(data, word):
    at = data.find(word)
    while at >= 0:
        yield at
        at = data.find(word, at + 1)


@pytest.mark.parametrize("name", ["car/data.mdb", "car"])
def test_the_source_may_be_the_database_itself(source, values, name):
    builder = lsun.LsunObjects(config="car", data_dir=source / "data", source=str(source / name))
    builder.download_and_prepare()
    assert read(builder) == values


def test_undecodable_values_are_counted(tmp_path, capsys):
    values = lmdb_files.photos(60)
    bad = sorted(values)[3]
    values[bad] = values[bad][:-40]
    empty = sorted(values)[7]
    values[empty] = b""
    lmdb_files.write(tmp_path / "car", values)
    builder = prepare(tmp_path, tmp_path / "data")
    assert list(read(builder)) == sorted(set(values) - {bad, empty})
    assert set(builder.info.metadata["skipped"]["train"]) == {bad, empty}
    message = capsys.readouterr().err
    assert "left out 2 of 60" in message
    assert bad in message and empty in message


def test_a_limit_counts_usable_images_like_a_slice(tmp_path, monkeypatch):
    values = lmdb_files.photos(44)
    bad = [sorted(values)[index] for index in (3, 41)]
    for name in bad:
        values[name] = b"damaged"
    lmdb_files.write(tmp_path / "car", values)
    # In the first 41 one is bad, and so is the one that would take its place.
    limited = prepare(tmp_path, tmp_path / "limited", limit=41)
    assert list(read(limited)) == sorted(set(values) - set(bad))[:41]
    assert limited.info.metadata["entries"] == {"train": 43}
    monkeypatch.setattr(photo_builder, "SHARD_BYTES", 1)  # an entry each, so that two are empty
    whole = prepare(tmp_path, tmp_path / "whole")
    assert whole.info.splits["train"].shard_lengths.count(0) == 2
    assert read(whole, "train[:41]") == read(limited)


def test_too_many_undecodable_values_are_an_error(tmp_path):
    values = lmdb_files.photos(20)
    for name in sorted(values)[:2]:
        values[name] = values[name][:100]
    lmdb_files.write(tmp_path / "car", values)
    with pytest.raises(UserError, match=r"more than 5% of the 20 entries cannot be used, such as"):
        prepare(tmp_path, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


@pytest.mark.parametrize("flag", [1, 2])
@pytest.mark.parametrize("content", [bytes(PAGE), bytes(range(256)) * 16])
def test_a_corrupt_page_is_an_error(tmp_path, flag, content):
    values = {lmdb_files.key(number): bytes([number]) * 3000 for number in range(200)}
    lmdb_files.write(tmp_path / "car", values)
    pages = pages_of_kind(tmp_path, flag)
    overwrite_page(tmp_path, pages[len(pages) // 2], content)
    with pytest.raises(UserError, match=r"car.data\.mdb: (is damaged|ends)"):
        list(lmdb_reader.entries(str(tmp_path / "car"), 200))


def test_a_truncated_database_is_an_error(source):
    path = source / "car" / "data.mdb"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"data\.mdb: has [\d,]+ bytes of [\d,]+; it was not"):
        lmdb_reader.summary(str(source / "car"))
    with pytest.raises(UserError, match="is damaged"):
        list(lmdb_reader.entries(str(source / "car"), COUNT))
    # Why it is read in a process of its own: that process dies, by SIGBUS or LMDB's own abort.
    child = [sys.executable, "-P", lmdb_reader.__file__, str(source / "car"), str(COUNT)]
    assert subprocess.run(child, capture_output=True).returncode < 0


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_file_that_is_no_database_is_an_error(source, content):
    (source / "car" / "data.mdb").write_bytes(content)
    with pytest.raises(UserError, match=r"data\.mdb: is damaged: .*; unpack or download it again"):
        lmdb_reader.summary(str(source / "car"))


def test_other_sources_are_refused(own_archives, source, tmp_path):
    for config, path, words in (
        ("bird", source, "no archive bird.zip; download http"),
        ("bird", tmp_path / "bird.zip", "there is no LMDB"),
        ("bird", source / "car", "holds the category 'car', not 'bird'"),
    ):
        builder = lsun.LsunObjects(config=config, data_dir=tmp_path / "data", source=str(path))
        with pytest.raises(UserError, match=words):
            builder.download_and_prepare()
    with zipfile.ZipFile(tmp_path / "bird.zip", "w") as file:
        file.writestr("bird/readme", "nothing")
    with pytest.raises(UserError, match=r"bird\.zip: holds 0 files data\.mdb"):
        builder = lsun.LsunObjects(
            config="bird", data_dir=tmp_path / "data", source=str(tmp_path / "bird.zip")
        )
        builder.download_and_prepare()


def test_tfds_build_stops_at_its_limit(source, values, tmp_path):
    # What `tfds build …` runs; its main module asks for Apache Beam, which is not needed here.
    command = [
        "lsun_objects/car", "--imports=layered_segmentation.data", f"--manual_dir={source}",
        f"--data_dir={tmp_path / 'data'}", "--max_examples_per_split=7",
    ]  # fmt: skip
    simple_parsing.parse(build.Args, args=command).execute()
    prepared = tfds.builder("lsun_objects/car", data_dir=tmp_path / "data")
    assert list(read(prepared)) == sorted(values)[:7]
    assert prepared.info.metadata["limit"] == 7


def test_published_sizes_are_known():
    car = lsun.LsunObjects.url_infos[lsun.URL.format(category="car")]
    assert car.size == 185788496846
    assert len(car.checksum) == 64
    for category in lsun.CATEGORIES:
        assert lsun.URL.format(category=category) in lsun.LsunObjects.url_infos
