"""`layerseg prepare`, from real archives and folders, good and bad."""

import functools
import io
import os
import re
import shlex
import shutil
import zipfile

import cub_files
import filelock
import lmdb_files
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from layered_segmentation import config as configs
from layered_segmentation.data.prepare import prepare as preparing
from layered_segmentation.data.source import open_source

COUNT = 12


@pytest.fixture
def archive(own_archives, tmp_path):
    """The published layout: car.zip with car/data.mdb."""
    lmdb_files.write(tmp_path / "car", lmdb_files.photos(COUNT))
    lmdb_files.zip_directory(tmp_path / "car", tmp_path / "car.zip")
    shutil.rmtree(tmp_path / "car")
    return tmp_path / "car.zip"


@pytest.fixture
def car(prepare, archive):
    """Prepares cars from the archive."""
    return functools.partial(prepare, "lsun_objects/car", archive)


@pytest.fixture
def folder(prepare, tmp_path):
    """Prepares the folder `photos`."""
    (tmp_path / "photos").mkdir()

    def run(*arguments, dataset="folder"):
        return prepare(dataset, tmp_path / "photos", *arguments)

    return run


def fill(directory, count):
    """Writes photos 000.jpg and so on; returns their files by name."""
    files = {f"{n:03}.jpg": lmdb_files.photo(n, format="JPEG") for n in range(count)}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return files


def stored(name, data_dir):
    """The bytes of a prepared dataset's images, in order, found by its name."""
    builder = tfds.builder(name, data_dir=data_dir)
    skip = {"image": tfds.decode.SkipDecoding()}
    examples = tfds.as_numpy(builder.as_dataset(split="train", decoders=skip))
    return [example["image"] for example in examples]


def is_clean(data_dir):
    """Whether nothing looks like a dataset, finished or not."""
    left = {path.name for path in data_dir.rglob("*") if path.is_file()}
    return left <= {".prepare.lock", "metadata.json"} and not list(data_dir.rglob("incomplete*"))


def test_a_zip_becomes_a_dataset(car, tmp_path):
    result = car()
    assert result.status == 0, result.stderr
    assert result.stderr == ""
    data_dir = tmp_path / "data"
    assert (
        f"{data_dir / 'downloads' / 'unpacked' / 'lsun_objects'} may be deleted\n" in result.stdout
    )
    assert f"train: {COUNT} images\n" in result.stdout
    assert (
        "next: layerseg train --config=lsun_car --set=data.name=tfds "
        "--set=data.dataset=lsun_objects/car "
        f"--set=data.data_dir={data_dir} --run_dir=RUN\n"
    ) in result.stdout
    values = lmdb_files.photos(COUNT)
    assert stored("lsun_objects/car", data_dir) == [values[key] for key in sorted(values)]


def test_an_archive_that_is_not_the_published_one_is_refused(layerseg, tmp_path):
    lmdb_files.write(tmp_path / "car", lmdb_files.photos(1))
    lmdb_files.zip_directory(tmp_path / "car", tmp_path / "car.zip")
    result = layerseg(
        "prepare", "--dataset=lsun_objects/car", f"--source={tmp_path / 'car.zip'}",
        f"--data_dir={tmp_path / 'data'}",
    )  # fmt: skip
    assert result.status == 2
    assert f"{tmp_path / 'car.zip'}: is not the published archive" in result.stderr
    assert "bytes, that one 185,788,496,846." in result.stderr
    assert "unpack it and name its directory" in result.stderr
    assert is_clean(tmp_path / "data")


