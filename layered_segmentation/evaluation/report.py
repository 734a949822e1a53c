"""report.html: one self-contained page that tells a run's story.

Pictures and styles are inside the file, nothing is fetched, and it reads on a phone.
"""

import base64
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layered_segmentation import config as configs
from layered_segmentation.evaluation import curves

if TYPE_CHECKING:
    from layered_segmentation.run_directory import RunDirectory

_MOST_SHEETS = 6


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        caption: Shown below it, and read out in its place.
        data: The bytes of a PNG or SVG file.
    """

    caption: str
    data: bytes

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        kind = "png" if self.data.startswith(b"\x89PNG") else "svg+xml"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclasses.dataclass(frozen=True)
class Score:
    """A row of the table of scores.

    Attributes:
        name: What was scored.
        miou: Mean IoU, in [0, 1].
        spread: Standard deviation over images, or None where it is not known.
        is_ours: Whether it is the student's, and not a reference's.
    """

    name: str
    miou: float
    spread: float | None = None
    is_ours: bool = False


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of the run.

    Attributes:
        name: `section.field`.
        value: Its value.
        default: The default's value.
    """

    name: str
    value: Any
    default: Any

    @property
    def is_default(self) -> bool:
        """Whether it was left as it is."""
        return bool(self.value == self.default)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command to go on with.

    Attributes:
        purpose: What it does.
        line: The command itself.
    """

    purpose: str
    line: str


@dataclasses.dataclass
class Page:
    """What the page shows; empty sections are left out.

    Attributes:
        title: Heading.
        verdict: The outcome in a sentence.
        facts: Short (name, value) pairs under the verdict.
        warnings: What went wrong on the way.
        examples: Segmented photos.
        examples_title: Heading above them.
        examples_note: Which photos these are.
        sheets: Generated layers, in the order of training.
        scores: The student's score and the references'.
        scores_note: The protocol.
        curves: Curves of the log.
        exports: Rows by column name, one an exported file.
        settings: All settings of the run.
        phases: Seconds by phase.
        commands: How to go on.
    """

    title: str
    verdict: str
    facts: Sequence[tuple[str, str]] = ()
    warnings: Sequence[str] = ()
    examples: Sequence[Picture] = ()
    examples_title: str = "Images it had never seen"
    examples_note: str = ""
    sheets: Sequence[Picture] = ()
    scores: Sequence[Score] = ()
    scores_note: str = ""
    curves: Sequence[Picture] = ()
    exports: Sequence[Mapping[str, str]] = ()
    settings: Sequence[Setting] = ()
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    commands: Sequence[Command] = ()


def render(page: Page) -> str:
    """Returns the page as HTML; all text is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("layered_segmentation.evaluation"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["seconds"] = seconds
    return environment.get_template("report.html").render(page=page)


def write(page: Page, path: str) -> str:
    """Writes the page beside `path`, then renames it; returns `path`."""
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(render(page))
    os.replace(partial, path)
    return path


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
    page = Page(
        title="Layers learnt without a label",
        verdict=(
            f"Trained on {seen:,} images{'' if finished else ' so far'}. Sheets show what the "
            "averaged generator draws; masks should fit one object each."
        ),
        facts=facts,
        warnings=warnings_of(records),
        sheets=sheets_of(run),
        curves=curves_of(records, config),
        settings=settings_of(config),
        phases=phases,
        commands=[
            Command("Train the student", f"layerseg distill --run_dir={run.path}"),
            Command("Draw more scenes", f"layerseg sample --run_dir={run.path} --out=sheet.png"),
            Command("Curves while it trains", f"tensorboard --logdir={run.tensorboard}"),
        ],
    )
    return write(page, run.report)


def sheets_of(run: "RunDirectory", most: int = _MOST_SHEETS) -> list[Picture]:
    """Returns a run's sheets, the latest first, thinned out evenly to at most `most`."""
    if not os.path.isdir(run.sheets):
        return []
    names = sorted(name for name in os.listdir(run.sheets) if re.fullmatch(r"\d+\.png", name))
    if len(names) > most:
        last = len(names) - 1
        names = [names[round(index * last / (most - 1))] for index in range(most)]
    pictures = []
    for name in reversed(names):
        with open(os.path.join(run.sheets, name), "rb") as file:
            pictures.append(Picture(f"after {int(name[:-4]):,} images", file.read()))
    return pictures


def curves_of(records: Sequence[Mapping[str, Any]], config: configs.Config) -> list[Picture]:
    """Returns the curves of a run's log."""
    drawn = curves.panels(records, mask_size=config.gan.mask_size)
    return [Picture(title, data) for title, data in drawn.items()]


def warnings_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the warnings of a run's log, without the word itself."""
    found = [str(record["warning"]) for record in records if "warning" in record]
    return [text.removeprefix("warning: ") for text in found]


def settings_of(config: configs.Config) -> list[Setting]:
    """Returns all settings, those that differ from the defaults first."""
    defaults = dataclasses.asdict(configs.Config())
    settings = [
        Setting(f"{section}.{field}", value, defaults[section][field])
        for section, fields in dataclasses.asdict(config).items()
        for field, value in fields.items()
    ]
    return sorted(settings, key=lambda setting: setting.is_default)


def seconds(value: float) -> str:
    """Returns a time as `48 s` or `8 min 05 s`."""
    if value < 100:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes:,} min {rest:02d} s"
