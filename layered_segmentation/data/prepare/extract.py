"""Writes the photos of prepared TensorFlow datasets as files, with their masks as PNG.

A photo keeps its path in the dataset if it has one (`FILES`); else it is named by its position in
the split, followed by its key if it has one. No path leads out of the directory, `images.search`
finds all of them, and no two differ only in their extension, since masks are matched without it.
"""

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from layered_segmentation import files, images
from layered_segmentation.data.folder import MASKS
from layered_segmentation.data.source import first_few, most_skipped, require_few
from layered_segmentation.data.tfds import SPLIT, Part, TFDSSource
from layered_segmentation.errors import UserError
from layered_segmentation.progress import Bar

STAMP = ".extract.json"  # records the command that wrote the files of a directory
FILES = ("file", "file_name", "filename", "image/filename")  # features that are paths
KEY = "key"  # a feature that names photos, but is no path
MASK_FEATURES = ("mask", "segmentation_mask")

_LOCK = ".extract.lock"
_DIGITS = 6
_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",),
    "BMP": (".bmp",), "GIF": (".gif",), "TIFF": (".tif", ".tiff"),
}  # fmt: skip
_LONGEST = 200  # bytes of a name, which may still grow; most systems' limit is 255
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")


class Extracted(NamedTuple):
    """What the directories hold."""

    photos: int
    masks: int
    written: int  # files of both that were not there before
    skipped: list[str]  # photos left out, with reasons


class _Files(NamedTuple):
    """The files of a photo, or why it has none."""

    name: str  # its path in its directory; where it is left out, its name in the dataset
    photo: bytes = b""
    mask: bytes | None = None  # of a PNG, or None if masks are not wanted
    unusable: str = ""  # why it is left out, or empty


def extract(
    dataset: str,
    data_dir: str,
    out: str,
    masks_out: str = "",
    limit: int = 0,
    mask_label: int | None = None,
) -> Extracted:
    """Writes a dataset's photos, byte for byte, and its masks as PNG of 0 and 255.

    Of several datasets, each gets a directory. A mask has its photo's path but for the extension.
    Existing files are not touched.

    Args:
        dataset: As `data.dataset`.
        data_dir: As `data.data_dir`.
        out: Directory for the photos: new, empty, or of the same command.
        masks_out: Directory for the masks, like `out`; empty writes none.
        limit: Take only the first so many images; of several datasets, in proportion. 0 takes all.
        mask_label: Value of the object where masks are label maps.

    Raises:
        UserError: A dataset cannot be read or has no masks, more than 5 % of its photos are
            unusable, or a directory holds anything else.
        OSError: The disk is full, or may not be written to.
    """
    source = TFDSSource(dataset, data_dir, limit)
    stamp = {
        "dataset": "+".join(map(str, source.parts)),
        "limit": limit,
        "with masks": bool(masks_out),
        "mask label": mask_label,
        "prepared as": source.inventory(),
    }
    directories = {"--out": out}
    if masks_out:
        _require_apart(out, masks_out)
        directories["--masks_out"] = masks_out
    for flag, path in directories.items():
        _require_same(flag, path, stamp)
    found = _files(source, bool(masks_out), mask_label)
    first = next(found)  # a dataset without masks is refused before a directory is made
    with contextlib.ExitStack() as stack:
        for flag, path in directories.items():
            stack.enter_context(_claimed(flag, path, stamp))
        bar = stack.enter_context(Bar(len(source), "extracting", "photo"))
        done = _write_all(itertools.chain([first], found), source, out, masks_out, bar)
        for path in directories.values():
            files.sync(path)
        return done


def _write_all(
    files: Iterator[_Files], source: TFDSSource, out: str, masks_out: str, bar: Bar
) -> Extracted:
    total = len(source)
    most = most_skipped(total)
    count = masks = written = 0
    skipped: list[str] = []
    for file in files:
        bar.update()
        if file.unusable:
            skipped.append(f"{file.name} ({file.unusable})")
            if len(skipped) > most:  # enough to name
                break
            continue
        if file.mask is not None:  # before the photo, which must never be without one
            stem = os.path.splitext(file.name)[0]
            written += _put(os.path.join(masks_out, f"{stem}.png"), file.mask)
            masks += 1
        path = os.path.join(out, file.name)
        is_new = _put(path, file.photo)
        if not is_new and os.path.getsize(path) != len(file.photo):
            raise UserError(
                f"{path}: is not the file that the dataset holds; move it away, and run it again"
            )
        written += is_new
        count += 1
    advice = "name another slice, or prepare it again without them"
    require_few(source.origin, skipped, total, "photos cannot be used", advice)
    return Extracted(count, masks, written, skipped)


