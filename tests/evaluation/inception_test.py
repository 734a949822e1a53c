import hashlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import inception

MEAN, VARIANCE = np.float32([0.1, 0.2, 0.3]), np.float32([1.0, 4.0, 9.0])
BETA, GAMMA = np.float32([0.5, 0.0, -0.5]), np.float32([1.0, 2.0, 3.0])
EPSILON = 0.001


def tiny_graph():
    """The names, the fixed batch of one and the outdated normalisation of FID's own graph."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        image = v1.placeholder(tf.float32, [None, None, 3], name="Cast")
        images = tf.expand_dims(image, 0, name="ExpandDims")
        resized = v1.image.resize_bilinear(images, [4, 4], name="ResizeBilinear")
        scaled = tf.multiply(tf.subtract(resized, 128.0, name="Sub"), 1 / 128, name="Mul")
        for name, value in (("m", MEAN), ("v", VARIANCE), ("beta", BETA), ("gamma", GAMMA)):
            tf.constant(value, name=name)
        normalised = tf.identity(scaled, name="batchnorm")
        pooled = v1.nn.avg_pool(normalised, 4, 1, "VALID", name="pool_3")
        tf.reshape(pooled, [1, 3], name="pool_3/_reshape")
    definition = graph.as_graph_def()
    (norm,) = (node for node in definition.node if node.name == "batchnorm")
    norm.op = "BatchNormWithGlobalNormalization"
    norm.input.extend(["m", "v", "beta", "gamma"])
    norm.attr["variance_epsilon"].CopyFrom(attr_value_pb2.AttrValue(f=EPSILON))
    norm.attr["scale_after_normalization"].CopyFrom(attr_value_pb2.AttrValue(b=True))
    definition.versions.producer = 8  # since version 9 there is no such operation
    return definition


@pytest.fixture(scope="module")
def graph_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "classify_image_graph_def.pb"
    path.write_bytes(tiny_graph().SerializeToString())
    return str(path)


def expected(values):
    scaled = (np.float32(values) - 128) / 128
    return (scaled - MEAN) / np.sqrt(VARIANCE + EPSILON) * GAMMA + BETA


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:12]


def save(path, outputs=2048, side=299, gain=1.0):
    """A model of the shape of Inception's: the mean colours times `gain`, over and over."""
    inputs = keras.Input((side, side, 3))
    means = keras.layers.GlobalAveragePooling2D()(inputs)
    tile = np.resize(gain * np.eye(3), (outputs, 3)).T
    dense = keras.layers.Dense(outputs, use_bias=False)
    found = dense(means)
    dense.set_weights([tile])
    keras.Model(inputs, found).save(path)
    return str(path)


@pytest.mark.parametrize("operator", ["WriteFile", "PyFunc", "DebugIdentityV2"])
def test_a_graph_that_reaches_files_is_refused(tmp_path, operator):
    definition = tiny_graph()
    definition.node.add(name="hidden", op=operator)
    path = tmp_path / "graph.pb"
    path.write_bytes(definition.SerializeToString())
    with pytest.raises(UserError, match=rf"--inception=.*runs {operator}, .* add --trust"):
        inception.open_features(str(path))


