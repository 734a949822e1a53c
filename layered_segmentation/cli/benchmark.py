r"""Measures the speed of training, stage by stage.

Each row is a full step: discriminator with gradient penalty, generator, moving average. All
variants are timed in turn in one run, several times, so that a slowdown of the machine affects
all of them; compare the ratios. `plain` is the unfused graph with TensorFlow's own threads and
kernels; the others run as in `layerseg train`. Processor time includes all threads, and hardly
depends on what else the machine does. The last column relates the operations per second
of the step to the peak of the machine's matrix multiplication, measured in the same run.

With --time_to_mask, a GAN and its student are trained instead, with every seed. Held-out photos are
scored every --look_every images, after the student's generated pairs and after each round of
self-training. Seconds are those of training alone. A look at the GAN scores a student of 200 steps,
whose seconds count.

Example:
  layerseg benchmark --resolutions=8,16,32 --max_channels=64 --batch=32 --out=benchmark.json
  layerseg benchmark --compare=gan.penalty_every=4 --compare=gan.shared_pass=true --steps=8
  layerseg benchmark --time_to_mask=0.8 --seeds=0,1,2
  layerseg benchmark --time_to_mask=0.8 --config=quickstart_photos --set=data.path=PHOTOS \
      --test_images=TEST --test_masks=MASKS
"""

import dataclasses
import os
import tempfile
from collections.abc import Sequence

from absl import flags

from layered_segmentation import config as configs
from layered_segmentation import files, quiet
from layered_segmentation.choices import Precision, SourceName
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

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
_COMPARE = flags.DEFINE_multi_string(
    "compare",
    [],
    "Settings of a further variant to time, section.field=value, several separated by commas; may "
    "be repeated.",
)
_TIME_TO_MASK = flags.DEFINE_float(
    "time_to_mask", None, "Mean IoU of held-out photos until which to measure.", 0.0, 1.0
)
_CONFIG, _SET = app.define_config_flags()
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds to train with, one after the other.")
_LOOK_EVERY = flags.DEFINE_integer("look_every", 10_000, "Images between looks.", lower_bound=1)
_TEST_IMAGES = flags.DEFINE_string("test_images", "", "Directory of photos to test on.")
_TEST_MASKS = flags.DEFINE_string("test_masks", "", "Directory of their true masks.")
for _FLAG in (_CONFIG, _SET, _SEEDS, _LOOK_EVERY, _TEST_IMAGES, _TEST_MASKS):
    app.goes_with(_FLAG, _TIME_TO_MASK)
_OUT = flags.DEFINE_string("out", "", "JSON file to write the results to.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")


def main(_: list[str]) -> None:
    """Times every stage, or whole trainings, and prints a table."""
    if _TIME_TO_MASK.value is None:
        _time_stages()
    else:
        _time_to_mask()


def _time_to_mask() -> None:
    config = configs.load(_CONFIG.value or "quickstart", _SET.value)
    for seed in _SEEDS.value:
        if not seed.isdecimal():
            raise UserError(f"--seeds={seed}: seeds are whole numbers, as in --seeds=0,1,2")
    is_scenes = config.data.name == SourceName.shapes
    if not is_scenes and not (_TEST_IMAGES.value and _TEST_MASKS.value):
        raise UserError(f"--config={_CONFIG.value}: it needs --test_images and --test_masks too")
    shared.require_new_file(_OUT.value, _OVERWRITE.value)
    quiet.import_tensorflow()
    from layered_segmentation.benchmarks import time_to_mask
    from layered_segmentation.data import folder
    from layered_segmentation.data.source import Pair
    from layered_segmentation.evaluation import test_sets
    from layered_segmentation.run_directory import RunDirectory

    pairs: Sequence[Pair]
    if _TEST_MASKS.value:
        pairs = folder.PairFolder(_TEST_IMAGES.value, _TEST_MASKS.value)
    else:
        pairs = test_sets.held_out_scenes(config.gan.resolution, objects=config.data.objects)
    looks = []
    print(time_to_mask.HEADER, flush=True)
    for seed in _SEEDS.value:
        train = dataclasses.replace(config.train, seed=int(seed))
        with tempfile.TemporaryDirectory() as directory:
            looks += time_to_mask.measure(
                dataclasses.replace(config, train=train),
                RunDirectory(os.path.join(directory, "run")),
                pairs,
                _LOOK_EVERY.value,
                show=lambda look: print(look.line(), flush=True),
            )
    print(time_to_mask.reached(looks, _TIME_TO_MASK.value))
    if _OUT.value:
        files.write_json(_OUT.value, [dataclasses.asdict(look) for look in looks])


def _time_stages() -> None:
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
            compared=_COMPARE.value,
        )
        for row in timed:
            print(row.line(), flush=True)
        rows += timed
    if _OUT.value:
        files.write_json(_OUT.value, [dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    app.run(main)
