import io
import os

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from tiny_networks import random_student, scenes

from layered_segmentation import images as photos
from layered_segmentation.errors import UserError
from layered_segmentation.export import compare, saved_model, signatures, tflite
from layered_segmentation.segmenter.segmenter import create_segmenter


@pytest.fixture(scope="module")
def segmenter():
    return random_student()


@pytest.fixture(scope="module")
def exported(segmenter, tmp_path_factory):
    """A SavedModel and a TFLite file, as their exports reported them."""
    out = tmp_path_factory.mktemp("export")
    return (
        saved_model.export_saved_model(segmenter, str(out / "models")),
        tflite.export_tflite(segmenter, str(out / "segmenter.tflite")),
    )


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("side", [16, 23, 64])
def test_the_saved_model_gives_the_keras_models_masks(segmenter, exported, side):
    serve = tf.saved_model.load(exported[0].path).signatures["serving_default"]
    images = scenes(side)
    masks = serve(images=tf.constant(images))["masks"].numpy()
    assert masks.shape == (3, side, side, 1)
    np.testing.assert_allclose(masks, segmenter.predict(images), atol=compare.TOLERANCE)
    assert masks.std() > 0.01


def test_the_saved_model_accepts_images_that_are_not_square(segmenter, exported):
    serve = tf.saved_model.load(exported[0].path).signatures["serving_default"]
    image = scenes(64)[:1, 10:40]
    masks = serve(images=tf.constant(image))["masks"].numpy()
    np.testing.assert_allclose(masks, segmenter.predict(image), atol=compare.TOLERANCE)


def test_the_saved_model_pads_as_its_segmenter_does(segmenter, tmp_path):
    padding = create_segmenter(8, 16, "pad")
    padding.set_weights(segmenter.get_weights())
    saved_model.write(padding, str(tmp_path / "model"))
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    for image in (scenes(64)[:1, 10:40], scenes(64)[:1, :, 5:40], scenes(23)[:1]):
        masks = serve(images=tf.constant(image))["masks"].numpy()
        np.testing.assert_allclose(masks, padding.predict(image), atol=compare.TOLERANCE)
        is_square = image.shape[1] == image.shape[2]
        assert np.allclose(masks, segmenter.predict(image), atol=1e-3) == is_square


def test_the_saved_model_accepts_encoded_photos_of_several_sizes(segmenter, exported):
    serve = tf.saved_model.load(exported[0].path).signatures["image_bytes"]
    large, small = scenes(64)[0, 10:40], scenes(23)[1]
    grey = np.repeat(large[..., :1], 3, axis=-1)
    encoded = [
        tf.io.encode_png(large).numpy(),
        jpeg(small),
        tf.io.encode_png(large[..., :1]).numpy(),
        tf.io.encode_png(np.dstack([large, np.full(large.shape[:2], 9, np.uint8)])).numpy(),
    ]
    masks = serve(bytes=tf.constant(encoded))["masks"].numpy()
    decoded = np.asarray(Image.open(io.BytesIO(encoded[1])))
    assert masks.shape == (4, 16, 16, 1)
    for mask, image in zip(masks, (large, decoded, grey, large), strict=True):
        expected = np.asarray(segmenter(segmenter.prepare(image[None]), training=False))
        np.testing.assert_allclose(mask[None], expected, atol=compare.TOLERANCE)
    assert np.abs(masks[0] - masks[1]).max() > 0.01
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(bytes=tf.constant([b"no image"]))