def test_features_of_the_frozen_graph(graph_file):
    features = inception.open_features(graph_file)
    assert features.name == f"inception-2015-12-05 pool_3 sha256:{digest(graph_file)}"
    colours = np.uint8([[0, 0, 0], [255, 128, 64], [10, 20, 30]])
    for side in (4, 7):  # of one colour, an image is the same at any size
        images = np.broadcast_to(colours[:, None, None], (3, side, side, 3))
        np.testing.assert_allclose(features(images), expected(colours), rtol=1e-4, atol=1e-5)
    varied = np.random.RandomState(0).randint(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    means = varied.mean(axis=(1, 2))
    np.testing.assert_allclose(features(varied), expected(means), rtol=1e-4, atol=1e-5)


def test_features_of_a_keras_model(tmp_path):
    path = save(tmp_path / "inception.keras")
    features = inception.open_features(path)
    assert features.name == f"keras-inception-v3 avg_pool sha256:{digest(path)}"
    ramp = np.tile(np.linspace(0, 254, 128).astype(np.uint8)[None, :, None], (2, 128, 1, 3))
    ramp[1] = 255
    found = features(ramp)
    assert found.shape == (2, 2048)
    np.testing.assert_allclose(found[1], 1.0, atol=1e-6)
    np.testing.assert_allclose(found[0], ramp[0].mean() / 127.5 - 1, atol=2e-3)


def test_other_weights_have_another_name(tmp_path, graph_file):
    names = [
        inception.open_features(save(tmp_path / f"{gain}.keras", gain=gain)).name
        for gain in (1.0, 2.0)
    ]
    assert names[0] != names[1]
    definition = tiny_graph()
    (beta,) = (node for node in definition.node if node.name == "beta")
    beta.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(2 * BETA))
    other = tmp_path / "graph.pb"
    other.write_bytes(definition.SerializeToString())
    names = [inception.open_features(path).name for path in (graph_file, str(other))]
    assert names[0] != names[1]


def test_a_model_of_any_side_is_taken(tmp_path):
    features = inception.open_features(save(tmp_path / "any.keras", side=None))
    assert features(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 2048)


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_models_of_other_shapes_are_refused(tmp_path):
    vector = keras.Input((7,))
    keras.Model(vector, keras.layers.Dense(2048)(vector)).save(tmp_path / "vector.keras")
    images = keras.Input((299, 299, 3))
    keras.Model(images, keras.layers.AveragePooling2D(100)(images)).save(tmp_path / "maps.keras")
    two = [keras.Input((299, 299, 3)), keras.Input((299, 299, 3))]
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()(two))
    keras.Model(two, keras.layers.Dense(2048)(means)).save(tmp_path / "two.keras")
    keras.Sequential([keras.layers.Dense(2048)]).save(tmp_path / "unbuilt.keras")
    save(tmp_path / "classes.keras", outputs=10)
    save(tmp_path / "small.keras", side=32)
    for name, words in (
        ("vector", "maps [None, 7] to [None, 2048]"),
        ("maps", "maps [None, 299, 299, 3] to [None, 2, 2, 3]"),
        ("two", "maps [None, 299, 299, 3] and [None, 299, 299, 3] to"),
        ("unbuilt", "maps an unknown shape to"),
        ("classes", "to [None, 10]"),
        ("small", "maps [None, 32, 32, 3] to"),
    ):
        path = str(tmp_path / f"{name}.keras")
        with pytest.raises(UserError) as error:
            inception.open_features(path)
        for part in (f"--inception={path}", words, "[None, 299, 299, 3] to [None, 2048] is needed"):
            assert part in str(error.value)


def test_the_error_of_a_missing_file_tells_where_to_get_it(tmp_path):
    for path, words in (
        ("", "--inception is needed"),
        (str(tmp_path / "none.pb"), "no such file"),
    ):
        with pytest.raises(UserError, match=words) as error:
            inception.open_features(path)
        assert inception.GRAPH_URL in str(error.value)
        assert inception.KERAS_URL in str(error.value)


def test_other_files_are_refused(tmp_path):
    other = tmp_path / "inception.onnx"
    other.write_bytes(b"x")
    with pytest.raises(UserError, match=r"neither \.pb nor \.h5"):
        inception.open_features(str(other))
    damaged = tmp_path / "graph.pb"
    damaged.write_bytes(b"\xff no graph")
    with pytest.raises(UserError, match="not a frozen TensorFlow graph"):
        inception.open_features(str(damaged))
    definition = tiny_graph()
    for node in definition.node:
        node.name = node.name.replace("pool_3", "pool_4")
    damaged.write_bytes(definition.SerializeToString())
    with pytest.raises(UserError, match="no node pool_3"):
        inception.open_features(str(damaged))
    with pytest.raises(UserError, match="not weights of InceptionV3"):
        no_model = tmp_path / "inception.keras"
        no_model.write_bytes(b"x")
        inception.open_features(str(no_model))
