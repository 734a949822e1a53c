import numpy as np
import pytest

from layered_segmentation import config as configs
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation.scoring import iou
from layered_segmentation.images import to_square, write
from layered_segmentation.segmenter import fit, refine, self_training
from layered_segmentation.segmenter.segmenter import create_segmenter
from layered_segmentation.segmenter.student_events import StudentEvents


def settings(**overrides):
    student = configs.load("").student
    for name, value in {"width": 8, "batch": 32, "steps": 120, **overrides}.items():
        setattr(student, name, value)
    return student


def taught(count, steps):
    """A student that has seen a few scenes with their masks."""
    images, masks = Scenes(0, count).load_pairs(16)
    segmenter = create_segmenter(8, 16)
    fit.initialise(segmenter, 0)
    fit.fit(segmenter, fit.Pool.from_pairs(images, masks), settings(steps=steps), 0)
    return segmenter


def score(segmenter, images, masks):
    predicted = self_training.probabilities(segmenter, images) > 0.5
    return np.mean([iou(actual, truth > 0) for actual, truth in zip(predicted, masks, strict=True)])


@pytest.mark.slow
def test_unlabelled_photos_improve_a_student_trained_on_few_pairs():
    segmenter = taught(count=60, steps=150)
    images, masks = Scenes(0, 200, split="test").load_pairs(16)
    before = score(segmenter, images, masks)
    rounds = self_training.self_train(
        segmenter,
        Scenes(1, 1_200).load(16),
        settings(self_training=2, self_training_steps=100),
        seed=0,
    )
    assert len(rounds) == 2
    assert score(segmenter, images, masks) > before + 0.01


def test_probabilities_are_those_of_the_segmenter(eagerly):
    segmenter = taught(count=8, steps=2)
    images = Scenes(0, 5, split="test").load(16)
    expected = np.stack(segmenter.predict_masks(list(images)))
    np.testing.assert_allclose(self_training.probabilities(segmenter, images), expected, atol=1e-5)


def test_the_most_certain_photos_with_an_object_are_kept(monkeypatch):
    masks = np.zeros((10, 16, 16), np.float32)
    masks[:8, :8] = 1.0  # half covered, sure
    masks[3:5] = np.where(masks[3:5] > 0.5, 0.6, 0.4)  # unsure
    masks[8] = 0.0  # no object
    masks[9] = 1.0  # all object
    monkeypatch.setattr(self_training, "probabilities", lambda *_: masks)
    photos = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    pool = self_training.confident_pairs(None, photos)
    assert sorted(set(pool.layers.foreground[:, 0, 0, 0])) == [0, 1, 2, 5, 6, 7]


def discs(count, side, seed=0):
    """Bright discs on dark noise, and their true masks, bool."""
    generator = np.random.default_rng(seed)
    photos = generator.integers(0, 80, (count, side, side, 3), np.uint8)
    centres = generator.uniform(0.4 * side, 0.6 * side, (count, 2))
    rows, columns = np.mgrid[:side, :side]
    masks = np.stack([np.hypot(rows - y, columns - x) < side / 4 for y, x in centres])
    photos[masks] += 150
    return photos, masks


def test_refined_masks_fit_the_photos_better_than_the_students(monkeypatch):
    photos, truth = discs(8, 64)
    small = truth[:, 2::4, 2::4].astype(np.float32)
    coarse = np.roll(small, 1, axis=2)  # the student is one of its sixteen pixels off,
    coarse[4:6] = np.roll(small[4:6], 3, axis=2)  # or three,
    coarse[6], coarse[7] = 1.0, 0.0  # or sees no object
    monkeypatch.setattr(self_training, "probabilities", lambda *_: coarse)
    segmenter = create_segmenter(8, 16)
    pool, judged = self_training.refined_pairs(segmenter, photos, "grabcut")
    assert pool.weights is None and 0.3 < judged < 0.9
    kept = pool.layers.foreground
    numbers = [
        int(np.argmin([np.abs(to_square(p, 16) - image.astype(int)).sum() for p in photos]))
        for image in kept
    ]
    # Those that student and refinement agree best on, less those without an object.
    assert len(numbers) == 3 and set(numbers) < {0, 1, 2, 3}
    for number, mask in zip(numbers, pool.layers.mask[..., 0] >= 128, strict=True):
        before = iou(coarse[number] >= 0.5, small[number] >= 0.5)
        assert before < 0.8 and iou(mask, small[number] >= 0.5) > 0.9


def two_plain_pairs():
    return fit.Pool.from_pairs(
        np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, 16, 16), np.float32)
    )


