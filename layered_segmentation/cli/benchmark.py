"""Measures training speed stage by stage, and what fusing and mixed precision bring.

Each row is a full step: discriminator with gradient penalty, generator, average. All variants are
timed in turn in one run, several times over, so that a machine that slows down slows all of them;
compare the ratios. `plain` is the unfused graph with TensorFlow's own threads and kernels, the
others run as `layerseg train` does. The last column is the share of the machine's matrix-multiply
peak, measured in the same run, that the step's counted operations take.

Example:
  layerseg benchmark --resolutions=8,16,32 --max_channels=64 --batch=32 --out=benchmark.json
"""

import json
import os

from absl import flags

from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

_RESOLUTIONS = flags.DEFINE_list("resolutions", ["8", "16", "32"], "Stages to time, pixels.")
_CHANNELS = flags.DEFINE_integer("max_channels", 64, "Cap on channels.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 32, "Images a step.", lower_bound=1)
_LATENT = flags.DEFINE_integer("latent_dim", 128, "Length of latents.", lower_bound=1)
_PRECISION = flags.DEFINE_enum(
    "mixed", "mixed_bfloat16", ["mixed_bfloat16", "mixed_float16"], "The mixed precision to time."
)
_STEPS = flags.DEFINE_integer("steps", 4, "Steps of a round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds; the median is reported.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "JSON file to write the figures to as well.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the file if there is one.")


def main(argv: list[str]) -> None:
    """Times every stage and prints a table."""
    del argv
    resolutions = _resolutions()
    if _OUT.value and os.path.exists(_OUT.value) and not _OVERWRITE.value:
        raise UserError(f"--out={_OUT.value}: it exists; name another file or add --overwrite")

    from layered_segmentation.training import benchmark
    from layered_segmentation.training.run_directory import write_text

    rows = []
    print(benchmark.HEADER, flush=True)
    for resolution in resolutions:
        timed = benchmark.time_stage(
            benchmark.Sizes(resolution, _CHANNELS.value, _BATCH.value, _LATENT.value),
            mixed=_PRECISION.value,
            steps=_STEPS.value,
            rounds=_ROUNDS.value,
            chosen=app.CHOSEN,
        )
        for row in timed:
            print(row.line(), flush=True)
        rows += timed
    if _OUT.value:
        write_text(_OUT.value, json.dumps([row.to_json() for row in rows], indent=2) + "\n")


def _resolutions() -> list[int]:
    resolutions = []
    for text in _RESOLUTIONS.value:
        side = int(text) if text.isdigit() else 0
        if side < 8 or side & (side - 1):
            raise UserError(f"--resolutions={text}: a resolution is a power of two from 8")
        resolutions.append(side)
    return resolutions


if __name__ == "__main__":
    app.run(main)
