r"""Segments any number of photos with an exported SavedModel, as an Apache Beam pipeline.

Photos are the files of a pattern, or TFRecords of `tf.train.Example`. Masks are written as PNG
files of the photos' size to OUT/masks, with a line for each in OUT/manifest/*.jsonl. Photos that
cannot be segmented are listed in OUT/failed*.jsonl with the reason. Run the same command again to
resume: what the manifest lists is left out.

Options that are not listed here are Beam's own, such as --runner. Needs `pip install
'layered-segmentation[beam]'`.

Example:
  python -m layered_segmentation.export.beam --model=MODELS/layerseg --input='PHOTOS/**.jpg' \
      --out=OUT --runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=4
"""

import argparse
import collections
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from layered_segmentation import files, images, records
from layered_segmentation.choices import RECOMMENDED_REFINEMENT, Refinement
from layered_segmentation.errors import UserError

try:
    import apache_beam as beam
    from apache_beam.io import fileio
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.ml.inference.base import ModelHandler, RunInference
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    _MISSING = f"Apache Beam is missing ({error}): pip install 'layered-segmentation[beam]'"
    if __name__ == "__main__":
        sys.exit(f"error: {_MISSING}")
    raise UserError(_MISSING) from error

_FAILED = "failed"  # the output of photos that cannot be segmented
_LINES = 1_000  # of a file of the manifest: an interruption loses at most these, for each worker
_WILDCARDS = "*?["


@dataclasses.dataclass(frozen=True)
class Job:
    """What is computed and where it is written."""

    model: str  # directory of the SavedModel, with saved_model.pb
    out: str  # directory or URL
    refine: str = RECOMMENDED_REFINEMENT  # a `Refinement`
    threshold: float = 0.5  # least probability of a pixel of the object

    @property
    def manifest(self) -> str:
        """Directory of the manifest."""
        return str(FileSystems.join(self.out, "manifest"))

    def mask(self, name: str) -> str:
        """Path of a photo's mask; with the photo's extension, so that no two are the same."""
        return str(FileSystems.join(self.out, "masks", *name.split("/"))) + ".mask.png"


class Decoded(NamedTuple):
    """A photo."""

    name: str  # relative path, with slashes
    image: np.ndarray  # uint8 [H, W, 3]


