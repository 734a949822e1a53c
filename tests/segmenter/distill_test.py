import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation.gan import networks, precision
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.run_directory import RunDirectory
from layered_segmentation.segmenter import distill, presets


def tiny_config(*overrides):
    config = configs.Config()
    config.gan = dataclasses.replace(
        config.gan, resolution=16, latent_dim=16, mapping_layers=2, max_channels=8
    )
    config.student = dataclasses.replace(config.student, width=8, steps=6, batch=8)
    for override in overrides:
        section, field = override[0].split(".")
        setattr(getattr(config, section), field, override[1])
    return config


def tiny_generator(config):
    gan = config.gan
    generator = LayeredGenerator(
        gan.variant, gan.resolution, gan.latent_dim, gan.mapping_layers, gan.max_channels
    )
    for index, weight in enumerate(generator.trainable_variables):
        if weight.name in ("kernel", "constant"):
            weight.assign(tf.random.stateless_normal(weight.shape, (index, 0)))
    return generator


def test_distilling_a_generator_is_a_function_of_the_seed(eagerly):
    generator = tiny_generator(tiny_config())
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    masks = []
    for seed in (0, 0, 1):
        segmenter, summary = distill.distill(generator, tiny_config(("train.seed", seed)))
        masks.append(segmenter.predict_masks([image])[0])
        assert segmenter.resolution == 16 and np.isfinite(summary.loss)
    np.testing.assert_allclose(masks[0], masks[1], atol=1e-6)
    assert np.abs(masks[0] - masks[2]).max() > 1e-3


def test_auto_is_decided_once_for_pairs_and_photos(eagerly, monkeypatch):
    calls = []
    monkeypatch.setattr(precision, "compare", lambda timers: calls.append(1) or (2.0, 10.0, 20.0))
    config = tiny_config(
        ("student.precision", "auto"),
        ("student.self_training", 1),
        ("student.self_training_steps", 2),
        ("train.seed", 3),
    )
    photos = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3)).astype(np.uint8)
    segmenter, summary = distill.distill(tiny_generator(config), config, photos)
    assert len(calls) == 1 and summary.precision == "mixed_bfloat16"
    assert segmenter.backbone.dtype_policy.name == "float32"
    quick = distill.quick(config).student  # a judge is trained without a measurement
    assert (quick.precision, quick.self_training, quick.steps) == ("float32", 0, 6)


def test_the_pool_holds_the_generators_scenes():
    config = tiny_config(("train.seed", 3))
    generator = tiny_generator(config)
    pool = distill.draw_pool(generator, config)
    assert len(pool) == 48  # no more than are needed
    assert (pool.shift, pool.contrast_jitter) == (config.gan.shift, config.gan.contrast_jitter)
    from layered_segmentation.gan import sampling

    layers = sampling.sample_layers(generator, 3, 48, mixing=config.gan.mixing)
    np.testing.assert_allclose(pool.layers.mask / 255, layers.mask, atol=1 / 255)
    clipped = np.clip(layers.foreground, -1, 1)
    np.testing.assert_allclose(pool.layers.foreground / 127.5 - 1, clipped, atol=1 / 127)
    clipped = np.clip(layers.background, -1, 1)
    np.testing.assert_allclose(pool.layers.background / 127.5 - 1, clipped, atol=1 / 127)


def test_the_student_may_work_at_another_resolution(eagerly):
    config = tiny_config(("student.resolution", 24))
    segmenter, _ = distill.distill(tiny_generator(config), config)
    assert segmenter.resolution == 24


@pytest.fixture
def trained_run(tmp_path):
    config = tiny_config(
        ("data.name", "shapes"), ("data.limit", 40), ("student.self_training_steps", 3)
    )
    run = RunDirectory(str(tmp_path / "run"))
    run.create_or_resume(config)
    networks.save_generator(run, tiny_generator(config))
    return run


