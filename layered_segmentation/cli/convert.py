"""Converts a checkpoint of the authors' PyTorch release to a run directory.

The run has their averaged generator and their discriminator, and draws, distills and exports as a
run that was trained here. Reading the file needs PyTorch. Photos are not part of a checkpoint:
--set=data.path=PHOTOS names those that distill learns from beside the generated scenes.

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
    "checkpoint", None, "File that the release's training script wrote.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Run directory to write, a new one.", required=True)
_RESOLUTION = flags.DEFINE_integer(
    "resolution",
    None,
    "Image side to keep, pixels; that of the stage that was training if not given. (A file "
    "train_step-N.model is of the stage before N: train_step-5.model draws 64 px.)",
    lower_bound=8,
)
_SET = flags.DEFINE_multi_string(
    "set", [], "A setting of the run, as in --set=data.path=PHOTOS; may be repeated."
)

_PAPERS_RESOLUTION = 128


def main(argv: list[str]) -> None:
    """Converts one checkpoint."""
    del argv
    path, out = _CHECKPOINT.value, _OUT.value
    if os.path.lexists(out):
        raise UserError(f"--out={out}: there is one already; name a new directory")
    parent = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(parent):
        raise UserError(f"--out={out}: there is no directory {parent}")
    if not os.path.isfile(path):
        raise UserError(f"--checkpoint={path}: there is no such file")
    configs.load(overrides=_SET.value)  # a mistake in it shows before the work

    quiet.import_tensorflow()
    from layered_segmentation.port import checkpoint as release_checkpoint
    from layered_segmentation.port import weights

    checkpoint = release_checkpoint.read(path)
    try:
        parts = release_checkpoint.find_parts(checkpoint, needs_stage=_RESOLUTION.value is None)
        resolution = _RESOLUTION.value or parts.resolution or _PAPERS_RESOLUTION
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
            "warning: the file does not say which stage was training (no `step`); took "
            f"{resolution} px, the paper's; --resolution chooses another",
            file=sys.stderr,
        )
    elif stage is not None and resolution > stage:
        print(
            f"warning: the file says that {stage} px was training (step {parts.step}), so what it "
            f"holds beyond is untrained; converted to {resolution} px all the same",
            file=sys.stderr,
        )
    average = "the average" if parts.is_average else "not an average; the file holds none"
    print(
        f"{generator.variant}, {resolution} px, latent {generator.latent_dim}, "
        f"{generator.max_channels} channels, from {parts.generator_name} ({average})"
    )
    if discriminator is None:
        print("no discriminator in it: `layerseg autoencode` will not work with this run")
    if parts.alpha < 1 and resolution == parts.resolution:
        print(
            f"{resolution} px had faded in to {parts.alpha:.2f} when it was saved; its scenes are "
            f"drawn as if wholly. The stage before: --resolution={resolution // 2}"
        )
    print(f"run: {run.path}\nnext: layerseg sample --run_dir={run.path} --out=sheet.png")


if __name__ == "__main__":
    app.run(main)
