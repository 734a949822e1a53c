"""Writes masks and cut-outs for photos, each at the photo's own size.

For every photo NAME.jpg: NAME.mask.png (0 and 255) and NAME.cutout.png (the object with a soft
edge, transparent around it). Sub-directories are kept.

Example:
  layerseg segment --segmenter=RUN --input=PHOTOS --out=MASKS --refine=guided
"""

import os
import sys
import time

from absl import flags

from layered_segmentation import quiet
from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError
from layered_segmentation.segmenter import outputs

_SEGMENTER = flags.DEFINE_string(
    "segmenter", None, "Run directory, preset directory, hf://… or kaggle://….", required=True
)
_INPUT = flags.DEFINE_string("input", None, "A photo, or a directory of photos.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory to write to.", required=True)
_REFINE = shared.define_refine_flag()
_LOOKS = shared.define_looks_flag()
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.5, "Minimum probability of a pixel of the object.", 0.0, 1.0
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace existing masks and cut-outs.")
shared.define_max_pixels_flag()

RESUME = "the masks written so far are complete; run it again with --overwrite"

_BATCH = 8  # photos in memory at once, if they are small


def main(argv: list[str]) -> int:
    """Segments one photo or a directory of them."""
    del argv
    outputs.require_threshold(_THRESHOLD.value)
    root, names = outputs.find_photos(_INPUT.value, _OUT.value)
    paths = outputs.name_outputs(names, _OUT.value)
    if not _OVERWRITE.value:
        outputs.require_free(paths.values())

    quiet.import_tensorflow()
    from layered_segmentation import images
    from layered_segmentation.progress import Bar
    from layered_segmentation.segmenter import looks, presets, refine

    segmenter = presets.load(_SEGMENTER.value)
    start = time.perf_counter()
    unreadable = []
    with Bar(len(names), "segmenting", "photo") as bar:
        for chunk in outputs.batches(root, names, _BATCH):
            batch = []
            for name in chunk:
                try:
                    batch.append((name, images.read(os.path.join(root, name))))
                except images.UnreadableImage as error:
                    unreadable.append(str(error))
            masks = looks.predict_masks(
                segmenter.predict_masks, [image for _, image in batch], _LOOKS.value
            )
            for (name, image), mask in zip(batch, masks, strict=True):
                mask = refine.refine(image, mask, _REFINE.value)
                outputs.write(paths[name], image, mask, _THRESHOLD.value)
            bar.update(len(chunk))
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


if __name__ == "__main__":
    app.run(main)
