"""Model cards: what a user needs to know about a trained segmenter.

A card is a Markdown file with six sections and the front matter that model hubs read. A draft
states what the program knows and marks the rest; a card with marks left is not published.
"""

import re
from collections.abc import Mapping
from typing import Any

from layered_segmentation import config_files, paths, records
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError

SECTIONS = ("Data", "Settings", "Scores", "Protocol", "Limits", "Licence")
OPEN = "TO BE WRITTEN"

_FRONT_MATTER = """\
---
library_name: keras-hub
pipeline_tag: image-segmentation
tags: [keras-hub, image-segmentation, unsupervised]
---
"""
_SCORES = {
    "refine": records.is_text,
    "miou": records.is_number,
    "miou_std": records.is_number,
    "images": records.is_count,
    "references": records.table(records.is_number),
    "protocol": records.is_text,
}
_PATHS = ("path", "data_dir", "test_path", "test_masks", "cache_dir")  # private to the machine


def draft(config: Config, resolution: int, parameters: int, facts: Mapping[str, Any]) -> str:
    """Drafts the card of a newly trained segmenter.

    Args:
        config: The run's config.
        resolution: The segmenter's resolution in pixels.
        parameters: Its number of parameters.
        facts: Facts about the training by name, such as steps and seed.
    """
    changed = [
        f"{name}={paths.name_of(value) if name == 'gan.background_student' else value}"
        for name, value, default in config_files.with_defaults(config)
        if value != default and name.partition(".")[2] not in _PATHS
    ]
    parts = {
        "Data": f"{OPEN}: what the photos show, how many there are, their source and licence. "
        "No masks, labels or pretrained networks were used.",
        "Settings": "\n".join(
            [
                f"{parameters:,} parameters at {resolution} × {resolution} pixels. "
                + ", ".join(f"{name} {_short(value)}" for name, value in facts.items())
                + ". Settings that differ from the defaults:",
                "",
                *(f"    {line}" for line in changed or ["none"]),
            ]
        ),
        "Scores": f"{OPEN}: measure them with `layerseg evaluate`; `layerseg publish "
        "--evaluation=DIR` inserts them here.",
        "Protocol": f"{OPEN}: `layerseg publish --evaluation=DIR` inserts it here.",
        "Limits": f"{OPEN}: which photos it fails on.",
        "Licence": f"{OPEN}: the licence of the weights. Repeat it as `license:` in the front "
        "matter of this file.",
    }
    sections = "\n".join(f"## {name}\n\n{text}\n" for name, text in parts.items())
    return (
        f"{_FRONT_MATTER}# {OPEN}: a name\n\n{OPEN}: what it segments, in one sentence.\n\n"
        "    from layered_segmentation import LayeredSegmenter\n"
        '    segmenter = LayeredSegmenter.from_preset("…")\n'
        "    mask = segmenter.predict_masks(photo)  # uint8 [H, W, 3] -> float [H, W] in [0, 1]\n\n"
        f"{sections}"
    )


def with_scores(card: str, results: Mapping[str, Any]) -> str:
    """Returns a card with the scores and the protocol of a results.json of `layerseg evaluate`.

    Raises:
        UserError: The card lacks these sections, or the results are not those of a segmenter.
    """
    if not records.matches(results, _SCORES):
        raise UserError(
            "--evaluation: results.json was not written by `layerseg evaluate --segmenter=…`, or "
            "it is damaged"
        )
    rows = [
        f"| the segmenter, refine: {results['refine']} | {results['miou']:.3f} "
        f"± {results['miou_std']:.3f} |"
    ]
    rows += [
        f"| {name.replace('_', ' ')} | {value:.3f} |"
        for name, value in results["references"].items()
    ]
    table = [f"| {results['images']:,} photos | mIoU |", "|---|---|", *rows]
    # Protocols of earlier versions name a detector by its path.
    protocol = paths.without_folders(results["protocol"])
    return _replace(_replace(card, "Scores", "\n".join(table)), "Protocol", protocol)


def require_complete(card: str, place: str) -> None:
    """Refuses a card that lacks something; `place` is its file, for the message.

    Raises:
        UserError: A section is missing, a mark is left, or a path of this machine is named.
    """
    found = re.findall(r"^## (.+?)\s*$", card, re.M)
    if missing := [name for name in SECTIONS if name not in found]:
        raise UserError(f"{place}: the card has no section {', '.join(missing)}")
    if lines := [n for n, line in enumerate(card.splitlines(), 1) if OPEN in line]:
        raise UserError(
            f"{place}: {OPEN!r} is left in line {', '.join(map(str, lines))}; replace it "
            "(--evaluation inserts Scores and Protocol)"
        )
    paths.require_no_paths(card, place)


def _replace(card: str, section: str, text: str) -> str:
    pattern = re.compile(rf"(^## {section}\s*\n)(.*?)(?=^## |\Z)", re.M | re.S)
    replaced, count = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n", card, count=1)
    if not count:
        raise UserError(f"the card has no section {section}")
    return replaced.rstrip() + "\n"


def _short(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else f"{value}"
