import numpy as np
import pytest

from layered_segmentation import config as configs
from layered_segmentation.data.shapes import Shapes
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation.iou import iou
from layered_segmentation.models import segmenter as segmenters
from layered_segmentation.training import distill, self_training


def settings(**overrides):
    student = configs.load("").student
    for name, value in {"width": 8, "batch": 32, "steps": 120, **overrides}.items():
        setattr(student, name, value)
    return student


def taught(count, steps):
    """A student that has seen a few scenes with their masks."""
    images, masks = Shapes(0, count).load_pairs(16)
    segmenter = segmenters.create(8, 16)
    distill.initialise(segmenter, 0)
    distill.fit(segmenter, distill.Pool.from_pairs(images, masks), settings(steps=steps), 0, False)
    return segmenter


def score(segmenter, images, masks):
    predicted = self_training.probabilities(segmenter, images) > 0.5
    return np.mean([iou(ours, truth > 0) for ours, truth in zip(predicted, masks, strict=True)])


def test_unlabelled_photos_help_a_student_that_has_seen_little():
    segmenter = taught(count=60, steps=150)
    images, masks = Shapes(0, 200, split="test").load_pairs(16)
    before = score(segmenter, images, masks)
    rounds = self_training.self_train(
        segmenter,
        Shapes(1, 1_200).load(16),
        settings(self_training=2, self_training_steps=100),
        seed=0,
        progress=False,
    )
    assert len(rounds) == 2
    assert score(segmenter, images, masks) > before + 0.01


def test_probabilities_are_those_of_the_segmenter():
    segmenter = taught(count=8, steps=2)
    images = Shapes(0, 5, split="test").load(16)
    expected = np.stack(segmenter.predict_masks(list(images)))
    np.testing.assert_allclose(self_training.probabilities(segmenter, images), expected, atol=1e-5)


def test_the_surest_photos_with_an_object_are_kept(monkeypatch):
    masks = np.zeros((10, 16, 16), np.float32)
    masks[:8, :8] = 1.0  # half covered, sure
    masks[3:5] = np.where(masks[3:5] > 0.5, 0.6, 0.4)  # unsure
    masks[8] = 0.0  # no object
    masks[9] = 1.0  # all object
    monkeypatch.setattr(self_training, "probabilities", lambda *_: masks)
    photos = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    pool = self_training.confident_pairs(None, photos)
    assert sorted(set(pool.layers.foreground[:, 0, 0, 0])) == [0, 1, 2, 5, 6, 7]


def test_without_rounds_no_photos_are_needed():
    config = configs.load("", ["data.path=nowhere", "student.self_training=0"])
    assert distill.training_photos(config, 16) is None


def test_photos_that_are_gone_are_named_with_the_way_out():
    config = configs.load("", ["data.path=nowhere"])
    with pytest.raises(UserError, match=r"nowhere.*student\.self_training=0"):
        distill.training_photos(config, 16)
