"""Photos of prepared TensorFlow datasets written as files again, and their masks beside them."""

import contextlib
import fcntl
import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from layered_segmentation import images
from layered_segmentation.data.folder import MASKS
from layered_segmentation.data.prepare import extracted_masks
from layered_segmentation.data.prepare.extracted_names import (
    Names,
    extension_of,
    numbered,
    text_feature_of,
)
from layered_segmentation.data.source import MOST_SKIPPED, first_few
from layered_segmentation.data.tfds import SPLIT, Part, TFDSSource
from layered_segmentation.errors import UserError
from layered_segmentation.progress import Bar

STAMP = ".extract.json"  # of which command the files of a directory are

_DIGITS = 6
_NAMED = 10  # photos that may be unusable before their share is judged


class Extracted(NamedTuple):
    """What lies in the directories.

    Attributes:
        photos: How many.
        masks: How many.
        written: Files of both that were not there before.
        skipped: Photos left out, with reasons.
    """

    photos: int
    masks: int
    written: int
    skipped: list[str]


class _Files(NamedTuple):
    """A photo's files, or why it has none.

    Attributes:
        name: Its path in its directory; in the dataset, where it is left out.
        photo: The bytes.
        mask: Of a PNG, or None if masks are not wanted.
        unusable: Why it is left out, or empty.
    """

    name: str
    photo: bytes = b""
    mask: bytes | None = None
    unusable: str = ""


