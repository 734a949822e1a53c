"""The CUB builder on a real tree, and real archives, in the published layout."""

import os
import pathlib
import shutil
import tarfile
import tempfile

import cub_files
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from layered_segmentation.data.prepare import cub
from layered_segmentation.errors import UserError

REDO = {1: 0, 2: 0, 3: 2, 4: 0, 5: 1, 6: 0, 7: 0, 8: 2, 9: 0, 10: 0}


def write_redo(path, rows):
    path.write_text("".join(f"{number} {split}\n" for number, split in rows.items()))


class CubTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own checks: the published split."""

    DATASET_CLASS = cub.Cub200Segmentation
    BUILDER_CONFIG_NAMES_TO_TEST = ["official"]  # noqa: RUF012
    SPLITS = {"train": 5, "test": 5}  # noqa: RUF012

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = tempfile.mkdtemp()
        cub_files.write(pathlib.Path(cls.EXAMPLE_DIR))
        write_redo(pathlib.Path(cls.EXAMPLE_DIR) / "CUB_200_2011" / cub.REDO_FILE, REDO)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.EXAMPLE_DIR)


class CubRedoTest(CubTest):
    """TFDS's own checks: the split of later work."""

    BUILDER_CONFIG_NAMES_TO_TEST = ["redo"]  # noqa: RUF012
    SPLITS = {"train": 7, "validation": 1, "test": 2}  # noqa: RUF012


@pytest.fixture
def source(tmp_path):
    return cub_files.write(tmp_path / "cub")


def prepare(source, data_dir, config="official"):
    builder = cub.Cub200Segmentation(config=config, data_dir=data_dir, source=str(source))
    builder.download_and_prepare()
    return builder


def read(builder, split):
    return list(tfds.as_numpy(builder.as_dataset(split=split)))


def test_examples_hold_what_was_published(source, tmp_path):
    prepare(source, tmp_path / "data")
    train, info = tfds.load(
        "cub200_segmentation", split="train", data_dir=tmp_path / "data", with_info=True
    )
    assert info.full_name == "cub200_segmentation/official/1.0.0"
    names = info.features["label"].names
    assert (len(names), names[1], names[199]) == (
        200, "002.Laysan_Albatross", "200.Common_Yellowthroat",
    )  # fmt: skip
    examples = list(tfds.as_numpy(train))
    assert [example["id"] for example in examples] == list(cub_files.TRAIN)
    for example in examples:
        number = int(example["id"])
        levels = cub_files.levels(number)
        height, width = levels.shape
        assert example["image"].shape == (height, width, 3)
        assert np.array_equal(example["segmentation"][..., 0], levels)
        assert np.array_equal(example["mask"][..., 0], levels >= 153)  # three fifths and more
        assert example["label"] == (number - 1) // 2
        assert example["file"].decode() == cub_files.name(number)
        box = [4 / height, 3 / width, 14 / height, 15 / width]
        assert np.allclose(example["bbox"], box)


def test_photos_keep_their_bytes_even_grey_ones(source, tmp_path):
    builder = prepare(source, tmp_path / "data")
    skip = {"image": tfds.decode.SkipDecoding()}
    stored = tfds.as_numpy(builder.as_dataset(split="test", decoders=skip))
    for example in stored:
        path = source / "CUB_200_2011" / "images" / example["file"].decode()
        assert example["image"] == path.read_bytes()
    (grey,) = [example for example in read(builder, "test") if example["id"] == 3]
    assert np.ptp(grey["image"], axis=-1).max() == 0


