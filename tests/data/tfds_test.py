import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from layered_segmentation.config import DataConfig
from layered_segmentation.data.batches import PhotoCache
from layered_segmentation.data.source import open_source
from layered_segmentation.data.tfds import Part, TFDSSource, parse, shares
from layered_segmentation.errors import UserError

COUNT = 60
WITHOUT = "unreadable"  # a config


def picture(number, format="PNG"):
    """A photo whose red channel tells its number."""
    file = io.BytesIO()
    Image.new("RGB", (24, 20), (number * 4, 0, 0)).save(file, format=format)
    return file.getvalue()


class NumberedPhotos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """As any builder of photos; in several shards, with other features next to the image."""

    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name) for name in ("whole", WITHOUT, "none")
    ]

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        if self.builder_config.name == "none":
            features = {"text": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(COUNT), "test": self._generate_examples(5)}

    def _generate_examples(self, count):
        for number in range(count):
            file = picture(number)
            if self.builder_config.name == "none":
                yield number, {"text": "no image"}
                continue
            if self.builder_config.name == WITHOUT and number in (3, 40):
                file = file[:60]
            yield number, {"image": io.BytesIO(file), "label": number % 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("datasets")
    for config in ("whole", WITHOUT, "none"):
        builder = NumberedPhotos(data_dir=str(directory), config=config)
        settings = tfds.download.DownloadConfig(num_shards=4)
        builder.download_and_prepare(download_config=settings)
    return str(directory)


def numbers(source, side=18):
    return source.load(side)[:, 9, 9, 0] // 4


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lsun_objects/car", [("lsun_objects/car", "train", "")]),
        ("lsun_objects/tv-monitor[:50%]", [("lsun_objects/tv-monitor", "train", ":50%")]),
        ("cub:1.0.0@test[-10:]", [("cub:1.0.0", "test", "-10:")]),
        ("a:2.*.* + c@x[1shard:3shard]", [("a:2.*.*", "train", ""), ("c", "x", "1shard:3shard")]),
        ("a[:5]+a[5:9]", [("a", "train", ":5"), ("a", "train", "5:9")]),
    ],
)  # fmt: skip
def test_the_grammar(text, parts):
    assert parse(text) == [Part(*part) for part in parts]
    assert parse("+".join(map(str, parse(text)))) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "a+", "+a", "a b", "a[5]", "a[:]", "a[]", "a[:5", "a:train", "a@", "a[:5]@test", "a[x:]",
        "a[1:2:3]",
    ],
)  # fmt: skip
def test_malformed_datasets_are_refused(text):
    with pytest.raises(UserError, match=r"data\.dataset=.*is not NAME"):
        parse(text)


def test_no_dataset_is_refused():
    with pytest.raises(UserError, match=r"data\.dataset is not set"):
        parse(" ")


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [
        ([60], 0, [60]), ([60], 7, [7]), ([60], 99, [60]),
        ([50, 50], 10, [5, 5]), ([50, 50], 11, [6, 5]), ([90, 30, 0], 8, [6, 2, 0]),
        ([2, 1], 2, [1, 1]), ([10, 10, 10], 2, [1, 1, 0]),
    ],
)  # fmt: skip
def test_a_limit_is_divided_in_proportion(counts, limit, expected):
    assert shares(counts, limit) == expected


def test_images_keep_their_stored_order(data_dir):
    source = TFDSSource("numbered_photos/whole", data_dir)
    assert len(source) == COUNT
    assert np.array_equal(numbers(source), np.arange(COUNT))
    assert numbers(TFDSSource("numbered_photos/whole@test", data_dir)).tolist() == [0, 1, 2, 3, 4]
    assert numbers(TFDSSource("numbered_photos/whole:1.*.*[25:29]", data_dir)).tolist() == [
        25, 26, 27, 28
    ]  # fmt: skip
    mixed = "numbered_photos/whole[:10%] + numbered_photos/whole@test[-2:]"
    assert numbers(TFDSSource(mixed, data_dir)).tolist() == [0, 1, 2, 3, 4, 5, 3, 4]
    assert numbers(TFDSSource(mixed, data_dir, limit=4)).tolist() == [0, 1, 2, 3]


