"""Per-chunk encoders, the paper's protocol: one encoder per chunk of photos, which it segments.

The encoders of several chunks may train at once. A chunk's record is written after all its other
files, and a chunk with a record is not trained again.
"""

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from layered_segmentation import files, records, sheets
from layered_segmentation import images as photos
from layered_segmentation.errors import UserError
from layered_segmentation.gan.composite import Layers, union_mask
from layered_segmentation.progress import Bar
from layered_segmentation.segmenter import cut_out, presets
from layered_segmentation.segmenter.encode import EncoderTrainer, Training
from layered_segmentation.segmenter.segmenter import EncoderSegmenter

RECORDS, MASKS, SHEETS, ENCODERS = "chunks", "masks", "reconstructions", "encoders"
SCENES, TRUTH = "images", "true_masks"  # of held-out scenes, if no photos were given
INPUTS = "inputs.json"  # what the chunks depend on, and the names of the photos
RESULTS = "results.json"
HELD_OUT = "held-out scenes"  # stands for their directory in the inputs
THRESHOLD = 0.5
_SHOWN = 10  # photos on a chunk's sheet
_RECORD = {
    "photos": records.is_count,
    "unreadable": [records.is_text],
    **{
        name: records.is_number
        for name in (
            "first_loss", "loss", "pixel_loss", "coverage", "images_per_second", "seconds",
        )
    },
}  # fmt: skip
_NUMBERED = re.compile(r"\d{5}(\.json|\.png)?")


