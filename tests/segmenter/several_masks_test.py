"""Segmenters of several masks, which a generator of several foreground layers has taught."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs
from tiny_networks import random_student, scenes

from layered_segmentation import config as configs
from layered_segmentation.gan.composite import Layers, compose, union_mask, visible_masks
from layered_segmentation.segmenter import distill, fit, presets, self_training
from layered_segmentation.segmenter.encoder import EncoderGeneratorBackbone
from layered_segmentation.segmenter.segmenter import create_encoder_segmenter

STUDENT = ["student.width=8", "student.steps=3", "student.batch=8", "student.resolution=16"]


def photos(*sizes):
    draws = np.random.default_rng(0)
    return [draws.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def config_of(masks, *overrides):
    return configs.load("", [*STUDENT, f"student.masks={masks}", *overrides])


@pytest.mark.parametrize("masks", ["union", "each"])
def test_a_student_learns_the_union_or_what_is_visible_of_each_layer(masks):
    config = config_of(masks, "gan.shift=0", "student.augment=0")
    pool = distill.draw_pool(tiny_runs.generator(foreground_layers=2), config)
    assert [part.shape[-1] for part in pool.layers] == [3, 6, 2]
    layers = Layers(*(tf.constant(part) for part in pool.layers))
    images, targets, weights = fit._pairs(pool, layers, None, config.student, 0, tf.constant(0))
    assert weights is None
    levels = [np.asarray(part, np.float32) for part in pool.layers]
    whole = Layers(levels[0] / 127.5 - 1, levels[1] / 127.5 - 1, levels[2] / 255)
    expected = (union_mask if masks == "union" else visible_masks)(whole.mask)
    composites = compose(whole)
    assert targets.shape == (8, 16, 16, 1 if masks == "union" else 2)
    for image, target in zip(images, targets, strict=True):
        place = np.abs(composites - image).max(axis=(1, 2, 3)).argmin()
        np.testing.assert_allclose(image, composites[place], atol=1e-5)
        np.testing.assert_allclose(target, expected[place], atol=1e-5)
    if masks == "each":  # which is not what the layers' masks are themselves
        assert np.abs(expected - whole.mask).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("masks", "count"), [("union", 1), ("each", 2)])
def test_distilling_several_layers(masks, count, layerseg, eagerly, tmp_path):
    run = tiny_runs.run(tmp_path / "run", foreground_layers=2)
    flags = [f"--set={setting}" for setting in (*STUDENT, f"student.masks={masks}")]
    flags += ["--set=student.self_training=1", "--set=student.self_training_steps=2"]
    done = layerseg("distill", f"--run_dir={run.path}", *flags)
    assert done.status == 0, done.stderr
    segmenter = presets.load(run.path)
    assert segmenter.num_masks == count
    assert segmenter.predict(photos((20, 12))[0]).shape == (20, 12, count)
    with open(run.segmenter + "_results.json") as file:
        assert json.load(file)["student"]["masks"] == masks
    out = tmp_path / "scores"
    flags = [f"--segmenter={run.path}", f"--out={out}", "--limit=3"]
    scored = layerseg("evaluate", *flags)
    assert scored.status == 0, scored.stderr
    with open(out / "results.json") as file:
        results = json.load(file)
    # Only a mask for each layer can be compared with each object.
    assert ("objects" in results) == ("objects: mIoU" in scored.stdout) == (masks == "each")
    assert os.path.exists(out / "sheet.png") and 0 <= results["miou"] <= 1


def test_students_train_on_their_own_masks_of_each_layer(monkeypatch):
    masks = np.zeros((10, 16, 16, 2), np.float32)
    masks[:8, :8, :, 0] = masks[:8, 8:, :8, 1] = 1.0
    masks[3:5] = np.where(masks[3:5] > 0.5, 0.6, 0.4)  # unsure
    masks[8] = 0.0  # no object
    masks[9] = 0.5001  # no background
    monkeypatch.setattr(self_training, "probabilities", lambda *_: masks)
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    pool = self_training.confident_pairs(None, images)
    kept = [0, 1, 2, 5, 6, 7]
    assert sorted(pool.layers.background[:, 0, 0, 0]) == kept
    targets = pool.target(pool.layers.mask / 255)
    np.testing.assert_allclose(targets, masks[kept])
    np.testing.assert_array_equal(
        compose(Layers(*(np.asarray(part, np.float32) for part in pool.layers))),
        images[kept].astype(np.float32),
    )


def test_the_mask_of_several_is_their_union():
    segmenter = random_student(num_masks=3)
    images = photos((16, 16), (30, 20))
    each = segmenter.predict(images)
    assert [mask.shape for mask in each] == [(16, 16, 3), (30, 20, 3)]
    assert np.abs(each[0][..., 0] - each[0][..., 1]).max() > 0.01
    for union, masks, image in zip(segmenter.predict_masks(images), each, images, strict=True):
        np.testing.assert_allclose(union, np.minimum(masks.sum(axis=-1), 1))
        np.testing.assert_allclose(segmenter.masks(image[None])[0, ..., 0], union, atol=1e-5)


def test_a_preset_keeps_the_number_of_masks(tmp_path):
    segmenter = random_student(num_masks=2)
    presets.save(segmenter, str(tmp_path / "preset"))
    loaded = presets.load(str(tmp_path / "preset"))
    assert loaded.num_masks == 2
    image = scenes(16)[0]
    np.testing.assert_array_equal(loaded.predict(image), segmenter.predict(image))


@pytest.mark.slow
def test_an_encoder_shows_what_is_visible_of_each_layer(shallow_resnet, tmp_path):
    generator = tiny_runs.generator(foreground_layers=2)
    backbone = EncoderGeneratorBackbone.around(generator, 8, 64)
    segmenter = create_encoder_segmenter(backbone)
    images = photos((8, 8), (8, 8))
    layers = segmenter.predict_layers(images)
    assert [part.shape[-1] for part in layers] == [3, 6, 2]
    expected = np.asarray(visible_masks(layers.mask))
    for masks, union, visible in zip(
        segmenter.predict(images), segmenter.predict_masks(images), expected, strict=True
    ):
        np.testing.assert_allclose(masks, visible, atol=1e-5)
        np.testing.assert_allclose(union, visible.sum(axis=-1), atol=1e-5)
    presets.save(segmenter, str(tmp_path / "preset"))
    loaded = presets.load(str(tmp_path / "preset"))
    np.testing.assert_array_equal(loaded.predict(images[0]), segmenter.predict(images[0]))
