"""Per-chunk encoders: the photos in chunks, an encoder trained on each, its masks written.

The paper's protocol. Some chunks' encoders train at once. A chunk's files are complete before its
record is written, and a chunk with a record is not trained again.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from layered_segmentation import files, sheets
from layered_segmentation import images as photos
from layered_segmentation.errors import UserError
from layered_segmentation.gan.composite import Layers
from layered_segmentation.progress import Bar
from layered_segmentation.segmenter import cut_out
from layered_segmentation.segmenter import segmenter as segmenters
from layered_segmentation.segmenter.encode import Autoencoder, Training
from layered_segmentation.segmenter.segmenter import EncoderSegmenter

RECORDS, MASKS, SHEETS, ENCODERS = "chunks", "masks", "reconstructions", "encoders"
SCENES, TRUTH = "images", "true_masks"  # of held-out scenes, where no photos were given
INPUTS = "inputs.json"  # what the chunks depend on, and the names of the photos
RESULTS = "results.json"
HELD_OUT = "held-out scenes"  # what the inputs say of these, instead of a directory
THRESHOLD = 0.5
_SHOWN = 10  # photos on a chunk's sheet
_NUMBERED = re.compile(r"\d{5}(\.json|\.png)?")


@dataclasses.dataclass(frozen=True)
class ChunkJob:
    """Which photos to segment, and where the results go.

    Attributes:
        images: Directory of the photos.
        names: Their paths relative to it; no two may differ in their extension only.
        out: Directory of the results.
        chunk: Most photos an encoder is trained on.
        iterations: Training steps a chunk.
        together: Chunks whose encoders train at once; a stop loses no more than these.
        save_encoders: Whether each chunk's segmenter is kept as a preset.
    """

    images: str
    names: list[str]
    out: str
    chunk: int
    iterations: int
    together: int = 1
    save_encoders: bool = False

    def chunks(self) -> list[list[str]]:
        """Returns the photos of each chunk, in order; the chunks are about equally large."""
        count = -(-len(self.names) // self.chunk)
        return [list(map(str, part)) for part in np.array_split(self.names, count)]

    def record(self, number: int) -> str:
        """Path of a chunk's record; its being there says that the chunk is finished."""
        return os.path.join(self.out, RECORDS, f"{number:05d}.json")

    def sheet(self, number: int) -> str:
        """Path of a chunk's sheet."""
        return os.path.join(self.out, SHEETS, f"{number:05d}.png")

    def encoder(self, number: int) -> str:
        """Path of a chunk's preset."""
        return os.path.join(self.out, ENCODERS, f"{number:05d}")

    def mask(self, name: str) -> str:
        """Path of a photo's mask."""
        return os.path.join(self.out, MASKS, os.path.splitext(name)[0] + ".png")

    def is_finished(self, number: int) -> bool:
        """Whether nothing is left to do for a chunk."""
        kept = not self.save_encoders or os.path.isdir(self.encoder(number))
        return kept and os.path.exists(self.record(number))


def require_ours(out: str) -> None:
    """Refuses a directory that holds anything but chunks.

    Raises:
        UserError: It does, or a file has its name.
    """
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"--out={out}: a file has this name; name a directory")
    if os.path.isdir(out) and os.listdir(out) and not os.path.exists(os.path.join(out, INPUTS)):
        raise UserError(
            f"--out={out}: the directory is not empty and holds no chunks (it holds "
            f"{sorted(os.listdir(out))[0]!r}); name an empty or a new one"
        )


def begin(job: ChunkJob, inputs: Mapping[str, Any], overwrite: bool = False) -> None:
    """Writes what the chunks depend on, or checks that it is the same.

    Args:
        job: What to do and where.
        inputs: JSON values; `images` is `HELD_OUT` where `job.images` is `SCENES` in `job.out`.
        overwrite: Whether everything that an earlier call wrote is thrown away.

    Raises:
        UserError: Chunks that are there were made with other settings, photos or networks, or
            from nobody knows what.
    """
    path = os.path.join(job.out, INPUTS)
    if os.path.exists(path):
        theirs = _read_inputs(path, overwrite)
        differing = [key for key in inputs if theirs.get(key) != inputs[key]]
        if differing and not overwrite:
            raise UserError(
                f"--out={job.out}: it holds chunks made with other {', '.join(differing)} "
                f"({path}); name another --out, or add --overwrite to train them again"
            )
        if not overwrite:
            return
        _remove_earlier(job, theirs)
    os.makedirs(job.out, exist_ok=True)
    files.write_json(path, {**inputs, "names": job.names})


def _read_inputs(path: str, overwrite: bool) -> dict[str, Any]:
    """Returns what earlier chunks were made from; nothing if it is damaged and to be replaced."""
    try:
        with open(path, encoding="utf-8") as file:
            inputs = json.load(file)
        if isinstance(inputs, dict):
            return inputs
        reason = "no JSON object"
    except ValueError as error:
        reason = str(error)
    if overwrite:
        return {}
    raise UserError(
        f"{path}: cannot be read ({reason}), so nobody knows what the chunks were made from; name "
        "another --out, or add --overwrite to train them again"
    )


