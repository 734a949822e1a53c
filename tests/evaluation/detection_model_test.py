import numpy as np
import pytest
import tensorflow as tf

from layered_segmentation.errors import UserError
from layered_segmentation.evaluation.detection_model import SavedModelDetector, paste

CORNER = np.array([[1.0, 0.0], [1.0, 1.0]])


def test_a_mask_is_pasted_into_its_box():
    # Four pixels across two cells: values 1, 3/4, 1/4, 0 between their centres, rows likewise.
    expected = np.zeros((6, 8), bool)
    expected[1:5, 2:6] = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    box = np.array([1 / 6, 2 / 8, 5 / 6, 6 / 8])
    assert np.array_equal(paste(CORNER, box, 6, 8), expected)


@pytest.mark.parametrize(
    "box, rows, columns",
    [
        ((0.0, 0.0, 1.0, 1.0), (0, 4), (0, 4)),
        ((-0.25, 0.5, 0.5, 1.25), (0, 2), (2, 4)),  # reaches out of the photo
        ((0.2, 0.2, 0.4, 0.4), (1, 2), (1, 2)),  # the pixel whose centre, 0.375, lies inside
        ((0.13, 0.13, 0.37, 0.37), (0, 0), (0, 0)),  # no pixel's centre lies inside
        ((0.5, 0.5, 0.5, 0.9), (0, 0), (0, 0)),
        ((0.9, 0.9, 0.1, 0.1), (0, 0), (0, 0)),
    ],
)
def test_a_full_mask_fills_the_pixels_whose_centres_lie_in_the_box(box, rows, columns):
    expected = np.zeros((4, 4), bool)
    expected[slice(*rows), slice(*columns)] = True
    assert np.array_equal(paste(np.ones((3, 3)), np.array(box), 4, 4), expected)


class Boxes(tf.Module):
    """Detects the same three things in every photo: a car, a bus, a smaller car."""

    def __init__(
        self, masks=None, boxes=None, dtype=tf.uint8, without=(), reframed=False, batched=True,
        only_square=False,
    ):  # fmt: skip
        super().__init__()
        halves = [[0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 1.0, 1.0], [0.0, 0.75, 0.5, 1.0]]
        outputs = {
            "detection_boxes": halves if boxes is None else boxes,
            "detection_scores": [0.9, 0.8, 0.6],
            "detection_classes": [3.0, 6.0, 3.0],
            "detection_masks": np.ones((3, 5, 5)) if masks is None else masks,
            "num_detections": 3.0,
        }
        if reframed:
            outputs["detection_masks_reframed"] = outputs["detection_masks"]
            outputs["detection_masks"] = np.ones((3, 5, 5))
        self.scale = tf.Variable(1.0)
        self.outputs = {
            name: tf.constant(value, tf.float32)[None]
            if batched
            else tf.constant(value, tf.float32)
            for name, value in outputs.items()
            if name not in without
        }

        def detect(input_tensor):
            if only_square:
                height, width = tf.unstack(tf.shape(input_tensor)[1:3])
                tf.debugging.assert_equal(height, width, "only square photos")
            seen = tf.reduce_sum(tf.cast(input_tensor, tf.float32)) * 0
            return {name: value * self.scale + seen for name, value in self.outputs.items()}

        self.detect = tf.function(
            detect, input_signature=[tf.TensorSpec([1, None, None, 3], dtype, "input_tensor")]
        )


def save(module, path, signature="serving_default"):
    tf.saved_model.save(module, str(path), signatures={signature: module.detect})
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(Boxes(), tmp_path_factory.mktemp("models") / "boxes")


PHOTO = np.zeros((4, 8, 3), np.uint8)


def detect(path, class_id=3, score=0.5, instances="union", photo=PHOTO):
    (mask,) = SavedModelDetector(path, class_id, score, instances)([photo], ["photo"])
    return mask


def test_instances_of_the_class_above_the_score(model):
    left = np.tile(np.arange(8) < 4, (4, 1))
    corner = np.zeros((4, 8), bool)
    corner[:2, 6:] = True
    assert np.array_equal(detect(model), left | corner)
    assert np.array_equal(detect(model, instances="largest"), left)
    assert np.array_equal(detect(model, score=0.7), left)
    assert detect(model, class_id=6).all()
    nothing = detect(model, class_id=17)
    assert nothing.shape == (4, 8) and nothing.dtype == bool and not nothing.any()
    other = detect(model, photo=np.zeros((10, 6, 3), np.uint8))
    assert other.shape == (10, 6) and other[:, :3].all()


