"""Students of several sizes as TFLite files: mIoU, milliseconds, megabytes."""

import dataclasses
import functools
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from layered_segmentation import files
from layered_segmentation.choices import Quantization
from layered_segmentation.data.source import Pair
from layered_segmentation.export import compare, metadata, tflite
from layered_segmentation.images import to_square
from layered_segmentation.segmenter.segmenter import LayeredSegmenter

TABLE, JSON = "ladder.md", "ladder.json"

_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Row:
    """A student in one quantization."""

    name: str  # the student's name
    resolution: int  # side of its input, pixels
    parameters: int
    quantize: str  # `none` or `int8`
    megabytes: float  # size of the file
    miou: float  # mean IoU of the file's masks with the true ones
    # time of one image on one thread: the median over rounds of each's median
    milliseconds: float = 0.0
    spread: float = 0.0  # difference between the slowest and the fastest round, milliseconds


def measure(
    segmenters: Mapping[str, LayeredSegmenter], representative_data: str, pairs: Sequence[Pair]
) -> list[Row]:
    """Measures segmenters as float32 and int8 TFLite files.

    All files are timed in turn, several rounds over, so that a machine that slows down slows all.

    Args:
        segmenters: By name.
        representative_data: Directory of photos from which int8 derives its ranges.
        pairs: Photos and masks to score on.

    Raises:
        UserError: A photo cannot be read.
    """
    measured = [
        row_and_call
        for name, segmenter in segmenters.items()
        for row_and_call in _measure_one(name, segmenter, representative_data, pairs)
    ]
    rounds = [[compare.latency(call)[0] for _, call in measured] for _ in range(_ROUNDS)]
    return [
        dataclasses.replace(
            row, milliseconds=statistics.median(times), spread=max(times) - min(times)
        )
        for (row, _), times in zip(measured, zip(*rounds, strict=True), strict=True)
    ]


def _measure_one(
    name: str, segmenter: LayeredSegmenter, representative_data: str, pairs: Sequence[Pair]
) -> Iterator[tuple[Row, Callable[[], object]]]:
    """Yields a segmenter's rows, without their times, each with the call to time."""
    side = segmenter.resolution
    samples = tflite.representative_samples(representative_data, side)
    image = to_square(pairs[0].image, side)[None]
    for mode in (Quantization.none, Quantization.int8):
        is_int8 = mode is Quantization.int8
        content = tflite.convert(segmenter, side, mode, samples if is_int8 else ())
        content = metadata.attach(content, "object", is_int8)
        run = tflite.interpreter(content, threads=1)
        miou = compare.score(run, pairs, side)
        row = Row(name, side, segmenter.count_params(), mode, len(content) / 1e6, miou)
        yield row, functools.partial(run, image)


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [
        "| student | input | parameters | `--quantize` | MB | ms, one thread | mIoU |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.name} | {r.resolution} px | {r.parameters:,} | `{r.quantize}` | {r.megabytes:.2f} "
        f"| {r.milliseconds:.2f} (spread {r.spread:.2f}) | {r.miou:.3f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], out: str) -> None:
    """Writes the table to the directory `out`, as Markdown and as JSON."""
    os.makedirs(out, exist_ok=True)
    files.write_text(os.path.join(out, TABLE), table(rows))
    files.write_json(os.path.join(out, JSON), [dataclasses.asdict(row) for row in rows])