def test_a_finished_one_is_left_alone(car, tmp_path):
    car()
    (record,) = (tmp_path / "data").rglob("*.tfrecord*")
    before = record.stat().st_mtime_ns
    result = car()
    assert result.status == 0
    assert "1.0.0 is finished; nothing to do." in result.stdout
    assert f"train: {COUNT} images" in result.stdout
    assert record.stat().st_mtime_ns == before
    cut = car("--limit=3").stdout  # it has them
    assert "train: 3 images of 12\n" in cut
    assert " '--set=data.dataset=lsun_objects/car[:3]' " in cut
    os.truncate(record, record.stat().st_size - 1)
    result = car()
    assert result.status == 2
    assert "prepare it again with --overwrite" in result.stderr
    assert car("--overwrite").status == 0
    assert len(stored("lsun_objects/car", tmp_path / "data")) == COUNT


def test_a_limited_dataset_is_not_used_for_a_larger_limit(car, tmp_path):
    assert "train: 5 images" in car("--limit=5").stdout
    assert car("--limit=5").status == car("--limit=4").status == 0
    for more, words in (((), "now with no --limit"), (("--limit=6",), "now with --limit=6")):
        result = car(*more)
        assert result.status == 2
        assert f"was prepared with --limit=5, {words}; add --overwrite" in result.stderr
    assert len(stored("lsun_objects/car", tmp_path / "data")) == 5
    assert car("--limit=99", "--overwrite").status == 0
    assert car().status == 0  # 99 was no cut


def test_leftovers_of_killed_runs_are_removed(car, tmp_path):
    configs = tmp_path / "data" / "lsun_objects" / "car"
    left = configs / "incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    (left / "lsun_objects-train.tfrecord-00000-of-00001").write_bytes(b"half")
    assert car().status == 0
    assert os.listdir(configs) == ["1.0.0"]
    # Killed while it replaced one: that is there again.
    (configs / "1.0.0").rename(configs / ".1.0.0.replaced")
    assert "is finished" in car().stdout
    assert os.listdir(configs) == ["1.0.0"]


def test_a_failed_replacement_keeps_the_old_one(car, archive, tmp_path):
    assert car().status == 0
    shutil.rmtree(tmp_path / "data" / "downloads")
    archive.write_bytes(archive.read_bytes()[:5000])
    result = car("--overwrite")
    assert result.status == 2
    assert "car.zip: is damaged or was not downloaded to its end" in result.stderr
    assert len(stored("lsun_objects/car", tmp_path / "data")) == COUNT


def test_two_at_a_time_are_refused(car, tmp_path):
    (tmp_path / "data" / "lsun_objects").mkdir(parents=True)
    with filelock.FileLock(tmp_path / "data" / "lsun_objects" / ".prepare.lock"):
        result = car()
    assert result.status == 2
    assert "another process is preparing it" in result.stderr


def test_an_archive_with_paths_outside_is_refused(car, archive, tmp_path):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../evil", "x")
    result = car()
    assert result.status == 2
    assert "holds '../evil', which leads out" in result.stderr
    assert not list(tmp_path.rglob("evil"))
    assert is_clean(tmp_path / "data")


def test_a_corrupt_page_is_a_one_line_error(layerseg, tmp_path):
    lmdb_files.write(tmp_path / "car", lmdb_files.photos(300))
    path = tmp_path / "car" / "data.mdb"
    with open(path, "r+b") as file:
        data = file.read()
        # Every leaf that holds keys, but not their values' pages.
        for at in range(2 * 4096, len(data), 4096):
            if data[at + 10 : at + 12] == b"\x02\x00":
                file.seek(at)
                file.write(bytes(4096))
    data_dir = tmp_path / "data"
    result = layerseg(
        "prepare", "--dataset=lsun_objects/car", f"--source={tmp_path}", f"--data_dir={data_dir}"
    )
    assert result.status == 2
    assert len(result.stderr.splitlines()) == 1
    assert "data.mdb: is damaged" in result.stderr
    assert is_clean(data_dir)


