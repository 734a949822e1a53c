"""Draws scenes: a sheet of their layers, grids, animations, or image files.

The scenes are those of a trained run (--run_dir), or of a generator in the package (--preset).

On the sheet (--out), columns are scenes; rows are background, foreground, mask, masked foreground
and composite. With --grid, the rows are composites that change step by step: from each scene to the
next (interpolation), to the mean style (truncation), with the coarse styles of each scene in turn
(mixing), or with the foreground and its mask shifted over the background (shift). If --out ends
with .gif or .webp, the steps are an animation of the whole sheet.

--images_out writes composites to images/000001.png … and their masks at 0.5 to masks/, as input to
any detector. The same seed draws the same scenes. The file scenes.json next to them identifies the
scenes: copy it to a detector's masks, and `layerseg evaluate_generated` refuses masks of other
scenes. examples/mask_rcnn.py runs Mask R-CNN on them.

Example:
  layerseg sample --preset=layered_generator_flowers_16 --out=sheet.png
  layerseg sample --run_dir=RUN --out=sheet.png --seed=1 --truncation=0.7
  layerseg sample --run_dir=RUN --out=shift.webp --grid=shift --count=5
  layerseg sample --run_dir=RUN --count=10000 --images_out=SCENES
  layerseg evaluate --predictions=SCENES/masks --images=SCENES/images --masks=DETECTED
"""

import contextlib
import os
import re
from typing import TYPE_CHECKING

from absl import flags

from layered_segmentation import files, quiet
from layered_segmentation.choices import Grid
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.evaluation.generated import GeneratedScenes

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the run.")
_PRESET = flags.DEFINE_string(
    "preset", None, "A generator of the package instead, such as layered_generator_flowers_16."
)
_STAGE = shared.define_stage_flag()
_OUT = flags.DEFINE_string(
    "out", "", "File to write the sheet to, .png; .gif or .webp for an animation of a grid."
)
_GRID = flags.DEFINE_enum("grid", None, list(Grid), "What the rows of the sheet change.")
_IMAGES_OUT = flags.DEFINE_string(
    "images_out", "", "Directory to write images/, masks/ (one PNG per scene) and scenes.json to."
)
_SIZE = shared.define_detector_size_flag()
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the scenes.", lower_bound=0, upper_bound=2**31 - 1)
_TRUNCATION = flags.DEFINE_float(
    "truncation",
    1.0,
    "ψ in [0, 1]: scale of styles around their mean; smaller is more typical and less varied.",
)
_COUNT = flags.DEFINE_integer("count", 8, "Number of scenes.", lower_bound=1, upper_bound=999_999)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace existing files.")
app.goes_with(_GRID, _OUT)
flags.mark_flags_as_mutual_exclusive([_RUN_DIR, _PRESET], required=True)

RESUME = "the files written so far are complete; run it again with --overwrite"

_COLUMNS = 10
_MOST_ON_SHEET = 10_000
_MOST_ON_GRID = 20
_ROWS = 8
_FRAMES = 24
_ANIMATIONS = (".gif", ".webp")
_FOLDERS = ("images", "masks")
_NUMBERED = re.compile(r"\d{6}\.png")


def main(_: list[str]) -> None:
    """Draws one sheet, writes files, or both."""
    if not 0 <= _TRUNCATION.value <= 1:
        raise UserError(f"--truncation={_TRUNCATION.value}: it must be in [0, 1]")
    if not _OUT.value and not _IMAGES_OUT.value:
        raise UserError("name what to write: --out=sheet.png, or --images_out=DIR, or both")
    if _OUT.value:
        _check_sheet(_OUT.value)
    if _IMAGES_OUT.value:
        _check_directory(_IMAGES_OUT.value)

    path = _RUN_DIR.value
    if _PRESET.value:
        from layered_segmentation.gan import network_files

        path = network_files.packaged(_PRESET.value)
    run = shared.open_run(path, _STAGE.value)
    name = _PRESET.value or run.path
    quiet.import_tensorflow()

    from layered_segmentation import sheets
    from layered_segmentation.evaluation.generated import GeneratedScenes
    from layered_segmentation.gan import networks

    generated = GeneratedScenes(
        networks.load_generator(run), _SEED.value, _TRUNCATION.value, _SIZE.value
    )
    if _OUT.value:
        if _GRID.value:
            _write_grid(generated, run.config().gan.shift, _OUT.value)
        else:
            layers = generated.layers(_COUNT.value)
            sheets.save_png(sheets.layers_sheet(layers, columns=_COLUMNS), _OUT.value)
        print(f"{_COUNT.value} scenes of {name}, seed {_SEED.value}: {_OUT.value}")
    if _IMAGES_OUT.value:
        _write_scenes(generated, _IMAGES_OUT.value, name)
        folders = " and ".join(os.path.join(_IMAGES_OUT.value, name) for name in _FOLDERS)
        print(f"{_COUNT.value:,} scenes of {name}, seed {_SEED.value}: {folders}")


