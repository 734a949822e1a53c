"""Prepared TensorFlow Datasets as training photos: the files of their images, in order.

`data.dataset` names one dataset, or several that are joined:

    DATASETS = PART ["+" PART …]
    PART     = NAME["/"CONFIG][":"VERSION]["@"SPLIT]["["SLICE"]"]

as in `lsun_objects/car[:100000]`, `cub200_segmentation@test`, `oxford_flowers102:2.1.1@train[10%:]`
or `lsun_objects/car[:50000]+lsun_objects/horse[:50000]`. The split is `train` by default. A slice
is written as in TFDS, `FROM:TO` in images, percent or shards, and must lie within the split. Any
dataset with a feature `image` can be used. It is read from its prepared files; the code of its
builder need not be installed.
"""

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from absl import logging
from google.protobuf import json_format

from layered_segmentation import files, images
from layered_segmentation.choices import Aspect, SourceName
from layered_segmentation.config import DataConfig
from layered_segmentation.data.source import Encoded, PhotoSource, register
from layered_segmentation.errors import UserError

SPLIT = "train"

# What TFDS raises for files of a dataset that are truncated, empty or missing.
DAMAGED = (ValueError, KeyError, OSError, json_format.ParseError)

# The builders of `layerseg prepare`.
_FOLDER = "photo_folder"
_PREPARED = ("lsun_objects", "cub200_segmentation", _FOLDER)
_PART = re.compile(r"(?P<name>[\w./-]+(:[\d.*]+)?)(@(?P<split>[\w-]+))?(\[(?P<slice>[^\[\]]*)\])?")
_SLICE = re.compile(r"-?\d*(%|shard)?:-?\d*(%|shard)?")


class Part(NamedTuple):
    """One dataset of `data.dataset`."""

    name: str  # as TFDS takes it, with config and version if they were given
    split: str  # its split
    slice: str  # `FROM:TO`, or empty for all of the split

    @property
    def instruction(self) -> str:
        """Split and slice as TFDS takes them."""
        return f"{self.split}[{self.slice}]" if self.slice else self.split

    def __str__(self) -> str:
        suffix = "" if self.split == SPLIT else f"@{self.split}"
        return f"{self.name}{suffix}" + (f"[{self.slice}]" if self.slice else "")


def parse(datasets: str) -> list[Part]:
    """Reads `data.dataset`.

    Raises:
        UserError: It does not follow the grammar.
    """
    if not datasets.strip():
        raise UserError(
            "data.dataset is not set: name a prepared dataset, as in lsun_objects/car[:100000]"
        )
    parts = []
    for text in map(str.strip, datasets.split("+")):
        match = _PART.fullmatch(text)
        sliced = match and match["slice"]
        if not match or (sliced is not None and not _SLICE.fullmatch(sliced)) or sliced == ":":
            raise UserError(
                f"data.dataset={datasets}: {text!r} is not NAME[/CONFIG][:VERSION][@SPLIT]"
                "[[FROM:TO]], as in lsun_objects/car[:50000] or cub200_segmentation@test[:10%]"
            )
        parts.append(Part(match["name"], match["split"] or SPLIT, sliced or ""))
    return parts


