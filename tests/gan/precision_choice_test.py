"""`train.precision=auto`: what is chosen, recorded and kept."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import tiny_run_config

from layered_segmentation import RunDirectory, files
from layered_segmentation.choices import Precision
from layered_segmentation.errors import UserError
from layered_segmentation.gan import precision, step_timer, strategy, trainer
from layered_segmentation.gan.layered_gan import LayeredGAN

ENGINE = tf.distribute.get_strategy()


def config(*overrides):
    return tiny_run_config(
        "gan.resolution=8",
        "data.name=shapes",
        "data.limit=20",
        "schedule.batch={8: 4}",
        "schedule.images_per_stage=12",
        *overrides,
    )


AUTO = config("train.precision=auto")


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create_or_resume(AUTO)
    return run


def measures(monkeypatch, gain):
    """Lets the measurement find a gain; returns the calls of it."""
    calls = []

    def measure(config, mixed, replicas, student):
        calls.append((config, mixed, replicas))
        return gain, {"float32": 100.0, mixed: 100.0 * gain}

    monkeypatch.setattr(precision, "measure", measure)
    return calls


@pytest.mark.parametrize("gain, expected", [(1.3, "mixed_bfloat16"), (1.14, "float32")])
def test_mixed_precision_is_taken_only_if_clearly_faster(gain, expected, run, monkeypatch, capsys):
    measures(monkeypatch, gain)
    precision.choose(AUTO, run, ENGINE)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"train.precision=auto: {expected}, since ")
    assert "100.0 images/s at 8 px in float32" in line and f"{100 * gain:.1f} in mixed" in line
    assert precision.resolve(AUTO, run).train.precision == expected
    assert files.read_json(run.precision_path)["images_per_second"]["float32"] == 100.0


def test_a_run_that_has_begun_keeps_its_precision(run, monkeypatch):
    calls = measures(monkeypatch, 2.0)
    precision.choose(AUTO, run, ENGINE)
    run.append_log({"images_seen": 0})  # it has begun
    measures(monkeypatch, 0.1)
    precision.choose(AUTO, run, ENGINE)
    assert precision.resolve(AUTO, run).train.precision == "mixed_bfloat16"
    assert len(calls) == 1


def test_a_run_that_has_not_begun_measures_again(run, monkeypatch):
    for gain, expected in ((2.0, "mixed_bfloat16"), (0.1, "float32")):
        measures(monkeypatch, gain)
        precision.choose(AUTO, run, ENGINE)
        assert precision.resolve(AUTO, run).train.precision == expected


@pytest.mark.parametrize("content", [None, "{", '{"precision": "auto"}', '{"precision": [1]}'])
def test_a_damaged_record_is_refused(content, run):
    if content is not None:
        with open(run.precision_path, "w") as file:
            file.write(content)
    with pytest.raises(UserError, match=r"precision\.json: is missing or damaged.*float32"):
        precision.resolve(AUTO, run)


def test_a_given_precision_needs_no_record(run, monkeypatch):
    calls = measures(monkeypatch, 2.0)
    given = config("train.precision=mixed_float16")
    precision.choose(given, run, ENGINE)
    assert precision.resolve(given, run) is given and not calls


@pytest.mark.parametrize(
    "capability, expected",
    [((9, 0), "mixed_bfloat16"), ((8, 0), "mixed_bfloat16"), ((7, 5), "mixed_float16"),
     ((6, 1), None), (None, None)],
)  # fmt: skip
def test_what_a_gpu_tries_follows_from_its_compute_capability(capability, expected, monkeypatch):
    details = {} if capability is None else {"compute_capability": capability}
    monkeypatch.setattr(strategy, "details", lambda device: details)
    assert precision.mixed_precision("/device:GPU:0") == expected
    assert precision.mixed_precision("/device:CPU:0") == "mixed_bfloat16"


def test_a_gpu_without_fast_halves_is_not_measured(run, monkeypatch, capsys):
    calls = measures(monkeypatch, 2.0)
    monkeypatch.setattr(strategy, "first_device", lambda engine: "/device:GPU:0")
    monkeypatch.setattr(strategy, "details", lambda device: {})
    precision.choose(AUTO, run, ENGINE)
    assert precision.resolve(AUTO, run).train.precision == "float32" and not calls
    assert "float32, since this GPU is not known" in capsys.readouterr().out


def test_a_measurement_times_both_precisions_at_the_last_resolution(eagerly, monkeypatch):
    timed = []

    class Timer(precision.StepTimer):
        def run(self, steps):
            timed.append((self.gan.dtype_policy.name, self.gan.stage.resolution, self.batch))
            return super().run(steps)

    monkeypatch.setattr(precision, "StepTimer", Timer)
    monkeypatch.setattr(precision, "_ROUNDS", 2)
    monkeypatch.setattr(precision, "_HOPELESS", 0.0)
    monkeypatch.setattr(precision, "_TURN_SECONDS", 0.001)
    both = tiny_run_config("gan.initial_resolution=8", "gan.resolution=16", "schedule.batch.16=4")
    gain, speeds = precision.measure(both, Precision.mixed_bfloat16, replicas=2)
    assert timed == 4 * [("float32", 16, 2), ("mixed_bfloat16", 16, 2)]
    assert list(speeds) == ["float32", "mixed_bfloat16"] and min(speeds.values()) > 0 < gain


def test_a_hopeless_precision_is_timed_in_one_round(monkeypatch):
    class Timer:
        warm_up, batch, rounds = 1, 4, 0

        def __init__(self, speed):
            self.speed = speed

        def run(self, steps):
            Timer.rounds += 1
            return step_timer.Turn(self.speed, 1.0)

    made = {"float32": 80.0, "mixed_bfloat16": 9.0}
    monkeypatch.setattr(precision, "_timer", lambda config, name, *_: Timer(made[name]))
    gain, speeds = precision.measure(AUTO, Precision.mixed_bfloat16, replicas=1)
    assert speeds == made and gain == 9 / 80 and Timer.rounds == 6


def test_networks_are_not_built_before_the_choice():
    with pytest.raises(UserError, match=r"train\.precision=auto: only `layerseg train` chooses"):
        LayeredGAN.from_run_config(AUTO)


def load(run):
    return keras.models.load_model(run.generator_file)


def state(run):
    """Returns all values of the last checkpoint, by name."""
    reader = tf.train.load_checkpoint(run.checkpoints)
    names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    return {name: reader.get_tensor(name) for name in names}


@pytest.mark.slow
def test_a_run_trains_in_the_chosen_precision_and_resumes_in_it(run, eagerly, monkeypatch):
    measures(monkeypatch, 2.0)
    trainer.train(AUTO, run)
    before = load(run)
    assert before.dtype_policy.name == "mixed_bfloat16"
    os.remove(run.finished_path)
    monkeypatch.setattr(precision, "measure", None)  # it would raise
    trainer.train(AUTO, run)
    assert run.finished() and load(run).dtype_policy == before.dtype_policy


@pytest.mark.slow
def test_a_measurement_leaves_no_trace_in_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_ROUNDS", 1)
    monkeypatch.setattr(precision, "LEAST_GAIN", 1e9)
    measured, given = (RunDirectory(tmp_path / name) for name in ("measured", "given"))
    trainer.train(AUTO, measured)
    assert "mixed_bfloat16" in files.read_json(measured.precision_path)["images_per_second"]
    trainer.train(config("train.precision=float32"), given)
    for one, other in zip(load(measured).get_weights(), load(given).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    one, other = (state(run) for run in (measured, given))
    assert one.keys() == other.keys()
    for name, value in other.items():
        np.testing.assert_array_equal(one[name], value, err_msg=name)
