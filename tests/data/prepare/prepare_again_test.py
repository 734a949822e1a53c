"""`layerseg prepare` once more: after a stop, after the source has changed, after damage."""

import functools
import shutil

import cub_files
import lmdb_files
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from layered_segmentation.data.prepare import builder as photo_builder
from layered_segmentation.data.prepare import lsun, prepare
from layered_segmentation.errors import UserError

COUNT = 40


@pytest.fixture
def values(tmp_path):
    """An LMDB of cars, two of them damaged, of an entry or two in each shard."""
    values = lmdb_files.photos(COUNT)
    for index in (3, 30):
        values[sorted(values)[index]] = b"damaged"
    lmdb_files.write(tmp_path / "lsun" / "car", values)
    return values


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(photo_builder, "SHARD_BYTES", 1 << 12)


@pytest.fixture
def cars(prepare, tmp_path):
    """Prepares the cars."""
    return functools.partial(prepare, "lsun_objects/car", tmp_path / "lsun")


@pytest.fixture
def read_keys(monkeypatch):
    """The keys whose values were decoded; at the last of `stop_at` the reader is interrupted."""
    keys: list[str] = []
    stop_at: list[str] = []
    original = lsun._example

    def example(key, value):
        keys.append(key)
        if key in stop_at:
            raise KeyboardInterrupt
        return original(key, value)

    monkeypatch.setattr(lsun, "_example", example)
    return keys, stop_at


def stored(data_dir):
    builder = tfds.builder("lsun_objects/car", data_dir=data_dir)
    skip = {"image": tfds.decode.SkipDecoding()}
    return {
        example["key"].decode(): example["image"]
        for example in tfds.as_numpy(builder.as_dataset(split="train", decoders=skip))
    }


def usable(values):
    return {key: values[key] for key in sorted(values) if values[key] != b"damaged"}


def test_a_stopped_run_continues_from_its_complete_shards(
    cars, values, small_shards, read_keys, tmp_path
):
    keys, stop_at = read_keys
    late = sorted(values)[25]
    stop_at.append(late)
    assert cars().status == 130
    configs = tmp_path / "data" / "lsun_objects" / "car"
    assert [path.name for path in configs.iterdir()] == ["partial.1.0.0"]
    kept = list((configs / "partial.1.0.0").glob("*.tfrecord*[0-9]"))
    assert len(kept) > 3
    stop_at.clear()
    keys.clear()
    result = cars()
    assert result.status == 0, result.stderr
    # Some are decoded ahead of the shard that is being written, those of kept shards never.
    assert late in keys and sorted(values)[3] not in keys and len(keys) < COUNT - 8
    assert stored(tmp_path / "data") == usable(values)
    assert list(stored(tmp_path / "data")) == sorted(usable(values))
    info = tfds.builder("lsun_objects/car", data_dir=tmp_path / "data").info
    assert set(info.metadata["skipped"]["train"]) == {sorted(values)[3], sorted(values)[30]}
    assert info.metadata["entries"] == {"train": COUNT}
    assert [path.name for path in configs.iterdir()] == ["1.0.0"]
    # As one that was never stopped.
    assert cars("--overwrite").status == 0
    again = tfds.builder("lsun_objects/car", data_dir=tmp_path / "data").info
    assert again.splits["train"].shard_lengths == info.splits["train"].shard_lengths
    assert dict(again.metadata) == dict(info.metadata)


@pytest.mark.parametrize("change", ["source", "limit"])
def test_shards_of_another_source_or_limit_are_not_reused(
    cars, values, small_shards, read_keys, tmp_path, change
):
    _, stop_at = read_keys
    stop_at.append(sorted(values)[25])
    assert cars().status == 130
    stop_at.clear()
    arguments = ["--limit=20"]
    if change == "source":
        arguments = []
        values.update(lmdb_files.photos(COUNT, side=40))
        shutil.rmtree(tmp_path / "lsun")
        lmdb_files.write(tmp_path / "lsun" / "car", values)
    assert cars(*arguments).status == 0
    expected = usable(values)
    first = dict(list(expected.items())[:20]) if change == "limit" else expected
    assert stored(tmp_path / "data") == first


def test_a_changed_database_is_noticed(cars, values, tmp_path):
    assert cars().status == 0
    shutil.rmtree(tmp_path / "lsun")
    lmdb_files.write(tmp_path / "lsun" / "car", lmdb_files.photos(COUNT + 8))
    result = cars()
    assert result.status == 2
    assert "holds other photos than --source=" in result.stderr
    assert "train: 48 images" in cars("--overwrite").stdout


def test_changed_photos_of_the_same_sizes_are_noticed(layerseg, tmp_path):
    for number, name in enumerate(("one", "two")):
        (tmp_path / name / "photos").mkdir(parents=True)
        for index in range(5):
            picture = np.full((8, 8, 3), 20 * index + number, np.uint8)
            Image.fromarray(picture).save(tmp_path / name / "photos" / f"{index}.bmp")

    def run(name):
        return layerseg(
            "prepare", "--dataset=folder", f"--source={tmp_path / name / 'photos'}",
            f"--data_dir={tmp_path / 'data'}",
        )  # fmt: skip

    assert run("one").status == 0
    assert "is finished" in run("one").stdout
    result = run("two")
    assert result.status == 2
    assert "or name another --data_dir or --dataset=photo_folder/NAME" in result.stderr


def test_a_mask_that_was_added_is_noticed(layerseg, tmp_path):
    source = cub_files.write(tmp_path / "cub", count=22)
    mask = source / "segmentations" / cub_files.name(2).replace(".jpg", ".png")
    (source / "CUB_200_2011" / "train_test_split.txt").write_text(
        "".join(f"{number} {int(number < 22)}\n" for number in range(1, 23))
    )
    content = mask.read_bytes()
    mask.unlink()

    def run(*arguments):
        return layerseg(
            "prepare", "--dataset=cub200_segmentation", f"--source={source}",
            f"--data_dir={tmp_path / 'data'}", *arguments,
        )  # fmt: skip

    assert "train: 20 images, 1 left out\n" in run().stdout
    mask.write_bytes(content)
    result = run()
    assert result.status == 2 and "now has (files were changed" in result.stderr
    assert "train: 21 images\n" in run("--overwrite").stdout


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_damaged_metadata_is_named_and_overwrite_repairs_it(cars, values, tmp_path, file, damage):
    assert cars().status == 0
    path = tmp_path / "data" / "lsun_objects" / "car" / "1.0.0" / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    result = cars()
    assert result.status == 2
    assert "1.0.0: is damaged (" in result.stderr
    assert "prepare it again with --overwrite" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert cars("--overwrite").status == 0
    assert stored(tmp_path / "data") == usable(values)


def test_a_dataset_that_fails_its_check_replaces_nothing(cars, values, tmp_path, monkeypatch):
    assert cars().status == 0

    def refuse(builder):
        raise UserError("an image cannot be decoded")

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_verify", refuse)
        assert cars("--overwrite", "--limit=5").status == 2
    assert stored(tmp_path / "data") == usable(values)
    configs = tmp_path / "data" / "lsun_objects" / "car"
    assert [path.name for path in configs.iterdir()] == ["1.0.0"]


def test_the_category_of_the_current_directory_is_known(layerseg, values, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "lsun" / "car")
    result = layerseg(
        "prepare", "--dataset=lsun_objects/cat", "--source=.", f"--data_dir={tmp_path / 'data'}"
    )
    assert result.status == 2
    assert "holds the category 'car', not 'cat'" in result.stderr
