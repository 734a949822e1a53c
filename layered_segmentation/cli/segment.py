"""Writes masks and cut-outs for photos, each at the photo's own size.

For every photo NAME.jpg: NAME.mask.png (0 and 255) and NAME.cutout.png (the object with a soft
edge, transparent around it). Sub-directories are kept. Without --out, results are written next to
the photos.

`-` reads one photo from stdin. Its cut-out, or with --only=mask its mask, is written to stdout
unless --out names a directory.

Example:
  layerseg segment photo.jpg
  layerseg segment --segmenter=RUN --out=MASKS --skip_existing PHOTOS more.png
  layerseg segment - --background=white < photo.jpg > cutout.png
"""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from layered_segmentation import photo, quiet
from layered_segmentation.choices import RECOMMENDED_REFINEMENT
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError
from layered_segmentation.photo import Photo
from layered_segmentation.progress import Bar
from layered_segmentation.segmenter import cut_out, outputs, pipeline, preset_files

if TYPE_CHECKING:
    from layered_segmentation.segmenter import domain

ARGUMENTS = "PHOTO_OR_DIRECTORY …"

_SEGMENTER = flags.DEFINE_string(
    "segmenter",
    preset_files.DEFAULT,
    "Run directory, preset directory, hf://…, kaggle://… or TFLite file.",
)
_INPUT = flags.DEFINE_string("input", "", "A photo, or a directory of photos.")
_OUT = flags.DEFINE_string("out", "", "Directory to write to, or - for stdout.")
_REFINE = shared.define_refine_flag(RECOMMENDED_REFINEMENT)
_LOOKS = shared.define_looks_flag()
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.5, "Minimum probability of a pixel of the object.", 0.0, 1.0
)
_ONLY = flags.DEFINE_enum(
    "only", "", ["", "mask", "cutout"], "Write only masks or only cut-outs; both if empty."
)
_MASK_FORMAT = flags.DEFINE_enum(
    "mask_format", "binary", ["binary", "soft"], "Masks of 0 and 255, or of 255 × probability."
)
_BACKGROUND = flags.DEFINE_string(
    "background",
    "",
    "Background of cut-outs: a colour, such as white or '#30a0ff', or blur for the photo's own, "
    "blurred; transparent if empty.",
)
_FORMAT = flags.DEFINE_enum(
    "format", "png", ["png", "webp"], "File format of cut-outs; masks are PNG files."
)
_EDGES = flags.DEFINE_enum(
    "edges",
    "matte",
    ["matte", "mask"],
    "Edges of cut-outs: transparency and colours estimated from the photo, or the mask's own "
    "softness and the photo's colours.",
)
_RUNTIME = flags.DEFINE_enum(
    "runtime",
    "auto",
    ["auto", "keras", "litert"],
    "What runs the network: LiteRT, which starts at once, needs the preset's TFLite file; auto "
    "uses Keras where there is none.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace existing masks and cut-outs.")
_SKIP_EXISTING = flags.DEFINE_bool(
    "skip_existing", False, "Go on after a stopped run: leave out photos whose results exist."
)
shared.define_max_pixels_flag()

RESUME = "the masks written so far are complete; run it again with --skip_existing"

_BATCH = 8  # photos that are segmented together, if they are small


def main(argv: list[str]) -> int:
    """Segments photos and directories of them."""
    style = _style()
    inputs = [*([_INPUT.value] if _INPUT.value else []), *argv[1:]]
    if not inputs or "" in inputs:
        raise UserError("name a photo or a directory, as in `layerseg segment photo.jpg`")
    if _SKIP_EXISTING.value and _OVERWRITE.value:
        raise UserError("--skip_existing and --overwrite contradict each other; leave one out")
    if flags.FLAGS["segmenter"].using_default_value:
        print(f"segmenter: {_SEGMENTER.value} (--segmenter names another)", file=sys.stderr)
    out = _OUT.value
    photos: dict[str, str | bytes]
    if outputs.STREAM in inputs:
        photos, out = _read_stdin(inputs), out or outputs.STREAM
    else:
        photos = {**outputs.find_all(inputs, "" if out == outputs.STREAM else out)}
    if out == outputs.STREAM:
        return _write_stdout(photos, style)
    paths = outputs.name_outputs(photos, out, style)
    count = len(paths)
    if _SKIP_EXISTING.value:
        paths = outputs.without_results(paths, style)
        print(f"{count - len(paths):,} of {count:,} photos have results already", file=sys.stderr)
    elif not _OVERWRITE.value:
        outputs.require_free(paths.values(), style)
    return _segment_files({name: photos[name] for name in paths}, paths, style) if paths else 0