def _remove_earlier(job: ChunkJob, inputs: Mapping[str, Any]) -> None:
    """Removes what an earlier call wrote, and nothing else that lies there."""
    for part in (RECORDS, SHEETS, ENCODERS):
        folder = os.path.join(job.out, part)
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            path = os.path.join(folder, name)
            if not _NUMBERED.fullmatch(files.final_name(name)):
                continue
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)
    names = inputs.get("names", [])
    written = [os.path.join(job.out, RESULTS), *map(job.mask, names)]
    if inputs.get("images") == HELD_OUT:
        written += [os.path.join(job.out, part, name) for part in (SCENES, TRUTH) for name in names]
    for file in written:
        for path in (file, files.partial_path(file)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
    for part in (RECORDS, SHEETS, ENCODERS, MASKS, SCENES, TRUTH):
        for folder, _, _ in os.walk(os.path.join(job.out, part), topdown=False):
            with contextlib.suppress(OSError):  # not empty: something of the user's
                os.rmdir(folder)


def encode(
    job: ChunkJob, open_autoencoder: Callable[[], Autoencoder], progress: bool = True
) -> list[dict[str, Any]]:
    """Trains the encoders of the chunks that are left and writes their results.

    Args:
        job: What to do and where.
        open_autoencoder: Makes the networks; called only if a chunk is left.
        progress: Whether a progress bar is shown.

    Returns:
        The records of all chunks, also of those finished before.

    Raises:
        UserError: None of the photos can be read, or a loss is not finite.
    """
    chunks = job.chunks()
    left = [number for number in range(len(chunks)) if not job.is_finished(number)]
    if left:
        autoencoder = open_autoencoder()
        with Bar(len(left) * job.iterations, "encoding", "step", progress) as bar:
            for first in range(0, len(left), job.together):
                group = left[first : first + job.together]
                _encode_group(job, {number: chunks[number] for number in group}, autoencoder, bar)
    records = []
    for number in range(len(chunks)):
        with open(job.record(number), encoding="utf-8") as file:
            records.append(json.load(file))
    return records


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """A chunk's photos, as far as they can be read.

    Attributes:
        number: The chunk's.
        names: The photos that were read.
        sizes: Their heights and widths.
        squares: As the segmenter is shown them, uint8 [N, R, R, 3].
        unreadable: What is wrong with each of the others.
    """

    number: int
    names: list[str]
    sizes: list[tuple[int, int]]
    squares: np.ndarray
    unreadable: list[str]


def _encode_group(
    job: ChunkJob, group: Mapping[int, list[str]], autoencoder: Autoencoder, bar: Bar
) -> None:
    segmenter = autoencoder.segmenter
    chunks = [_read(job, number, names, segmenter) for number, names in group.items()]
    label = "chunk " + ", ".join(map(str, group))
    trainings = autoencoder.train_together(
        [chunk.squares for chunk in chunks],
        tick=lambda note: bar.update(len(group), f"{label}: {note}"),
        names=[f"chunk {number}" for number in group],
    )
    for chunk, training in zip(chunks, trainings, strict=True):
        _finish(job, chunk, training, autoencoder)


def _read(job: ChunkJob, number: int, names: list[str], segmenter: EncoderSegmenter) -> _Chunk:
    """Reads a chunk's photos.

    Raises:
        UserError: None can be read.
    """
    squares, sizes, read, unreadable = [], [], [], []
    for name in names:
        try:
            photo = photos.read(os.path.join(job.images, name))
        except photos.UnreadableImage as error:
            unreadable.append(str(error))
            continue
        # What the segmenter is shown; the photo at its own size need not be kept.
        square = ops.convert_to_numpy(segmenter.prepare(photo[None]))[0]
        squares.append(sheets.to_uint8(square))
        sizes.append(photo.shape[:2])
        read.append(name)
    if not read:
        raise UserError(
            f"none of chunk {number}'s {len(names)} photos can be read: {unreadable[0]}"
        )
    return _Chunk(number, read, sizes, np.stack(squares), unreadable)


def _finish(job: ChunkJob, chunk: _Chunk, training: Training, autoencoder: Autoencoder) -> None:
    """Writes what a chunk's encoder makes of its photos, and then the record."""
    summary = autoencoder.settle(training)
    segmenter, number = autoencoder.segmenter, chunk.number
    layers = segmenter.predict_layers(chunk.squares)
    for name, (height, width), mask in zip(chunk.names, chunk.sizes, layers.mask, strict=True):
        mask = ops.convert_to_numpy(segmenter.restore(mask[None], height, width))[0, ..., 0]
        os.makedirs(os.path.dirname(job.mask(name)), exist_ok=True)
        photos.write(job.mask(name), cut_out.binary_mask(mask, THRESHOLD), durable=True)
    os.makedirs(os.path.dirname(job.sheet(number)), exist_ok=True)
    some = Layers(*(layer[:_SHOWN] for layer in layers))
    sheets.save_png(sheets.reconstruction_sheet(chunk.squares[:_SHOWN], some), job.sheet(number))
    if job.save_encoders:
        os.makedirs(os.path.dirname(job.encoder(number)), exist_ok=True)
        segmenters.save(segmenter, job.encoder(number), overwrite=True)
    record = {
        "chunk": number,
        **dataclasses.asdict(summary),
        "coverage": float(np.mean(layers.mask)),
        "names": chunk.names,
        "unreadable": chunk.unreadable,
    }
    os.makedirs(os.path.dirname(job.record(number)), exist_ok=True)
    files.write_json(job.record(number), record, ensure_ascii=False)


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what results.json says of all chunks; means are over photos.

    Args:
        records: The chunks' records.
    """
    photos = sum(record["photos"] for record in records)
    seconds = sum(record["seconds"] for record in records)
    means = {
        key: sum(record[key] * record["photos"] for record in records) / photos
        for key in ("first_loss", "loss", "pixel_loss", "coverage", "images_per_second")
    }
    return {
        "photos": photos,
        "chunks": len(records),
        **means,
        "losses": [record["loss"] for record in records],
        "seconds": round(seconds, 3),
        "photos_per_second": photos / seconds,
        "unreadable": [line for record in records for line in record["unreadable"]],
    }
