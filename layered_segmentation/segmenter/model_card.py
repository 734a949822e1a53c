"""Model cards: what somebody who was not there must know of a trained segmenter.

A card is a Markdown file with the front matter that model hubs read and six sections. A draft says
what the program knows; the rest is marked, and a card with marks left is not published.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.config import Config

SECTIONS = ("Data", "Settings", "Scores", "Protocol", "Limits", "Licence")
OPEN = "TO BE WRITTEN"

_FRONT_MATTER = """\
---
library_name: keras-hub
pipeline_tag: image-segmentation
tags: [keras-hub, image-segmentation, unsupervised]
---
"""
_PATHS = ("path", "data_dir", "test_path", "test_masks", "cache_dir")  # nobody else's business


def draft(config: "Config", resolution: int, parameters: int, facts: Mapping[str, Any]) -> str:
    """Returns the card of a segmenter that was just trained.

    Args:
        config: The run's.
        resolution: Side that the segmenter works at, pixels.
        parameters: How many it has.
        facts: What training says of itself, such as steps and seconds.
    """
    parts = {
        "Data": f"{OPEN}: what the photos show, how many, where they come from, their licence. "
        "No mask, label or pretrained network was used.",
        "Settings": "\n".join(
            [
                f"{parameters:,} parameters at {resolution} × {resolution} pixels. "
                + ", ".join(f"{name} {_short(value)}" for name, value in facts.items())
                + ". Settings that differ from the defaults:",
                "",
                *(f"    {line}" for line in _changed_settings(config) or ["none"]),
            ]
        ),
        "Scores": f"{OPEN}: `layerseg evaluate` measures them, and `layerseg publish "
        "--evaluation=DIR` puts them here.",
        "Protocol": f"{OPEN}, likewise.",
        "Limits": f"{OPEN}: which photos it fails on.",
        "Licence": f"{OPEN}: of the weights (and, as `license:`, in the first lines of this file).",
    }
    sections = "\n".join(f"## {name}\n\n{text}\n" for name, text in parts.items())
    return (
        f"{_FRONT_MATTER}# {OPEN}: a name\n\n{OPEN}: what it cuts out of photos, in a sentence.\n\n"
        "    import keras_hub, layered_segmentation\n"
        '    segmenter = keras_hub.models.ImageSegmenter.from_preset("…")\n'
        "    masks = segmenter.predict_masks([photo])  # uint8 [H, W, 3] -> float [H, W]\n\n"
        f"{sections}"
    )


def with_scores(card: str, results: Mapping[str, Any]) -> str:
    """Returns a card with the scores and the protocol of an evaluation.

    Args:
        card: The card.
        results: The results.json of `layerseg evaluate`.

    Raises:
        UserError: The card lacks the sections, or these are no results of a segmenter.
    """
    try:
        rows = [
            f"| the segmenter, refine: {results['refine']} | {results['miou']:.3f} "
            f"± {results['miou_std']:.3f} |"
        ]
        rows += [
            f"| {name.replace('_', ' ')} | {value:.3f} |"
            for name, value in results["references"].items()
        ]
        protocol, images = results["protocol"], results["images"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "--evaluation: its results.json is none of `layerseg evaluate --segmenter=…` "
            f"({type(error).__name__}: {error})"
        ) from error
    table = [f"| {images:,} photos | mIoU |", "|---|---|", *rows]
    return _replace(_replace(card, "Scores", "\n".join(table)), "Protocol", str(protocol))


def require_complete(card: str, place: str) -> None:
    """Refuses a card that leaves something open.

    Args:
        card: The card.
        place: Its file, for the message.

    Raises:
        UserError: A section is missing or a mark is left.
    """
    found = re.findall(r"^## (.+?)\s*$", card, re.M)
    if missing := [name for name in SECTIONS if name not in found]:
        raise UserError(f"{place}: the card has no section {', '.join(missing)}")
    if lines := [n for n, line in enumerate(card.splitlines(), 1) if OPEN in line]:
        raise UserError(
            f"{place}: {OPEN!r} is left in line {', '.join(map(str, lines))}; write what is asked "
            "for there (Scores and Protocol come from --evaluation)"
        )


def _replace(card: str, section: str, text: str) -> str:
    pattern = re.compile(rf"(^## {section}\s*\n)(.*?)(?=^## |\Z)", re.M | re.S)
    replaced, count = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n", card, count=1)
    if not count:
        raise UserError(f"the card has no section {section}")
    return replaced.rstrip() + "\n"


def _changed_settings(config: "Config") -> list[str]:
    import dataclasses

    from layered_segmentation.config import Config

    lines = []
    for section in dataclasses.fields(Config):
        ours, default = getattr(config, section.name), getattr(Config(), section.name)
        for field in dataclasses.fields(ours):
            value = getattr(ours, field.name)
            if value != getattr(default, field.name) and field.name not in _PATHS:
                lines.append(f"{section.name}.{field.name}={value}")
    return lines


def _short(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else f"{value}"