def test_a_folder_becomes_a_dataset_of_the_name_that_was_given(folder, tmp_path):
    files = fill(tmp_path / "photos", 5)
    fill(tmp_path / "photos", 5)
    (tmp_path / "photos" / "masks").mkdir()
    (tmp_path / "photos" / "masks" / "000.png").write_bytes(b"no photo")
    result = folder(dataset="photo_folder/flowers-1")
    assert result.status == 0, result.stderr
    assert result.stderr == f"{tmp_path / 'photos'}: left out 1 for masks: masks\n"
    assert "--set=data.dataset=photo_folder/flowers-1 " in result.stdout
    assert stored("photo_folder/flowers-1", tmp_path / "data") == list(files.values())
    examples = tfds.load("photo_folder/flowers-1", split="train", data_dir=tmp_path / "data")
    for example, content in zip(tfds.as_numpy(examples), files.values(), strict=True):
        expected = np.asarray(Image.open(io.BytesIO(content)))
        assert np.array_equal(example["image"], expected)


@pytest.mark.parametrize("module", ["photo_feature", "prepare.photo_feature"])
def test_datasets_of_earlier_versions_are_read(folder, tmp_path, module):
    files = fill(tmp_path / "photos", 3)
    assert folder().status == 0
    (features,) = (tmp_path / "data").rglob("features.json")
    text = features.read_text()
    name = "layered_segmentation.data.prepare.builder.Photo"
    assert name in text
    features.write_text(text.replace(name, f"layered_segmentation.data.{module}.Photo"))
    assert stored("photo_folder/photos", tmp_path / "data") == list(files.values())


def test_the_earlier_name_of_a_folder_still_works(folder, tmp_path):
    fill(tmp_path / "photos", 3)
    assert folder(dataset="photo_folder/flowers").status == 0
    result = folder(dataset="folder/flowers")
    assert "is finished; nothing to do." in result.stdout
    assert "--set=data.dataset=photo_folder/flowers " in result.stdout


def test_the_next_command_is_the_recipe_for_own_photos(folder, tmp_path):
    fill(tmp_path / "photos", 3)
    (line,) = re.findall("^next: layerseg train (.+)$", folder().stdout, re.MULTILINE)
    flags = [flag.removeprefix("--").partition("=") for flag in shlex.split(line)]
    (name,) = [value for flag, _, value in flags if flag == "config"]
    config = configs.load(name, [value for flag, _, value in flags if flag == "set"])
    assert config.gan == configs.load("quickstart_photos").gan
    assert len(open_source(config.data, seed=0)) == 3


@pytest.mark.parametrize(
    ("dataset", "config"),
    [
        ("lsun_objects/car[:10]", "lsun_car"),
        ("lsun_objects/airplane", "quickstart_photos"),
        ("cub200_segmentation/redo", "cub"),
        ("photo_folder/lsun_car", "quickstart_photos"),
    ],
)
def test_the_next_command_has_the_config_of_the_dataset(dataset, config):
    assert preparing.config_of(dataset) == config


def test_a_folder_that_has_changed_is_noticed(folder, tmp_path):
    fill(tmp_path / "photos", 3)
    assert "data.dataset=photo_folder/photos " in folder().stdout
    assert "is finished" in folder().stdout
    fill(tmp_path / "photos", 4)
    result = folder()
    assert result.status == 2
    assert "holds other photos than --source=" in result.stderr
    assert "train: 4 images" in folder("--overwrite").stdout


def test_odd_photos_are_kept_and_damaged_ones_counted(folder, tmp_path):
    photos = tmp_path / "photos"
    files = fill(photos, 60)
    ramp = np.arange(400, dtype=np.uint16).reshape(20, 20) * 160
    Image.fromarray(ramp).save(photos / "16bit.png")
    Image.fromarray(ramp.astype(np.float32) / 65535).save(photos / "float.tif")
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(photos / "cmyk.jpg")
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(photos / "clear.png")
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "truncated.jpg").write_bytes(files["000.jpg"][:-200])
    (photos / "text.png").write_text("no image")
    result = folder()
    assert result.status == 0
    assert "train: 64 images, 3 left out\n" in result.stdout
    assert "left out 3 of 67: empty.jpg (cannot be read as an image" in result.stderr
    assert "truncated.jpg (" in result.stderr and "text.png (" in result.stderr
    examples = tfds.load("photo_folder/photos", split="train", data_dir=tmp_path / "data")
    images = {e["file"].decode(): e["image"] for e in tfds.as_numpy(examples)}
    assert np.array_equal(images["16bit.png"][..., 0], np.rint(ramp / 257))
    assert np.array_equal(images["float.tif"][..., 1], np.rint(ramp / 257))
    assert np.all(images["cmyk.jpg"][0, 0] == [255, 0, 0])
    assert np.all(images["clear.png"] == 255)


