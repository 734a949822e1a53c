"""Photos unlike those of training: statistics of drawn scenes, and the warning about others."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_networks import random_student, tiny_config

from layered_segmentation.choices import Aspect
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.segmenter import distill, domain, preset_files, presets

WARNING = "unlike the photos that this segmenter learnt from"
FLOWERS = "layered_unet_flowers_64"


def scenes(count, seed, side=32):
    """Drawn scenes and their true masks."""
    photos, masks = Scenes(seed=seed, count=count, split="train").load_pairs(side)
    return list(photos), list(masks.astype(np.float32))


def stripes(count, side=32):
    """Drawings of another kind: bright stripes from one side to the other."""
    draws = np.random.default_rng(0)
    masks = np.zeros((count, side, side), np.float32)
    for mask in masks:
        first = draws.integers(0, side // 2)
        mask[first : first + side // 4] = 1
    images = np.where(masks[..., None] > 0, 230, 40) + draws.integers(0, 20, (*masks.shape, 3))
    return list(images.astype(np.uint8)), list(masks)


@pytest.fixture(scope="module")
def trained():
    return domain.Domain.of_training(*scenes(300, seed=0))


def watched(trained, photos, masks):
    watch = domain.Watch(trained)
    watch(photos, masks)
    return watch


@pytest.mark.parametrize("count", [1, 5, 20])
def test_only_other_drawings_are_warned_of(trained, count):
    photos, masks = scenes(count, seed=1)
    assert watched(trained, photos, masks).warning() == ""
    subject = "This photo looks" if count == 1 else f"These {count} photos look"
    warning = watched(trained, *stripes(count)).warning()
    assert warning == f"{subject} {WARNING}. Its masks may be wrong."


def test_one_odd_photo_among_many_does_not_decide(trained):
    photos, masks = scenes(19, seed=1)
    odd, of_odd = stripes(1)
    assert watched(trained, odd, of_odd).warning()
    assert watched(trained, photos + odd, masks + of_odd).warning() == ""


def test_photos_may_come_in_any_batches(trained):
    photos, masks = stripes(6)
    watch = domain.Watch(trained)
    for first in (0, 1, 4):
        rows = slice(first, {0: 1, 1: 4, 4: 6}[first])
        watch(photos[rows], masks[rows])
    assert watch.distance() == pytest.approx(watched(trained, photos, masks).distance())


def test_training_photos_have_mean_0_and_variance_1(trained):
    coordinates = trained.coordinates(*scenes(300, seed=0))
    # Clipping moves both a little.
    np.testing.assert_allclose(coordinates.mean(axis=0), 0, atol=0.15)
    assert 0.5 < coordinates.var(axis=0).mean() < 1.1
    assert np.abs(coordinates).max() <= 3


def test_the_size_of_a_photo_does_not_matter(trained):
    small = trained.coordinates(*scenes(8, seed=1, side=64))
    pairs = zip(*scenes(8, seed=1, side=64), strict=True)
    large = [
        (photo.repeat(3, 0).repeat(4, 1), mask.repeat(3, 0).repeat(4, 1)) for photo, mask in pairs
    ]
    again = trained.coordinates(*zip(*large, strict=True))
    others = np.abs(small - np.roll(small, 1, axis=0)).mean()
    assert np.abs(small - again).mean() < 0.1 * others


def test_empty_and_full_masks_are_described(trained):
    photos, _ = scenes(2, seed=1)
    masks = [np.zeros((32, 32), np.float32), np.ones((32, 32), np.float32)]
    assert np.isfinite(trained.coordinates(photos, masks)).all()


def test_few_photos_give_no_statistics():
    assert domain.Domain.of_training(*scenes(119, seed=0)) is None


def test_statistics_are_kept_in_a_preset(trained, tmp_path):
    trained.save(str(tmp_path))
    loaded = domain.load(str(tmp_path))
    expected = trained.coordinates(*stripes(4))
    np.testing.assert_allclose(loaded.coordinates(*stripes(4)), expected, atol=0.02)
    with open(tmp_path / preset_files.CHECKSUMS) as file:
        assert preset_files.DOMAIN in json.load(file)
    assert os.path.getsize(tmp_path / preset_files.DOMAIN) < 10_000


def test_statistics_of_other_weights_are_never_left(trained, tmp_path):
    student = random_student()
    presets.save(student, str(tmp_path / "preset"), statistics=trained)
    assert domain.load(str(tmp_path / "preset")) is not None
    student.save_to_preset(str(tmp_path / "preset"), tflite=False)
    assert domain.load(str(tmp_path / "preset")) is None
    preset_files.verify(str(tmp_path / "preset"), "")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"mean": [1], "transform": [[1]]}', '{"mean": [], "transform": []}']
)
def test_other_content_counts_as_none(tmp_path, content):
    (tmp_path / preset_files.DOMAIN).write_text(content)
    assert domain.load(str(tmp_path)) is None
    assert domain.Watch(None).warning() == ""


def test_distillation_computes_statistics():
    student, config = random_student(), tiny_config()
    photos = np.stack(scenes(150, seed=0)[0])
    statistics = distill.statistics_of(student, config, photos)
    assert statistics.transform.shape == (24, 24)
    config.data.aspect = Aspect.pad
    assert distill.statistics_of(student, config, photos) is None


@pytest.mark.parametrize("name", preset_files.names())
def test_each_packaged_preset_has_statistics(name):
    assert domain.of_segmenter(name) is not None


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawings")
    for index, (photo, mask) in enumerate(zip(*stripes(6, 64), strict=True)):
        for directory, image in (("photos", photo), ("masks", 255 * mask.astype(np.uint8))):
            os.makedirs(path / directory, exist_ok=True)
            Image.fromarray(image).save(path / directory / f"{index}.png")
    return path


@pytest.mark.parametrize("runtime", ["litert", pytest.param("keras", marks=pytest.mark.slow)])
def test_segment_warns_with_either_runtime(runtime, drawings, tmp_path, layerseg):
    arguments = (f"--runtime={runtime}", f"--out={tmp_path}", "--refine=none", "--looks=2")
    done = layerseg("segment", drawings / "photos", *arguments)
    assert done.status == 0, done.stderr
    assert f"warning: These 6 photos look {WARNING}" in done.stderr


def test_segment_is_silent_without_statistics(drawings, tmp_path, layerseg):
    preset = tmp_path / "preset"
    shutil.copytree(preset_files.packaged(FLOWERS), preset)
    os.remove(preset / preset_files.DOMAIN)
    preset_files.write_checksums(str(preset))
    for segmenter in (preset, preset / preset_files.TFLITE):
        arguments = (f"--segmenter={segmenter}", f"--out={tmp_path}", "--overwrite")
        done = layerseg("segment", drawings / "photos", *arguments, "--refine=none")
        assert done.status == 0 and "warning" not in done.stderr, done.stderr


def test_evaluate_adds_the_warning_to_its_verdict(drawings, tmp_path, layerseg):
    done = layerseg(
        "evaluate", f"--segmenter={FLOWERS}", f"--images={drawings / 'photos'}",
        f"--masks={drawings / 'masks'}", f"--out={tmp_path}",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    assert f"verdict: warning: These 6 photos look {WARNING}" in done.stdout
    with open(tmp_path / "results.json") as file:
        assert WARNING in json.load(file)["verdict"][-1]
