import csv
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import paper, tables
from layered_segmentation.evaluation.tables import Cell, Table


def write(directory, measure, **results):
    place = directory / {**tables.DIRECTORIES, "": ""}[measure]
    place.mkdir(parents=True, exist_ok=True)
    (place / "results.json").write_text(json.dumps({"measure": measure, **results}))
    return str(directory)


def scores(miou, full_mask, **more):
    return {"miou": miou, "references": {"full_mask": full_mask}, "protocol": "P. ", **more}


def test_cells():
    assert Cell().text == "—"
    assert Cell((0.85949,)).text == "0.859"
    assert Cell((0.8, 0.9)).text == "0.850 ± 0.050"
    assert Cell((31.44, 31.44), digits=1).text == "31.4 ± 0.0"


def test_rendering():
    table = Table("T", ["row", "a: b", "c"], [("x", [Cell((0.5, 0.7)), Cell()])], ["Note."])
    assert table.markdown() == (
        "**T**\n\n| row | a: b | c |\n| --- | ---: | ---: |\n| x | 0.600 ± 0.100 | — |\n\nNote.\n"
    )
    assert table.csv() == (
        'row,a: b,"a: b, std","a: b, runs",c,"c, std","c, runs"\nx,0.6,0.1,2,,,0\n'
    )
    with Image.open(io.BytesIO(table.png())) as picture:
        pixels = np.asarray(picture.convert("L"))
        assert picture.format == "PNG" and min(picture.size) > 100
    assert pixels.min() < 60 and np.median(pixels) == 255


def test_the_figures_are_those_of_the_paper():
    # Table 1 of the paper, row by row, as one line of digits.
    figures = [figure for _, row in paper.SETTINGS.values() for figure in row]
    assert "".join(f"{figure:.3f}"[2:] for figure in figures) == (
        "685440533432" "039428025419" "144434094426" "765454673436"
        "264374136365" "733443643430" "693458552430" "550446484435"
    )  # fmt: skip
    figures = [figure for _, row in paper.METHODS.values() for figure in row]
    assert "".join(f"{figure:.3f}"[2:] for figure in figures) == (
        "540479380" "559499453" "402357132"
    )  # fmt: skip
    assert [row for _, row in paper.GENERATORS.values()] == [(27.8, 21.7), (31.4, 30.9)]


def test_ablations(tmp_path):
    first = write(tmp_path / "d0", "segmentation", **scores(0.80, 0.27))
    write(tmp_path / "d0", "generated", **scores(0.6, 0.30))
    second = write(tmp_path / "d1", "segmentation", **scores(0.90, 0.27))
    third = write(tmp_path / "b", "segmentation", **scores(0.276, 0.276))
    runs = tables.read_runs([("d", first), ("b", third), ("d", second)])
    table = tables.build(1, runs)
    lines = table.markdown().splitlines()
    assert lines[2] == (
        "| setting | paper, 64 px | paper, 64 px: full mask | paper, 128 px | "
        "paper, 128 px: full mask | measured: generated masks | "
        "measured: generated masks: full mask | measured: student | measured: student: full mask |"
    )
    assert lines[4] == "| (a) default | 0.685 | 0.440 | 0.533 | 0.432 | — | — | — | — |"
    assert lines[5] == (
        "| (b) no shift, δ = 0 | 0.039 | 0.428 | 0.025 | 0.419 | — | — | 0.276 | 0.276 |"
    )
    assert lines[7] == (
        "| (d) background contrast jitter | 0.765 | 0.454 | 0.673 | 0.436 | 0.600 | 0.300 | "
        "0.850 ± 0.050 | 0.270 ± 0.000 |"
    )
    assert len(lines) == 4 + 8 + 8 and lines[15] == "Measured, generated: P."
    assert "a: no run given" in table.missing
    assert "b: 1 of 1 runs without evaluation_generated/results.json" in table.missing
    assert "d: 1 of 2 runs without evaluation_generated/results.json" in table.missing
    assert len(table.missing) == 6 + 2