@pytest.mark.slow
@pytest.mark.parametrize("pads", [False, True])
def test_a_broken_photo_does_not_fail_the_others(segmenter, tmp_path, pads):
    """A server batches the images of several clients."""
    if pads:
        padding = create_segmenter(8, 16, "pad")
        padding.set_weights(segmenter.get_weights())
        segmenter = padding
    saved_model.write(segmenter, str(tmp_path / "model"))
    saved_model.served_operators(str(tmp_path / "model"))
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["image_bytes"]
    good = [tf.io.encode_png(scenes(64)[0, 10:40]).numpy(), jpeg(scenes(23)[1])]
    alone = [serve(bytes=tf.constant([photo]))["masks"].numpy()[0] for photo in good]
    broken = [b"", b"no image", good[0][:60], good[1][:200], b"\x89PNG", b"GIF89a", _bomb()]
    batch = [broken[0], good[0], *broken[1:4], good[1], *broken[4:]]
    answer = {name: value.numpy() for name, value in serve(bytes=tf.constant(batch)).items()}
    assert answer["masks"].shape == (9, 16, 16, 1) and answer["masks"].dtype == np.float32
    is_good = np.array([photo in good for photo in batch])
    assert np.array_equal(answer["valid"], is_good)
    np.testing.assert_allclose(answer["masks"][is_good], alone, atol=1e-6)
    assert not answer["masks"][~is_good].any() and alone[0].any()
    everything = serve(bytes=tf.constant(good))
    assert everything["valid"].numpy().all()
    for photo in broken:
        with pytest.raises(tf.errors.InvalidArgumentError):
            serve(bytes=tf.constant([photo]))
    assert not serve(bytes=tf.constant([b"", b"x"]))["valid"].numpy().any()


def _bomb():
    """A small PNG whose header states 100,000 × 100,000 pixels."""
    content = tf.io.encode_png(np.zeros((2, 2, 3), np.uint8)).numpy()
    return content[:16] + 2 * (100_000).to_bytes(4, "big") + content[24:]


