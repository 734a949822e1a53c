"""Scores a segmenter's masks against true masks, beside full mask, centre box and GrabCut.

Photos and masks are matched by name. Writes results.json, per_image.csv and sheet.png (the best,
the middle and the worst) to --out, by default RUN/evaluation.

Example:
  layerseg evaluate --segmenter=RUN --images=TEST_PHOTOS --masks=TEST_MASKS --refine=guided
"""

import json
import os
from typing import TYPE_CHECKING, Any

from absl import flags

from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from layered_segmentation.data.folder import PairFolder
    from layered_segmentation.evaluation.scoring import Predict, Scores

_SEGMENTER = flags.DEFINE_string(
    "segmenter", None, "Run directory, preset directory, hf://… or kaggle://….", required=True
)
_IMAGES = flags.DEFINE_string("images", None, "Directory of photos.", required=True)
_MASKS = flags.DEFINE_string("masks", None, "Directory of their true masks.", required=True)
_IGNORE = flags.DEFINE_string(
    "ignore", "", "Directory of masks of the pixels to leave out of the score."
)
_REFINE = flags.DEFINE_enum(
    "refine",
    "none",
    ["none", "guided", "grabcut"],
    "How the mask is fitted to the photo's edges at the photo's own size.",
)
_OUT = flags.DEFINE_string(
    "out", "", "Directory to write to; `evaluation` in the run, or beside the preset, if empty."
)
_LIMIT = flags.DEFINE_integer("limit", 0, "Score only the first so many; 0 scores all.", 0)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the results that --out holds.")

RESUME = "nothing was written; run it again"
RESULTS, TABLE, SHEET = "results.json", "per_image.csv", "sheet.png"
_SHOWN = 4  # photos of each kind on the sheet


def main(argv: list[str]) -> None:
    """Scores one segmenter on one set of photos."""
    del argv
    out = _OUT.value or default_out(_SEGMENTER.value)
    _require_free(out)

    from layered_segmentation.data import folder

    pairs = folder.pairs(_IMAGES.value, _MASKS.value, _IGNORE.value or None)
    count = min(_LIMIT.value or len(pairs), len(pairs))

    from layered_segmentation.evaluation import scoring, sheets
    from layered_segmentation.models import segmenter as segmenters
    from layered_segmentation.progress import Bar

    segmenter = segmenters.load(_SEGMENTER.value)
    with Bar(count, "scoring", "photo") as bar:
        scores = scoring.score(
            segmenter.predict_masks,
            (pairs[index] for index in range(count)),
            refine=_REFINE.value,
            progress=bar.update,
        )
    settings = {
        "segmenter": _SEGMENTER.value,
        "images": _IMAGES.value,
        "masks": _MASKS.value,
        "ignore": _IGNORE.value,
        "refine": _REFINE.value,
        "limit": _LIMIT.value,
    }
    os.makedirs(out, exist_ok=True)
    scores.write_csv(os.path.join(out, TABLE))
    sheet = draw_sheet(segmenter.predict_masks, pairs, scores)
    sheets.save_png(sheet, os.path.join(out, SHEET))
    write_results(os.path.join(out, RESULTS), {**scores.to_results(), "settings": settings})
    print(summary(scores))
    print(f"results: {os.path.join(out, RESULTS)}, {TABLE}, {SHEET}")


def default_out(segmenter: str) -> str:
    """Returns where the results go if nobody says: RUN/evaluation.

    Raises:
        UserError: The segmenter is not on this machine, so there is no place beside it.
    """
    if "://" in segmenter:
        raise UserError(f"--segmenter={segmenter}: is not a local directory, so --out is needed")
    if os.path.isdir(os.path.join(segmenter, "segmenter")):
        return os.path.join(segmenter, "evaluation")
    return os.path.join(os.path.dirname(os.path.abspath(segmenter)), "evaluation")


def draw_sheet(predict: "Predict", pairs: "PairFolder", scores: "Scores") -> "np.ndarray":
    """Draws the best, the middle and the worst photos, uint8 [height, width, 3]."""
    from layered_segmentation.evaluation import examples

    parts = examples.ranked(scores, _SHOWN).values()
    chosen = list(dict.fromkeys(index for part in parts for index in part))
    columns = min(_SHOWN, len(chosen))
    return examples.scored_sheet(predict, pairs, scores, chosen, columns)  # type: ignore[arg-type]


def write_results(path: str, results: dict[str, Any]) -> None:
    """Writes results as JSON, beside `path` first, then renamed."""
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=2, ensure_ascii=False)
        file.write("\n")
    os.replace(partial, path)


def summary(scores: "Scores") -> str:
    """Returns the scores as lines of text."""
    seconds = scores.predict_seconds / scores.images
    lines = [
        f"mIoU {scores.miou:.3f} ± {scores.miou_std:.3f} over {scores.images} photos "
        f"(refine: {scores.refine}, {1 / seconds:,.1f} images/s)"
    ]
    lines += [f"  {name} {value:.3f}" for name, value in scores.references.items()]
    return "\n".join(lines)


def _require_free(out: str) -> None:
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"--out={out}: a file has this name; name a directory")
    taken = [name for name in (RESULTS, TABLE, SHEET) if os.path.exists(os.path.join(out, name))]
    if taken and not _OVERWRITE.value:
        raise UserError(
            f"--out={out}: holds {', '.join(taken)} of an earlier evaluation; name another --out "
            "or add --overwrite"
        )


if __name__ == "__main__":
    app.run(main)