def test_ablations_of_results_with_more_columns(tmp_path):
    more = {"resolution": 64, "detected_share": 0.875}
    references = {"full_mask": 0.3, "other_scene": 0.2}
    one = write(tmp_path / "a", "generated", miou=0.6, references=references, **more)
    lines = tables.build(1, tables.read_runs([("a", one)])).markdown().splitlines()
    assert lines[2].endswith(
        "measured: generated masks: another scene's | measured: generated masks: detected |"
    )
    assert lines[4].endswith("| 0.600 | 0.300 | 0.200 | 0.875 |")
    other = write(tmp_path / "b", "generated", **scores(0.5, 0.3), resolution=128)
    with pytest.raises(UserError, match="results of 64 and 128 px; make a table for each"):
        tables.build(1, tables.read_runs([("a", one), ("b", other)]))


def test_ablations_show_only_the_columns_that_exist(tmp_path):
    path = write(tmp_path / "a", "segmentation", **scores(0.8, 0.27))
    assert tables.build(1, tables.read_runs([("a", path)])).columns[5:] == [
        "measured: student", "measured: student: full mask",
    ]  # fmt: skip
    empty = tmp_path / "empty"
    empty.mkdir()
    table = tables.build(1, tables.read_runs([("a", str(empty))]))
    assert len(table.columns) == 5 and "a: no results" in table.missing


def test_methods(tmp_path):
    references = {"full_mask": 0.3, "centre_box": 0.4, "grabcut": 0.5}
    parts = {
        "detected": {"miou": 0.61, "references": references},
        "all": {"miou": 0.55, "references": {**references, "full_mask": 0.25}},
    }
    write(tmp_path / "student", "segmentation", **scores(0.55, 0.25), **parts)
    parts["detected"] = {"miou": 0.5, "references": references}
    encoder = write(tmp_path / "encoder", "", **scores(0.4, 0.25), **parts)
    os.rename(tmp_path / "student" / "evaluation", tmp_path / "student" / "elsewhere")
    named = [("student", str(tmp_path / "student" / "elsewhere")), ("encoder", encoder)]
    table = tables.build(2, tables.read_runs(named))
    assert table.markdown().splitlines()[2:9] == [
        "| method | paper: LSUN Car, detected | paper: LSUN Car, all | paper: CUB-200 | "
        "measured: detected | measured: all |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| the method (encoder) | 0.540 | 0.479 | 0.380 | 0.500 | 0.550 |",
        "| student | — | — | — | 0.610 | 0.550 |",
        "| GrabCut | 0.559 | 0.499 | 0.453 | 0.500 | 0.500 |",
        "| full mask | 0.402 | 0.357 | 0.132 | 0.300 | 0.250 |",
        "| centre box | — | — | — | 0.400 | 0.400 |",
    ]
    assert not table.missing


def test_the_encoder_of_a_run_is_not_its_student(layerseg, tmp_path):
    run = tmp_path / "run"
    write(run, "segmentation", **scores(0.8, 0.3), settings={"segmenter": str(run)})
    (row,) = [cells for _, cells in tables.build(2, tables.read_runs([("encoder", str(run))])).rows
              if len(cells) == 4 and cells[0].text == "0.540"]  # fmt: skip
    assert row[-1].text == "—"
    flags = (f"--runs=encoder={run}", f"--out={tmp_path / 'out'}")
    result = layerseg("table", "--table=2", *flags)
    assert result.status == 2 and "layerseg evaluate --segmenter=RUN/encoder" in result.stderr
    (run / "evaluation").rename(run / "evaluation_encoder")
    results = {"measure": "segmentation", **scores(0.4, 0.3)}
    results["settings"] = {"segmenter": str(run / "encoder")}
    (run / "evaluation_encoder" / "results.json").write_text(json.dumps(results))
    assert "| 0.380 | 0.400 |" in layerseg("table", "--table=2", *flags).stdout
    chunks = tmp_path / "chunks"
    write(chunks, "segmentation", **scores(0.5, 0.3), settings={"predictions": "chunks/masks"})
    table = tables.build(2, tables.read_runs([("encoder", str(chunks))]))
    assert table.rows[0][1][-1].text == "0.500"