@pytest.mark.slow
def test_the_command_writes_a_segmenter_and_its_results(trained_run, layerseg, eagerly):
    done = layerseg("distill", f"--run_dir={trained_run.path}", "--set=student.steps=4")
    assert done.status == 0, done.stderr
    assert "images/s" in done.stdout
    results = json.load(open(os.path.join(trained_run.path, "segmenter_results.json")))
    assert results["steps"] == results["student"]["steps"] == 4
    assert results["self_training_rounds"] == len(results["rounds"]) <= 3
    assert "report.html" in done.stdout
    page = open(trained_run.report, encoding="utf-8").read()
    assert "generated pairs" in page and "Masks of some images after each phase" in page
    (phase, *_) = sorted(os.listdir(os.path.join(trained_run.tensorboard, "segmenter")))
    assert phase == "0_generated_pairs"
    before = presets.load(trained_run.path)

    again = layerseg("distill", f"--run_dir={trained_run.path}")
    assert again.status == 2 and "--overwrite" in again.stderr
    done = layerseg("distill", f"--run_dir={trained_run.path}", "--overwrite")
    assert done.status == 0, done.stderr
    after = presets.load(trained_run.path)
    image = np.zeros((1, 16, 16, 3), np.uint8)
    assert np.abs(before.predict(image) - after.predict(image)).max() > 0


@pytest.mark.slow
def test_students_of_other_sizes_are_written_to_out(trained_run, layerseg, eagerly, tmp_path):
    out = tmp_path / "students" / "w8_32"
    flags = [f"--run_dir={trained_run.path}", "--config=students/w8_32", f"--out={out}"]
    flags += ["--set=student.steps=2", "--set=student.self_training=0"]
    done = layerseg("distill", *flags)
    assert done.status == 0, done.stderr
    segmenter = presets.load(str(out))
    assert (segmenter.resolution, segmenter.backbone.width) == (32, 8)
    results = json.load(open(f"{out}_results.json"))
    # The config gives the size alone: what else the run's student has stays.
    assert (results["student"]["batch"], results["student"]["steps"]) == (8, 2)
    assert not os.path.exists(trained_run.segmenter)
    assert f"--segmenter={out}" in done.stdout
    again = layerseg("distill", *flags)
    assert again.status == 2 and "there is a segmenter already" in again.stderr
    other = layerseg("distill", *flags[:1], "--config=cub", f"--out={tmp_path / 'b'}")
    assert other.status == 2 and "--config=cub: it has no section 'student'" in other.stderr
    file = tmp_path / "file"
    file.write_text("mine")
    taken = layerseg("distill", *flags[:2], f"--out={file}", "--overwrite")
    assert taken.status == 2 and file.read_text() == "mine"


def test_a_run_without_masks_is_refused_before_anything_is_drawn(layerseg, tmp_path, monkeypatch):
    config = tiny_config(("gan.variant", "single_output"), ("data.name", "shapes"))
    run = RunDirectory(str(tmp_path / "run"))
    run.create_or_resume(config)
    networks.save_generator(run, tiny_generator(config))
    monkeypatch.setattr(networks, "load_generator", lambda run: pytest.fail("loaded"))
    result = layerseg("distill", f"--run_dir={run.path}")
    assert result.status == 2
    for words in (f"--run_dir={run.path}", "gan.variant='single_output'", "another variant"):
        assert words in result.stderr
    assert not os.path.exists(run.segmenter)


def test_the_command_refuses_what_it_cannot_do(trained_run, layerseg, tmp_path):
    other = layerseg("distill", f"--run_dir={trained_run.path}", "--set=gan.shift=0")
    assert other.status == 2 and "only student.*" in other.stderr
    missing = layerseg("distill", f"--run_dir={tmp_path / 'none'}")
    assert missing.status == 2 and "no such directory" in missing.stderr
    os.remove(trained_run.generator_file)
    untrained = layerseg("distill", f"--run_dir={trained_run.path}")
    assert untrained.status == 2 and "no generator in it yet" in untrained.stderr
    assert not os.path.exists(trained_run.segmenter)
