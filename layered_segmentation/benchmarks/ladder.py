"""Compares students of several sizes as phones run them: mIoU, milliseconds, megabytes.

Each segmenter is converted as float32 and as int8. All files are timed in turn, one image at a
time on one thread with XNNPACK, several rounds over, so that a machine that slows down slows all;
the median round is given. The mIoU is that of the file's masks, by the protocol of `layerseg
evaluate`. Writes OUT/ladder.md and OUT/ladder.json.

Example:
  python -m layered_segmentation.benchmarks.ladder --segmenters=STUDENTS/w8_64,STUDENTS/w24_64 \
      --representative_data=PHOTOS --images=TEST_PHOTOS --masks=TEST_MASKS --out=LADDER
"""

import dataclasses
import functools
import os
import statistics
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from absl import flags

from layered_segmentation import files
from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.data.source import Pair
    from layered_segmentation.segmenter.segmenter import LayeredSegmenter

RESUME = "nothing was written; run it again"
MODES = ("none", "int8")
ROUNDS = 5
TABLE, JSON = "ladder.md", "ladder.json"


@dataclasses.dataclass(frozen=True)
class Rung:
    """One size of student, in one precision.

    Attributes:
        name: Of the segmenter.
        resolution: Side of its input, pixels.
        parameters: How many it has.
        quantize: `none` or `int8`.
        megabytes: Size of the file.
        miou: Mean IoU of the file's masks with the true ones.
        milliseconds: Time of an image on one thread, the median round's median.
        spread: The slowest round less the fastest, milliseconds.
    """

    name: str
    resolution: int
    parameters: int
    quantize: str
    megabytes: float
    miou: float
    milliseconds: float = 0.0
    spread: float = 0.0


def climb(
    segmenters: "dict[str, LayeredSegmenter]", representative_data: str, pairs: "list[Pair]"
) -> list[Rung]:
    """Measures segmenters as TFLite files.

    Args:
        segmenters: By name.
        representative_data: Directory of photos that int8 takes its ranges from.
        pairs: Photos and masks to score on.

    Raises:
        UserError: A photo that is needed cannot be read.
    """
    from layered_segmentation.export import agreement

    found = [
        rung
        for name, segmenter in segmenters.items()
        for rung in _rungs(name, segmenter, representative_data, pairs)
    ]
    rounds = [[agreement.latency(call)[0] for _, call in found] for _ in range(ROUNDS)]
    return [
        dataclasses.replace(
            rung, milliseconds=statistics.median(times), spread=max(times) - min(times)
        )
        for (rung, _), times in zip(found, zip(*rounds, strict=True), strict=True)
    ]


def _rungs(
    name: str, segmenter: "LayeredSegmenter", representative_data: str, pairs: "list[Pair]"
) -> Iterator[tuple[Rung, Callable[[], object]]]:
    """Yields a segmenter's rungs, without their times, each with the call to be timed."""
    import numpy as np

    from layered_segmentation.export import agreement, metadata, quantize, tflite

    side = segmenter.resolution
    samples = quantize.representative_samples(representative_data, side)
    image = quantize.squashed(pairs[0].image, side)[None].astype(np.uint8)
    for mode in MODES:
        content = tflite.convert(segmenter, side, mode, samples if mode == "int8" else ())
        content = metadata.attach(content, "object", mode == "int8")
        run = tflite.interpreter(content, threads=1)
        miou = agreement.score(run, pairs, side)
        size = len(content) / 1e6
        rung = Rung(name, side, segmenter.count_params(), mode, size, miou)
        yield rung, functools.partial(run, image)


def table(rungs: list[Rung]) -> str:
    """Returns rungs as a Markdown table."""
    lines = [
        "| student | input | parameters | `--quantize` | MB | ms, one thread | mIoU |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.name} | {r.resolution} px | {r.parameters:,} | `{r.quantize}` | {r.megabytes:.2f} "
        f"| {r.milliseconds:.2f} (spread {r.spread:.2f}) | {r.miou:.3f} |"
        for r in rungs
    ]
    return "\n".join(lines) + "\n"


def write(rungs: list[Rung], out: str) -> None:
    """Writes the table as Markdown and JSON."""
    os.makedirs(out, exist_ok=True)
    files.write_text(os.path.join(out, TABLE), table(rungs))
    files.write_json(os.path.join(out, JSON), [dataclasses.asdict(rung) for rung in rungs])


if __name__ == "__main__":
    # Flags are defined only where the script runs: two scripts may be imported side by side.
    _SEGMENTERS = flags.DEFINE_list(
        "segmenters", None, "Run or preset directories, with commas between.", required=True
    )
    _REPRESENTATIVE = flags.DEFINE_string(
        "representative_data", None, "Photos that int8 takes its ranges from.", required=True
    )
    _IMAGES = flags.DEFINE_string("images", None, "Photos to score on.", required=True)
    _MASKS = flags.DEFINE_string("masks", None, "Their true masks.", required=True)
    _IGNORE = flags.DEFINE_string("ignore", "", "Masks of pixels that are not scored.")
    _OUT = flags.DEFINE_string("out", None, "Directory to write to.", required=True)
    _OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace tables that exist.")

    def main(argv: list[str]) -> None:
        """Measures a ladder."""
        del argv
        from layered_segmentation.data import folder
        from layered_segmentation.segmenter import presets

        for name in (TABLE, JSON):
            path = os.path.join(_OUT.value, name)
            if os.path.lexists(path) and not _OVERWRITE.value:
                raise UserError(f"{path}: already exists; name another --out or add --overwrite")
        loaded = {
            os.path.basename(os.path.normpath(path)): presets.load(path)
            for path in _SEGMENTERS.value
        }
        if len(loaded) < len(_SEGMENTERS.value):
            raise UserError("--segmenters: two of them have the same name; rename a directory")
        pairs = list(folder.PairFolder(_IMAGES.value, _MASKS.value, _IGNORE.value))
        rungs = climb(loaded, _REPRESENTATIVE.value, pairs)
        write(rungs, _OUT.value)
        print(table(rungs) + f"table: {os.path.join(_OUT.value, TABLE)}, {JSON}")

    app.run(main)
