"""A table of figures, rendered as Markdown, CSV and PNG."""

import csv
import dataclasses
import io
from collections.abc import Sequence

import numpy as np

ABSENT = "—"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A figure of a table: the mean over runs, and its spread if there are several.

    Attributes:
        values: One a run; empty where there is none.
        digits: Decimal places.
    """

    values: tuple[float, ...] = ()
    digits: int = 3

    @property
    def text(self) -> str:
        """The figure as it is shown: `0.859`, `0.859 ± 0.004` over several runs, or a dash."""
        if not self.values:
            return ABSENT
        mean = f"{np.mean(self.values):.{self.digits}f}"
        if len(self.values) == 1:
            return mean
        return f"{mean} ± {np.std(self.values):.{self.digits}f}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, ready to be rendered.

    Attributes:
        title: Above it.
        columns: Headings; the first is that of the rows' names.
        rows: Names and figures.
        notes: Below it.
        missing: What was looked for and not found, a sentence each.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    notes: Sequence[str] = ()
    missing: Sequence[str] = ()

    def markdown(self) -> str:
        """Returns the table as Markdown."""
        lines = [f"**{self.title}**", "", _line(self.columns)]
        lines.append(_line(["---", *["---:"] * (len(self.columns) - 1)]))
        lines += [_line([name, *(cell.text for cell in cells)]) for name, cells in self.rows]
        lines += [line for note in self.notes for line in ("", note)]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Returns the table as CSV: for each column its mean, its spread and its runs."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        parts = [(column, f"{column}, std", f"{column}, runs") for column in self.columns[1:]]
        writer.writerow([self.columns[0], *(name for part in parts for name in part)])
        for name, cells in self.rows:
            values = [value for cell in cells for value in _csv_values(cell)]
            writer.writerow([name, *values])
        return buffer.getvalue()

    def png(self) -> bytes:
        """Returns the table as a picture, PNG."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        texts = [[name, *(cell.text for cell in cells)] for name, cells in self.rows]
        # As tall as the rows will be, so that the title stands above them.
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
    mean, spread = float(np.mean(cell.values)), float(np.std(cell.values))
    return [f"{mean:.6g}", f"{spread:.6g}", str(len(cell.values))]


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
