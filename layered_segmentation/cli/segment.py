"""Writes masks and cut-outs for photos, each at the photo's own size.

For every photo NAME.jpg: NAME.mask.png (0 and 255) and NAME.cutout.png (the object with a soft
edge, transparent around it). Sub-directories are kept.

Example:
  layerseg segment --segmenter=RUN --input=PHOTOS --out=MASKS --refine=guided
"""

import collections
import os
import sys
import time
from typing import Any

from absl import flags

from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

_SEGMENTER = flags.DEFINE_string(
    "segmenter", None, "Run directory, preset directory, hf://… or kaggle://….", required=True
)
_INPUT = flags.DEFINE_string("input", None, "A photo, or a directory of photos.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory to write to.", required=True)
_REFINE = flags.DEFINE_enum(
    "refine",
    "none",
    ["none", "guided", "grabcut"],
    "How the mask is fitted to the photo's edges at the photo's own size.",
)
_LOOKS = flags.DEFINE_integer(
    "looks", 1, "2: what is found is segmented again from a crop around it.", 1, 2
)
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.5, "Probability from which a pixel counts as the object.", 0.0, 1.0
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace masks and cut-outs that exist.")

RESUME = "the masks written so far are whole; run it again with --overwrite"

MASK, CUTOUT = ".mask.png", ".cutout.png"
_BATCH = 8  # photos in memory at once


def main(argv: list[str]) -> int:
    """Segments one photo or a directory of them."""
    del argv
    if not 0 < _THRESHOLD.value < 1:
        raise UserError(f"--threshold={_THRESHOLD.value}: it must lie between 0 and 1")
    root, names = _find(_INPUT.value, _OUT.value)
    outputs = _name_outputs(names, _OUT.value)
    if not _OVERWRITE.value:
        _require_free(outputs.values())

    from layered_segmentation import cutouts
    from layered_segmentation.data import photos
    from layered_segmentation.evaluation import looks, refine
    from layered_segmentation.models import segmenter as segmenters
    from layered_segmentation.progress import Bar

    segmenter = segmenters.load(_SEGMENTER.value)
    start = time.perf_counter()
    unreadable = []
    with Bar(len(names), "segmenting", "photo") as bar:
        for first in range(0, len(names), _BATCH):
            batch = []
            for name in names[first : first + _BATCH]:
                try:
                    batch.append((name, photos.read(os.path.join(root, name))))
                except photos.UnreadableImage as error:
                    unreadable.append(str(error))
            masks = looks.predict_masks(
                segmenter.predict_masks, [image for _, image in batch], _LOOKS.value
            )
            for (name, image), mask in zip(batch, masks, strict=True):
                mask = refine.refine(image, mask, _REFINE.value)
                os.makedirs(os.path.dirname(outputs[name]), exist_ok=True)
                photos.write(outputs[name] + MASK, cutouts.binary_mask(mask, _THRESHOLD.value))
                photos.write(outputs[name] + CUTOUT, cutouts.cutout(image, mask, _THRESHOLD.value))
            bar.update(min(_BATCH, len(names) - first))
    if len(unreadable) == len(names):
        raise UserError(f"--input={_INPUT.value}: none can be read; the first: {unreadable[0]}")
    seconds = time.perf_counter() - start
    done = len(names) - len(unreadable)
    print(f"{done:,} masks and cut-outs in {_OUT.value}, {done / seconds:,.1f} images/s")
    if unreadable:
        print(f"skipped {len(unreadable):,} that cannot be read:", file=sys.stderr)
        print("\n".join(f"  {message}" for message in unreadable), file=sys.stderr)
        return 1
    return 0


def _find(path: str, out: str) -> tuple[str, list[str]]:
    """Returns a directory and the photos' paths relative to it."""
    from layered_segmentation.data import folder, photos

    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"--out={out}: a file has this name; name a directory")
    if os.path.isfile(path):
        return os.path.dirname(path), [os.path.basename(path)]
    if not os.path.isdir(path):
        raise UserError(f"--input={path}: there is no such photo or directory")
    found = photos.find(path, [folder.MASKS])
    names = [name for name in found if not _is_output(os.path.join(path, name), out)]
    if not names:
        kinds = ", ".join(photos.EXTENSIONS)
        raise UserError(f"--input={path}: no photos in it ({kinds})")
    return path, names


def _is_output(path: str, out: str) -> bool:
    """Whether a photo was written by an earlier run into a directory inside the input's."""
    inside = os.path.realpath(path).startswith(os.path.join(os.path.realpath(out), ""))
    return inside and path.endswith((MASK, CUTOUT))


def _name_outputs(names: list[str], out: str) -> dict[str, str]:
    """Returns for each photo its outputs' path, less the ending.

    Photos that differ only in their extension keep it, so that none overwrites another's mask.
    """
    stems = {name: os.path.splitext(name)[0] for name in names}
    counts = collections.Counter(stems.values())
    return {
        name: os.path.join(out, stem if counts[stem] == 1 else name) for name, stem in stems.items()
    }


def _require_free(outputs: Any) -> None:
    taken = [path + end for path in outputs for end in (MASK, CUTOUT) if os.path.exists(path + end)]
    if taken:
        raise UserError(
            f"{taken[0]}: already exists ({len(taken)} such files); name another --out or add "
            "--overwrite"
        )


if __name__ == "__main__":
    app.run(main)
