"""Training that is stopped, damaged and starved by real faults, and resumed with its command."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile

import pytest

CONFIG = """
data: {name: shapes, limit: 300, cache_memory: 0}
gan: {resolution: 16, max_channels: 8, latent_dim: 8, mapping_layers: 2}
schedule: {images_at: {8: 1600, 16: 1600}, batch: {8: 16, 16: 16}}
train: {checkpoint_every: 100000, sheet_every: 1600, keep_stages: []}
"""
STOPS = int(os.environ.get("LAYERSEG_STOPS", "4"))
POWER_FAILURES = 3

pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    processes = []

    def run(directory, *flags):
        command = [sys.executable, "-m", "layered_segmentation.cli.train", f"--config={config}"]
        command += [f"--run_dir={directory}", *flags]
        with open(tmp_path / "output.txt", "w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def output(tmp_path):
    return lambda: (tmp_path / "output.txt").read_text()


def finish(process, output):
    assert process.wait(timeout=300) == 0, output()


def networks(run):
    content = []
    for name in ("generator", "discriminator"):
        with zipfile.ZipFile(run / "generator" / f"{name}.keras") as archive:
            content.append(archive.read("model.weights.h5"))
    return content


def last_checkpoint(run):
    """Returns the images seen of the newest checkpoint, -1 if there is none."""
    names = [path.stem for path in run.glob("checkpoints/ckpt-*.json")]
    return max((int(name.removeprefix("ckpt-")) for name in names), default=-1)


@pytest.fixture
def uninterrupted(start, output, tmp_path):
    finish(start(tmp_path / "whole"), output)
    return tmp_path / "whole"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_at_random_moments_ends_as_the_uninterrupted_one(
    start, output, tmp_path, number
):
    """Anywhere: at the import, while graphs are traced, in steps, in sheets, at the end."""
    begin = time.monotonic()
    finish(start(tmp_path / "whole"), output)
    duration = time.monotonic() - begin
    expected, runs, times, saved, losing = networks(tmp_path / "whole"), 0, [], -1, 0
    while len(times) < STOPS:
        run = tmp_path / f"run{runs}"
        process = start(run)
        time.sleep(random.SystemRandom().uniform(0, duration))
        if process.poll() is not None:
            finish(process, output)
            assert networks(run) == expected
            runs, saved = runs + 1, -1
            continue
        begin = time.monotonic()
        process.send_signal(number)
        process.wait(timeout=30)
        times.append(time.monotonic() - begin)
        print(f"after {times[-1]:.1f} s: status {process.returncode}", flush=True)
        # Before the package is imported the signal ends the process as the system does.
        assert process.returncode in (128 + number, -number, 0), output()
        if process.returncode == 128 + number:
            assert "Traceback" not in output()
            assert "interrupted; run the same command again" in output()
        assert last_checkpoint(run) >= saved
        saved = last_checkpoint(run)
        if (run / "log.jsonl").exists():  # from 1,000 images on
            records = map(json.loads, (run / "log.jsonl").read_text().splitlines())
            losing += max(record["images_seen"] for record in records) > saved
    finish(start(tmp_path / f"run{runs}"), output)
    assert networks(tmp_path / f"run{runs}") == expected
    print(
        f"{signal.Signals(number).name}: {len(times)} stops of {runs + 1} runs, at most "
        f"{max(times):.1f} s, mean {sum(times) / len(times):.1f} s, {losing} with images lost"
    )
    assert max(times) < 10 and losing == 0


def test_a_stop_in_a_step_loses_nothing(start, output, tmp_path):
    run = tmp_path / "run"
    process = start(run, "--set=schedule.images_at={8: 100000, 16: 16}")
    log = run / "log.jsonl"
    while process.poll() is None and not log.exists():
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 143
    seen = last_checkpoint(run)
    assert seen > 1_000 and "stopping: finishing this step and saving a checkpoint" in output()
    logged = json.loads(log.read_text().splitlines()[-1])["images_seen"]
    assert logged <= seen < logged + 1_000  # whole steps since the last record


def test_a_run_goes_on_after_a_power_failure(start, output, tmp_path, uninterrupted, power_failure):
    disk, fail = power_failure
    process, after, seen = start(disk / "run", "--set=train.checkpoint_every=160"), [], -1
    while process.poll() is None:
        newest = last_checkpoint(disk / "run")
        if newest > seen and len(after) < POWER_FAILURES:
            after.append(fail())
            seen = newest
        time.sleep(0.2)
    finish(process, output)
    after.append(fail())  # at once after the end
    for number, copy in enumerate(after):
        resumed_from = last_checkpoint(copy / "run")
        finish(start(copy / "run"), output)
        assert networks(copy / "run") == networks(uninterrupted)
        print(f"power failure {number}: resumed from {resumed_from} images seen")
    assert "is finished" in output()


def test_damaged_networks_of_a_finished_run_are_written_again(
    start, output, tmp_path, uninterrupted
):
    before = networks(uninterrupted)
    for name in ("generator", "discriminator"):
        file = uninterrupted / "generator" / f"{name}.keras"
        os.truncate(file, file.stat().st_size // 2)
        finish(start(uninterrupted), output)
        assert f"{name}.keras: is missing or damaged; it is written again" in output()
        assert networks(uninterrupted) == before
    finish(start(uninterrupted), output)
    assert "nothing to do" in output()


def test_a_cache_truncated_in_training_is_an_error_with_a_way_out(
    start, output, tmp_path, uninterrupted
):
    run = tmp_path / "run"
    process = start(run)
    while process.poll() is None and not (run / "checkpoints" / "ckpt-0.json").exists():
        time.sleep(0.05)
    for file in (run / "cache").glob("*/*.npy"):
        os.truncate(file, 5_000)
    assert process.wait(timeout=100) == 2, output()
    assert "was truncated while it was in use; run the same command again" in output()
    assert "Traceback" not in output()
    finish(start(run), output)
    assert networks(run) == networks(uninterrupted)


def test_settings_that_change_nothing_of_the_result_may_change(
    start, output, tmp_path, uninterrupted
):
    run = tmp_path / "run"
    process = start(run)
    while process.poll() is None and not (run / "log.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 143
    settings = ("checkpoint_every=320", "checkpoint_minutes=0.01", "sheet_every=800")
    flags = [f"--set=train.{setting}" for setting in (*settings, "keep_checkpoints=2")]
    finish(start(run, *flags), output)
    assert networks(run) == networks(uninterrupted)
    assert len([n for n in os.listdir(run / "checkpoints") if n.endswith(".index")]) == 2
