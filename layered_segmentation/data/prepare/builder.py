"""The base of the TensorFlow Datasets builders: keeps order, streams, counts damaged photos."""

import abc
import functools
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from layered_segmentation import images
from layered_segmentation.data.prepare.kept_shards import PREFIX, KeptShards, Shard, Writer
from layered_segmentation.data.source import first_few, in_order, most_skipped, require_few
from layered_segmentation.errors import UserError
from layered_segmentation.progress import Bar

SHARD_BYTES = 64 << 20  # of a shard's source; TFDS's writer holds as much in memory


class Photo(tfds.features.Image):
    """The bytes of an image file; read, uint8 [H, W, 3] RGB.

    TFDS's own `Image` keeps the bytes too, but decodes them through TensorFlow: WebP gains an axis
    of frames, TIFF fails, 16 bits and transparency are cut off, EXIF's orientation is ignored. This
    one decodes with `images.read`, as training does.

    `decoders={"image": tfds.decode.SkipDecoding()}` gives the bytes.
    """

    # Metadata of datasets that were prepared when the class lay there.
    ALIASES = [  # noqa: RUF012
        f"layered_segmentation.data.{module}.Photo"
        for module in ("photo_feature", "prepare.photo_feature")
    ]

    def decode_example(self, example: Any) -> Any:
        """Decodes the bytes, a string tensor, in the graph."""
        import tensorflow as tf

        image = tf.numpy_function(images.read, [example], tf.uint8, stateful=False)
        image.set_shape((None, None, 3))
        return image

    def decode_example_np(self, example: bytes) -> np.ndarray:
        """Decodes the bytes outside of TensorFlow."""
        return images.read(example)


def damage(file: bytes) -> str:
    """Returns why the bytes of an image file cannot be decoded, or an empty string."""
    try:
        images.read(file, "it")
    except images.UnreadableImage as error:
        return str(error).removeprefix("it: ")
    return ""


class Unusable(NamedTuple):
    """An entry of the source that cannot become an example."""

    name: str  # its key or file
    reason: str


class Entries(NamedTuple):
    """One split of a source."""

    total: int  # how many entries it has
    size: int  # their approximate bytes
    read: Callable[[int], Iterable[Any]]  # returns the given number of first entries, in order
    # turns an entry into an example, or into why it is none; called in threads
    to_example: Callable[[Any], dict[str, Any] | Unusable]


class PhotoBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder whose source is an archive, or a directory, of photos.

    It is not a `GeneratorBasedBuilder`, which sorts a whole split in memory if
    `disable_shuffling` is set. Here a shard is written as the source is read, and the files of at
    most one shard are in memory.

    `DownloadConfig(max_examples_per_split=N)`, on the command line `tfds build
    --max_examples_per_split=N`, takes each split's first N images and reads no further. They are
    those of the slice `[:N]` of the whole dataset. Entries that cannot be decoded are left out and
    counted, up to 5 %; more is an error.

    The dataset's metadata records `limit`; by split `entries` (how many were read), `skipped`
    (names and reasons) and `source` (all its entries and their bytes); and `fingerprint`, which
    tells whether a source is the same. A dataset gets its name only after all its records were
    read back. A stopped run leaves its complete shards to the next one with the same source and
    limit; see `kept_shards`.
    """

    def __init__(self, *, source: str = "", show_progress: bool = False, **options: Any):
        """Describes the dataset; reads nothing.

        Args:
            source: Archive or directory to read; TFDS's `manual_dir` if empty.
            show_progress: Whether to show progress bars.
            **options: As for `tfds.core.DatasetBuilder`.
        """
        self._source = source
        self._show_progress = show_progress
        self._limit = 0
        self._entries: dict[str, int] = {}
        self._skipped: dict[str, list[Unusable]] = {}
        self._measures: dict[str, list[int]] = {}
        self._written: dict[str, Shard] = {}
        self._kept = KeptShards("", None)
        super().__init__(**options)

    @abc.abstractmethod
    def _open(self, source: str, unpacked: str) -> dict[str, Entries]:
        """Returns the splits of a source.

        Args:
            source: Archive or directory.
            unpacked: Directory to unpack archives under.

        Raises:
            UserError: The source cannot be used.
        """

    @abc.abstractmethod
    def fingerprint(self, source: str) -> str:
        """Returns `KIND:VALUE`, which changes with the source, or an empty string if unknown.

        The source is not unpacked for it. Only fingerprints of one kind can be compared.

        Args:
            source: Archive or directory.
        """

    def _photo_info(self, features: dict[str, Any], **about: Any) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # the first N are the source's first N
            **about,
        )

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        self._limit = (download_config and download_config.max_examples_per_split) or 0
        self._skipped, self._written = {}, {}
        fingerprint = self.fingerprint(self._source_of(dl_manager))
        self._kept = self._keep_shards(fingerprint)
        try:
            super()._download_and_prepare(dl_manager, download_config)
            for split in self.info.splits:
                self._require_readable(split)
                _require_few(split, self._skipped[split], self._entries[split])
        except UserError:  # the same source would fail again
            self._kept.remove()
            raise
        self.info.metadata.update(
            limit=self._limit,
            entries=self._entries,
            skipped={split: dict(skipped) for split, skipped in self._skipped.items()},
            source=self._measures,
            fingerprint=fingerprint,
        )
        self._report_skipped()
        self._kept.remove()

    def _source_of(self, dl_manager: tfds.download.DownloadManager) -> str:
        return self._source or os.fspath(dl_manager.manual_dir)

    def _keep_shards(self, fingerprint: str) -> KeptShards:
        # TFDS builds in a directory of another name next to the dataset's own.
        parent = os.path.dirname(os.path.normpath(self.data_dir))
        directory = os.path.join(parent, f"{PREFIX}{self.version}")
        features = repr(self.info.features)
        plan = [fingerprint, self._limit, SHARD_BYTES, str(self.info.file_format), features]
        return KeptShards(directory, plan if fingerprint else None)

    def _example_writer(self) -> Writer:
        return Writer(self._kept, self._written, self.info.file_format)

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        source = self._source_of(dl_manager)
        unpacked = os.path.join(os.fspath(dl_manager.download_dir), "unpacked", self.name)
        shards = {}
        for split, entries in self._open(source, unpacked).items():
            count = min(self._limit or entries.total, entries.total)
            if not count:
                raise UserError(f"{source}: there is no image in it for the split {split!r}")
            self._measures[split] = [entries.total, entries.size]
            size = entries.size * count / entries.total
            number = min(max(1, math.ceil(size / SHARD_BYTES)), count)
            template = self._get_filename_template(split_name=split)
            files = [
                os.path.basename(template.sharded_filepath(shard_index=shard, num_shards=number))
                for shard in range(number)
            ]
            kept = self._kept.leading(files)
            self._entries[split] = kept[-1].taken if kept else 0
            self._skipped[split] = [Unusable(*pair) for shard in kept for pair in shard.skipped]
            # The shards take from one iterator in turn; the last takes the rest.
            usable = sum(shard.images for shard in kept)
            examples = self._examples(split, entries, count, usable)
            ends = [count * (shard + 1) // number for shard in range(number)]
            lengths: list[int | None] = [b - a for a, b in itertools.pairwise([0, *ends])]
            lengths[-1] = None
            shards[split] = [functools.partial(_placeholders, shard.images) for shard in kept]
            shards[split] += [
                functools.partial(self._shard, split, file, itertools.islice(examples, length))
                for file, length in zip(files[len(kept) :], lengths[len(kept) :], strict=True)
            ]
        return shards

    def _shard(
        self, split: str, file: str, examples: Iterator[tuple[int, dict[str, Any] | None]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields a shard's usable examples, then records the shard."""
        count, before = 0, len(self._skipped[split])
        for index, example in examples:
            if example is not None:
                count += 1
                yield index, example
        skipped = [(name, reason) for name, reason in self._skipped[split][before:]]
        self._written[file] = Shard(count, self._entries[split], skipped)

    def _examples(
        self, split: str, entries: Entries, count: int, usable: int
    ) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Yields an index and, if the entry is usable, its example, until there are `count`.

        Args:
            split: Its name.
            entries: Its source.
            count: Images wanted.
            usable: How many of them kept shards have.
        """
        skipped = self._skipped[split]
        most = most_skipped(count)
        what = f"preparing {self.name}, {split}"
        taken = self._entries[split]
        with Bar(count, what, "image", self._show_progress, initial=usable) as bar:
            # Reads on only as far as entries were left out; the rest may be damaged.
            while usable < count and taken < entries.total:
                end = min(taken + count - usable, entries.total)
                rest = itertools.islice(entries.read(end), taken, None)
                for result in in_order(entries.to_example, rest):
                    taken += 1
                    self._entries[split] = taken
                    if isinstance(result, Unusable):
                        skipped.append(result)
                        if len(skipped) > most:  # enough to name
                            _require_few(split, skipped, count)
                        yield taken - 1, None
                    else:
                        usable += 1
                        bar.update()
                        yield taken - 1, result

    def _require_readable(self, split: str) -> None:
        """Reads the records of a split back, which verifies their checksums, and counts them."""
        import tensorflow as tf

        expected = self.info.splits[split].shard_lengths
        template = self._get_filename_template(split_name=split)
        with Bar(
            len(expected), f"checking {self.name}, {split}", "file", self._show_progress
        ) as bar:
            for shard, length in enumerate(expected):
                path = template.sharded_filepath(shard_index=shard, num_shards=len(expected))
                records = tf.data.TFRecordDataset(os.fspath(path))
                found = int(records.reduce(0, lambda count, _: count + 1))
                if found != length:
                    raise UserError(
                        f"{path}: {found:,} records were read back of {length:,} written; the disk "
                        "is unreliable: prepare on another"
                    )
                bar.update()

    def _report_skipped(self) -> None:
        for split, skipped in self._skipped.items():
            if skipped:
                print(
                    f"{self.info.full_name}, {split}: left out {len(skipped)} of "
                    f"{self._entries[split]:,}: {first_few(_reasons(skipped))}",
                    file=sys.stderr,
                )


def _placeholders(count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stands in for the examples of a kept shard, which are only counted."""
    return ((index, {}) for index in range(count))


def _require_few(split: str, skipped: Sequence[Unusable], count: int) -> None:
    advice = "replace or remove them. Nothing was prepared"
    require_few(split, _reasons(skipped), count, "entries cannot be used", advice)


def _reasons(skipped: Sequence[Unusable]) -> list[str]:
    return [f"{name} ({reason})" for name, reason in skipped]
