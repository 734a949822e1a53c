"""Draws a sheet of generated layers from a trained run.

Columns are scenes; rows are background, foreground, mask, masked foreground and composite. The
same seed draws the same scenes.

Example:
  layerseg sample --run_dir=RUN --out=sheet.png --seed=1 --truncation=0.7
"""

import os

from absl import flags

from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the run.", required=True)
_OUT = flags.DEFINE_string("out", None, "PNG file to write.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the scenes.", lower_bound=0, upper_bound=2**31 - 1)
_TRUNCATION = flags.DEFINE_float(
    "truncation",
    1.0,
    "ψ in [0, 1]: how far styles may lie from their mean; smaller is more typical, less varied.",
)
_COUNT = flags.DEFINE_integer("count", 8, "How many scenes.", lower_bound=1, upper_bound=10_000)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the file if there is one.")

_COLUMNS = 10


def main(argv: list[str]) -> None:
    """Draws one sheet."""
    del argv
    out = _OUT.value
    if not 0 <= _TRUNCATION.value <= 1:
        raise UserError(f"--truncation={_TRUNCATION.value}: it must be in [0, 1]")
    if not out.lower().endswith(".png"):
        raise UserError(f"--out={out}: the sheet is a PNG file; end its name with .png")
    if os.path.isdir(out):
        raise UserError(f"--out={out}: a directory has this name; name a file")
    if os.path.exists(out) and not _OVERWRITE.value:
        raise UserError(f"--out={out}: there is such a file; take another name or add --overwrite")
    parent = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(parent):
        raise UserError(f"--out={out}: there is no directory {parent}")

    from layered_segmentation.training.run_directory import RunDirectory

    run = RunDirectory.open(_RUN_DIR.value)
    generator = run.load_generator()

    from layered_segmentation.evaluation import sheets
    from layered_segmentation.training import sampling

    layers = sampling.sample_layers(generator, _SEED.value, _COUNT.value, _TRUNCATION.value)
    sheets.save_png(sheets.layers_sheet(layers, columns=_COLUMNS), out)
    print(f"{_COUNT.value} scenes of {run.path}, seed {_SEED.value}: {out}")


if __name__ == "__main__":
    app.run(main)
