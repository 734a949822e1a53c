"""Curves of a run's log as SVG, readable on light and dark pages."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

_AXIS = "#8a8f98"  # grey enough for both a white and a dark page
_COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444")

PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Losses",
        (("wasserstein", "Wasserstein distance"), ("gradient_penalty", "gradient penalty")),
    ),
    ("Masks", (("coverage", "mean coverage"), ("binarisation", "binarisation, eq. 4"))),
    ("Speed", (("images_per_second", "images/s"),)),
)


def panels(
    records: Sequence[Mapping[str, Any]], mask_size: float | None = None
) -> dict[str, bytes]:
    """Draws the curves of a log.

    Args:
        records: Records of log.jsonl, with `images_seen`; those without metrics are left out.
        mask_size: η of eq. 3, drawn as a line among the masks' curves; None leaves it out.

    Returns:
        SVG files by title; a panel without data is left out.
    """
    drawn = {}
    for title, series in PANELS:
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
            drawn[title] = _panel(curves, _stage_starts(records), line)
    return drawn


def _panel(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    stages: Sequence[tuple[int, int]],
    line: float | None,
) -> bytes:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    # Text stays text: smaller, sharp at any size, and it can be searched.
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
        axes.set_xlabel("images seen", color=_AXIS)
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
