import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation.evaluation import quality, report
from layered_segmentation.gan.composite import Layers
from layered_segmentation.run_directory import RunDirectory

SIDE = 16


class Generator:
    """Draws white squares on black, each somewhere else."""

    resolution = SIDE


class Student:
    """Segments what is bright; or the middle of the frame, whatever is there."""

    resolution = SIDE

    def __init__(self, looks=True):
        self.looks = looks

    def logits(self, images, training=False):
        if self.looks:
            return images[..., :1] * 10
        middle = np.full((1, SIDE, SIDE, 1), -9, np.float32)
        middle[:, 5:11, 5:11] = 9
        return tf.tile(middle, [tf.shape(images)[0], 1, 1, 1])


def squares(count, side, first, seed=0):
    """Masks of a square each, at a place of its own, at least `first` from the edge."""
    masks = np.zeros((count, side, side), np.float32)
    places = np.random.default_rng(seed).integers(first, side - first - 3, (count, 2))
    for mask, (top, left) in zip(masks, places, strict=True):
        mask[top : top + 4, left : left + 4] = 1
    return masks[..., None]


def drawn(masks):
    return np.repeat((255 * masks).astype(np.uint8), 3, axis=-1)


@pytest.fixture(autouse=True)
def scenes(monkeypatch):
    masks = squares(32, SIDE, 0)
    black = np.full((32, SIDE, SIDE, 3), -1, np.float32)
    layers = Layers(black, -black, masks)
    monkeypatch.setattr("layered_segmentation.gan.sampling.sample_layers", lambda *_, **__: layers)
    return masks


def measured(student):
    photos = drawn(squares(20, quality.photo_side(SIDE), 4, seed=1))
    return quality.measure(Generator(), student, photos, shift=0.125)


def test_a_student_that_looks_agrees_and_is_stable(scenes):
    found = measured(Student())
    assert found.coverage == pytest.approx(1 / 16)
    assert found.agreement == 1 and found.other_scene < 0.3
    assert found.stability == 1 and found.other_photo < 0.3
    agreement, stability = found.margins
    assert agreement > 0.7 and stability > 0.7
    assert found.score == pytest.approx((agreement + stability) / 2 - found.edge)
    assert dataclasses.replace(found, edge=0.5).score < found.score - 0.3


def test_a_mask_that_is_always_the_same_gains_nothing():
    found = measured(Student(looks=False))
    agreement, stability = found.margins
    assert abs(agreement) < 0.1
    assert stability == pytest.approx(0, abs=1e-9)  # two photos agree as well as two crops
    assert found.photo_coverage == pytest.approx(36 / 256)


def test_reports_show_what_was_measured(tmp_path):
    run = RunDirectory(tmp_path)
    assert report.quality_of(run) == [] and quality.read(run) is None
    values = dataclasses.asdict(measured(Student()))
    quality.files.write_json(str(tmp_path / quality.FILE), values)
    assert quality.read(run) == measured(Student())
    (_, score), (_, agreement), (_, stability) = report.quality_of(run)
    assert float(score) == pytest.approx(measured(Student()).score, abs=0.006)
    assert agreement.startswith("1.00, with another scene's 0.")
    assert stability.startswith("1.00, of two images 0.")


def test_masks_that_are_all_alike_are_kept_as_a_warning(tmp_path, monkeypatch, capsys):
    photos = drawn(squares(20, quality.photo_side(SIDE), 4, seed=1))
    monkeypatch.setattr("layered_segmentation.gan.networks.load_generator", lambda _: Generator())
    monkeypatch.setattr(quality.self_training, "load_photos", lambda *_: photos)
    config = configs.load("quickstart_photos", ["data.path=photos"])
    run = RunDirectory(tmp_path)
    quality.measure_if_possible(run, config, Student())
    assert quality.read_warnings(run) == []
    quality.measure_if_possible(run, config, Student(looks=False))
    (line,) = quality.read_warnings(run)
    assert "nearly the same mask" in line and f"warning: {line}" in capsys.readouterr().err


def test_a_run_whose_photos_are_gone_keeps_its_student(tmp_path, capsys):
    config = configs.load("quickstart_photos", [f"data.path={tmp_path / 'gone'}"])
    run = RunDirectory(tmp_path / "run")
    assert quality.measure_if_possible(run, config, Student()) is None
    assert "quality not measured" in capsys.readouterr().out