def _files(source: TFDSSource, with_masks: bool, mask_label: int | None) -> Iterator[_Files]:
    """Returns the files of all photos, in order; at once it checks that all datasets have masks."""
    masks = [_mask_feature(info) if with_masks else "" for info in source.infos]
    taken: set[str] = set()
    return itertools.chain.from_iterable(
        _files_of_part(source, part, mask, mask_label, taken) for part, mask in enumerate(masks)
    )


def _files_of_part(
    source: TFDSSource, part: int, mask: str, mask_label: int | None, taken: set[str]
) -> Iterator[_Files]:
    dataset, info = source.parts[part], source.infos[part]
    text = _text_feature(info)
    folder = _folder(source.parts, part)
    digits = max(_DIGITS, len(str(info.splits[dataset.split].num_examples - 1)))
    wanted = [name for name in ("image", mask, text) if name]
    first = _first_position(info.splits, dataset)
    for position, example in enumerate(source.examples(part, wanted), start=first):
        photo, number = example["image"], f"{position:0{digits}}"
        own = example[text].decode(errors="replace") if text else ""
        name = own or f"{dataset} image {number}"
        try:
            extension = _extension(photo, own)
            png = _mask_png(example[mask], photo, name, mask_label) if mask else None
        except images.UnreadableImage as error:
            yield _Files(name, unusable=str(error))
            continue
        if text in FILES:
            stem = os.path.join(folder, _safe_stem(own) or number)
        else:
            key = own.replace("/", "_")
            stem = os.path.join(folder, _safe_part(f"{number}_{key}") if key else number)
        while stem.casefold() in taken:  # some file systems ignore case
            stem = f"{stem}_{number}"
        taken.add(stem.casefold())
        yield _Files(stem + extension, photo, png)


def _folder(parts: list[Part], part: int) -> str:
    """Returns a directory for one of several datasets, which keeps them apart and in order."""
    if len(parts) == 1:
        return ""
    dataset = parts[part]
    name = dataset.name if dataset.split == SPLIT else f"{dataset.name}_{dataset.split}"
    return f"{part:0{len(str(len(parts) - 1))}}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}"


def _first_position(splits: Any, part: Part) -> int:
    """Returns the position in its split at which a slice begins."""
    whole, first = splits[part.split], splits[part.instruction].file_instructions[0]
    shard = whole.filenames.index(os.path.basename(first.filename))
    return int(sum(whole.shard_lengths[:shard]) + first.skip)


def _text_feature(info: Any) -> str:
    """Returns the feature of a dataset that names its photos, or an empty string."""
    import tensorflow_datasets as tfds

    features = dict(info.features.items())
    named = (name for name in (*FILES, KEY) if isinstance(features.get(name), tfds.features.Text))
    return next(named, "")


def _mask_feature(info: Any) -> str:
    """Returns the feature of a dataset that holds its photos' masks."""
    import tensorflow_datasets as tfds

    features = dict(info.features.items())
    for name in MASK_FEATURES:
        feature = features.get(name)
        if isinstance(feature, tfds.features.Image) and feature.shape[-1] == 1:
            return name
    raise UserError(
        f"--masks_out: {info.full_name} has no masks (a feature "
        f"{' or '.join(map(repr, MASK_FEATURES))} that is an image of one channel), only "
        f"{', '.join(sorted(features))}; leave --masks_out out"
    )


def _extension(photo: bytes, own: str) -> str:
    """Returns the extension of a photo's format, as the photo's own path writes it if it does."""
    try:
        kind = images.header(photo).format
    except images.UnreadableImage as error:
        raise images.UnreadableImage("cannot be read as an image") from error
    given = os.path.splitext(own)[1]
    if given.lower() in _EXTENSIONS.get(kind, images.EXTENSIONS):
        return given
    if kind not in _EXTENSIONS:
        raise images.UnreadableImage(f"is {kind}, not one of {', '.join(_EXTENSIONS)}")
    return _EXTENSIONS[kind][0]