def extract(
    dataset: str,
    data_dir: str,
    out: str,
    masks_out: str = "",
    limit: int = 0,
    mask_label: int | None = None,
) -> Extracted:
    """Writes a dataset's photos, their bytes as they are stored, and its masks as PNG of 0 and 255.

    A photo has its own path in the dataset if there is one (`extracted_names.FILES`), else its
    position in the split, and the key if it has one; of several datasets, in a directory each.
    A mask has its photo's path but for the extension. Files that are there are not touched.

    Args:
        dataset: As `data.dataset`.
        data_dir: As `data.data_dir`.
        out: Directory for the photos: new, empty, or of the same command.
        masks_out: Directory for the masks, as `out`; empty writes none.
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
        _require_ours(flag, path, stamp)
    files = _files(source, bool(masks_out), mask_label)
    first = next(files)  # masks that are none show before there is a directory
    with contextlib.ExitStack() as stack:
        for flag, path in directories.items():
            stack.enter_context(_claimed(flag, path, stamp))
        bar = stack.enter_context(Bar(len(source), "extracting", "photo"))
        return _write_all(itertools.chain([first], files), source, out, masks_out, bar)


def _write_all(
    files: Iterator[_Files], source: TFDSSource, out: str, masks_out: str, bar: Bar
) -> Extracted:
    total = len(source)
    most = max(int(MOST_SKIPPED * total), _NAMED)
    count = masks = written = 0
    skipped: list[str] = []
    for file in files:
        bar.update()
        if file.unusable:
            skipped.append(f"{file.name} ({file.unusable})")
            if len(skipped) > most:  # enough to name
                break
            continue
        if file.mask is not None:  # before the photo, which must never lack one
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
    if len(skipped) > MOST_SKIPPED * total:
        raise UserError(
            f"{source.origin}: more than {MOST_SKIPPED:.0%} of the {total:,} photos cannot be used,"
            f" such as {first_few(skipped)}; name another slice, or prepare it again without them"
        )
    return Extracted(count, masks, written, skipped)


def _files(source: TFDSSource, with_masks: bool, mask_label: int | None) -> Iterator[_Files]:
    """Returns the files of all photos, in order; that all have masks is checked at once."""
    masks = [extracted_masks.feature_of(info) if with_masks else "" for info in source.infos]
    names = Names()
    return itertools.chain.from_iterable(
        _files_of_part(source, part, mask, mask_label, names) for part, mask in enumerate(masks)
    )


def _files_of_part(
    source: TFDSSource, part: int, mask: str, mask_label: int | None, names: Names
) -> Iterator[_Files]:
    dataset, info = source.parts[part], source.infos[part]
    text, has_paths = text_feature_of(info)
    folder = _folder(source.parts, part)
    digits = max(_DIGITS, len(str(info.splits[dataset.split].num_examples - 1)))
    wanted = [name for name in ("image", mask, text) if name]
    first = _first_position(info.splits, dataset)
    for position, example in enumerate(source.examples(part, wanted), start=first):
        photo, number = example["image"], f"{position:0{digits}}"
        own = example[text].decode(errors="replace") if text else ""
        called = own or f"{dataset} image {number}"
        try:
            extension = extension_of(photo, own)
            png = extracted_masks.to_png(example[mask], photo, called, mask_label) if mask else None
        except images.UnreadableImage as error:
            yield _Files(called, unusable=str(error))
            continue
        stem = names.claim(folder, number, own) if has_paths else numbered(folder, number, own)
        yield _Files(stem + extension, photo, png)


def _folder(parts: list[Part], part: int) -> str:
    """Returns a directory for one of several datasets, so that they keep apart and their order."""
    if len(parts) == 1:
        return ""
    dataset = parts[part]
    name = dataset.name if dataset.split == SPLIT else f"{dataset.name}_{dataset.split}"
    return f"{part:0{len(str(len(parts) - 1))}}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}"


def _first_position(splits: Any, part: Part) -> int:
    """Returns where in its split a slice begins."""
    whole, first = splits[part.split], splits[part.instruction].file_instructions[0]
    shard = whole.filenames.index(os.path.basename(first.filename))
    return sum(whole.shard_lengths[:shard]) + first.skip


def _put(path: str, content: bytes) -> bool:
    """Writes a file that is not there yet, whole or not at all; returns whether it did."""
    if os.path.lexists(path):
        return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = path  # a full disk, met while writing, does not name the place
        if os.path.exists(partial):
            os.remove(partial)
        raise
    return True


def _require_apart(out: str, masks_out: str) -> None:
    """Requires that no mask will be taken for a photo, nor a photo for a mask."""
    photos_path, masks_path = os.path.realpath(out), os.path.realpath(masks_out)
    inside = os.path.relpath(masks_path, photos_path).split(os.sep)
    is_mixed = os.path.commonpath([photos_path, masks_path]) == masks_path
    if is_mixed or (inside[0] != os.pardir and MASKS not in inside):
        raise UserError(
            f"--masks_out={masks_out}: its masks and the photos of --out={out} would be mixed up; "
            f"name a directory beside it, or {os.path.join(out, MASKS)}"
        )


def _require_ours(flag: str, path: str, stamp: dict[str, Any]) -> None:
    """Requires that a directory is new, empty, or of the same command."""
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{flag}={path}: a file has this name; name a directory")
    unfinished = f"{STAMP}.partial"  # by a run that was killed
    entries = sorted({*os.listdir(path)} - {unfinished}) if os.path.isdir(path) else []
    if not entries:
        return
    try:
        with open(os.path.join(path, STAMP), encoding="utf-8") as file:
            theirs = json.load(file)
        differing = [name for name in stamp if theirs[name] != stamp[name]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{flag}={path}: the directory is not empty (it holds {entries[0]!r}), and not of a "
            "stopped extraction; name an empty or a new one"
        ) from None
    if differing:
        name = differing[0]
        raise UserError(
            f"{flag}={path}: it holds what another command extracted ({name}: {theirs[name]!r}, "
            f"now {stamp[name]!r}); name an empty or a new one"
        )


@contextlib.contextmanager
def _claimed(flag: str, path: str, stamp: dict[str, Any]) -> Iterator[None]:
    """Makes a directory ours, and keeps other processes from it."""
    os.makedirs(path, exist_ok=True)
    directory = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{flag}={path}: another process extracts to it; wait") from error
        _require_ours(flag, path, stamp)
        _put(os.path.join(path, STAMP), f"{json.dumps(stamp, indent=2)}\n".encode())
        yield
    finally:
        os.close(directory)
