"""The notebook in examples/ runs from top to bottom."""

import json
import os
import pathlib
import re

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
TOUR = EXAMPLES / "quick_tour.ipynb"

# Fewer images and steps; LAYERSEG_WHOLE_TOUR=1 runs it as it is.
SHORTER = {
    "{8: 24000, 16: 24000}": "{8: 320, 16: 320}",
    '"student.steps": 300': '"student.steps": 9',
}


def test_the_notebook_is_committed_without_outputs():
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = TOUR.read_text(encoding="utf-8")
    whole = os.environ.get("LAYERSEG_WHOLE_TOUR")
    if not whole:
        for long, short in SHORTER.items():
            long, short = (json.dumps(one)[1:-1] for one in (long, short))
            assert long in text
            text = text.replace(long, short)
    tour = nbformat.reads(text, 4)
    nbformat.validate(tour)
    client = nbclient.NotebookClient(tour, timeout=1200, resources={"metadata": {"path": EXAMPLES}})
    client.execute()
    outputs = [output for cell in tour.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 7
    printed = "".join(output["text"] for output in outputs if output.output_type == "stream")
    score, full = re.search(r"mIoU (\d\.\d+) on 200 .* has (\d\.\d+)", printed).groups()
    if whole:
        assert float(score) > 2 * float(full)
