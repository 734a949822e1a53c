import json
import time
import types

import pytest

from layered_segmentation import config as configs
from layered_segmentation import schedule
from layered_segmentation.benchmarks import time_to_mask
from layered_segmentation.benchmarks.time_to_mask import Look
from layered_segmentation.evaluation import test_sets

TINY = [
    *("--set=gan.resolution=8", "--set=gan.max_channels=8", "--set=gan.latent_dim=8"),
    *("--set=gan.mapping_layers=1", "--set=schedule.images_at={8: 96}", "--set=data.limit=40"),
    *("--set=student.steps=3", "--set=student.self_training_steps=2", "--set=student.width=4"),
    "--set=student.self_training=2",
]


def test_the_clock_runs_without_its_pauses():
    clock = time_to_mask.Clock()
    with clock.paused():
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        time.sleep(0.1)
    assert max(clock.read()) < 0.09
    end = time.process_time() + 0.02
    while time.process_time() < end:
        pass
    assert min(clock.read()) >= 0.015


def test_looks_take_no_time_but_the_student_of_a_look_counts_in_it(monkeypatch):
    now, student = [0.0], types.SimpleNamespace(predict_masks=None)

    def spend(seconds):
        now[0] += seconds

    def train(config, run, watchers, load_student):
        for images_seen in (100, 200):
            spend(10)
            watchers[0].look(types.SimpleNamespace(average=None), images_seen)
        spend(5)
        return types.SimpleNamespace(images_seen=200)

    def distill(generator, config, photos=None, events=None):
        spend(3)
        for phase in ("generated pairs", "round 1") if events else ():
            events.begin(phase)
            spend(4)
            events.end(student)
        return student, None

    def score(predict, pairs, references):
        spend(1_000)
        return types.SimpleNamespace(miou=0.5)

    generator = types.SimpleNamespace(resolution=8)
    monkeypatch.setattr(time_to_mask, "_now", lambda: (now[0], 2 * now[0]))
    monkeypatch.setattr(time_to_mask.trainer, "train", train)
    monkeypatch.setattr(time_to_mask.distill, "distill", distill)
    monkeypatch.setattr(time_to_mask.scoring, "score", score)
    monkeypatch.setattr(time_to_mask.networks, "load_generator", lambda run: generator)
    monkeypatch.setattr(time_to_mask.self_training, "training_photos", lambda *_: None)
    shown = []
    looks = time_to_mask.measure(configs.load("quickstart"), None, [], 100, shown.append)
    assert (
        looks
        == shown
        == [
            Look(0, "gan", 100, 13, 26, 0.5),
            Look(0, "gan", 200, 23, 46, 0.5),
            Look(0, "generated pairs", 200, 32, 64, 0.5),
            Look(0, "round 1", 200, 36, 72, 0.5),
        ]
    )


def test_no_look_is_left_out_where_an_execution_has_several_steps():
    config = configs.load("", ["gan.resolution=8", "schedule.images_at={8: 960}"])
    stage = schedule.stages(config)[0]
    counter, found = types.SimpleNamespace(), []
    gan = types.SimpleNamespace(images_seen=counter, stage=stage, stages=[stage])
    looks = time_to_mask._Looks(lambda _, seen: found.append(seen), 100)
    looks.set_model(gan)
    for executions in ([0, 64, 128, 192, 256, 960], [0, 128]):  # training begins again
        for number, seen in enumerate(executions):
            counter.numpy = lambda seen=seen: seen
            if number:
                looks.on_train_batch_end(number)
            else:
                looks.on_train_begin()
    assert found == [128, 256, 960, 128]


def test_each_seed_has_the_time_of_its_first_good_masks():
    looks = [
        Look(0, "gan", 1_000, 10.0, 20.0, 0.5),
        Look(0, "gan", 2_000, 30.0, 60.0, 0.8),
        Look(0, "generated pairs", 2_000, 45.0, 90.4, 0.85),
        Look(3, "round 1", 2_000, 40.0, 80.0, 0.79),
    ]
    assert time_to_mask.reached(looks, 0.8).splitlines() == [
        "seed 0: mIoU 0.8 after 30 s (60 processor seconds), gan, 2,000 images",
        "seed 3: mIoU 0.8 was not reached",
    ]
    assert len(looks[0].line()) == len(time_to_mask.HEADER)


@pytest.mark.slow
def test_every_phase_of_every_seed_is_measured(layerseg, tmp_path, monkeypatch):
    monkeypatch.setattr(test_sets, "HELD_OUT", 8)
    out = tmp_path / "looks.json"
    flags = ["--time_to_mask=0.01", "--seeds=0,4", "--look_every=32", f"--out={out}", *TINY]
    flags.append("--set=train.steps_per_execution=1")  # looks follow whole executions
    result = layerseg("benchmark", *flags)
    assert result.status == 0, result.stderr
    looks = json.loads(out.read_text())
    for seed in (0, 4):
        mine = [look for look in looks if look["seed"] == seed]
        assert [(look["phase"], look["images_seen"]) for look in mine] == [
            *(("gan", images) for images in (32, 64, 96)),
            *((phase, 96) for phase in ("generated pairs", "round 1", "round 2")),
        ]
        for name in ("seconds", "processor_seconds"):
            times = [look[name] for look in mine]
            assert times[0] > 0 and times[3:] == sorted(times[3:])
        assert f"seed {seed}: mIoU 0.01 after" in result.stdout
        assert all(0 <= look["miou"] <= 1 for look in mine)


def test_what_cannot_be_measured_is_refused(layerseg):
    for flags, words in (
        (["--seeds=0,1"], "--seeds=0,1: it goes with --time_to_mask"),
        (["--time_to_mask=0.8", "--seeds=a"], "--seeds=a: seeds are whole numbers"),
        (["--time_to_mask=0.8", "--config=folder"], "--test_images and --test_masks"),
    ):
        result = layerseg("benchmark", *flags)
        assert result.status == 2 and words in result.stderr, result.stderr