def test_too_many_damaged_photos_are_an_error(folder, tmp_path):
    fill(tmp_path / "photos", 8)
    (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
    result = folder()
    assert result.status == 2
    assert (
        "train: more than 5% of the 9 entries cannot be used, such as empty.jpg (" in result.stderr
    )
    assert is_clean(tmp_path / "data")


def test_cub_becomes_a_dataset(prepare, tmp_path):
    cub_files.write(tmp_path / "cub")
    result = prepare("cub200_segmentation", tmp_path / "cub")
    assert result.status == 0, result.stderr
    assert "train: 5 images\ntest: 5 images\n" in result.stdout
    assert "--set=data.dataset=cub200_segmentation/official " in result.stdout


@pytest.mark.parametrize(
    ("dataset", "source", "words"),
    [
        ("lsun_object/car", ".", "is unknown; did you mean 'lsun_objects'?; there are lsun_obj"),
        ("lsun_objects/cars", ".", "lsun_objects has no 'cars'; did you mean 'car'?; it has air"),
        ("lsun_objects", ".", "lsun_objects has no ''"),
        ("cub200_segmentation/later", ".", "has no 'later'; it has official, redo"),
        ("folder/a/b", ".", "a name has letters, digits"),
        ("folder", ".", "there is no image in it"),
        ("folder", "nowhere", "--source=nowhere: there is no such file or directory"),
    ],
)
def test_bad_flags_are_one_clear_line(layerseg, tmp_path, monkeypatch, dataset, source, words):
    monkeypatch.chdir(tmp_path)
    result = layerseg("prepare", f"--dataset={dataset}", f"--source={source}", "--data_dir=data")
    assert result.status == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert is_clean(tmp_path / "data")


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["256k"], indirect=True)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_full_disk_is_named_and_leaves_no_dataset(
    layerseg, own_archives, tmp_path, small_disk, kind
):
    values = lmdb_files.photos(100, side=60, format="PNG")  # 1.2 MB
    if kind == "zip":
        lmdb_files.write(tmp_path / "car", values)
        source = lmdb_files.zip_directory(tmp_path / "car", tmp_path / "car.zip")
        dataset = "lsun_objects/car"
    else:
        dataset, source = "folder", tmp_path / "photos"
        source.mkdir()
        for name, content in values.items():
            (source / f"{name}.png").write_bytes(content)
    result = layerseg(
        "prepare", f"--dataset={dataset}", f"--source={source}", f"--data_dir={small_disk}"
    )
    assert result.status == 1
    assert "Traceback" not in result.stderr
    assert f"no space left on the disk that holds {small_disk}" in result.stderr
    assert is_clean(small_disk)


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["256k"], indirect=True)
def test_the_disk_fills_while_an_archive_is_unpacked(
    layerseg, archive, tmp_path, small_disk, monkeypatch
):
    from layered_segmentation.data.prepare import archives

    (small_disk / "other").write_bytes(bytes(250_000))
    usage = shutil.disk_usage(small_disk)
    # What was free when it was asked for is taken when it is written.
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=1 << 30))
    result = layerseg(
        "prepare", "--dataset=lsun_objects/car", f"--source={archive}", f"--data_dir={small_disk}"
    )
    assert result.status == 1
    assert f"no space left on the disk that holds {small_disk}" in result.stderr
    (small_disk / "other").unlink()
    assert is_clean(small_disk)
