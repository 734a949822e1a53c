import dataclasses
import json
import subprocess
import sys

import pytest

from layered_segmentation.benchmarks import training

MOST_OPERATIONS = 7_350
BFLOAT16 = "--compare=train.precision=mixed_bfloat16"
LAZY = "--compare=gan.penalty_every=2,gan.shared_pass=true,gan.average_every=2"


@pytest.mark.slow
def test_the_table_and_its_file(layerseg, tmp_path):
    out = tmp_path / "benchmark.json"
    flags = ["--resolutions=8", "--max_channels=8", "--batch=4", "--latent_dim=8"]
    result = layerseg(
        "benchmark", *flags, "--steps=2", "--rounds=2", f"--out={out}", LAZY, BFLOAT16
    )
    assert result.status == 0, result.stderr
    rows = json.loads(out.read_text())
    assert [(row["convolutions"], row["precision"]) for row in rows] == [
        ("plain", "float32"),
        ("unfused", "float32"),
        ("fused", "float32"),
        ("fused", "mixed_bfloat16"),
        ("fused", "float32"),
        ("fused", "mixed_bfloat16"),
    ]
    assert result.stdout.count("float32") == 4
    plain, unfused, fused, mixed, lazy, compared = rows
    assert f"--compare={compared['settings']}" == BFLOAT16
    assert f"--compare={lazy['settings']}" == LAZY and not fused["settings"]
    # A pass of the generator less, and a gradient penalty in every second step.
    assert lazy["gflop_per_image"] < 0.8 * fused["gflop_per_image"]
    assert lazy["operations"] < fused["operations"]
    assert plain["ratio"] == pytest.approx(1)
    assert plain["gflop_per_image"] == unfused["gflop_per_image"]
    # Fusing computes the same function in fewer operations; precision changes none of them.
    assert 0 < fused["gflop_per_image"] < unfused["gflop_per_image"]
    for row in (mixed, compared):
        assert row["gflop_per_image"] == pytest.approx(fused["gflop_per_image"], rel=0.01)
    for row in rows:
        assert 0 < row["slowest"] <= row["images_per_second"] <= row["fastest"]
        assert row["peak_share"] > 0 and row["processor_milliseconds"] > 0


def test_an_existing_file_and_a_wrong_resolution_are_refused(layerseg, tmp_path):
    out = tmp_path / "mine.json"
    out.write_text("mine")
    result = layerseg("benchmark", f"--out={out}")
    assert result.status == 2 and "--overwrite" in result.stderr
    assert out.read_text() == "mine"
    result = layerseg("benchmark", "--resolutions=8,20")
    assert result.status == 2 and "--resolutions=20" in result.stderr
    result = layerseg("benchmark", "--images=5")
    assert result.status == 2 and "unknown flag --images" in result.stderr


def test_a_timed_step_trains(eagerly, monkeypatch):
    timer = training.step_timer(training.Sizes(8, 8, 4, 8), fused=True, precision="float32")
    before = [weight.numpy() for weight in timer.gan.generator.trainable_variables]
    turn = timer.run(1)
    assert turn.images_per_second > 0 and turn.processor_milliseconds > 0
    after = timer.gan.generator.trainable_variables
    assert any((new.numpy() != old).any() for new, old in zip(after, before, strict=True))
    monkeypatch.setattr(training, "_PEAK_SIDE", 64)
    assert training.matmul_peak() > 0


@pytest.mark.slow
def test_the_graph_of_a_step_does_not_grow():
    """A step is made of thousands of small operations; starting them takes most of its time."""
    sizes = training.Sizes(16, max_channels=32, batch=8, latent_dim=64)  # the quickstart's
    timer = training.step_timer(sizes, fused=True, precision="float32")
    assert 5_000 < timer.operations() <= MOST_OPERATIONS


def test_a_row_of_the_table():
    row = training.Row(16, "fused", "float32", 104.44, 102.0, 119.0, 1.5, 6.543, 0.123, 0.61, 9)
    assert row.line().split() == [
        "16",
        "fused",
        "float32",
        "104.4",
        "102.0–119.0",
        "1.50",
        "6.543",
        "0.123",
        "61%",
    ]
    assert len(row.line()) == len(training.HEADER)
    other = dataclasses.replace(row, settings="gan.shared_pass=true")
    assert other.line() == f"{row.line()}  gan.shared_pass=true"


def test_the_second_process_ends_when_the_first_is_killed():
    program = """
import os
from layered_segmentation.benchmarks import training

if __name__ == "__main__":
    with training.second_process() as pool:
        pool.submit(print, "started", flush=True).result()
        os.kill(os.getpid(), 9)
"""
    # Returns when all that may write to its output have ended.
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-9, "started\n"), done.stderr
