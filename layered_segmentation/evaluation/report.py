"""report.html: one self-contained page about a run.

Pictures and styles are inside the file, nothing is fetched, and it is readable on a phone.
"""

import base64
import dataclasses
import io
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layered_segmentation import config as configs
from layered_segmentation import config_files, files, paths

if TYPE_CHECKING:
    from layered_segmentation.run_directory import RunDirectory

_MOST_SHEETS = 6
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


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the page."""

    caption: str  # text below the picture, also its alternative text
    data: bytes  # the bytes of a PNG or SVG file

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        kind = "png" if self.data.startswith(b"\x89PNG") else "svg+xml"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclasses.dataclass(frozen=True)
class Score:
    """A row of the table of scores."""

    name: str  # the method
    miou: float  # mean IoU, in [0, 1]
    std: float | None = None  # standard deviation over images, or None if unknown
    is_reference: bool = False  # whether it is a reference method, not the student


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of the run."""

    name: str  # `section.field`
    value: Any
    default: Any

    @property
    def shown(self) -> Any:
        """The value as the page shows it: the last part of a path."""
        is_path = isinstance(self.value, str) and os.path.isabs(self.value)
        return paths.name_of(self.value) if is_path else self.value

    @property
    def is_default(self) -> bool:
        """Whether the value is the default."""
        return bool(self.value == self.default)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command to run next."""

    purpose: str
    line: str

    @classmethod
    def of(cls, purpose: str, verb: str, **options: object) -> "Command":
        """Returns `layerseg VERB --name=value …`, quoted for a shell."""
        given = [shlex.quote(f"--{name}={value}") for name, value in options.items()]
        return cls(purpose, " ".join(["layerseg", verb, *given]))


@dataclasses.dataclass
class Page:
    """The content of the page; empty sections are left out."""

    title: str  # heading
    verdict: str  # the outcome in a sentence
    facts: Sequence[tuple[str, str]] = ()  # short (name, value) pairs under the verdict
    warnings: Sequence[str] = ()
    examples: Sequence[Picture] = ()  # segmented photos
    examples_title: str = "Unseen images"  # heading above the examples
    examples_note: str = ""  # a sentence on the examples
    sheets: Sequence[Picture] = ()  # generated layers, the latest first
    scores: Sequence[Score] = ()  # the scores of the student and of the references
    scores_note: str = ""  # the protocol
    curves: Sequence[Picture] = ()  # curves of the log
    exports: Sequence[Mapping[str, str]] = ()  # one row per exported file, by column name
    settings: Sequence[Setting] = ()
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)  # seconds by phase
    commands: Sequence[Command] = ()


def render(page: Page) -> str:
    """Returns the page as HTML; all text is escaped, and paths are cut to their last parts."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("layered_segmentation.evaluation"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["seconds"] = seconds
    environment.filters["without_folders"] = paths.without_folders
    text: str = environment.get_template("report.html").render(page=page)
    return text


def write_run_report(run: "RunDirectory") -> str:
    """Writes a run's own page, `RUN/report.html`, from its log and sheets; returns its path."""
    config = run.config()
    finished = run.finished()
    records = run.read_log()
    seen = finished.images_seen if finished else (records[-1]["images_seen"] if records else 0)
    facts = [("Resolution", f"{config.gan.resolution} px"), ("Images seen", f"{seen:,}")]
    phases = {}
    if finished:
        facts.append(("Speed", f"{finished.images_per_second:,.0f} images/s"))
        phases["Training the layered GAN"] = finished.seconds
    coverage = [record["coverage"] for record in records if record.get("coverage") is not None]
    if coverage:
        facts.append(("Mask coverage at the end", f"{coverage[-1]:.2f}"))
    facts += quality_of(run)
    page = Page(
        title="Layers learned without labels",
        verdict=(
            f"Trained on {seen:,} images{'' if finished else ' so far'}. The sheets show scenes of "
            "the averaged generator; each mask should fit one object."
        ),
        facts=facts,
        warnings=warnings_of(records),
        sheets=sheets_of(run),
        curves=draw_curves(records, config.gan.mask_size),
        settings=settings_of(config),
        phases=phases,
        commands=[
            Command.of("Train the student", "distill", run_dir="."),
            Command.of("Draw more scenes", "sample", run_dir=".", out="sheet.png"),
            Command(
                "Curves during training",
                f"tensorboard --logdir={shlex.quote(os.path.relpath(run.tensorboard, run.path))}",
            ),
        ],
    )
    files.write_text(run.report, render(page))
    return run.report


def sheets_of(run: "RunDirectory") -> list[Picture]:
    """Returns at most `_MOST_SHEETS` of a run's sheets, evenly spaced, the latest first."""
    drawn = list(run.drawn_sheets().items())
    if len(drawn) > _MOST_SHEETS:
        spacing = (len(drawn) - 1) / (_MOST_SHEETS - 1)
        drawn = [drawn[round(index * spacing)] for index in range(_MOST_SHEETS)]
    pictures = []
    for seen, path in reversed(drawn):
        with open(path, "rb") as file:
            pictures.append(Picture(f"after {seen:,} images", file.read()))
    return pictures


def quality_of(run: "RunDirectory") -> list[tuple[str, str]]:
    """Returns facts on a run's quality that need no true masks, if they were measured."""
    from layered_segmentation.evaluation import quality

    measured = quality.read(run)
    return measured.lines() if measured else []


def warnings_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the warnings of a run's log, without the prefix `warning: `."""
    found = [str(record["warning"]) for record in records if "warning" in record]
    return [text.removeprefix("warning: ") for text in found]


def settings_of(config: configs.Config) -> list[Setting]:
    """Returns all settings, first those that differ from the defaults."""
    settings = [Setting(*row) for row in config_files.with_defaults(config)]
    return sorted(settings, key=lambda setting: setting.is_default)


def seconds(value: float) -> str:
    """Formats a time as `48 s` or `8 min 05 s`."""
    if value < 100:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes:,} min {rest:02d} s"


def draw_curves(records: Sequence[Mapping[str, Any]], mask_size: float) -> list[Picture]:
    """Draws the curves of a log as SVG, readable on light and dark pages.

    Args:
        records: Records of log.jsonl, with `images_seen`; those without metrics are ignored.
        mask_size: η of eq. 3, drawn as a line in the panel of the masks.

    Returns:
        A picture for each panel that has data.
    """
    drawn = []
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
            drawn.append(Picture(title, _panel(curves, _stage_starts(records), line)))
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
