"""Curves of a training as SVG, for report.html."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

_AXIS = "#8a8f98"  # readable on a white and on a dark page
_COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#6b7280")

_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Losses",
        (("wasserstein", "Wasserstein distance"), ("gradient_penalty", "gradient penalty")),
    ),
    (
        "Masks",
        (
            ("coverage", "mean coverage"),
            ("binarisation", "binarisation, eq. 4"),
            *((f"coverage_{number}", f"layer {number}") for number in range(1, 5)),
        ),
    ),
    ("Speed", (("images_per_second", "images/s"),)),
)


def of_training(records: Sequence[Mapping[str, Any]], mask_size: float) -> dict[str, bytes]:
    """Draws the curves of a log as SVG, readable on light and dark pages.

    Args:
        records: Records of log.jsonl, with `images_seen`; those without metrics are ignored.
        mask_size: η of eq. 3, drawn as a line in the panel of the masks.

    Returns:
        An SVG file for each panel that has data, by its title.
    """
    drawn = {}
    for title, series in _PANELS:
        curves = {
            label: [
                (record["images_seen"], record[key])
                for record in records
                if record.get(key) is not None
            ]
            for key, label in series
        }
        curves = {label: points for label, points in curves.items() if points}
        if curves:
            line = mask_size if title == "Masks" else None
            drawn[title] = _panel(curves, "images seen", _stage_starts(records), line)
    return drawn


def of_student(phases: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """Draws what a student has learnt as SVG: a panel of the loss, and one of the agreement.

    Args:
        phases: The summary of each phase by its name, with a `curve` of `fit.FitSummary`.

    Returns:
        As of `of_training`; empty without curves.
    """
    drawn = {}
    for place, title in enumerate(("Student's loss", "Student's agreement with its pairs"), 1):
        curves = {
            name: [(point[0], point[place]) for point in phase["curve"] if len(point) == 3]
            for name, phase in phases.items()
            if phase.get("curve")
        }
        curves = {name: points for name, points in curves.items() if points}
        if curves:
            drawn[title] = _panel(curves, "step of the phase")
    return drawn


def _panel(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    horizontal: str,
    stages: Sequence[tuple[int, int]] = (),
    line: float | None = None,
) -> bytes:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    # Text stays text: the file is smaller, sharp at any size, and searchable.
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        for colour, (label, points) in zip(_COLOURS, curves.items(), strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1.6)
        if line is not None:
            axes.axhline(line, color=_AXIS, linestyle="--", linewidth=1)
            axes.annotate(
                f"η {line:g}", (1, line), xycoords=("axes fraction", "data"), color=_AXIS,
                ha="right", va="bottom", fontsize=9,
            )  # fmt: skip
        for first, resolution in stages:
            axes.axvline(first, color=_AXIS, linewidth=0.8, linestyle=":")
            axes.annotate(
                f" {resolution} px", (first, 1), xycoords=("data", "axes fraction"), color=_AXIS,
                va="top", fontsize=9,
            )  # fmt: skip
        axes.set_xlabel(horizontal, color=_AXIS)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(colors=_AXIS)
        axes.margins(x=0.01, y=0.15)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_AXIS)
        legend = axes.legend(
            frameon=False, fontsize=9, labelcolor=_AXIS, ncols=2, loc="lower left",
            bbox_to_anchor=(0, 1.0), borderaxespad=0,
        )  # fmt: skip
        legend.set_in_layout(True)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _stage_starts(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Returns (images seen, resolution) of the first record of each stage."""
    starts: dict[int, int] = {}
    for record in records:
        if "resolution" in record:
            starts.setdefault(record["resolution"], record["images_seen"])
    return [(first, resolution) for resolution, first in starts.items()]