def test_split_votes_do_not_count(monkeypatch):
    photos, truth = discs(10, 64)
    photos[:, 0, 0, 0] = np.arange(10)

    def votes(photo, probability, iterations):
        found = np.stack([truth[photo[0, 0, 0]]] * 3)
        found[:2, 60:, :16] = True  # two of three find a part that is not there,
        if photo[0, 0, 0] < 3:
            found[2, 60:] = True  # and on three photos the third finds more of it
        return found

    small = truth[:, 2::4, 2::4].astype(np.float32)
    monkeypatch.setattr(self_training, "probabilities", lambda *_: small)
    monkeypatch.setattr(self_training, "votes", votes)
    pool, _ = self_training.refined_pairs(create_segmenter(8, 16), photos, "consensus")
    assert len(pool) == 7  # those on which the votes agree best
    weights = pool.weights[..., 0] / 255
    assert weights[:, 15, :3].max() < 0.3 and weights[:, :14].min() == 1
    expected = np.stack([to_square(mask.astype(np.float32), 16) for mask in truth[3:]])
    difference = np.abs(pool.layers.mask[..., 0] / 255 - expected)
    assert difference[weights == 1].max() < 0.01


@pytest.mark.parametrize(
    "judged, least, rounds, kept",
    [
        ([0.5, 0.6, 0.602, 0.9], 0.005, 2, 2),
        ([0.5, 0.6, 0.602, 0.9], 0.001, 4, 4),
        ([0.5, 0.6, 0.7, 0.8], 0.005, 4, 4),
        ([0.5, 0.6, 0.59, 0.9], 0.0, 2, 1),  # the second round was harmful
    ],
)
def test_rounds_end_when_the_agreement_rises_too_little(
    monkeypatch, eagerly, capsys, tmp_path, read_events, judged, least, rounds, kept
):
    remaining = iter(judged)
    monkeypatch.setattr(
        self_training, "refined_pairs", lambda *_: (two_plain_pairs(), next(remaining))
    )
    after = []  # the head's bias after each round

    def learn(segmenter, *_):
        segmenter.head.bias.assign_add([1.0])
        after.append(float(segmenter.head.bias[0]))
        return fit.FitSummary(7, 1, 1.0, 0.5, 1.0, 1.0, 0.5)

    monkeypatch.setattr(self_training, "fit", learn)
    student = settings(
        self_training=4, self_training_steps=1, batch=2, self_training_refine="grabcut"
    )
    student.self_training_early_stop, student.self_training_rise = True, least
    photos = np.zeros((3, 16, 16, 3), np.uint8)
    segmenter = create_segmenter(8, 16)
    events = StudentEvents(str(tmp_path))
    summaries = self_training.self_train(segmenter, photos, student, 0, events)
    assert [summary.judged for summary in summaries] == judged[:rounds]
    assert float(segmenter.head.bias[0]) == after[kept - 1]
    found = read_events(tmp_path / "0_round_1")
    assert found["judged_after"] == [(7, np.float32(judged[1]))]
    said = [line for line in capsys.readouterr().err.splitlines() if "ends after round" in line]
    assert [summary.end for summary in summaries if summary.end] == said
    if rounds == 4:
        assert not said
    else:
        assert "round 2 of at most 4: it changed the agreement" in said[0]
        assert f"0.600 to {judged[2]:.3f}" in said[0]
        assert ("the student before it is kept" in said[0]) == (kept == 1)


def test_a_last_round_of_its_own_length_follows_all_the_same(monkeypatch, eagerly, capsys):
    judged = iter([0.5, 0.6, 0.59, 0.59])
    monkeypatch.setattr(
        self_training, "refined_pairs", lambda *_: (two_plain_pairs(), next(judged))
    )
    student = settings(
        self_training=5, self_training_steps=1, batch=2, self_training_refine="grabcut"
    )
    student.self_training_early_stop, student.self_training_last_steps = True, 2
    photos = np.zeros((3, 16, 16, 3), np.uint8)
    rounds = self_training.self_train(create_segmenter(8, 16), photos, student, seed=0)
    assert [(one.judged, one.steps) for one in rounds] == [(0.5, 1), (0.6, 1), (0.59, 2)]
    assert [bool(one.end) for one in rounds] == [False, True, False]
    assert "skips to its last round after round 2 of at most 5" in capsys.readouterr().err


