"""Tables 1 to 3 of the paper (arXiv 1905.12663) next to own scores, as Markdown, CSV and PNG.

The scores come from the results.json files of `layerseg evaluate`, `evaluate_generated` and `fid`.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layered_segmentation import records
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import paper
from layered_segmentation.evaluation.scoring import OTHER_SCENE

DIRECTORIES = {  # in a run, by measure
    "segmentation": "evaluation",
    "generated": "evaluation_generated",
    "fid": "evaluation_fid",
}
_ENCODER_DIRECTORY = "evaluation_encoder"
_ABSENT = "—"
_OF_GENERATED: dict[str, tuple[str, ...]] = {  # more columns of table 1, where results have them
    "another scene's": ("references", OTHER_SCENE),
    "detected": ("detected_share",),
}

REFERENCES = ("grabcut", "full_mask", "centre_box")

_PART = {
    "miou": records.optional(records.is_number),
    "references": records.optional(records.table(records.is_number)),
}
_RESULTS = {
    **_PART,
    **{name: records.optional(_PART) for name in ("detected", "all")},
    **{name: records.optional(records.is_text) for name in ("measure", "protocol", "warning")},
    **{name: records.optional(records.is_count) for name in ("resolution", "images")},
    "real_images": records.optional(records.is_count),
    "detected_share": records.optional(records.is_number),
    "settings": records.optional({}),
}
_OF_FID = {"fid": records.is_number, "features": records.is_text}

Results = Mapping[str, Any]
Runs = Mapping[str, Sequence[Mapping[str, Results]]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """An entry of a table: the mean over runs, and the standard deviation if there are several."""

    values: tuple[float, ...] = ()  # one per run; may be empty
    digits: int = 3  # decimal places

    @property
    def text(self) -> str:
        """The text of the entry: `0.859`, `0.859 ± 0.004` for several runs, or a dash."""
        if not self.values:
            return _ABSENT
        mean = f"{np.mean(self.values):.{self.digits}f}"
        if len(self.values) == 1:
            return mean
        return f"{mean} ± {np.std(self.values):.{self.digits}f}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, ready to be rendered."""

    title: str  # title above the table
    columns: Sequence[str]  # headings; the first is the heading of the row names
    rows: Sequence[tuple[str, Sequence[Cell]]]  # names and entries
    notes: Sequence[str] = ()  # paragraphs below the table
    missing: Sequence[str] = ()  # a sentence for each result that was not found

    def markdown(self) -> str:
        """Returns the table as Markdown."""
        lines = [f"**{self.title}**", "", _line(self.columns)]
        lines.append(_line(["---", *["---:"] * (len(self.columns) - 1)]))
        lines += [_line([name, *(cell.text for cell in cells)]) for name, cells in self.rows]
        lines += [line for note in self.notes for line in ("", note)]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Returns the table as CSV: mean, standard deviation and number of runs per column."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        parts = [(column, f"{column}, std", f"{column}, runs") for column in self.columns[1:]]
        writer.writerow([self.columns[0], *(name for part in parts for name in part)])
        for name, cells in self.rows:
            values = [value for cell in cells for value in _csv_values(cell)]
            writer.writerow([name, *values])
        return buffer.getvalue()

    def png(self) -> bytes:
        """Returns the table as the bytes of a PNG file."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        texts = [[name, *(cell.text for cell in cells)] for name, cells in self.rows]
        # As tall as the rows, so that the title is directly above them.
        figure = Figure(figsize=(8, 0.32 * (len(texts) + 3)), dpi=150)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.axis("off")
        headings = [column.replace(": ", ":\n") for column in self.columns]
        lines = 1 + max(heading.count("\n") for heading in headings)
        drawn = axes.table(texts, colLabels=headings, cellLoc="right", loc="upper center")
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(9)
        drawn.auto_set_column_width(list(range(len(self.columns))))
        drawn.scale(1, 1.6)
        for (row, column), cell in drawn.get_celld().items():
            cell.set_linewidth(0.4)
            if row == 0:
                cell.set_height((0.4 + 0.65 * lines) * cell.get_height())
                cell.set_text_props(weight="bold", ha="left" if column == 0 else "right")
            elif column == 0:
                cell.set_text_props(ha="left")
        axes.set_title(self.title, fontsize=10, weight="bold")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
        return buffer.getvalue()


def _csv_values(cell: Cell) -> list[str]:
    if not cell.values:
        return ["", "", "0"]
    return [f"{np.mean(cell.values):.6g}", f"{np.std(cell.values):.6g}", str(len(cell.values))]


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def read_runs(named: Sequence[tuple[str, str]]) -> Runs:
    """Reads the results of runs.

    Args:
        named: (name, directory) pairs; a name may occur several times, once for each seed. A
            directory is a run, with results in evaluation/, evaluation_generated/ and
            evaluation_fid/, or has a results.json itself. For the name `encoder`, results are in
            evaluation_encoder/, because evaluation/ is the student's.

    Returns:
        The runs of each name; a run maps measures to results and may be empty.

    Raises:
        UserError: There is no such directory, or its results cannot be read.
    """
    runs: dict[str, list[Mapping[str, Results]]] = {}
    for name, directory in named:
        if not os.path.isdir(directory):
            raise UserError(f"--runs={name}={directory}: there is no such directory")
        found = {}
        of_encoder = [_ENCODER_DIRECTORY] if name == "encoder" else []
        for place in ("", *DIRECTORIES.values(), *of_encoder):
            path = os.path.join(directory, place, "results.json")
            if os.path.isfile(path):
                results = _read(path)
                if name == "encoder" and place and not _is_of_encoder(results):
                    continue
                measure = results.get("measure") or ("miou" in results and "segmentation")
                if measure in DIRECTORIES:  # other verbs write results.json too
                    found[measure] = results
        runs.setdefault(name, []).append(found)
    return runs


def _is_of_encoder(results: Results) -> bool:
    """Whether results are those of an encoder, or of a directory of masks."""
    settings = results.get("settings") or {}
    segmenter = str(settings.get("segmenter") or "")
    return bool(settings.get("predictions")) or os.path.basename(segmenter) == "encoder"


def build(number: int, runs: Runs) -> Table:
    """Builds one of the paper's tables.

    Args:
        number: 1, 2 or 3.
        runs: Results by row. The rows of table 1 are the settings `a` to `h`, those of table 3
            `single_output` and `layered`, those of table 2 any methods; `encoder` is the paper's.

    Raises:
        UserError: A name is not a row of the table, or the results do not fit together.
    """
    return {1: _ablations, 2: _methods, 3: _distances}[number](runs)


def _ablations(runs: Runs) -> Table:
    _require_known(runs, paper.SETTINGS, 1)
    columns = ["setting", "paper, 64 px", "full mask", "paper, 128 px", "full mask"]
    kinds = {"generated": "generated masks", "segmentation": "student"}
    shown = [kind for kind in kinds if _some_have(runs, kind)]
    _require_one_resolution(runs, "generated")
    references: dict[str, dict[str, tuple[str, ...]]] = {
        kind: {"full mask": ("references", "full_mask")} for kind in shown
    }
    for heading, path in _OF_GENERATED.items():
        if _some_have(runs, "generated", *path):
            references["generated"][heading] = path
    for kind in shown:
        columns += [f"measured: {kinds[kind]}", *references[kind]]
    rows: list[tuple[str, list[Cell]]] = []
    missing: list[str] = []
    for key, (name, figures) in paper.SETTINGS.items():
        cells = [Cell((figure,)) for figure in figures]
        for kind in shown:
            cells.append(_cell(runs, key, kind, "miou"))
            cells += [_cell(runs, key, kind, *path) for path in references[kind].values()]
            missing += _missing(runs, key, kind)
        rows.append((f"({key}) {name}", cells))
    missing += [f"{key}: no results" for key in runs if not shown]
    missing = list(dict.fromkeys(missing))  # a run that was not given is missing in both columns
    notes = [
        "Paper: LSUN Car, mIoU of generated masks against Mask R-CNN on the composites. "
        "Detected: share of the composites in which the detector finds something.",
        *_protocols(runs, shown),
    ]
    return Table("Table 1: ablations, mIoU", _distinct(columns), rows, notes, missing)


def _methods(runs: Runs) -> Table:
    for name in set(runs) & set(REFERENCES):
        raise UserError(
            f"--runs={name}=…: {name} is a reference, which every method's results include; give "
            "the method another name"
        )
    kind = "segmentation"
    split = any("detected" in results for results in _all(runs, kind))
    columns = ["method", "paper: LSUN Car, detected", "paper: LSUN Car, all", "paper: CUB-200"]
    columns += ["measured: detected", "measured: all"] if split else ["measured: mIoU"]
    parts = [("detected",), ("all",)] if split else [()]
    rows: list[tuple[str, list[Cell]]] = []
    missing: list[str] = []
    for key in dict.fromkeys(["encoder", *runs]):
        name, figures = paper.METHODS.get(key, (key, ()))
        cells = [Cell((figure,)) for figure in figures] or [Cell()] * 3
        cells += [_cell(runs, key, kind, *part, "miou") for part in parts]
        missing += _missing(runs, key, kind)
        rows.append((name, cells))
    are_scored_alike = True
    for key in REFERENCES:
        name, figures = paper.METHODS.get(key, ("centre box", ()))
        cells = [Cell((figure,)) for figure in figures] or [Cell()] * 3
        for part in parts:
            cell = _agreed(runs, kind, (*part, "references", key))
            are_scored_alike &= cell is not None
            cells.append(cell or Cell())
        if figures or cells[-1].values:
            rows.append((name, cells))
    if not are_scored_alike:
        missing.append(
            "references: they differ between the methods' results, so the methods were not scored "
            "on the same images in the same way"
        )
    notes = ["Paper: mIoU of real images.", *_protocols(runs, [kind])]
    return Table("Table 2: segmentation, mIoU", columns, rows, notes, missing)


def _distances(runs: Runs) -> Table:
    _require_known(runs, paper.GENERATORS, 3)
    _require_one_resolution(runs, "fid")
    features = {results["features"] for results in _all(runs, "fid")}
    if len(features) > 1:
        raise UserError(
            "--runs: FIDs of different features are not comparable "
            f"({', '.join(sorted(features))}); measure all runs with the same --inception"
        )
    rows: list[tuple[str, list[Cell]]] = []
    missing: list[str] = []
    for key, (name, figures) in paper.GENERATORS.items():
        cells = [Cell((figure,), digits=1) for figure in figures]
        cells.append(dataclasses.replace(_cell(runs, key, "fid", "fid"), digits=1))
        missing += _missing(runs, key, "fid")
        rows.append((name, cells))
    measured = {key: one["fid"] for key in runs for one in runs[key] if "fid" in one}
    counts = {key: (one.get("images"), one.get("real_images")) for key, one in measured.items()}
    missing += [f"{key}: {one['warning']}" for key, one in measured.items() if one.get("warning")]
    if len(set(counts.values())) > 1:
        missing.append("FIDs of different numbers of images are not comparable: more lower it")
    notes = [
        f"Measured, {key}: {images} composites against {real} real images."
        for key, (images, real) in counts.items()
    ]
    notes.append("Paper: LSUN Car, 10,000 composites against 10,000 real images.")
    notes += _protocols(runs, ["fid"])
    columns = ["generator", "paper, 64 px", "paper, 128 px", "measured"]
    return Table("Table 3: Fréchet inception distance", columns, rows, notes, missing)


def _cell(runs: Runs, key: str, kind: str, *path: str) -> Cell:
    """Returns the entry of a row: the value of each of its runs that has it."""
    values = [_value(one[kind], path) for one in runs.get(key, []) if kind in one]
    return Cell(tuple(value for value in values if value is not None))


def _all(runs: Runs, kind: str) -> list[Results]:
    """Returns the results of a kind of all runs that have them."""
    return [one[kind] for several in runs.values() for one in several if kind in one]


def _value(results: Results, path: Sequence[str]) -> float | None:
    value: Any = results
    if path and path[0] in ("detected", "all") and path[0] not in value:
        path = path[1:]  # no true mask is empty, so both are the same
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def _agreed(runs: Runs, kind: str, path: tuple[str, ...]) -> Cell | None:
    """Returns the reference that all runs agree on, empty if none has it, None if they differ."""
    values = (_value(results, path) for results in _all(runs, kind))
    known = [value for value in values if value is not None]
    if not known:
        return Cell()
    return Cell((known[0],)) if np.ptp(known) < 1e-6 else None


def _missing(runs: Runs, key: str, kind: str) -> list[str]:
    count = len(runs.get(key, []))
    complete = sum(kind in one for one in runs.get(key, []))
    if complete == count:
        return [f"{key}: no run given"] if not count else []
    return [f"{key}: {count - complete} of {count} runs without {DIRECTORIES[kind]}/results.json"]


def _some_have(runs: Runs, kind: str, *path: str) -> bool:
    found = _all(runs, kind)
    return any(_value(results, path) is not None for results in found) if path else bool(found)


def _protocols(runs: Runs, kinds: Sequence[str]) -> list[str]:
    """Returns the protocols that the results of each kind state, without repetition."""
    notes = []
    for kind in kinds:
        results = [one for one in _all(runs, kind) if "protocol" in one]
        stated = dict.fromkeys(str(one["protocol"]).strip() for one in results)
        notes += [f"Measured, {kind}: {protocol}" for protocol in stated]
    if any(len(several) > 1 for several in runs.values()):
        notes.append("±: standard deviation (of the population) over runs.")
    return notes


def _require_known(runs: Runs, rows: Mapping[str, Any], number: int) -> None:
    for name in runs:
        if name not in rows:
            raise UserError(
                f"--runs={name}=…: table {number} has no row {name!r}; its rows are "
                f"{', '.join(rows)}"
            )


def _require_one_resolution(runs: Runs, kind: str) -> None:
    sides = sorted({one["resolution"] for one in _all(runs, kind) if one.get("resolution")})
    if len(sides) > 1:
        raise UserError(
            f"--runs: results of {' and '.join(map(str, sides))} px; make a table for each, with "
            "RUN/stages/RESOLUTION for an earlier stage of a run"
        )


def _distinct(columns: Sequence[str]) -> list[str]:
    """Prefixes the headings of references with that of the score to their left."""
    named: list[str] = []
    score = ""
    for column in columns:
        is_reference = column in ("full mask", *_OF_GENERATED)
        named.append(f"{score}: {column}" if is_reference else column)
        score = score if is_reference else column
    return named


def _read(path: str) -> Results:
    results: Results | None = records.read(path, _RESULTS)
    is_of_fid = results is not None and results.get("measure") == "fid"
    if results is None or (is_of_fid and not records.matches(results, _OF_FID)):
        raise UserError(
            f"{path}: cannot be read as JSON results of `layerseg evaluate`; run it again"
        )
    return results