def _write_grid(generated: "GeneratedScenes", shift: float, out: str) -> None:
    """Writes the grid, or a sheet of layers for each of its rows as the frames of an animation."""
    from layered_segmentation import sheets
    from layered_segmentation.gan import gallery

    is_animation = _is_animation(out)
    rows = gallery.rows_of(
        _GRID.value,
        generated.generator,
        generated.seed,
        _COUNT.value,
        _FRAMES if is_animation else _ROWS,
        generated.truncation,
        shift,
    )
    if not is_animation:
        sheets.save_png(sheets.composites_sheet(rows), out)
        return
    frames = [sheets.layers_sheet(row.layers, columns=_COUNT.value) for row in rows]
    if _GRID.value in (Grid.interpolation, Grid.truncation):
        frames += frames[-2:0:-1]  # and back
    sheets.save_animation(frames, out, milliseconds=500 if _GRID.value == Grid.mixing else 80)


def _is_animation(out: str) -> bool:
    return out.lower().endswith(_ANIMATIONS)


def _write_scenes(generated: "GeneratedScenes", directory: str, run: str) -> None:
    from layered_segmentation import images
    from layered_segmentation.evaluation.generated import write_record
    from layered_segmentation.progress import Bar

    for name in _FOLDERS:
        os.makedirs(os.path.join(directory, name), exist_ok=True)
    _remove_earlier(directory)
    with Bar(_COUNT.value, "drawing", "scene") as bar:
        for scene in generated.first(_COUNT.value):
            image, mask = (os.path.join(directory, name, f"{scene.name}.png") for name in _FOLDERS)
            images.write(image, scene.image)
            images.write_mask(mask, scene.mask >= 0.5)
            bar.update()
    write_record(directory, generated, _COUNT.value, run)


def _check_sheet(out: str) -> None:
    if _COUNT.value > _MOST_ON_SHEET:
        raise UserError(f"--count={_COUNT.value}: a sheet shows at most {_MOST_ON_SHEET:,} scenes")
    if _GRID.value and _COUNT.value > _MOST_ON_GRID:
        raise UserError(f"--count={_COUNT.value}: a grid shows at most {_MOST_ON_GRID} scenes")
    if _is_animation(out) and not _GRID.value:
        grids = "|".join(Grid)
        raise UserError(
            f"--out={out}: an animation shows a grid; add --grid={grids}, or name a .png file"
        )
    if not out.lower().endswith((".png", *_ANIMATIONS)):
        also = ", or .gif or .webp for an animation" if _GRID.value else ""
        raise UserError(f"--out={out}: the sheet is a PNG file; end its name with .png{also}")
    if os.path.isdir(out):
        raise UserError(f"--out={out}: a directory has this name; name a file")
    if os.path.exists(out) and not _OVERWRITE.value:
        raise UserError(f"--out={out}: the file exists; choose another name or add --overwrite")
    parent = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(parent):
        raise UserError(f"--out={out}: there is no directory {parent}")


def _check_directory(directory: str) -> None:
    """Refuses a directory with other files: an evaluation would take them for scenes."""
    inside = [os.path.join(directory, name) for name in _FOLDERS]
    for path in (directory, *inside):
        if os.path.exists(path) and not os.path.isdir(path):
            raise UserError(f"--images_out={directory}: {path} is a file; name another directory")
    for path in inside:
        found = sorted(os.listdir(path)) if os.path.isdir(path) else []
        others = [file for file in found if not _NUMBERED.fullmatch(files.final_name(file))]
        if others:
            raise UserError(
                f"--images_out={directory}: {path} contains {others[0]!r}, which is no scene of an "
                "earlier run; name another directory"
            )
        if found and not _OVERWRITE.value:
            raise UserError(
                f"--images_out={directory}: {path} contains {len(found):,} scenes already; name "
                "another directory or add --overwrite"
            )
    record = _record_path(directory)
    if os.path.isdir(record) or (os.path.lexists(record) and not _OVERWRITE.value):
        way_out = "" if os.path.isdir(record) else " or add --overwrite"
        raise UserError(
            f"--images_out={directory}: {record} exists already; name another directory{way_out}"
        )


def _record_path(directory: str) -> str:
    from layered_segmentation.evaluation.generated import RECORD

    return os.path.join(directory, RECORD)


def _remove_earlier(directory: str) -> None:
    """Removes the scenes of an earlier call, which may have been more, and their record."""
    for name in _FOLDERS:
        folder = os.path.join(directory, name)
        for file in os.listdir(folder):
            os.remove(os.path.join(folder, file))
    with contextlib.suppress(FileNotFoundError):
        os.remove(_record_path(directory))


if __name__ == "__main__":
    app.run(main)
