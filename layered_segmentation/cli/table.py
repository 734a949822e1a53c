"""Puts the paper's table 1, 2 or 3 beside the scores of own runs.

Reads what `layerseg evaluate` left in each run: evaluation/, evaluation_generated/ and
evaluation_fid/; a directory with a results.json serves as well. Table 1 has the rows a … h (the
settings of the ablations), table 2 any method's name (`encoder` is the paper's, of a run its
evaluation_encoder/), table 3 `single_output` and `layered`. The same name again is another seed of
the same row. Prints Markdown and writes table1.md, table1.csv and table1.png to --out.

Example:
  layerseg table --table=1 --runs=a=RUNS/a,b=RUNS/b,d=RUNS/d_seed0,d=RUNS/d_seed1 --out=TABLES
"""

import os
import sys

from absl import flags

from layered_segmentation.cli import app
from layered_segmentation.errors import UserError

_TABLE = flags.DEFINE_enum("table", None, ["1", "2", "3"], "Which table.", required=True)
_RUNS = flags.DEFINE_list("runs", None, "NAME=DIR, one a run, with commas between.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory to write to.", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the table that --out holds.")


def main(argv: list[str]) -> None:
    """Prints and writes one table."""
    del argv
    named = [_split(text) for text in _RUNS.value]
    if not named:
        raise UserError("--runs is empty; name runs, as in --runs=a=RUNS/a,b=RUNS/b")
    paths = {
        ending: os.path.join(_OUT.value, f"table{_TABLE.value}.{ending}")
        for ending in ("md", "csv", "png")
    }
    _require_free(list(paths.values()))

    from layered_segmentation import files
    from layered_segmentation.evaluation import tables

    runs = tables.read_runs(named)
    if not any(results for several in runs.values() for results in several):
        raise UserError(
            "--runs: none of these directories holds results of `layerseg evaluate`; run it first "
            "(of an encoder: layerseg evaluate --segmenter=RUN/encoder)"
        )
    table = tables.build(int(_TABLE.value), runs)
    picture = table.png()
    os.makedirs(_OUT.value, exist_ok=True)
    files.write_text(paths["md"], table.markdown())
    files.write_text(paths["csv"], table.csv())
    files.write_bytes(paths["png"], picture)
    print(table.markdown())
    print(f"table: {', '.join(paths.values())}")
    for line in table.missing:
        print(f"missing: {line}", file=sys.stderr)


def _split(text: str) -> tuple[str, str]:
    name, _, directory = text.partition("=")
    if not name or not directory:
        raise UserError(f"--runs={text}: write it as NAME=DIR, as in --runs=a=RUNS/a,b=RUNS/b")
    return name, directory


def _require_free(paths: list[str]) -> None:
    out = _OUT.value
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"--out={out}: a file has this name; name a directory")
    taken = [path for path in paths if os.path.exists(path)]
    if taken and not _OVERWRITE.value:
        raise UserError(
            f"--out={out}: {taken[0]} already exists; name another --out or add --overwrite"
        )


if __name__ == "__main__":
    app.run(main)
