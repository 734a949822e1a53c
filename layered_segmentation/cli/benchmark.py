"""Measures the speed of training, stage by stage.

Each row is a full step: discriminator with gradient penalty, generator, moving average. All
variants are timed in turn in one run, several times, so that a slowdown of the machine affects
all of them; compare the ratios. `plain` is the unfused graph with TensorFlow's own threads and
kernels; the others run as in `layerseg train`. The last column relates the operations per second
of the step to the peak of the machine's matrix multiplication, measured in the same run.

Example:
  layerseg benchmark --resolutions=8,16,32 --max_channels=64 --batch=32 --out=benchmark.json
"""

import dataclasses

from absl import flags

from layered_segmentation import files, quiet
from layered_segmentation.choices import Precision
from layered_segmentation.cli import app, shared

_RESOLUTIONS = flags.DEFINE_list("resolutions", ["8", "16", "32"], "Stages to time, pixels.")
_CHANNELS = flags.DEFINE_integer("max_channels", 64, "Cap on channels.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 32, "Images per step.", lower_bound=1)
_LATENT = flags.DEFINE_integer("latent_dim", 128, "Length of latents.", lower_bound=1)
_PRECISION = flags.DEFINE_enum(
    "mixed",
    Precision.mixed_bfloat16,
    [Precision.mixed_bfloat16, Precision.mixed_float16],
    "The mixed precision to time.",
)
_STEPS = flags.DEFINE_integer("steps", 4, "Steps per round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds; the median is reported.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "JSON file to write the results to.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")


def main(_: list[str]) -> None:
    """Times every stage and prints a table."""
    resolutions = shared.parse_resolutions(_RESOLUTIONS.value)
    shared.require_new_file(_OUT.value, _OVERWRITE.value)
    quiet.import_tensorflow()
    from layered_segmentation.benchmarks import training

    rows = []
    print(training.HEADER, flush=True)
    for resolution in resolutions:
        timed = training.time_stage(
            training.Sizes(resolution, _CHANNELS.value, _BATCH.value, _LATENT.value),
            mixed=_PRECISION.value,
            steps=_STEPS.value,
            rounds=_ROUNDS.value,
            chosen=app.CHOSEN,
        )
        for row in timed:
            print(row.line(), flush=True)
        rows += timed
    if _OUT.value:
        files.write_json(_OUT.value, [dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    app.run(main)