def test_requests_without_or_with_too_many_pixels(segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(signatures, "MOST_PIXELS", 30 * 30)
    saved_model.write(segmenter, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    of_bytes, of_pixels = (loaded.signatures[name] for name in ("image_bytes", "serving_default"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="bytes: the batch is empty"):
        of_bytes(bytes=tf.constant([], tf.string))
    for shape in ((0, 16, 16, 3), (1, 0, 16, 3), (1, 16, 0, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="images: the batch is empty"):
            of_pixels(images=tf.zeros(shape, tf.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="a photo has more than 900 pixels"):
        of_pixels(images=tf.zeros((1, 30, 31, 3), tf.uint8))
    for side in (30, 31):
        image = np.zeros((30, side, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "GIF")
        for photo in (jpeg(image), tf.io.encode_png(image).numpy(), buffer.getvalue()):
            if side == 30:
                assert of_bytes(bytes=tf.constant([photo]))["valid"].numpy().all()
                continue
            with pytest.raises(tf.errors.InvalidArgumentError, match="has more than 900 pixels"):
                of_bytes(bytes=tf.constant([photo]))


def test_a_wrong_image_bytes_signature_is_a_mismatch(segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "_bytes_difference", lambda *_: 0.5)
    with pytest.raises(UserError, match=r"differ from the Keras model's by 0\.5"):
        saved_model.export_saved_model(segmenter, str(tmp_path / "models"))
    assert os.listdir(tmp_path) == []


def test_the_tflite_file_gives_the_keras_models_masks(segmenter, exported):
    runtime = Interpreter(model_path=exported[1].path, num_threads=1)
    run = runtime.get_signature_runner("serving_default")
    assert runtime.get_signature_list()["serving_default"] == {
        "inputs": ["images"],
        "outputs": ["masks"],
    }
    for image in scenes(16):
        mask = run(images=image[None].astype(np.float32))["masks"]
        expected = segmenter.predict(image[None])
        np.testing.assert_allclose(mask, expected, atol=compare.TOLERANCE)


def test_reported_numbers(exported):
    for done in exported:
        assert 0 <= done.difference <= compare.TOLERANCE and done.images == 48
        assert done.milliseconds > 0
    assert exported[1].megabytes == pytest.approx(os.path.getsize(exported[1].path) / 1e6)
    assert "CONV_2D" in exported[1].operators and "CUSTOM" not in exported[1].operators


@pytest.mark.slow
def test_another_input_size(tmp_path):
    segmenter = random_student()
    path = str(tmp_path / "large.tflite")
    tflite.export_tflite(segmenter, path, input_size=32)
    details = Interpreter(model_path=path).get_input_details()[0]
    assert details["shape"].tolist() == [1, 32, 32, 3] and details["dtype"] == np.float32
    with pytest.raises(UserError, match="--input_size=30: it must be a multiple of 4"):
        tflite.export_tflite(segmenter, str(tmp_path / "odd.tflite"), input_size=30)
    assert os.listdir(tmp_path) == ["large.tflite"]


@pytest.mark.slow
def test_versions_are_numbered(segmenter, exported, tmp_path):
    assert exported[0].path.endswith(os.path.join("models", "1"))
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    done = saved_model.export_saved_model(segmenter, str(tmp_path))
    assert done.path == str(tmp_path / "8")
    assert sorted(os.listdir(tmp_path)) == ["7", "8", "models.config", "notes"]


@pytest.mark.slow
def test_a_mismatch_fails_and_leaves_nothing(segmenter, tmp_path, monkeypatch):
    other = random_student(seed=5)
    write, convert = saved_model.write, tflite.convert
    monkeypatch.setattr(saved_model, "write", lambda _, path: write(other, path))
    monkeypatch.setattr(tflite, "convert", lambda _, *rest: convert(other, *rest))
    with pytest.raises(UserError, match=r"differ from the Keras model's by .* nothing was written"):
        saved_model.export_saved_model(segmenter, str(tmp_path / "models"))
    with pytest.raises(UserError, match=r"differ from the Keras model's by .* nothing was written"):
        tflite.export_tflite(segmenter, str(tmp_path / "segmenter.tflite"))
    assert os.listdir(tmp_path) == []


def test_a_nan_is_a_mismatch():
    image = scenes(16)

    def broken(batch):
        return np.full((*batch.shape[:3], 1), np.nan)

    difference = compare.measure(broken, lambda b: np.zeros_like(broken(b)), image).difference
    with pytest.raises(UserError, match="differ"):
        compare.require_close(difference, 1)


def test_an_operator_that_is_not_built_in_is_refused():
    @tf.function(input_signature=[tf.TensorSpec((1, 8), tf.complex64)])
    def invert(x):
        return tf.signal.ifft(x)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([invert.get_concrete_function()])
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    with pytest.raises(UserError, match="'FlexIFFT', which is not built into TFLite"):
        tflite.builtin_operators(converter.convert())


@pytest.mark.slow
def test_nothing_is_overwritten(segmenter, tmp_path):
    path = tmp_path / "segmenter.tflite"
    path.write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        tflite.export_tflite(segmenter, str(path))
    with pytest.raises(UserError, match="a file has this name"):
        saved_model.export_saved_model(segmenter, str(path))
    with pytest.raises(UserError, match="a directory has this name"):
        tflite.export_tflite(segmenter, str(tmp_path))
    assert path.read_text() == "mine" and os.listdir(tmp_path) == ["segmenter.tflite"]
    tflite.export_tflite(segmenter, str(path), overwrite=True)
    assert path.stat().st_size > 1000


def test_photos_to_compare_on(segmenter, tmp_path):
    directory = tmp_path / "photos"
    directory.mkdir()
    with pytest.raises(UserError, match="there is no image in it"):
        compare.images_to_compare(str(directory))
    (directory / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match="holds no readable image"):
        compare.images_to_compare(str(directory))
    with pytest.raises(UserError, match="there is no such directory"):
        compare.images_to_compare(str(tmp_path / "none"))
    for index, image in enumerate(scenes(40)):
        photos.write(str(directory / f"{index}.png"), image)
    assert len(compare.images_to_compare(str(directory))) == 3
    done = tflite.export_tflite(segmenter, str(tmp_path / "a.tflite"), images=str(directory))
    assert done.images == 3