def _style() -> outputs.Style:
    """Returns what is to be written; refuses what contradicts itself."""
    outputs.require_threshold(_THRESHOLD.value)
    cut_out.require_background(_BACKGROUND.value)
    for flag in (_BACKGROUND, _FORMAT, _EDGES):
        if _ONLY.value == "mask" and flag.present:
            raise UserError(f"--{flag.name}={flag.value}: it goes with cut-outs, not --only=mask")
    if _ONLY.value == "cutout" and _MASK_FORMAT.present:
        raise UserError("--mask_format: it goes with masks, not --only=cutout")
    return outputs.Style(
        _THRESHOLD.value,
        _ONLY.value,
        _MASK_FORMAT.value,
        _BACKGROUND.value,
        _FORMAT.value,
        _EDGES.value,
    )


def _read_stdin(inputs: list[str]) -> dict[str, str | bytes]:
    if len(inputs) > 1:
        raise UserError("- reads one photo from stdin; leave out the other inputs")
    if sys.stdin.isatty():
        raise UserError("- reads a photo from stdin, which is a terminal; redirect a file into it")
    return {"stdin": sys.stdin.buffer.read()}


def _write_stdout(photos: dict[str, str | bytes], style: outputs.Style) -> int:
    """Writes one photo's cut-out, or its mask, to stdout, and nothing else; returns the status."""
    if len(photos) > 1:
        raise UserError(f"--out=-: one result goes to stdout, and there are {len(photos):,} photos")
    if sys.stdout.isatty():
        raise UserError("--out=-: stdout is a terminal; redirect it to a file or a program")
    ((name, file),) = photos.items()
    source = _read(file, name)
    predict, watch = _open_segmenter()
    (mask,) = predict([source])
    (end, *_) = reversed(style.endings)
    result = outputs.encode(end, source, _refined(source, mask), style)
    sys.stdout.flush()
    sys.stdout.buffer.write(result)
    sys.stdout.buffer.flush()
    _warn(watch)
    return 0


def _segment_files(
    photos: dict[str, str | bytes], paths: dict[str, str], style: outputs.Style
) -> int:
    """Segments photos; returns the exit status.

    Args:
        photos: The path or the content of each photo by its name.
        paths: The path of its outputs without the ending, by its name.
        style: What is written.
    """
    predict, watch = _open_segmenter()
    start, processor = time.perf_counter(), time.process_time()
    unreadable = []
    sizes = ((name, outputs.pixels_of(path)) for name, path in photos.items())
    work = pipeline.batches(sizes, _BATCH, pipeline.PIXELS // 2)

    def write(name: str, source: Photo, mask: np.ndarray) -> None:
        outputs.write(paths[name], source, _refined(source, mask), style)

    with Bar(len(photos), "segmenting", "photo") as bar:
        for _, error in pipeline.run(
            work, lambda name: _read(photos[name], name), predict, write, pipeline.PIXELS
        ):
            if error is not None:
                unreadable.append(str(error))
            bar.update()
    outputs.sync(paths.values())
    if len(unreadable) == len(photos):
        raise UserError(f"none can be read; the first: {unreadable[0]}")
    seconds = time.perf_counter() - start
    cores = (time.process_time() - processor) / seconds
    done = len(photos) - len(unreadable)
    what = {"": "masks and cut-outs", "mask": "masks", "cutout": "cut-outs"}[style.only]
    where = _OUT.value or "the directories of the photos"
    print(f"{done:,} {what} in {where}, {done / seconds:,.1f} images/s, {cores:.2f} cores busy")
    _warn(watch)
    return shared.print_skipped(unreadable)


def _read(file: str | bytes, name: str) -> Photo:
    return photo.read(file, name if isinstance(file, bytes) else file)


def _refined(source: Photo, mask: np.ndarray) -> np.ndarray:
    from layered_segmentation.segmenter import refine

    return refine.refine(source.image, mask, _REFINE.value)


def _warn(watch: "domain.Watch") -> None:
    if warning := watch.warning():
        print(f"warning: {warning}", file=sys.stderr)


def _open_segmenter() -> "tuple[Callable[[list[Photo]], list[np.ndarray]], domain.Watch]":
    """Returns a function from photos to their masks, and what watches the photos it is given."""
    from layered_segmentation.segmenter import domain, lite, looks

    path, runtime = _SEGMENTER.value, _RUNTIME.value
    file = lite.find(path)
    if file == path and runtime == "keras":
        raise UserError(f"--segmenter={path}: --runtime=keras takes presets, not TFLite files")
    if not file and runtime == "litert":
        raise UserError(
            f"--segmenter={path}: has no {preset_files.TFLITE}; save it again to add one, or leave "
            "out --runtime=litert"
        )
    predict: looks.Predict
    if file and runtime != "keras":
        predict = lite.load(file).predict_masks
    else:
        quiet.import_tensorflow()
        from layered_segmentation.segmenter import presets

        predict = presets.load(path).predict_masks
    watch = domain.Watch(domain.of_segmenter(path))

    def segment(photos: list[Photo]) -> list[np.ndarray]:
        return looks.predict_masks(predict, [one.image for one in photos], _LOOKS.value, watch)

    return segment, watch


if __name__ == "__main__":
    app.run(main)
