"""Prepares a dataset for training: builds it, or finds it built; and verifies it."""

import contextlib
import difflib
import io
import os
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from layered_segmentation import config_files, files
from layered_segmentation.data.prepare import archives, cub, folder, lsun
from layered_segmentation.data.prepare.builder import PhotoBuilder
from layered_segmentation.data.tfds import DAMAGED, reason_of
from layered_segmentation.errors import UserError

DATASETS = (
    "lsun_objects/CATEGORY", "cub200_segmentation", "cub200_segmentation/redo",
    f"{folder.NAME}/NAME",
)  # fmt: skip
EARLIER = "folder"  # what version 0.1.0 called `folder.NAME` here, and only here

_LOCK = ".prepare.lock"
_UNFINISHED = "incomplete."  # TFDS's prefix of a directory that it has not renamed yet


class Prepared(NamedTuple):
    """A dataset on disk."""

    dataset: str  # its name, as in `data.dataset`, cut to the limit where it has more
    path: str  # its directory
    images: dict[str, int]  # how many it has, by split
    skipped: dict[str, int]  # how many of the source's are left out, by split
    size: int  # bytes
    unpacked: str  # directory of the unpacked archive, no longer needed; empty if there is none
    was_finished: bool  # whether it was there already


def prepare(
    dataset: str, source: str, data_dir: str = "", limit: int = 0, overwrite: bool = False
) -> Prepared:
    """Builds a dataset under `data_dir`, if it is not there yet.

    A stopped run leaves nothing that looks like a dataset. With the same source and limit, the next
    run continues after the last complete shard, and reuses archives that were unpacked completely.

    Args:
        dataset: One of `DATASETS`; without /NAME, a folder's dataset has the folder's name.
        source: Archive or directory.
        data_dir: Where datasets lie; TFDS's own place if empty.
        limit: Take only the first so many of each split; 0 takes all.
        overwrite: Replace a dataset of this name.

    Raises:
        UserError: The source cannot be used, or another dataset has the name.
        OSError: The disk is full, or may not be written to.
    """
    if not os.path.exists(source):
        raise UserError(f"--source={source}: there is no such file or directory")
    kind, config, argument = _kind(dataset, source)

    def open_builder() -> PhotoBuilder:
        options: dict[str, Any] = {argument: config, "source": source, "show_progress": True}
        return kind(data_dir=data_dir or None, **options)

    data_root = data_dir or os.path.expanduser(tfds.core.constants.DATA_DIR)
    root = os.path.join(data_root, kind.name)
    path = os.path.join(root, config, str(kind.VERSION))
    os.makedirs(root, exist_ok=True)
    message = f"{root}: another process is preparing it; wait for it"
    with files.Lock(os.path.join(root, _LOCK), message):
        _tidy(path)
        is_finished = os.path.exists(path) and not overwrite
        if is_finished:
            _require_undamaged(path)
            builder = open_builder()
            _require_same(builder, source, limit)
            _verify(builder)
        else:
            with files.setting_aside(path):  # TFDS renames the one it builds
                builder = open_builder()
                _build(builder, limit)
                _verify(builder)
    metadata, splits = builder.info.metadata, builder.info.splits
    unpacked = os.path.join(builder.data_dir_root, "downloads", "unpacked", builder.name)
    has_more = limit and any(info.num_examples > limit for info in splits.values())
    return Prepared(
        dataset=f"{kind.name}/{config}{f'[:{limit}]' if has_more else ''}",
        path=str(builder.data_dir),
        images={split: info.num_examples for split, info in splits.items()},
        skipped={split: len(metadata["skipped"][split]) for split in splits},
        size=builder.info.dataset_size,
        unpacked=unpacked if os.path.isdir(unpacked) else "",
        was_finished=is_finished,
    )


def config_of(dataset: str) -> str:
    """Returns the packaged config to train with: the paper's, or that for one's own photos."""
    name, _, category = dataset.partition("[")[0].partition("/")
    paper = {lsun.LsunObjects.name: f"lsun_{category}", cub.Cub200Segmentation.name: "cub"}
    config = paper.get(name, "")
    return config if config in config_files.packaged_names() else "quickstart_photos"