def shares(counts: Sequence[int], limit: int) -> list[int]:
    """Divides a limit among parts in proportion to their counts; 0 is no limit.

    The remainder goes to the parts whose shares were rounded down the most, the first of equals.
    """
    total = sum(counts)
    if not limit or limit >= total:
        return list(counts)
    divided = [limit * count // total for count in counts]
    lost = [limit * count % total for count in counts]
    for index in sorted(range(len(counts)), key=lambda i: -lost[i])[: limit - sum(divided)]:
        divided[index] += 1
    return divided


@register
class TFDSSource(PhotoSource):
    """A source of training photos: prepared TensorFlow Datasets, one after another.

    Attributes:
        parts: The datasets that `data.dataset` names.
        counts: How many images of each are used, from its first on.
    """

    name = SourceName.tfds

    def __init__(
        self,
        dataset: str,
        data_dir: str = "",
        limit: int = 0,
        aspect: str = Aspect.squash,
        crop_margin: float = 1.125,
    ):
        """Opens the datasets; reads no image.

        Args:
            dataset: `data.dataset`.
            data_dir: Directory they were prepared in; empty takes TFDS's own.
            limit: Use only so many images; of several parts, in proportion. 0 uses all.
            aspect: As for `PhotoSource`.
            crop_margin: As for `PhotoSource`.

        Raises:
            UserError: A dataset is unknown, not prepared, or has no images; a split or a slice
                that it does not have; TensorFlow Datasets is not installed.
        """
        self.parts = parse(dataset)
        super().__init__(f"data.dataset={dataset}", aspect, crop_margin)
        self._builders = [_open(self.origin, part.name, data_dir) for part in self.parts]
        available = map(functools.partial(_count, self.origin), self.parts, self._builders)
        self.counts = shares(list(available), limit)

    @classmethod
    def from_config(cls, config: DataConfig, seed: int) -> Self:
        """Opens `data.dataset`."""
        del seed
        return cls(config.dataset, config.data_dir, config.limit, config.aspect, config.crop_margin)

    def __len__(self) -> int:
        """Returns how many images are used."""
        return sum(self.counts)

    def encoded(self) -> Iterator[Encoded]:
        """Yields the images' files, read one after another.

        Raises:
            UserError: A file of a dataset is missing or damaged.
        """
        for number, part in enumerate(self.parts):
            for index, example in enumerate(self.examples(number, ["image"])):
                yield Encoded(f"{part} image {index}", example["image"])

    @property
    def infos(self) -> list[Any]:
        """The `tfds.core.DatasetInfo` of each part."""
        return [builder.info for builder in self._builders]

    def examples(self, part: int, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yields chosen features of the examples in use, images as the bytes of their files.

        Args:
            part: Index into `parts`.
            names: Features of that dataset.

        Raises:
            UserError: A file of the dataset is missing or damaged.
        """
        import tensorflow as tf

        tfds = _import_tfds()
        builder = self._builders[part]
        features = builder.info.features
        encoded = [name for name in names if isinstance(features[name], tfds.features.Image)]
        decoders = tfds.decode.PartialDecoding(
            dict.fromkeys(names, True),
            decoders={name: tfds.decode.SkipDecoding() for name in encoded},
        )
        # One shard after another: by default TFDS reads several in turn.
        one_by_one = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        with _quiet():
            dataset = builder.as_dataset(
                split=self.parts[part].instruction,
                decoders=decoders,
                read_config=one_by_one,
                shuffle_files=False,
            )
        found = 0
        try:
            for example in dataset.take(self.counts[part]).as_numpy_iterator():
                yield example
                found += 1
        except (  # a changed record, a missing file, fewer records than there should be
            tf.errors.DataLossError,
            tf.errors.NotFoundError,
            tf.errors.FailedPreconditionError,
        ) as error:
            raise UserError(
                f"{self.origin}: {self.parts[part]} is damaged after image {found:,} in "
                f"{builder.data_dir} ({reason_of(error)}); remove that directory and prepare the "
                "dataset again"
            ) from error

    def first(self, count: int) -> list[np.ndarray]:
        """Returns the first usable photos at their own size, uint8 [H, W, 3]; at most `count`."""
        found: list[np.ndarray] = []
        for photo in self.encoded():
            if len(found) == count:
                break
            with contextlib.suppress(images.UnreadableImage):
                found.append(images.read(photo.file, photo.name))
        return found

    def inventory(self) -> list[str]:
        """Returns a line for each part: dataset, version, slice, count, and a hash of its shards.

        One more line counts the images left out, once `skipped` is known.
        """
        lines = []
        for part, builder, count in zip(self.parts, self._builders, self.counts, strict=True):
            split = builder.info.splits[part.split]
            shards = f"{list(split.shard_lengths)} {split.num_bytes}"
            lines.append(
                f"{builder.info.full_name}\t{part.instruction}\t{count} images\t{_hash(shards)}"
            )
        if self.skipped:
            lines.append(f"left out\t{len(self.skipped)} images\t{_hash(repr(self.skipped))}")
        return lines

    def identity(self) -> list[str]:
        """Returns how squares are made, the parts, and bytes and time of change of their files."""
        lines = [f"{self._aspect} {self._crop_margin!r}"]
        for part, builder, count in zip(self.parts, self._builders, self.counts, strict=True):
            lines.append(f"{builder.info.full_name} {part.instruction} {count}")
            for path in builder.info.splits[part.split].filepaths:
                status = path.stat() if path.exists() else None  # reading names it
                lines.append(f"{path} {status and (status.length, status.mtime)}")
        return lines


def _open(origin: str, name: str, data_dir: str) -> Any:
    """Opens a prepared dataset from its files."""
    tfds = _import_tfds()
    from tensorflow_datasets.core import read_only_builder

    where = data_dir or os.path.expanduser(tfds.core.constants.DATA_DIR)
    try:
        with _quiet():
            builder = read_only_builder.builder_from_files(name, data_dir=where)
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"{origin}: {_not_prepared(name, where)}") from None
    except DAMAGED as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{origin}: {name} in {where} cannot be opened: {reason}") from error
    features = builder.info.features
    names = sorted(features.keys()) if isinstance(features, tfds.features.FeaturesDict) else []
    image = features["image"] if "image" in names else None
    if not isinstance(image, tfds.features.Image):
        raise UserError(
            f"{origin}: {name} has no feature 'image' that is an image; it has "
            f"{', '.join(names) or type(features).__name__}"
        )
    return builder


def _not_prepared(name: str, where: str) -> str:
    tfds = _import_tfds()
    base = name.partition(":")[0]
    builder, _, config = base.partition("/")
    if builder == "folder" and config:  # `prepare --dataset=folder/NAME` of version 0.1.0
        return f"unknown dataset {name!r}; `layerseg prepare` writes folders as {_FOLDER}/{config}"
    missing = f"{name} is not prepared in {where}"
    if builder in _PREPARED:
        return (
            f"{missing}; prepare it with `layerseg prepare --dataset={base} --source=… "
            f"--data_dir={where}`, or name its directory with data.data_dir"
        )
    try:
        tfds.builder_cls(base)
    except Exception:  # unknown names raise several kinds of error
        return (
            f"unknown dataset: neither in {where} nor known to TensorFlow Datasets is {name!r}; "
            "check its spelling and data.data_dir"
        )
    return (
        f"{missing}; prepare it with `tfds build {base} --data_dir={where}`, or name its directory "
        "with data.data_dir"
    )


def _count(origin: str, part: Part, builder: Any) -> int:
    splits = builder.info.splits
    if part.split not in splits:
        raise UserError(
            f"{origin}: {part.name} has no split {part.split!r}; it has {', '.join(splits)} "
            "(write NAME@SPLIT)"
        )
    total = splits[part.split].num_examples
    try:
        count = int(splits[part.instruction].num_examples)
    except ValueError:
        count = -1
    if count > 0:
        return count
    problem = "is empty" if count == 0 else "reaches beyond it"
    raise UserError(
        f"{origin}: the split {part.split!r} of {part.name} holds {total:,} images, and "
        f"{f'[{part.slice}]' if part.slice else 'it'} {problem}"
    )


def reason_of(error: Any) -> str:
    """Returns the message of a `tf.errors.OpError`, without the name of the operator."""
    return str(error.message).partition(" [Op:")[0].rpartition("}} ")[2]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's warnings about its own code from the user."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _import_tfds() -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            "data.name=tfds needs TensorFlow Datasets: pip install 'layered-segmentation[tfds]'"
        ) from error
    return tfds


def _hash(text: str) -> str:
    return files.digest(text)[:16]
