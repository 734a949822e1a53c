import os
import subprocess
import sys

import pytest

from layered_segmentation.benchmarks import accelerator

SMALL = [
    "--resolutions=8", "--precisions=float32", "--batch=4", "--max_channels=8", "--latent_dim=8",
    "--mapping_layers=1", "--peak_side=64", "--calls=1", "--rounds=2",
]  # fmt: skip


def table(text):
    """The rows of a table: work, images/s, megabytes and share of peak."""
    rows = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == "8":
            *work, precision, speed, _, megabytes, share = words[1:]
            assert precision == "float32"
            rows[" ".join(work)] = [float(w.replace(",", "").rstrip("%")) for w in (
                speed, megabytes, share,
            )]  # fmt: skip
    return rows


@pytest.mark.slow
def test_whole_steps_are_timed_with_and_without_xla(capsys, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    accelerator.main(SMALL)
    text = capsys.readouterr().out
    assert accelerator.HEADER in text
    rows = table(text)
    assert list(rows) == ["step", "step with XLA"]
    assert all(value > 0 for values in rows.values() for value in values)


@pytest.mark.slow
def test_the_networks_alone_are_timed_without_tensorflow():
    pytest.importorskip("jax")
    program = (
        "import sys; from layered_segmentation.benchmarks import accelerator; "
        "accelerator.main(sys.argv[1:]); assert 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program, *SMALL], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    assert list(rows) == [
        "generator forward", "discriminator forward", "generator gradients",
        "discriminator gradients",
    ]  # fmt: skip
    assert all(value > 0 for values in rows.values() for value in values)


def test_no_row_is_begun_after_the_time(capsys, monkeypatch):
    row = accelerator.Row(8, "step", "float32", (1.0,), 1.0, 1.0, 1.0)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(accelerator, "steps", lambda *_: iter([row, row, row]))
    accelerator.main(["--minutes=0"])
    assert capsys.readouterr().out.count("step") == 1


def test_a_row_of_the_table():
    row = accelerator.Row(
        64, "step", "mixed_bfloat16", (1_900.0, 2_000.0, 2_100.0), 40_500, 4e9, 4e13
    )
    assert row.line().split() == [
        "64", "step", "mixed_bfloat16", "2,000.0", "1,900.0–2,100.0", "40,500", "20.0%",
    ]  # fmt: skip
    assert len(row.line()) == len(accelerator.HEADER)
    assert accelerator.Row(64, "step", "float32").line().endswith("float32 out of memory")