def _kind(dataset: str, source: str) -> tuple[type[PhotoBuilder], str, str]:
    """Returns a builder, which of its configs, and the argument that takes it."""
    name, _, config = dataset.partition("/")
    if name in (folder.NAME, EARLIER):
        config = config or folder.safe_name(os.path.basename(os.path.realpath(source))) or "photos"
        if config != folder.safe_name(config):
            raise UserError(f"--dataset={dataset}: a name has letters, digits, _, - and . only")
        return folder.PhotoFolder, config, "name"
    for builder in (lsun.LsunObjects, cub.Cub200Segmentation):
        if name == builder.name:
            configs = list(builder.builder_configs)
            if builder is cub.Cub200Segmentation:
                config = config or configs[0]
            if config not in configs:
                raise UserError(
                    f"--dataset={dataset}: {name} has no {config!r}{_hint(config, configs)}; "
                    f"it has {', '.join(configs)}"
                )
            return builder, config, "config"
    names = ["lsun_objects", "cub200_segmentation", folder.NAME]
    raise UserError(
        f"--dataset={dataset}: is unknown{_hint(name, names)}; there are {', '.join(DATASETS)}"
    )


def _hint(received: str, known: list[str]) -> str:
    close = difflib.get_close_matches(received, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _tidy(path: str) -> None:
    """Removes what stopped runs left next to a dataset; restores one that was being replaced."""
    files.restore_replaced(path)
    parent, version = os.path.split(os.path.normpath(path))
    if not os.path.isdir(parent):
        return
    for name in os.listdir(parent):
        if name.startswith(_UNFINISHED) and name.endswith(f"_{version}"):
            files.remove(os.path.join(parent, name))


def _build(builder: PhotoBuilder, limit: int) -> None:
    config = tfds.download.DownloadConfig(
        max_examples_per_split=limit or None,
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
        try_download_gcs=False,
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints announcements
            builder.download_and_prepare(download_config=config)
    finally:
        with contextlib.suppress(OSError):  # empty, since the dataset was not built
            os.rmdir(os.path.dirname(os.path.normpath(builder.data_dir)))


def _require_same(builder: PhotoBuilder, source: str, limit: int) -> None:
    """Requires that an existing dataset holds the photos asked for."""
    metadata = builder.info.metadata
    held = metadata["limit"]
    is_cut = held and any(total > held for total, _ in metadata["source"].values())
    if is_cut and (not limit or limit > held):
        asked = f"--limit={limit}" if limit else "no --limit"
        raise UserError(
            f"{builder.data_dir}: was prepared with --limit={held}, now with {asked}; add "
            "--overwrite, or name another --data_dir"
        )
    if archives.fingerprints_differ(metadata.get("fingerprint", ""), builder.fingerprint(source)):
        raise UserError(
            f"{builder.data_dir}: holds other photos than --source={source} now has (files were "
            "changed, added or removed); add --overwrite, or name another --data_dir"
            + (f" or --dataset={folder.NAME}/NAME" if builder.name == folder.NAME else "")
        )


def _require_undamaged(path: str) -> None:
    """Requires that TFDS can open a dataset, and that a `PhotoBuilder` wrote it."""
    try:
        info = read_only_builder.builder_from_directory(path).info
        if info.splits and info.metadata is not None and {"limit", "source"} <= {*info.metadata}:
            return
        reason = "its files do not describe it"
    except (tfds.core.DatasetNotFoundError, *DAMAGED) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{path}: is damaged ({reason}); prepare it again with --overwrite")


def _verify(builder: PhotoBuilder) -> None:
    """Requires that all files are there in full, and decodes a sample."""
    for split, info in builder.info.splits.items():
        paths = [os.fspath(path) for path in info.filepaths]
        found = sum(os.path.getsize(path) for path in paths if os.path.exists(path))
        if found != info.num_bytes:
            raise UserError(
                f"{builder.data_dir}: has {found:,} bytes in {split}, {info.num_bytes:,} were "
                "written; prepare it again with --overwrite"
            )
        middle, last = info.num_examples // 2, info.num_examples - 1
        slices = [f"{split}[{index}:{index + 1}]" for index in sorted({0, middle, last})]
        try:
            examples = list(tfds.as_numpy(builder.as_dataset(split="+".join(slices))))
        except tf.errors.OpError as error:
            raise UserError(
                f"{builder.data_dir}: an image of {split} cannot be decoded ({reason_of(error)}); "
                "prepare it again with --overwrite"
            ) from error
        for example in examples:
            image = example["image"]
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise UserError(
                    f"{builder.data_dir}: an image of {split} is {image.dtype} {image.shape}, not "
                    "RGB; prepare it again with --overwrite"
                )
