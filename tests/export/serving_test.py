"""An exported version as a model server sees it, without this package's Python."""

import os
import subprocess
import sys

import numpy as np
import openvino
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2
from tiny_networks import encoder_segmenter, random_student, scenes

from layered_segmentation import images as photos
from layered_segmentation.errors import UserError
from layered_segmentation.export import saved_model, serving, signatures, tflite
from layered_segmentation.gan.composite import compose
from layered_segmentation.segmenter.segmenter import create_segmenter

pytestmark = pytest.mark.usefixtures("shallow_resnet")


@pytest.fixture(scope="module")
def segmenter(shallow_resnet):
    return encoder_segmenter()


@pytest.fixture(scope="module")
def exported(segmenter, tmp_path_factory):
    """A version of a segmenter with a generator, which has all signatures."""
    out, album = tmp_path_factory.mktemp("models") / "cars", tmp_path_factory.mktemp("photos")
    for side in (24, 40):
        photos.write(str(album / f"{side}.png"), scenes(side)[0, 5:])
    return saved_model.export_saved_model(segmenter, str(out), str(album))


@pytest.mark.slow
def test_layers_equal_the_generators(segmenter, exported):
    serve = tf.saved_model.load(exported.path).signatures["layers"]
    image = scenes(64)[:2, 10:40]
    drawn = {name: value.numpy() for name, value in serve(images=tf.constant(image)).items()}
    assert set(drawn) == {"background", "foreground", "mask", "composite"}
    expected = segmenter.predict_layers(image)
    for name, values in expected._asdict().items():
        assert drawn[name].shape == values.shape and values.shape[:3] == (2, 16, 16)
        np.testing.assert_allclose(drawn[name], values, atol=1e-4)
    np.testing.assert_allclose(drawn["composite"], compose(expected), atol=1e-4)
    assert drawn["background"].std() > 0.01 and np.ptp(drawn["mask"]) > 0.1
    assert exported.signatures == ["image_bytes", "layers", "serving_default"]


def test_all_signatures_are_free_in_the_batch(exported):
    loaded = tf.saved_model.load(exported.path)
    for signature in loaded.signatures.values():
        (specification,) = signature.structured_input_signature[1].values()
        assert specification.shape[0] is None
        assert all(output.shape[0] is None for output in signature.structured_outputs.values())


def test_operators_are_tensorflows(exported, tmp_path):
    assert {"Conv2D", "DecodeJpeg", "MatMul", "StatefulPartitionedCall"} <= set(exported.operators)
    # Other runtimes and GPUs lack it; `signatures.resize` replaces it.
    assert "ScaleAndTranslate" not in exported.operators

    class Foreign(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([2])])
        def call_back(self, x):
            return tf.numpy_function(lambda y: 2 * y, [x], tf.float32)

    tf.saved_model.save(Foreign(), str(tmp_path / "model"))
    with pytest.raises(
        UserError, match=r"needs .*PyFunc.*, which TensorFlow Serving does not have"
    ):
        saved_model.served_operators(str(tmp_path / "model"))


def test_operators_of_tensorflow_text_are_foreign(tmp_path):
    import tensorflow_text  # what KerasHub brings, and registers beside TensorFlow's

    class Tokens(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def tokenise(self, text):
            return tensorflow_text.WhitespaceTokenizer().tokenize(text).flat_values

    tf.saved_model.save(Tokens(), str(tmp_path / "model"))
    with pytest.raises(UserError, match=r"needs .*TFText"):
        saved_model.served_operators(str(tmp_path / "model"))


def test_warm_up_requests_reach_every_signature(exported):
    path = os.path.join(exported.path, serving.WARMUP)
    assert path.endswith("assets.extra/tf_serving_warmup_requests")
    loaded = tf.saved_model.load(exported.path)
    seen = {}
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "cars"
        name = request.model_spec.signature_name
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        outputs = loaded.signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})
        (batch,) = {len(value) for value in inputs.values()}
        assert {value.shape[0] for value in outputs.values()} == {batch}
        seen.setdefault(name, []).append(batch)
    assert set(seen) == set(loaded.signatures)
    assert all({1, 2} == set(batches) for batches in seen.values())
    assert exported.warmup == sum(map(len, seen.values())) <= 1000  # the server's limit