def _mask_png(file: bytes, photo: bytes, name: str, label: int | None) -> bytes:
    """Returns a mask as PNG of 0 and 255, upright as its photo will be read.

    Args:
        file: The mask as it is stored, of the photo's size as that is stored.
        photo: Its photo's file.
        name: Its name in messages.
        label: Value of the object; None if the mask has 0 and 1, or 0 and 255.

    Raises:
        UnreadableImage: It cannot be read, or has another size than the photo.
        UserError: It has other values.
    """
    header = images.header(photo)
    try:
        values = images.read_values(file, name)
    except images.UnreadableImage as error:
        raise images.UnreadableImage("its mask cannot be read as an image") from error
    if values.shape != header.size[::-1]:
        raise images.UnreadableImage(
            f"its mask is {values.shape[1]} × {values.shape[0]}, the photo "
            f"{header.size[0]} × {header.size[1]}"
        )
    if label is None:
        found = np.unique(values).tolist()
        if not (set(found) <= {0, 1} or set(found) <= {0, 255}):
            raise UserError(
                f"--masks_out: the mask of {name} holds {first_few(list(map(str, found)))}, not 0 "
                "and 1 or 0 and 255; if these are labels, name the object's with --mask_label"
            )
    is_object = values > 0 if label is None else values == label
    # TFDS ignores the orientation, `images` does not.
    return images.encode_png(images.upright(images.to_uint8_mask(is_object), header.orientation))


def _safe_stem(path: str) -> str:
    """Returns a path without a photo's extension that leads down, where `images.search` looks."""
    *folders, name = [part for part in path.split("/") if part not in ("", ".", "..")] or [""]
    stem, extension = os.path.splitext(name)
    if extension.lower() not in images.EXTENSIONS:
        stem = name
    return os.path.join(*map(_safe_folder, folders), _safe_part(stem)) if stem else ""


def _safe_part(text: str) -> str:
    """Returns a text as one part of a path; hidden files are not found."""
    name = _UNSAFE.sub("_", text).encode()[:_LONGEST].decode(errors="ignore")
    return f"_{name[1:]}" if name.startswith(".") else name


def _safe_folder(name: str) -> str:
    folder = _safe_part(name)
    # A directory a.jpg would be in the way of a photo of this name.
    is_taken = folder == MASKS or folder.lower().endswith(images.EXTENSIONS)
    return f"{folder}_" if is_taken else folder


def _put(path: str, content: bytes) -> bool:
    """Writes a file unless it exists; returns whether it did."""
    # The disk is waited for once, at the end; a power failure before leaves an empty file at worst.
    if os.path.islink(path) or (os.path.exists(path) and os.path.getsize(path)):
        return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_bytes(path, content, durable=False)
    return True


def _require_apart(out: str, masks_out: str) -> None:
    """Requires that no mask is found as a photo later, nor a photo as a mask."""
    photos_path, masks_path = os.path.realpath(out), os.path.realpath(masks_out)
    inside = os.path.relpath(masks_path, photos_path).split(os.sep)
    is_mixed = os.path.commonpath([photos_path, masks_path]) == masks_path
    if is_mixed or (inside[0] != os.pardir and MASKS not in inside):
        raise UserError(
            f"--masks_out={masks_out}: its masks and the photos of --out={out} would be mixed up; "
            f"name a directory next to it, or {os.path.join(out, MASKS)}"
        )


def _require_same(flag: str, path: str, stamp: dict[str, Any]) -> None:
    """Requires that a directory is new, empty, or was written by the same command."""
    files.require_directory(path, flag)
    unfinished = files.partial_path(STAMP)  # by a run that was killed
    entries = sorted({*os.listdir(path)} - {unfinished, _LOCK}) if os.path.isdir(path) else []
    if not entries:
        return
    found = files.read_json(os.path.join(path, STAMP))
    try:
        differing = [name for name in stamp if found[name] != stamp[name]]
    except (KeyError, TypeError):
        raise UserError(
            f"{flag}={path}: the directory is not empty (it holds {entries[0]!r}), and not of a "
            "stopped extraction; name an empty or a new one"
        ) from None
    if differing:
        name = differing[0]
        raise UserError(
            f"{flag}={path}: it holds what another command extracted ({name}: {found[name]!r}, "
            f"now {stamp[name]!r}); name an empty or a new one"
        )


@contextlib.contextmanager
def _claimed(flag: str, path: str, stamp: dict[str, Any]) -> Iterator[None]:
    """Makes a directory with the stamp of the command, and keeps other processes from it."""
    os.makedirs(path, exist_ok=True)
    message = f"{flag}={path}: another process extracts to it; wait"
    with files.Lock(os.path.join(path, _LOCK), message):
        _require_same(flag, path, stamp)
        _put(os.path.join(path, STAMP), f"{json.dumps(stamp, indent=2)}\n".encode())
        yield