@pytest.mark.parametrize("method, runs", [("grabcut", 1), ("consensus", 3)])
def test_self_training_has_grabcut_iterations_of_its_own(monkeypatch, eagerly, method, runs):
    asked = []

    def grabcut(image, labels, rectangle=None, iterations=None):
        asked.append(iterations)
        return labels % 2 == 1

    monkeypatch.setattr(refine, "run_grabcut", grabcut)
    photos, truth = discs(2, 64)
    small = truth[:, 2::4, 2::4].astype(np.float32)
    monkeypatch.setattr(self_training, "probabilities", lambda *_: small)
    student = settings(self_training=1, self_training_steps=1, batch=2, self_training_refine=method)
    student.self_training_grabcut_iterations = 2
    self_training.self_train(create_segmenter(8, 16), photos, student, seed=0)
    assert asked == [2] * runs * len(photos)


def test_each_round_refines_other_photos(monkeypatch, eagerly):
    monkeypatch.setattr(self_training, "REFINED", 6)
    seen = []

    def refined(segmenter, photos, *_):
        seen.append(sorted(int(photo[0, 0, 0]) for photo in photos))
        return two_plain_pairs(), 0.5

    monkeypatch.setattr(self_training, "refined_pairs", refined)
    photos = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    student = settings(
        self_training=2, self_training_steps=1, batch=2, self_training_refine="grabcut"
    )
    self_training.self_train(create_segmenter(8, 16), photos, student, seed=0)
    assert [len(part) for part in seen] == [6, 6] and seen[0] != seen[1]
    student.self_training_photos = 5
    self_training.self_train(create_segmenter(8, 16), photos, student, seed=0)
    assert [len(part) for part in seen] == [6, 6, 5, 5]
    student.self_training_last_photos, student.self_training_last_steps = 9, 3
    rounds = self_training.self_train(create_segmenter(8, 16), photos, student, seed=0)
    assert [len(part) for part in seen[4:]] == [5, 9]
    assert [one.steps for one in rounds] == [1, 3]


@pytest.mark.parametrize("method", ["none", "grabcut"])
def test_the_first_round_may_segment_photos_as_coarse_as_the_pairs(monkeypatch, eagerly, method):
    segmented, learnt = [], []

    def probabilities(segmenter, photos):
        segmented.append(photos)
        return np.pad(np.ones((len(photos), 8, 16), np.float32), ((0, 0), (0, 8), (0, 0)))

    def learn(segmenter, pool, *_):
        learnt.append(pool.layers.background)
        return fit.FitSummary(1, 1, 1.0, 0.5, 1.0, 1.0, 0.5)

    monkeypatch.setattr(self_training, "probabilities", probabilities)
    monkeypatch.setattr(self_training, "fit", learn)
    side = 16 if method == "none" else 128
    photos = np.random.default_rng(0).integers(0, 256, (4, side, side, 3)).astype(np.uint8)
    student = settings(self_training=2, self_training_steps=1, batch=2)
    student.self_training_refine, student.self_training_coarse = method, True
    self_training.self_train(create_segmenter(8, 16), photos, student, seed=0, drawn_side=4)
    small = np.stack([to_square(photo, 16) for photo in photos])
    coarse = np.stack([to_square(to_square(photo, 4), 16) for photo in small])
    np.testing.assert_array_equal(segmented[0], coarse)
    np.testing.assert_array_equal(segmented[1], small)
    assert all(any((photo == one).all() for one in small) for part in learnt for photo in part)


def test_refinement_uses_larger_photos():
    config = configs.load("", ["data.name=shapes", "student.self_training_refine=grabcut"])
    config.data.limit = 2
    assert self_training.training_photos(config, 16).shape == (2, 128, 128, 3)
    assert self_training.training_photos(config, 136).shape == (2, 136, 136, 3)


def test_small_photos_are_enlarged_and_taken_from_all_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(self_training, "PHOTOS", 3)
    for index in range(9):
        image = np.full((16, 20, 3), 10 * index, np.uint8)
        write(str(tmp_path / f"{index}.png"), image)
    config = configs.load(
        "",
        [
            f"data.path={tmp_path}",
            "gan.resolution=16",
            "student.resolution=32",
            "student.self_training_refine=guided",
        ],
    )
    photos = self_training.training_photos(config, 32)
    assert photos.shape == (3, 128, 128, 3)
    assert [int(photo[0, 0, 0]) for photo in photos] == [0, 40, 80]


def test_without_rounds_no_photos_are_needed():
    config = configs.load("", ["data.path=nowhere", "student.self_training=0"])
    assert self_training.training_photos(config, 16) is None


def test_missing_photos_are_reported_with_a_way_out():
    config = configs.load("", ["data.path=nowhere"])
    with pytest.raises(UserError, match=r"nowhere.*student\.self_training=0"):
        self_training.training_photos(config, 16)
