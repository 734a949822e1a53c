"""What our TensorFlow Datasets builders share: order kept, streaming, damage counted."""

import abc
import concurrent.futures
import functools
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from layered_segmentation.data.prepare.kept_shards import PREFIX, KeptShards, Shard, Writer
from layered_segmentation.data.source import AHEAD, MOST_SKIPPED, THREADS, first_few, in_order
from layered_segmentation.errors import UserError
from layered_segmentation.progress import Bar

SHARD_BYTES = 64 << 20  # of sources; what TFDS's writer holds in memory at once

_NAMED = 10  # entries that may be unusable before a share is judged


class Unusable(NamedTuple):
    """An entry of the source that cannot become an example.

    Attributes:
        name: Its key or file.
        reason: What is wrong with it.
    """

    name: str
    reason: str


class Entries(NamedTuple):
    """One split of a source.

    Attributes:
        total: How many entries it has.
        size: Their bytes, about.
        read: Returns the first so many, in order, as calls that give an example or say why not.
            The calls run in threads.
    """

    total: int
    size: int
    read: Callable[[int], Iterator[Callable[[], dict[str, Any] | Unusable]]]


class PhotoBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder whose source is an archive, or a directory, of photos.

    Why not `GeneratorBasedBuilder`: with `disable_shuffling` it sorts the whole split in memory
    before it writes. Here a shard is written as the source is read, and at most one shard's files
    are in memory.

    `DownloadConfig(max_examples_per_split=N)`, on the command line `tfds build
    --max_examples_per_split=N`, takes each split's first N images and reads no further: what the
    slice `[:N]` of the whole dataset has. Entries that cannot be decoded are left out and counted,
    up to 5 %; more is an error. Both are written to the dataset's metadata: `limit`, and by split
    `entries` (how many were taken), `skipped` (names and reasons) and `source` (all its entries,
    and their bytes); and `fingerprint`, what the source is known again by. A dataset gets its name
    only when all its records were read back. A run that is stopped, by whatever it be, leaves the
    shards that it wrote whole to the next one with the same source and limit.
    """

    def __init__(self, *, source: str = "", show_progress: bool = False, **options: Any):
        """Describes the dataset; reads nothing.

        Args:
            source: Archive or directory to read; TFDS's `manual_dir` if empty.
            show_progress: Whether to show bars of our own.
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
            UserError: The source is not what it should be.
        """

    @abc.abstractmethod
    def fingerprint(self, source: str) -> str:
        """Returns what a source is known again by, without unpacking it: `KIND:VALUE`, or empty.

        Only those of one kind can be compared.

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
        except UserError:  # something must change before it can go on
            self._kept.remove()
            raise
        self.info.metadata.update(
            limit=self._limit,
            entries=self._entries,
            skipped=self._skipped_texts(),
            source=self._measures,
            fingerprint=fingerprint,
        )
        self._report_skipped()
        self._kept.remove()

    def _source_of(self, dl_manager: tfds.download.DownloadManager) -> str:
        return self._source or os.fspath(dl_manager.manual_dir)

    def _keep_shards(self, fingerprint: str) -> KeptShards:
        # TFDS builds in a directory of another name beside the dataset's own.
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
            # One after another, the shards take from the same iterator; the last, what is left.
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
        """Yields a shard's usable examples, then notes what there is to know of it."""
        images, before = 0, len(self._skipped[split])
        for index, example in examples:
            if example is not None:
                images += 1
                yield index, example
        skipped = [(name, reason) for name, reason in self._skipped[split][before:]]
        self._written[file] = Shard(images, self._entries[split], skipped)

    def _examples(
        self, split: str, entries: Entries, count: int, usable: int
    ) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Yields an index and, if the entry is usable, its example, until there are `count`.

        Args:
            split: Its name; what was taken and skipped of it before is known.
            entries: Its source.
            count: Images wanted.
            usable: How many of them there are already.
        """
        skipped = self._skipped[split]
        most = max(int(MOST_SKIPPED * count), _NAMED)
        what = f"preparing {self.name}, {split}"
        taken = self._entries[split]
        with (
            Bar(count, what, "image", self._show_progress, initial=usable) as bar,
            concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
        ):
            # Again only if some were left out: behind what is asked for nothing is touched.
            while usable < count and taken < entries.total:
                end = min(taken + count - usable, entries.total)
                calls = itertools.islice(entries.read(end), taken, None)
                for result in in_order(pool, lambda call: call(), calls, AHEAD):
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
        """Reads the records of a split back, by their checksums, and counts them."""
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
                        "is not to be trusted: prepare on another"
                    )
                bar.update()

    def _skipped_texts(self) -> dict[str, dict[str, str]]:
        return {split: dict(skipped) for split, skipped in self._skipped.items()}

    def _report_skipped(self) -> None:
        for split, skipped in self._skipped.items():
            if skipped:
                print(
                    f"{self.info.full_name}, {split}: left out {len(skipped)} of "
                    f"{self._entries[split]:,}: {_reasons(skipped)}",
                    file=sys.stderr,
                )


def _placeholders(count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stands in for the examples of a kept shard, which are only counted."""
    return ((index, {}) for index in range(count))


def _require_few(split: str, skipped: Sequence[Unusable], count: int) -> None:
    if len(skipped) > MOST_SKIPPED * count:
        raise UserError(
            f"{split}: more than {MOST_SKIPPED:.0%} of {count:,} entries cannot be used, such as "
            f"{_reasons(skipped)}; replace or remove them. Nothing was prepared"
        )


def _reasons(skipped: Sequence[Unusable]) -> str:
    return first_few([f"{name} ({reason})" for name, reason in skipped])
