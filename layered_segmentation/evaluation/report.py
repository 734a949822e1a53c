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
from layered_segmentation import config_files, files, paths, records, versions
from layered_segmentation.evaluation import curves
from layered_segmentation.run_directory import STUDENT_MASKS, STUDENT_RESULTS

if TYPE_CHECKING:
    from layered_segmentation.run_directory import RunDirectory

_MOST_SHEETS = 6


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the page."""

    caption: str  # text below the picture, also its alternative text
    data: bytes  # the bytes of a PNG, WebP or SVG file

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        kinds = {b"\x89PNG": "png", b"RIFF": "webp"}
        kind = kinds.get(self.data[:4], "svg+xml")
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode('ascii')}"

    @property
    def is_sheet(self) -> bool:
        """Whether it is a sheet, which a phone shows in parts; drawings fit any width."""
        return self.data.startswith(b"\x89PNG")

    @property
    def stacked(self) -> str:
        """A wide sheet in parts below each other, as a data URI; empty if it is not cut."""
        import numpy as np
        from PIL import Image

        from layered_segmentation import sheets

        with Image.open(io.BytesIO(self.data)) as image:
            sheet = np.asarray(image.convert("RGB"))
        parts = sheets.stacked(sheet)
        if parts is sheet:
            return ""
        encoded = []
        for options in ({"lossless": True}, {"quality": 85}):  # smaller for scenes, for photos
            buffer = io.BytesIO()
            Image.fromarray(parts).save(buffer, "WEBP", **options)
            encoded.append(buffer.getvalue())
        return Picture(self.caption, min(encoded, key=len)).source


@dataclasses.dataclass(frozen=True)
class Comparison(Picture):
    """A photo on the left half and its cut-out on the right half, for a slider between them."""

    ratio: float  # width of a half, divided by its height

    @classmethod
    def read(cls, path: str, caption: str) -> "Comparison":
        """Reads a sheet of `sheets.before_after`; as WebP, it takes a tenth of the space."""
        from PIL import Image

        buffer = io.BytesIO()
        with Image.open(path) as sheet:
            sheet.save(buffer, "WEBP", quality=85)
            return cls(caption, buffer.getvalue(), sheet.width / 2 / sheet.height)


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
    student_phases: Sequence[Mapping[str, str]] = ()  # one row per phase, by column name
    student_note: str = ""  # why self-training ended early
    student: Sequence[Picture] = ()  # the student's curves, and its masks after each phase
    comparisons: Sequence[Comparison] = ()  # photos and their cut-outs
    examples: Sequence[Picture] = ()  # segmented photos
    examples_title: str = "Unseen images"  # heading above the examples
    examples_note: str = ""  # a sentence on the examples
    sheets: Sequence[Picture] = ()  # generated layers, the latest first
    scores: Sequence[Score] = ()  # the scores of the student and of the references
    scores_note: str = ""  # the protocol
    curves: Sequence[Picture] = ()  # curves of the log
    exports: Sequence[Mapping[str, str]] = ()  # one row per exported file, by column name
    exports_note: str = ""  # what they were compared on
    settings: Sequence[Setting] = ()
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)  # seconds by phase
    # hardware and packages, by name
    machine: Mapping[str, str] = dataclasses.field(default_factory=dict)
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
        warnings=warnings_of(run),
        **student_of(run),
        sheets=sheets_of(run),
        curves=draw_curves(records, config.gan.mask_size),
        settings=settings_of(config),
        phases=phases,
        machine=machine_of(run, {**versions.machine(), **versions.installed()}),
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


def student_of(run: "RunDirectory") -> dict[str, Any]:
    """Returns a page's `student…`, empty if the run has no student."""
    phase = {
        "curve": records.optional([[records.is_number]]),
        **{name: records.is_number for name in ("pairs", "steps", "loss", "agreement", "seconds")},
        **{name: records.optional(records.is_number) for name in ("judged", "kept", "weight")},
        "end": records.optional(records.is_text),
    }
    found = records.read(run.segmenter + STUDENT_RESULTS, {**phase, "rounds": [phase]})
    if found is None:
        return {}
    phases = {"generated pairs": found}
    phases |= {f"round {number}": one for number, one in enumerate(found["rounds"], 1)}
    pictures = [Picture(title, data) for title, data in curves.of_student(phases).items()]
    masks = run.segmenter + STUDENT_MASKS
    if os.path.exists(masks):
        with open(masks, "rb") as file:
            pictures.append(Picture("Masks of some images after each phase", file.read()))
    return {
        "student_phases": [_phase_row(*item) for item in phases.items()],
        "student_note": "".join(one.get("end") or "" for one in found["rounds"]),
        "student": pictures,
    }


def _phase_row(name: str, phase: Mapping[str, Any]) -> dict[str, str]:
    judges = {
        "agreed before": ("judged", "{:.3f}"),
        "images kept": ("kept", "{:.0%}"),
        "weight of pixels": ("weight", "{:.2f}"),
    }
    is_round = phase.get("judged") is not None
    return {
        "phase": name,
        "pairs": f"{phase['pairs']:,}",
        "steps": f"{phase['steps']:,}",
        "loss": f"{phase['loss']:.3f}",
        "agreement": f"{phase['agreement']:.3f}",
        **{
            label: form.format(phase.get(key) or 0.0) if is_round else ""
            for label, (key, form) in judges.items()
        },
    }


def quality_of(run: "RunDirectory") -> list[tuple[str, str]]:
    """Returns facts on a run's quality that need no true masks, if they were measured."""
    from layered_segmentation.evaluation import quality

    measured = quality.read(run)
    return measured.lines() if measured else []


def machine_of(run: "RunDirectory", machine: Mapping[str, str]) -> dict[str, str]:
    """Returns `machine` after the devices of a run's last session, if they are known."""
    recorded = files.read_json(run.machine_path)
    devices = recorded.get("devices") if isinstance(recorded, dict) else None
    if not isinstance(devices, list):
        return dict(machine)
    return {"trained on": ", ".join(map(str, devices)), **machine}


def warnings_of(run: "RunDirectory") -> list[str]:
    """Returns the warnings of a run's log and of its sanity checks, without `warning: `."""
    from layered_segmentation.evaluation import quality
    from layered_segmentation.segmenter import sanity

    records = run.read_log()
    found = [str(record["warning"]) for record in records if "warning" in record]
    if run.finished():
        found += sanity.of_training(records, run.config())
    found += quality.read_warnings(run)
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
    """Returns `curves.of_training` as pictures."""
    drawn = curves.of_training(records, mask_size)
    return [Picture(title, data) for title, data in drawn.items()]
