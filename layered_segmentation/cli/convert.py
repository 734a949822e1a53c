"""Converts a checkpoint of the authors' PyTorch release to a run directory.

The run contains the averaged generator and the discriminator. It draws, distills and exports like
any other run. Reading the file needs PyTorch. A checkpoint has no photos: --set=data.path=PHOTOS
names those that `layerseg distill` uses in addition to generated scenes.

Example:
  layerseg convert --checkpoint=train_step-5.model --out=RUN --set=data.path=PHOTOS
"""

import os
import sys

from absl import flags

from layered_segmentation import config as configs
from layered_segmentation import quiet
from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "File written by the release's training script.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Run directory to write; it must not exist.", required=True)
_RESOLUTION = flags.DEFINE_integer(
    "resolution",
    None,
    "Image side of the run, pixels; by default that of the stage that was training. (A file "
    "train_step-N.model is of the stage before N: train_step-5.model draws 64 px.)",
    lower_bound=8,
)
_SET = flags.DEFINE_multi_string(
    "set", [], "A setting of the run, as in --set=data.path=PHOTOS; may be repeated."
)

_PAPER_RESOLUTION = 128


def main(_: list[str]) -> None:
    """Converts one checkpoint."""
    path, out = _CHECKPOINT.value, _OUT.value
    if os.path.lexists(out):
        raise UserError(f"--out={out}: it exists; name a new directory")
    parent = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(parent):
        raise UserError(f"--out={out}: there is no directory {parent}")
    if not os.path.isfile(path):
        raise UserError(f"--checkpoint={path}: there is no such file")
    configs.load(overrides=_SET.value)  # reports mistakes before the work

    quiet.import_tensorflow()
    from layered_segmentation.port import checkpoint as release_checkpoint
    from layered_segmentation.port import weights

    checkpoint = release_checkpoint.read(path)
    try:
        parts = release_checkpoint.find_parts(checkpoint, needs_stage=_RESOLUTION.value is None)
        resolution = _RESOLUTION.value or parts.resolution or _PAPER_RESOLUTION
        generator = weights.generator_from_state_dict(parts.generator, resolution)
        discriminator = None
        if parts.discriminator:
            discriminator = weights.discriminator_from_state_dict(parts.discriminator, resolution)
    except UserError as error:
        raise UserError(f"--checkpoint={path}: {error}") from error
    config = release_checkpoint.run_config(generator, discriminator, _SET.value)
    run = release_checkpoint.write_run(out, config, generator, discriminator)

    stage = parts.resolution
    if stage is None and _RESOLUTION.value is None:
        print(
            "warning: the file does not record which stage was training (no `step`); using the "
            f"paper's {resolution} px; --resolution chooses another",
            file=sys.stderr,
        )
    elif stage is not None and resolution > stage:
        print(
            f"warning: the stage of {stage} px was training (step {parts.step}), so the layers of "
            f"higher resolutions are untrained; converted to {resolution} px anyway",
            file=sys.stderr,
        )
    average = "the average" if parts.is_average else "not an average; the file has none"
    print(
        f"{generator.variant}, {resolution} px, latent {generator.latent_dim}, "
        f"{generator.max_channels} channels, from {parts.generator_name} ({average})"
    )
    if discriminator is None:
        print("the file has no discriminator: `layerseg autoencode` will not work with this run")
    if parts.alpha < 1 and resolution == parts.resolution:
        print(
            f"{resolution} px was faded in to {parts.alpha:.2f} when it was saved; scenes are "
            f"drawn as if to 1. For the stage before, use --resolution={resolution // 2}"
        )
    print(f"run: {run.path}")
    print(app.next_step("sample", run_dir=run.path, out="sheet.png"))


if __name__ == "__main__":
    app.run(main)