@pytest.mark.slow
def test_a_warm_up_that_fails_adds_no_version(tmp_path, monkeypatch):
    def broken(directory, loaded):
        loaded.signatures["image_bytes"](bytes=tf.constant([b"no image"]))

    monkeypatch.setattr(serving, "replay_warmup", broken)
    with pytest.raises(tf.errors.InvalidArgumentError):
        saved_model.export_saved_model(random_student(), str(tmp_path / "models"))
    assert os.listdir(tmp_path) == []


def test_the_servers_settings(exported, tmp_path):
    out = os.path.dirname(exported.path)
    with open(os.path.join(out, serving.MODELS), encoding="utf-8") as file:
        config = text_format.Parse(file.read(), model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("cars", "/models/cars")
    with open(os.path.join(exported.path, serving.BATCHING), encoding="utf-8") as file:
        lines = file.read().split("\n")
    assert (
        "max_batch_size { value: 32 }" in lines and "batch_timeout_micros { value: 2000 }" in lines
    )
    mine = tmp_path / serving.MODELS
    mine.write_text("edited")
    serving.write_models(str(tmp_path), "cars")
    assert mine.read_text() == "edited" and os.listdir(tmp_path) == [serving.MODELS]


@pytest.mark.slow
def test_it_runs_without_this_packages_python(segmenter, exported, tmp_path):
    model = saved_model_pb2.SavedModel()
    with open(os.path.join(exported.path, "saved_model.pb"), "rb") as file:
        model.ParseFromString(file.read())
    signature = model.meta_graphs[0].signature_def["serving_default"]
    source = signature.inputs["images"].name.split(":")
    target = signature.outputs["masks"].name.split(":")
    images = scenes(40)[:, 5:30]
    np.save(tmp_path / "in.npy", images)
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support", "c_api.py")
    done = subprocess.run(
        [sys.executable, "-I", script, exported.path, source[0], *target,
         str(tmp_path / "in.npy"), str(tmp_path / "out.npy")],
        capture_output=True, text=True, check=False, env={"TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    masks = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(masks, segmenter.predict(images), atol=1e-4)


# By default OpenVINO uses half precision on processors that have it.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["student", "padding student", "encoder"])
def test_openvino_computes_the_same(segmenter, tmp_path, kind):
    """A runtime that shares no code with TensorFlow, on both exports."""
    if kind != "encoder":
        segmenter = random_student()
        if kind == "padding student":
            padding = create_segmenter(8, 16, "pad")
            padding.set_weights(segmenter.get_weights())
            segmenter = padding
    saved_model.write(segmenter, str(tmp_path / "model"))
    core = openvino.Core()
    served = core.compile_model(str(tmp_path / "model"), "CPU", EXACT)
    for images in (scenes(64)[:, 10:40], scenes(16)[:1], scenes(23)[:2, :, :9]):
        masks = served([images])["masks"]
        np.testing.assert_allclose(masks, segmenter.predict(images), atol=1e-4)
        assert masks.std() > 0.01
    tflite.export_tflite(segmenter, str(tmp_path / "file.tflite"))
    phone = core.compile_model(str(tmp_path / "file.tflite"), "CPU", EXACT)
    for image in scenes(16):
        (masks,) = phone([image[None].astype(np.float32)]).values()
        np.testing.assert_allclose(masks, segmenter.predict(image[None]), atol=1e-4)


@pytest.mark.parametrize("source", [(16, 16), (7, 50), (64, 33), (200, 1)])
@pytest.mark.parametrize("target", [(16, 16), (5, 40), (130, 3)])
def test_the_resize_is_tensorflows(source, target):
    images = np.random.default_rng(0).uniform(-1, 1, (2, *source, 3)).astype(np.float32)
    expected = tf.image.resize(images, target, antialias=True)
    resized = tf.function(signatures.resize)(tf.constant(images), *map(tf.constant, target))
    np.testing.assert_allclose(resized, expected, atol=1e-5)