def test_the_archives_give_the_same(own_archives, source, tmp_path):
    archives = cub_files.pack(source, tmp_path / "archives")
    plain = prepare(source, tmp_path / "plain")
    packed = prepare(archives / "CUB_200_2011.tgz", tmp_path / "packed")
    for one, other in zip(read(plain, "test"), read(packed, "test"), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert np.array_equal(one[name], other[name])


def test_redo_needs_the_published_file(source, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"train_val_test_split\.txt: there is no such file; down"):
        prepare(source, tmp_path / "data", "redo")
    write_redo(source / cub.REDO_FILE, REDO)
    # As many images as published, in another split:
    monkeypatch.setattr(cub, "IMAGES", len(REDO))
    with pytest.raises(UserError, match="is not the published split; download it from https"):
        prepare(source, tmp_path / "data", "redo")
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda mask, photo: mask.unlink(), "there is no segmentation"),
        (lambda mask, photo: photo.unlink(), "there is no photo"),
        (lambda mask, photo: mask.write_bytes(b""), "segmentation: cannot be read"),
        (lambda mask, photo: os.truncate(photo, 400), "photo: cannot be read"),
        (
            lambda mask, photo: Image.new("L", (9, 7)).save(mask),
            r"its segmentation is 9 × 7, the photo 28 × 22",
        ),
        (
            lambda mask, photo: Image.open(photo).save(photo, format="WEBP"),
            "photo: is WEBP, not JPEG",
        ),
        (
            lambda mask, photo: Image.new("I;16", (28, 22), 40_000).save(mask),
            "segmentation: is PNG I;16, not 8 bits PNG",
        ),
    ],
)
def test_one_damaged_pair_is_left_out_and_counted(tmp_path, capsys, damage, words):
    source = cub_files.write(tmp_path / "cub", count=22)
    name = cub_files.name(2)
    mask = source / "segmentations" / name.replace(".jpg", ".png")
    damage(mask, source / "CUB_200_2011" / "images" / name)
    # Of 5 images to train on it is a fifth:
    with pytest.raises(UserError, match=f"train: more than 5% of the 5 .*{words}"):
        prepare(source, tmp_path / "data")
    write_redo(source / cub.REDO_FILE, {number: max(0, number - 20) for number in range(1, 23)})
    builder = prepare(source, tmp_path / "data", "redo")
    assert builder.info.splits["train"].num_examples == 19
    assert list(builder.info.metadata["skipped"]["train"]) == [name]
    assert f"left out 1 of 20: {name} (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "edit", "words"),
    [
        ("images.txt", lambda text: text.replace("2 ", "two ", 1), "line 2 is damaged: 'two"),
        ("bounding_boxes.txt", lambda text: text.replace("3.0", "x"), "tables are damaged at im"),
        ("bounding_boxes.txt", lambda text: text.replace("3.0 ", ""), "line 1 is damaged"),
        ("image_class_labels.txt", lambda text: text + "11 1\n", "has 11 images, or others than"),
        (
            "image_class_labels.txt",
            lambda text: text.replace("1 1", "1 0", 1),
            "image 1 has class 0",
        ),
        ("classes.txt", lambda text: text.replace("Sooty", "Snowy"), "classes are not those"),
        ("train_test_split.txt", None, "there is no such file"),
        ("image_class_labels.txt", None, "there is no such file"),
    ],
)
def test_damaged_tables_are_refused(source, tmp_path, table, edit, words):
    path = source / "CUB_200_2011" / table
    if edit:
        path.write_text(edit(path.read_text()))
    else:
        path.unlink()
    with pytest.raises(UserError, match=words):
        prepare(source, tmp_path / "data")


def test_missing_parts_are_named(own_archives, source, tmp_path):
    shutil.rmtree(source / "segmentations")
    with pytest.raises(UserError, match=r"neither segmentations/ nor segmentations\.tgz.*https://"):
        prepare(source, tmp_path / "data")
    with tarfile.open(source / "segmentations.tgz", "w:gz") as file:
        file.add(source / "CUB_200_2011" / "classes.txt", "other/classes.txt")
    with pytest.raises(UserError, match=r"tgz: there is no segmentations in it; it is not the"):
        prepare(source, tmp_path / "data")


def test_published_sizes_are_known():
    sizes = {info.filename: info.size for info in cub.Cub200Segmentation.url_infos.values()}
    assert sizes["CUB_200_2011.tgz"] == 1150585339
    assert sizes["segmentations.tgz"] == 39272883
