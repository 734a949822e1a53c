"""Exports of a segmenter of several masks carry their union and each of them."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_runs
from ai_edge_litert.interpreter import Interpreter
from tiny_networks import random_student, scenes

from layered_segmentation.errors import UserError
from layered_segmentation.export import compare, saved_model, tflite
from layered_segmentation.segmenter.encoder import EncoderGeneratorBackbone
from layered_segmentation.segmenter.segmenter import create_encoder_segmenter


@pytest.fixture(scope="module")
def segmenter():
    return random_student(num_masks=2)


@pytest.mark.parametrize("side", [16, 23])
def test_a_saved_model_gives_the_keras_models_masks(segmenter, tmp_path, side):
    saved_model.write(segmenter, str(tmp_path / "model"))
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures
    images = scenes(side)
    expected = segmenter.predict(images)
    outputs = serve["serving_default"](images=tf.constant(images))
    assert set(outputs) == {"masks", "object_masks"}
    np.testing.assert_allclose(outputs["object_masks"], expected, atol=compare.TOLERANCE)
    union = np.stack(segmenter.predict_masks(images))[..., None]
    np.testing.assert_allclose(outputs["masks"], union, atol=compare.TOLERANCE)
    encoded = [tf.io.encode_png(image).numpy() for image in images]
    answer = serve["image_bytes"](bytes=tf.constant([*encoded, b"broken"]))
    assert answer["valid"].numpy().tolist() == [True] * 3 + [False]
    assert answer["masks"].shape == (4, 16, 16, 1)
    small = np.asarray(segmenter(segmenter.prepare(images), training=False))
    np.testing.assert_allclose(answer["object_masks"][:3], small, atol=compare.TOLERANCE)
    assert not answer["object_masks"][3].numpy().any()


@pytest.mark.slow
def test_wrong_object_masks_are_a_mismatch(segmenter, tmp_path, monkeypatch):
    serve = saved_model._serve

    def wrong(loaded, images, output="masks"):
        return serve(loaded, images, output) + 0.5 * (output == "object_masks")

    monkeypatch.setattr(saved_model, "_serve", wrong)
    with pytest.raises(UserError, match=r"differ from the Keras model's by 0\.5"):
        saved_model.export_saved_model(segmenter, str(tmp_path / "models"))
    run = tflite.interpreter
    monkeypatch.setattr(
        tflite,
        "interpreter",
        lambda content, threads, name="masks": (
            lambda images: run(content, threads, name)(images) + 0.5 * (name == "object_masks")
        ),
    )
    with pytest.raises(UserError, match=r"differ from the Keras model's by 0\.5"):
        tflite.export_tflite(segmenter, str(tmp_path / "a.tflite"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_tflite_file_gives_the_keras_models_masks(segmenter, tmp_path):
    path = tmp_path / "a.tflite"
    tflite.export_tflite(segmenter, str(path), label="leaf")
    image = scenes(16)[0]
    runtime = Interpreter(model_path=str(path))
    outputs = runtime.get_signature_runner("serving_default")(images=image[None].astype("float32"))
    expected = segmenter.predict(image)
    np.testing.assert_allclose(outputs["object_masks"][0], expected, atol=compare.TOLERANCE)
    union = segmenter.predict_masks(image)
    np.testing.assert_allclose(outputs["masks"][0, ..., 0], union, atol=compare.TOLERANCE)


@pytest.mark.slow
def test_an_encoders_saved_model_has_all_layers(shallow_resnet, tmp_path):
    generator = tiny_runs.generator(foreground_layers=2)
    segmenter = create_encoder_segmenter(EncoderGeneratorBackbone.around(generator, 8, 64))
    # The export itself compares every output with the Keras model's.
    done = saved_model.export_saved_model(segmenter, str(tmp_path / "models"))
    assert done.signatures == ["image_bytes", "layers", "serving_default"]
    layers = tf.saved_model.load(done.path).signatures["layers"].structured_outputs
    channels = {name: output.shape[-1] for name, output in layers.items()}
    assert channels == {"background": 3, "foreground": 6, "mask": 2, "composite": 3}