@dataclasses.dataclass(frozen=True)
class ChunkJob:
    """Which photos to segment, and where to write the results."""

    images: str  # directory of the photos
    names: list[str]  # their paths relative to it; no two may differ only in their extension
    out: str  # directory of the results
    chunk: int  # most photos per chunk
    iterations: int  # training steps per chunk
    # Chunks whose encoders train at once on each device; an interruption loses at most these.
    together: int = 1
    save_encoders: bool = False  # whether to save each chunk's segmenter as a preset

    def chunks(self) -> list[list[str]]:
        """Returns the photos of each chunk in order. The chunks are of about equal size."""
        count = -(-len(self.names) // self.chunk)
        return [list(map(str, part)) for part in np.array_split(self.names, count)]

    def record(self, number: int) -> str:
        """Path of a chunk's record. It exists only if the chunk is finished."""
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
        """Whether a chunk has all the results that are asked for."""
        has_encoder = not self.save_encoders or os.path.isdir(self.encoder(number))
        return has_encoder and records.read(self.record(number), _RECORD) is not None


def begin(job: ChunkJob, inputs: Mapping[str, Any], overwrite: bool = False) -> None:
    """Records the inputs that the chunks depend on, or checks that they are unchanged.

    Args:
        job: The job.
        inputs: JSON values; `images` is `HELD_OUT` if `job.images` is `SCENES` in `job.out`.
        overwrite: Whether to remove everything that earlier calls wrote.

    Raises:
        UserError: Existing chunks were made with other settings, photos or networks, or their
            inputs cannot be read.
    """
    path = os.path.join(job.out, INPUTS)
    if os.path.exists(path):
        earlier = _read_inputs(path, overwrite)
        differing = [key for key in inputs if earlier.get(key) != inputs[key]]
        if differing and not overwrite:
            raise UserError(
                f"--out={job.out}: holds chunks made with other {', '.join(differing)} "
                f"({path}); name another --out, or add --overwrite to train them again"
            )
        if not overwrite:
            return
        _remove_earlier(job, earlier)
    os.makedirs(job.out, exist_ok=True)
    files.write_json(path, {**inputs, "names": job.names})


def _read_inputs(path: str, overwrite: bool) -> dict[str, Any]:
    """Returns the inputs of earlier chunks; empty if unreadable and about to be overwritten."""
    inputs: dict[str, Any] | None = records.read(
        path, {"names": records.optional([records.is_inner_path])}
    )
    if inputs is not None:
        return inputs
    if overwrite:
        return {}
    raise UserError(
        f"{path}: cannot be read (damaged), so the inputs of the chunks are unknown; name another "
        "--out, or add --overwrite to train them again"
    )


def _remove_earlier(job: ChunkJob, inputs: Mapping[str, Any]) -> None:
    """Removes what earlier calls wrote, and no other files."""
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
    names = inputs.get("names") or []
    written = [os.path.join(job.out, RESULTS), *map(job.mask, names)]
    if inputs.get("images") == HELD_OUT:
        written += [os.path.join(job.out, part, name) for part in (SCENES, TRUTH) for name in names]
    for file in written:
        for path in (file, files.partial_path(file)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
    for part in (RECORDS, SHEETS, ENCODERS, MASKS, SCENES, TRUTH):
        for folder, _, _ in os.walk(os.path.join(job.out, part), topdown=False):
            with contextlib.suppress(OSError):  # not empty: it holds files of the user
                os.rmdir(folder)


def encode(job: ChunkJob, open_trainer: Callable[[], EncoderTrainer]) -> list[dict[str, Any]]:
    """Trains the encoders of all unfinished chunks and writes their results.

    Args:
        job: The chunks.
        open_trainer: Creates the trainer; called only if a chunk is unfinished.

    Returns:
        The records of all chunks, including those finished before.

    Raises:
        UserError: None of a chunk's photos can be read, or a loss is not finite.
    """
    chunks = job.chunks()
    left = [number for number in range(len(chunks)) if not job.is_finished(number)]
    if left:
        trainer = open_trainer()
        with Bar(len(left) * job.iterations, "encoding", "step") as bar:
            size = job.together * len(trainer.devices)
            for first in range(0, len(left), size):
                group = left[first : first + size]
                _encode_group(job, {number: chunks[number] for number in group}, trainer, bar)
    return [files.read_json(job.record(number)) for number in range(len(chunks))]


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """The readable photos of a chunk."""

    number: int  # the chunk's number
    names: list[str]  # the photos that were read
    sizes: list[tuple[int, int]]  # their heights and widths
    squares: np.ndarray  # the photos as the network sees them, uint8 [N, R, R, 3]
    unreadable: list[str]  # an error message for each of the other photos


def _encode_group(
    job: ChunkJob, group: Mapping[int, list[str]], trainer: EncoderTrainer, bar: Bar
) -> None:
    segmenter = trainer.segmenter
    chunks = [_read(job, number, names, segmenter) for number, names in group.items()]
    label = "chunk " + ", ".join(map(str, group))
    trainings = trainer.train_together(
        [chunk.squares for chunk in chunks],
        tick=lambda note: bar.update(len(group), f"{label}: {note}"),
        names=[f"chunk {number}" for number in group],
    )
    for chunk, training in zip(chunks, trainings, strict=True):
        _finish(job, chunk, training, trainer)


def _read(job: ChunkJob, number: int, names: list[str], segmenter: EncoderSegmenter) -> _Chunk:
    """Reads a chunk's photos; raises a UserError if none can be read."""
    squares, sizes, read, unreadable = [], [], [], []
    for name in names:
        try:
            photo = photos.read(os.path.join(job.images, name))
        except photos.UnreadableImage as error:
            unreadable.append(str(error))
            continue
        # Keep the network's input only: photos at their own size may not fit into memory.
        square = ops.convert_to_numpy(segmenter.prepare(photo[None]))[0]
        squares.append(sheets.to_uint8(square))
        sizes.append(photo.shape[:2])
        read.append(name)
    if not read:
        raise UserError(
            f"none of chunk {number}'s {len(names)} photos can be read: {unreadable[0]}"
        )
    return _Chunk(number, read, sizes, np.stack(squares), unreadable)


def _finish(job: ChunkJob, chunk: _Chunk, training: Training, trainer: EncoderTrainer) -> None:
    """Writes the masks, the sheet and the preset of a chunk, and then its record."""
    summary = trainer.finish(training)
    segmenter, number = trainer.segmenter, chunk.number
    layers = segmenter.predict_layers(chunk.squares)
    masks = union_mask(layers.mask)
    for name, (height, width), mask in zip(chunk.names, chunk.sizes, masks, strict=True):
        mask = ops.convert_to_numpy(segmenter.restore(mask[None], height, width))[0, ..., 0]
        os.makedirs(os.path.dirname(job.mask(name)), exist_ok=True)
        photos.write(job.mask(name), cut_out.binary_mask(mask, THRESHOLD), durable=True, mark=True)
    os.makedirs(os.path.dirname(job.sheet(number)), exist_ok=True)
    shown = Layers(*(layer[:_SHOWN] for layer in layers))
    sheets.save_png(sheets.reconstruction_sheet(chunk.squares[:_SHOWN], shown), job.sheet(number))
    if job.save_encoders:
        os.makedirs(os.path.dirname(job.encoder(number)), exist_ok=True)
        presets.save(segmenter, job.encoder(number), overwrite=True)
    record = {
        "chunk": number,
        **dataclasses.asdict(summary),
        "coverage": float(np.mean(masks)),
        "names": chunk.names,
        "unreadable": chunk.unreadable,
    }
    os.makedirs(os.path.dirname(job.record(number)), exist_ok=True)
    files.write_json(job.record(number), record, ensure_ascii=False)


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the totals of chunks for results.json, and means over their photos."""
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
