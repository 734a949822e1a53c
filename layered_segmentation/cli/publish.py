"""Uploads a segmenter with its model card and checksums to Hugging Face or Kaggle.

The card is --card, or the preset's README.md, which `layerseg distill` drafts. It must describe the
data, settings, scores, protocol, limits and licence. Scores and protocol are filled in from
--evaluation, a directory that `layerseg evaluate` wrote. --dry_run does everything but the upload.

Example:
  layerseg publish --preset=RUN --evaluation=RUN/evaluation --to=hf://OWNER/NAME --dry_run
"""

import os
from typing import Any

from absl import flags

from layered_segmentation import files, quiet
from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

_PRESET = flags.DEFINE_string(
    "preset", None, "A preset directory, a run with a segmenter, or a packaged one.", required=True
)
_TO = flags.DEFINE_string(
    "to", None, "hf://OWNER/NAME or kaggle://OWNER/MODEL/keras/VARIATION.", required=True
)
_CARD = flags.DEFINE_string("card", "", "The model card; the preset's README.md if empty.")
_EVALUATION = flags.DEFINE_string(
    "evaluation", "", "Directory of `layerseg evaluate`, whose scores go into the card."
)
_PRIVATE = flags.DEFINE_bool("private", False, "Make the repository private.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Show the files and the card; upload nothing.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Upload a new version of an existing model.")

RESUME = "some files may be uploaded; run it again with --overwrite"


def main(_: list[str]) -> None:
    """Publishes one preset."""
    from layered_segmentation.segmenter import publish

    publish.require_address(_TO.value)

    quiet.import_tensorflow()
    from layered_segmentation.segmenter import model_card, preset_files

    directory = preset_files.find(_PRESET.value, flag="--preset")
    place, card = _read_card(directory)
    if _EVALUATION.value:
        card = model_card.with_scores(card, _read_results(_EVALUATION.value))
    with publish.prepared(directory, card, place) as ready:
        sizes = {name: os.path.getsize(os.path.join(ready, name)) for name in os.listdir(ready)}
        if rest := publish.left_out(directory):
            print(f"left out, not part of a preset: {', '.join(rest)}")
        if _DRY_RUN.value:
            print("\n".join(f"{size:>12,}  {name}" for name, size in sorted(sizes.items())))
            print(f"\n{card}\nnothing was uploaded to {_TO.value}")
            return
        publish.upload(ready, _TO.value, _PRIVATE.value, _OVERWRITE.value)
    print(f"{_TO.value}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.2f} MB")
    print(app.next_step("segment", segmenter=_TO.value, input="PHOTOS", out="MASKS"))


def _read_card(directory: str) -> tuple[str, str]:
    from layered_segmentation.segmenter import preset_files

    path = _CARD.value or os.path.join(directory, preset_files.CARD)
    try:
        with open(path, encoding="utf-8") as file:
            return path, file.read()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the model card cannot be read; name one with --card") from error


def _read_results(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, "results.json")
    results: dict[str, Any] | None = files.read_json(path)
    if results is None:
        raise UserError(f"--evaluation={directory}: {path} cannot be read")
    return results


if __name__ == "__main__":
    app.run(main)