def test_methods_without_a_split_and_on_different_images(tmp_path):
    a = write(tmp_path / "a", "segmentation", **scores(0.7, 0.3))
    b = write(tmp_path / "b", "segmentation", **scores(0.6, 0.4))
    table = tables.build(2, tables.read_runs([("one", a), ("two", b)]))
    assert table.columns[4:] == ["measured: mIoU"]
    assert [cells[-1].text for _, cells in table.rows] == ["—", "0.700", "0.600", "—", "—"]
    assert "encoder: no run given" in table.missing
    assert any("not scored on the same images" in line for line in table.missing)
    with pytest.raises(UserError, match="grabcut is a reference"):
        tables.build(2, tables.read_runs([("grabcut", a)]))


def test_distances(tmp_path):
    layered = write(tmp_path / "l", "fid", fid=31.46, features="x", protocol="P.")
    plain = write(tmp_path / "s", "fid", fid=20.0, features="y", protocol="P.")
    table = tables.build(3, tables.read_runs([("layered", layered)]))
    assert table.markdown().splitlines()[2:6] == [
        "| generator | paper, 64 px | paper, 128 px | measured |",
        "| --- | ---: | ---: | ---: |",
        "| StyleGAN, single output | 27.8 | 21.7 | — |",
        "| layered | 31.4 | 30.9 | 31.5 |",
    ]
    assert table.missing == ["single_output: no run given"]
    counts = {"images": 4, "real_images": 6, "warning": "of 4 images an FID says little"}
    few = write(tmp_path / "few", "fid", fid=2.0, features="x", **counts)
    table = tables.build(3, tables.read_runs([("layered", layered), ("single_output", few)]))
    assert "Measured, single_output: 4 composites against 6 real images." in table.notes
    assert "single_output: of 4 images an FID says little" in table.missing
    assert any("different numbers of images" in line for line in table.missing)
    with pytest.raises(UserError, match=r"are not comparable \(x, y\)"):
        tables.build(3, tables.read_runs([("layered", layered), ("single_output", plain)]))
    sides = [
        write(tmp_path / str(side), "fid", fid=2.0, features="x", resolution=side)
        for side in (64, 128)
    ]
    with pytest.raises(UserError, match="results of 64 and 128 px"):
        tables.build(3, tables.read_runs([("layered", path) for path in sides]))


def test_the_command(layerseg, tmp_path):
    write(tmp_path / "a", "segmentation", **scores(0.8, 0.27))
    out = tmp_path / "out"
    flags = ("--table=1", f"--runs=a={tmp_path / 'a'},a={tmp_path / 'a'}", f"--out={out}")
    result = layerseg("table", *flags)
    assert result.status == 0, result.stderr
    assert sorted(os.listdir(out)) == ["table1.csv", "table1.md", "table1.png"]
    markdown = (out / "table1.md").read_text(encoding="utf-8")
    assert markdown in result.stdout and "| 0.800 ± 0.000 |" in markdown
    with open(out / "table1.csv", newline="", encoding="utf-8") as file:
        (row, *_) = csv.DictReader(file)
    assert row["measured: student"] == "0.8" and row["measured: student, runs"] == "2"
    assert "missing: b: no run given" in result.stderr
    again = layerseg("table", *flags)
    assert again.status == 2 and "table1.md, table1.csv, table1.png already exist" in again.stderr
    assert layerseg("table", *flags, "--overwrite").status == 0


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--runs=a"], "--runs=a: write it as NAME=DIR"),
        (["--runs=a={tmp}/nowhere"], "no such directory"),
        (["--runs=z={tmp}/run"], "table 1 has no row 'z'; its rows are a, b, c"),
        (["--runs=a={tmp}/damaged"], "cannot be read as JSON"),
        (["--table=4"], "--table"),
        (["--runs="], "--runs is empty"),
    ],
)
def test_mistakes(layerseg, tmp_path, flags, words):
    write(tmp_path / "run", "segmentation", **scores(0.8, 0.27))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "results.json").write_text("{")
    given = ["--table=1", f"--runs=a={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]
    result = layerseg("table", *given, *(flag.format(tmp=tmp_path) for flag in flags))
    assert result.status == 2 and words in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()