class SavedModelHandler(ModelHandler[Decoded, tuple[Decoded, np.ndarray], Any]):
    """Runs the signature `serving_default` of an export on batches of photos of any sizes.

    Args:
        model: Directory of the SavedModel.
        pixels: The most pixels of a batch, unless one photo has more.
    """

    def __init__(self, model: str, pixels: int):
        super().__init__()
        self._model = model
        self._pixels = pixels

    def load_model(self) -> Any:
        """Loads the SavedModel, once in each process."""
        import tensorflow as tf

        return tf.saved_model.load(self._model)

    def run_inference(
        self, batch: Sequence[Decoded], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterator[tuple[Decoded, np.ndarray]]:
        """Yields each photo with its mask, float32 [H, W] in [0, 1]; of one size at once."""
        del inference_args
        serve = model.signatures["serving_default"]
        ordered = sorted(batch, key=lambda photo: photo.image.shape)
        for _, group in itertools.groupby(ordered, key=lambda photo: photo.image.shape):
            photos = list(group)
            masks = serve(images=np.stack([photo.image for photo in photos]))["masks"]
            yield from zip(photos, masks.numpy()[..., 0], strict=True)

    def batch_elements_kwargs(self) -> dict[str, Any]:
        """Makes Beam batch by pixels, not by photos."""
        return {
            "min_batch_size": self._pixels // 4,
            "max_batch_size": self._pixels,
            "element_size_fn": lambda photo: photo.image.shape[0] * photo.image.shape[1],
        }


class SegmentPhotos(beam.PTransform):
    """Segments photos and writes their masks.

    The input has (name, photo) pairs: a relative path with slashes, and the bytes of an image file,
    or its path. The outputs are `masks`, the lines of the manifest as dictionaries, and `failed`,
    dictionaries with `name` and `reason`.

    Args:
        job: What is computed.
        pixels: The most pixels of a batch, unless one photo has more.
    """

    def __init__(self, job: Job, pixels: int = 1 << 22):
        super().__init__()
        self._job = job
        self._pixels = pixels

    def expand(self, photos: Any) -> Any:
        decoded = photos | "Decode" >> beam.ParDo(_Decode()).with_outputs(_FAILED, main="photos")
        masks = (
            decoded.photos
            | "Segment" >> RunInference(SavedModelHandler(self._job.model, self._pixels))
            | "Write masks" >> beam.ParDo(_Write(self._job))
        )
        masks | "Write manifest" >> beam.ParDo(_WriteManifest(self._job))
        return {"masks": masks, _FAILED: decoded[_FAILED]}


class _Decode(beam.DoFn):
    """(name, bytes or path) -> `Decoded`, or a dictionary of why not."""

    def process(self, element: tuple[str, bytes | str]) -> Iterator[Any]:
        from layered_segmentation.export.signatures import MOST_PIXELS

        name, file = element
        try:
            if not records.is_inner_path(name):
                raise UserError(f"{name!r} is not a relative path")
            if isinstance(file, str):
                with FileSystems.open(file) as opened:
                    file = opened.read()
            height, width = images.header(file, name).upright_size
            if height * width > MOST_PIXELS:
                raise UserError(f"{name}: has more than {MOST_PIXELS:,} pixels")
            yield Decoded(name, images.read(file, name))
        except (UserError, OSError) as error:
            yield beam.pvalue.TaggedOutput(_FAILED, {"name": name, "reason": str(error)})


class _Write(beam.DoFn):
    """(Decoded, mask) -> a line of the manifest."""

    def __init__(self, job: Job):
        super().__init__()
        self._job = job

    def process(self, element: tuple[Decoded, np.ndarray]) -> Iterator[dict[str, Any]]:
        from layered_segmentation.segmenter import cut_out
        from layered_segmentation.segmenter.refine import refine

        photo, mask = element
        mask = refine(photo.image, mask, self._job.refine)
        binary = cut_out.binary_mask(mask, self._job.threshold)
        path = self._job.mask(photo.name)
        _write(path, images.encode_png(binary, mark=True))
        height, width = binary.shape
        covered = round(float(np.count_nonzero(binary) / binary.size), 4)
        facts = {"height": height, "width": width, "covered": covered}
        yield {"name": photo.name, "mask": path, **facts}


class _WriteManifest(beam.DoFn):
    """Writes lines to the manifest as soon as there are `_LINES`, and at the end of a bundle."""

    def __init__(self, job: Job):
        super().__init__()
        self._job = job
        self._lines: list[str] = []

    def start_bundle(self) -> None:
        self._lines = []

    def process(self, line: dict[str, Any]) -> None:
        self._lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        if len(self._lines) >= _LINES:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._lines:
            text = "".join(self._lines)
            # Named by its content: a bundle that a runner repeats writes the same file again.
            name = files.digest(text)[:16] + ".jsonl"
            _write(FileSystems.join(self._job.manifest, name), text.encode())
            self._lines = []


def photos_of_pattern(pipeline: Any, pattern: str) -> Any:
    """Returns (name, path) pairs of the files that match a pattern."""
    root = _root_of(pattern)

    def pair(file: Any) -> tuple[str, str]:
        return file.path[len(root) :].replace(os.sep, "/").lstrip("/"), file.path

    return pipeline | "Find photos" >> fileio.MatchFiles(pattern) | beam.Map(pair)


def photos_of_records(pipeline: Any, pattern: str) -> Any:
    """Returns (name, bytes) pairs of TFRecord files that match a pattern.

    Each record is a `tf.train.Example` with `image/encoded`, the bytes of an image file, and
    perhaps `image/filename`. Without it, the name is a digest of the bytes.
    """
    found = pipeline | "Read records" >> beam.io.ReadFromTFRecord(pattern)
    return found | "Parse records" >> beam.FlatMap(_pair_of_record)


def _pair_of_record(record: bytes) -> Iterator[tuple[str, bytes]]:
    from tensorflow.core.example.example_pb2 import Example

    feature = Example.FromString(record).features.feature
    encoded = feature["image/encoded"].bytes_list.value
    content = encoded[0] if encoded else b""
    names = feature["image/filename"].bytes_list.value
    yield (names[0].decode(errors="replace") if names else files.digest(content)[:32]), content


def without_done(photos: Any, job: Job) -> Any:
    """Leaves out the photos that the manifest of an earlier run lists."""
    pattern = FileSystems.join(job.manifest, "*.jsonl")
    done = (
        photos.pipeline
        | "Find manifest" >> fileio.MatchFiles(pattern)
        | "Open manifest" >> fileio.ReadMatches()
        | "Read manifest" >> beam.FlatMap(_names_in)
        | "As pairs" >> beam.Map(lambda name: (name, True))
    )
    joined = {"photos": photos, "done": done} | "Join" >> beam.CoGroupByKey()
    return joined | "Leave out" >> beam.FlatMap(_left)


def _names_in(file: Any) -> Iterator[str]:
    for line in file.read_utf8().splitlines():
        record = records.parse(line, {"name": records.is_text})
        if record is not None:  # else it was cut off
            yield record["name"]


def _left(joined: tuple[str, Any]) -> Iterator[tuple[str, Any]]:
    name, parts = joined
    if not any(parts["done"]):
        for photo in itertools.islice(parts["photos"], 1):  # of the same photo twice, one
            yield name, photo


def build(pipeline: Any, job: Job, pattern: str = "", tfrecords: str = "") -> dict[str, Any]:
    """Adds the whole program to a pipeline; returns the outputs of `SegmentPhotos`.

    Args:
        pipeline: The pipeline.
        job: What is computed.
        pattern: Of photos, as of Beam's `MatchFiles`; `**` matches sub-directories too.
        tfrecords: Of TFRecord files, instead.
    """
    if pattern:
        photos = photos_of_pattern(pipeline, pattern)
    else:
        photos = photos_of_records(pipeline, tfrecords)
    outputs: dict[str, Any] = without_done(photos, job) | "Segment photos" >> SegmentPhotos(job)
    lines = outputs[_FAILED] | "As JSON" >> beam.Map(json.dumps, ensure_ascii=False)
    lines | "Write failed" >> beam.io.WriteToText(FileSystems.join(job.out, _FAILED), ".jsonl")
    return outputs


def find_model(path: str) -> str:
    """Returns the newest version in a directory of `layerseg export`, or the directory itself.

    Raises:
        UserError: There is no SavedModel.
    """
    if "://" in path or os.path.isfile(os.path.join(path, "saved_model.pb")):
        return path
    versions = [name for name in os.listdir(path) if name.isdigit()] if os.path.isdir(path) else []
    if not versions:
        raise UserError(
            f"--model={path}: no SavedModel is there; write one with "
            "`layerseg export --format=saved_model`"
        )
    return os.path.join(os.path.abspath(path), max(versions, key=int))


def _root_of(pattern: str) -> str:
    """Returns the directory of a pattern up to its first wildcard."""
    first = min((pattern.find(one) for one in _WILDCARDS if one in pattern), default=len(pattern))
    return pattern[: pattern.rfind("/", 0, first) + 1]


def _write(path: str, content: bytes) -> None:
    """Writes a file that appears only when it is complete."""
    if "://" in path:  # an object store shows an object when it is closed
        with FileSystems.create(path) as file:
            file.write(content)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_bytes(path, content, durable=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the pipeline and prints how many photos were segmented.

    Raises:
        UserError: An argument is wrong, or no file matches.
    """
    description = (__doc__ or "").partition("Example:")
    parser = argparse.ArgumentParser(
        "python -m layered_segmentation.export.beam",
        description=description[0],
        epilog="".join(description[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="Directory of an exported SavedModel.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", default="", help="Pattern of photos, such as 'PHOTOS/**.jpg'.")
    source.add_argument("--records", default="", help="Pattern of TFRecord files with photos.")
    parser.add_argument("--out", required=True, help="Directory or URL to write to.")
    parser.add_argument("--refine", default=RECOMMENDED_REFINEMENT, choices=list(Refinement))
    parser.add_argument("--threshold", type=float, default=0.5)
    chosen, rest = parser.parse_known_args(arguments)
    pattern = chosen.input or chosen.records
    if not any(match.metadata_list for match in FileSystems.match([pattern], [1])):
        raise UserError(f"{pattern}: no file matches")
    job = Job(find_model(chosen.model), chosen.out, chosen.refine, chosen.threshold)
    pipeline = beam.Pipeline(options=PipelineOptions(rest))
    outputs = build(pipeline, job, chosen.input, chosen.records)
    for name, collection in outputs.items():
        counter = beam.metrics.Metrics.counter("layerseg", name)
        collection | f"Count {name}" >> beam.Map(lambda _, one=counter: one.inc())
    result = pipeline.run()
    result.wait_until_finish()
    counts: collections.Counter[str] = collections.Counter()
    for metric in result.metrics().query()["counters"]:
        if metric.key.metric.namespace == "layerseg":
            counts[metric.key.metric.name] += metric.result
    print(f"{counts['masks']:,} masks in {job.out}, {counts[_FAILED]:,} photos failed")


if __name__ == "__main__":
    # Workers import the classes by the name of this module, which is not `__main__`.
    from layered_segmentation.export import beam as program

    try:
        program.main()
    except UserError as error:
        sys.exit(f"error: {error}")
