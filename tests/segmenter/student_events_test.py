import numpy as np
import pytest

from layered_segmentation import config as configs
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.segmenter import fit, self_training
from layered_segmentation.segmenter.segmenter import create_segmenter
from layered_segmentation.segmenter.student_events import EVERY, StudentEvents


def test_rounds_are_numbered_phases_with_scalars_and_masks(tmp_path, read_events, monkeypatch):
    images, masks = Scenes(0, 40).load_pairs(16)
    pool = fit.Pool.from_pairs(images, masks, np.full(masks.shape, 0.5, np.float32))
    judged = iter([0.6, 0.7])
    monkeypatch.setattr(self_training, "refined_pairs", lambda *_: (pool, next(judged)))
    settings = configs.StudentConfig(
        width=8, batch=4, steps=EVERY, self_training=2, self_training_steps=2 * EVERY,
        self_training_refine="consensus",
    )  # fmt: skip
    segmenter = create_segmenter(8, 16)
    events = StudentEvents(str(tmp_path))
    events.show(Scenes(0, 10).load(24), 16)
    events.begin("generated pairs")
    first = fit.fit(segmenter, pool, settings, 0, events)
    self_training.show_masks(segmenter, events, first.steps)
    photos = Scenes(1, 50).load(16)
    rounds = self_training.self_train(segmenter, photos, settings, 0, events)

    assert [one.judged for one in rounds] == [0.6, 0.7]
    assert [(one.kept, round(one.weight, 2)) for one in rounds] == [(0.8, 0.5)] * 2
    names = ["0_generated_pairs", "1_round_1", "2_round_2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name, summary, judges in zip(names, [first, *rounds], [None, 0.6, 0.7], strict=True):
        found = read_events(tmp_path / name)
        steps = list(range(EVERY, summary.steps + 1, EVERY))
        assert [step for step, _ in found["loss"]] == steps
        last = np.mean([point[1] for point in summary.curve[-EVERY:]])  # a point is one step here
        assert found["loss"][-1][1] == pytest.approx(last, abs=1e-4)
        assert [step for step, _ in found["masks"]] == [summary.steps]
        if judges:
            assert found["judged"] == [(summary.steps, np.float32(judges))]
            assert found["weight"][0][1] == np.float32(summary.weight)
    assert list(events.masks) == ["generated pairs", "round 1", "round 2"]
    sheet = events.sheet()
    assert sheet.shape[0] > 4 * 96 and sheet.shape[1] > 8 * 96


def test_a_curve_has_the_means_of_equal_parts():
    history = [[float(step), 0.5] for step in range(100)]
    curve = fit._curve(history)
    assert len(curve) == 40 and curve[-1][0] == 100
    assert curve[0] == (3, 1.0, 0.5)  # of steps 0, 1 and 2
    assert fit._curve(history[:2]) == ((1, 0.0, 0.5), (2, 1.0, 0.5))