def test_the_stored_files_are_decoded_as_those_of_a_folder(data_dir, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(5):
        (tmp_path / "photos" / f"{number}.png").write_bytes(picture(number))
    tfds_config = DataConfig(
        name="tfds", dataset="numbered_photos/whole@test", data_dir=data_dir, aspect="pad"
    )
    folder_config = DataConfig(name="folder", path=str(tmp_path / "photos"), aspect="pad")
    from_tfds, from_folder = (
        PhotoCache.open(open_source(config, 0), [8, 16]).images
        for config in (tfds_config, folder_config)
    )
    for resolution in (8, 16):
        assert np.array_equal(from_tfds[resolution], from_folder[resolution])


def test_few_unreadable_images_are_left_out(data_dir, capsys):
    source = TFDSSource(f"numbered_photos/{WITHOUT}", data_dir)
    assert np.array_equal(numbers(source), [n for n in range(COUNT) if n not in (3, 40)])
    assert source.skipped == [f"numbered_photos/{WITHOUT} image {n}" for n in (3, 40)]
    assert "left out 2 of 60" in capsys.readouterr().err
    assert source.inventory()[1].startswith("left out\t2 images\t")
    with pytest.raises(UserError, match="more than 5% of the 5 photos"):
        TFDSSource(f"numbered_photos/{WITHOUT}@test", data_dir).load(18)
    assert [image.shape for image in source.first(4)] == [(20, 24, 3)] * 4
    assert [image[0, 0, 0] // 4 for image in source.first(4)] == [0, 1, 2, 4]


def test_inventory_and_identity_depend_on_the_images_in_use(data_dir):
    def lines(*arguments, **settings):
        source = TFDSSource(*arguments, data_dir, **settings)
        return source.inventory(), source.identity()

    inventory, identity = lines("numbered_photos/whole")
    (line,) = inventory
    assert line.startswith("numbered_photos/whole/1.2.0\ttrain\t60 images\t")
    assert len(identity) == 2 + 4  # how, which, four shards
    assert lines("numbered_photos/whole") == (inventory, identity)
    for other in (
        lines("numbered_photos/whole@test"),
        lines("numbered_photos/whole[:59]"),
        lines("numbered_photos/whole", limit=59),
        lines(f"numbered_photos/{WITHOUT}"),
    ):
        assert other[0] != inventory and other[1] != identity
    assert lines("numbered_photos/whole", aspect="pad")[1] != identity


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        ("lsun_objects/car", "is not prepared in .*layerseg prepare --dataset=lsun_objects/car "),
        (
            "photo_folder/a",
            "is not prepared in .*layerseg prepare --dataset=photo_folder/a --source",
        ),
        (
            "folder/a",
            "unknown dataset 'folder/a'; `layerseg prepare` writes folders as photo_folder/a",
        ),
        ("mnist", "mnist is not prepared in .*tfds build mnist --data_dir="),
        ("numbered_photo", "unknown dataset: .*'numbered_photo'"),
        ("numbered_photos/whole:3.0.0", "numbered_photos/whole:3.0.0"),
        ("numbered_photos/none", "no feature 'image' that is an image; it has text"),
        ("numbered_photos/whole@valid", "no split 'valid'; it has .*test.*NAME@SPLIT"),
        ("numbered_photos/whole[:61]", r"holds 60 images, and \[:61\] reaches beyond it"),
        ("numbered_photos/whole[7:7]", r"holds 60 images, and \[7:7\] is empty"),
        ("numbered_photos/whole[:0%]", r"holds 60 images, and \[:0%\] is empty"),
        ("numbered_photos/whole+numbered_photos/whole@x", "no split 'x'"),
    ],
)
def test_unreadable_datasets_are_an_error_that_names_them(data_dir, dataset, reason):
    with pytest.raises(UserError, match=reason) as error:
        TFDSSource(dataset, data_dir)
    assert str(error.value).startswith(f"data.dataset={dataset}: ")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_dataset_is_an_error(tmp_path, damage):
    builder = NumberedPhotos(data_dir=str(tmp_path), config="whole")
    builder.download_and_prepare()
    (file,) = builder.info.splits["train"].filepaths
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        half = len(data) // 2
        file.write_bytes(data[:half] + bytes(8) + data[half + 8 :])
    else:
        file.unlink()
    with pytest.raises(UserError, match=r"numbered_photos/whole is damaged.*prepare .* again"):
        TFDSSource("numbered_photos/whole", str(tmp_path)).load(18)
