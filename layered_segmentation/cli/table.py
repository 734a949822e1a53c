"""Compares the scores of runs with the paper's table 1, 2 or 3.

Reads the results of `layerseg evaluate`, `evaluate_generated` and `fid` in each run: evaluation/,
evaluation_generated/ and evaluation_fid/. A directory with a results.json works too. The rows of
table 1 are a … h (the settings of the ablations); those of table 2, any names of methods (`encoder`
is the paper's method; its results are in a run's evaluation_encoder/); those of table 3,
`single_output` and `layered`. Repeat a name for another seed of the same row. Prints Markdown and
writes table1.md, table1.csv and table1.png to --out.

Example:
  layerseg table --table=1 --runs=a=RUNS/a,b=RUNS/b,d=RUNS/d_seed0,d=RUNS/d_seed1 --out=TABLES
"""

import os
import sys

from absl import flags

from layered_segmentation.cli import app, shared
from layered_segmentation.errors import UserError

_TABLE = flags.DEFINE_enum("table", None, ["1", "2", "3"], "Number of the table.", required=True)
_RUNS = flags.DEFINE_list("runs", None, "NAME=DIR of each run, separated by commas.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory to write to.", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing table.")


def main(_: list[str]) -> None:
    """Prints and writes one table."""
    named = [_split(text) for text in _RUNS.value]
    if not named:
        raise UserError("--runs is empty; name runs, as in --runs=a=RUNS/a,b=RUNS/b")
    markdown, csv, png = (f"table{_TABLE.value}.{ending}" for ending in ("md", "csv", "png"))
    shared.require_free(_OUT.value, [markdown, csv, png], _OVERWRITE.value)

    from layered_segmentation import files
    from layered_segmentation.evaluation import tables

    runs = tables.read_runs(named)
    if not any(results for several in runs.values() for results in several):
        raise UserError(
            "--runs: none of these directories has results of `layerseg evaluate`; run it first "
            "(for an encoder: layerseg evaluate --segmenter=RUN/encoder)"
        )
    table = tables.build(int(_TABLE.value), runs)
    picture = table.png()
    os.makedirs(_OUT.value, exist_ok=True)
    paths = [os.path.join(_OUT.value, name) for name in (markdown, csv, png)]
    with files.undoing(*paths):
        files.write_text(paths[0], table.markdown())
        files.write_text(paths[1], table.csv())
        files.write_bytes(paths[2], picture)
    print(table.markdown())
    print(f"table: {os.path.join(_OUT.value, markdown)}, {csv}, {png}")
    for line in table.missing:
        print(f"missing: {line}", file=sys.stderr)


def _split(text: str) -> tuple[str, str]:
    name, _, directory = text.partition("=")
    if not name or not directory:
        raise UserError(f"--runs={text}: write it as NAME=DIR, as in --runs=a=RUNS/a,b=RUNS/b")
    return name, directory


if __name__ == "__main__":
    app.run(main)