def test_its_protocol_describes_it(model):
    detector = SavedModelDetector(model, 3, 0.5, "largest")
    for words in ("boxes", "class 3", "0.5", "largest"):
        assert words in detector.protocol


@pytest.mark.parametrize("reframed", [False, True])
def test_masks_of_the_whole_photo(tmp_path, reframed):
    masks = np.zeros((3, 4, 8))
    masks[0, 1, 1:3], masks[2, 3, 7] = 0.5, 0.9
    module = Boxes(masks=masks, reframed=reframed)
    mask = detect(save(module, tmp_path / "model"))
    assert np.argwhere(mask).tolist() == [[1, 1], [1, 2], [3, 7]]


@pytest.mark.parametrize(
    "changes, signature, words",
    [
        ({"without": ["detection_masks"]}, "serving_default", ("detection_masks", "num_detec")),
        ({"dtype": tf.float32}, "serving_default", ("input_tensor: float32", "uint8")),
        ({}, "other", ("no signature 'serving_default'", "other")),
    ],
)
def test_other_signatures_are_refused(tmp_path, changes, signature, words):
    path = save(Boxes(**changes), tmp_path / "model", signature)
    with pytest.raises(UserError) as error:
        SavedModelDetector(path, 3, 0.5)
    for word in (f"--detector={path}", *words):
        assert word in str(error.value)


def test_boxes_in_pixels_are_refused(tmp_path):
    boxes = [[0.0, 0.0, 4.0, 4.0]] * 3
    path = save(Boxes(boxes=boxes), tmp_path / "model")
    with pytest.raises(UserError, match="fractions of the photo"):
        detect(path)


@pytest.mark.parametrize(
    "changes, received",
    [
        ({"batched": False}, "detection_scores float32 [3], detection_classes float32 [3]"),
        ({"masks": np.ones((3, 2, 5, 5))}, "detection_masks float32 [1, 3, 2, 5, 5]"),
        ({"masks": np.ones((3, 5))}, "detection_masks float32 [1, 3, 5]"),
        ({"masks": np.ones((2, 5, 5))}, "detection_masks float32 [1, 2, 5, 5]"),
        ({"masks": np.ones((3, 5, 0))}, "detection_masks float32 [1, 3, 5, 0]"),
        ({"boxes": np.ones((3, 5))}, "detection_boxes float32 [1, 3, 5]"),
        (
            {"masks": np.ones((3, 5)), "reframed": True},
            "detection_masks_reframed float32 [1, 3, 5]",
        ),
    ],
)
def test_outputs_of_other_shapes_are_refused(tmp_path, changes, received):
    path = save(Boxes(**changes), tmp_path / "model")
    with pytest.raises(UserError) as error:
        detect(path)
    needed = "detection_scores [1, N], detection_classes [1, N], detection_boxes [1, N, 4]"
    for words in (f"--detector={path}", received, needed, "[1, N, h, w]"):
        assert words in str(error.value)


def test_text_instead_of_numbers_is_refused(tmp_path):
    module = Boxes()
    module.outputs["detection_classes"] = tf.constant([["car", "bus", "car"]])
    module.scale = tf.Variable(1)
    detect_numbers = module.outputs

    def named(input_tensor):
        seen = tf.reduce_sum(tf.cast(input_tensor, tf.float32)) * 0
        return {k: v + seen if v.dtype != tf.string else v for k, v in detect_numbers.items()}

    module.detect = tf.function(named, input_signature=module.detect.input_signature)
    with pytest.raises(UserError, match=r"detection_classes string \[1, 3\]"):
        detect(save(module, tmp_path / "model"))


def test_no_detections_at_all(tmp_path):
    module = Boxes(masks=np.ones((0, 5, 5)), boxes=np.ones((0, 4)))
    none = dict.fromkeys(("detection_scores", "detection_classes"), tf.zeros((1, 0)))
    module.outputs = {**module.outputs, **none}
    mask = detect(save(module, tmp_path / "model"))
    assert mask.shape == (4, 8) and not mask.any()


def test_an_error_inside_the_model_is_reported_in_one_line(tmp_path):
    path = save(Boxes(only_square=True), tmp_path / "model")
    assert detect(path, photo=np.zeros((6, 6, 3), np.uint8)).any()
    with pytest.raises(UserError) as error:
        detect(path)
    message = str(error.value)
    assert f"--detector={path}: the model fails on photo (8 × 4 px): assertion failed" in message
    assert "only square photos" in message and "\n" not in message and "node" not in message


def test_a_damaged_model_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be loaded as a SavedModel"):
        SavedModelDetector(str(tmp_path), 3, 0.5)
