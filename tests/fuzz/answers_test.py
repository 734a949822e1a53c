"""What model servers and graphs from elsewhere may contain."""

import contextlib
import json
import os
import socket
import threading

import fuzzing
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2

from layered_segmentation.evaluation import operators
from layered_segmentation.export import answers, client

_ROW = {"masks": [[[0.5], [0.25]], [[0.0], [1.0]]], "valid": True}
_ANSWERS = [
    {"predictions": [_ROW]}, {"predictions": [_ROW["masks"]]}, {"predictions": [_ROW, _ROW]},
    {"error": "no"}, {"outputs": {"masks": [], "valid": []}},
]  # fmt: skip
_bodies = st.one_of(
    fuzzing.json_files(*_ANSWERS),
    st.sampled_from([b'{"predictions": ' + b"[" * 5000, b'{"predictions": [1e999]}', b"[]", b"{}"]),
)


def _masks(masks, valid, count):
    try:
        found, _ = answers.masks_of(masks, valid, count)
    except answers.WrongAnswer:
        return
    assert found.dtype == np.float32 and found.shape[0] == count and found.shape[3] == 1
    assert found.min() >= 0 and found.max() <= 1


@fuzzing.fuzz(st.tuples(_bodies, st.integers(1, 3)), share=0.05, quick=30)
def test_json(data):
    content, count = data
    with fuzzing.refused("test_json", 32):
        try:
            masks, valid = answers.from_json(content)
        except answers.WrongAnswer:
            return
        _masks(masks, valid, count)


_WHOLE = [
    tf.make_tensor_proto(np.full((2, 3, 3, 1), 0.5, np.float32)).SerializeToString(),
    tf.make_tensor_proto(np.array([True, False])).SerializeToString(),
    tf.make_tensor_proto([b"text"]).SerializeToString(),
    tf.make_tensor_proto(np.zeros((1, 2, 2, 1), np.float16)).SerializeToString(),
]
_messages = st.one_of(
    fuzzing.damaged(_WHOLE),
    st.builds(
        lambda kind, shape, content, value: tensor_pb2.TensorProto(
            dtype=kind,
            tensor_shape=tf.TensorShape(shape).as_proto(),
            tensor_content=content,
            float_val=value,
        ).SerializeToString(),
        st.integers(0, 30),
        st.lists(st.sampled_from([0, 1, 2, 3, 1 << 20, 1 << 40]), max_size=6),
        st.binary(max_size=20),
        st.lists(st.floats(width=32), max_size=4),
    ),
)


@fuzzing.fuzz(st.tuples(_messages, _messages, st.integers(1, 3)), share=0.05, quick=30)
def test_messages(data):
    found = []
    for content in data[:2]:
        message = tensor_pb2.TensorProto()
        with contextlib.suppress(Exception):  # gRPC refuses what is no message
            message.ParseFromString(content)
        with fuzzing.refused("test_messages", 300):
            try:
                found.append(answers.from_message("masks", message))
            except answers.WrongAnswer:
                found.append(None)
    _masks(*found, data[2])


class _Server:
    """Sends the same bytes to whoever connects, whatever is asked."""

    def __init__(self):
        self.content = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(1)
                connection.recv(1 << 16)
                connection.sendall(self.content)

    def close(self):
        self._socket.close()


@pytest.fixture(scope="module")
def server():
    made = _Server()
    yield made
    made.close()


def _http(body, status=b"200 OK", more=b""):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), more, body)


_WHOLE_ANSWERS = [
    _http(json.dumps(_ANSWERS[0]).encode()),
    _http(b'{"error": "\x1b[2Jno"}', b"400 Bad"),
    _http(b"", b"307 Moved", b"Location: http://x\r\n"),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 3, b"SSH-2.0-x\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200,
]  # fmt: skip


@fuzzing.fuzz(
    st.one_of(
        st.builds(
            _http, _bodies, st.sampled_from([b"200 OK", b"400 B", b"404 N", b"503 U", b"500 \xff"])
        ),
        fuzzing.damaged(_WHOLE_ANSWERS),
    ),
    share=0.02,
    quick=10,
)  # fmt: skip
def test_http(server, data):
    server.content = data
    model = client.Model(server.address, "m", timeout=5, retries=0)
    with fuzzing.refused("test_http", 32):
        try:
            masks = client.connect("rest", model)([b"photo"])
            assert masks.shape[0] == 1
        except client.UserError as error:
            assert all(character.isprintable() for character in str(error))
            raise


def _saved_model(directory):
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
        def __call__(self, x):
            return {"y": tf.nn.relu(x) + tf.cast(tf.strings.length("a"), tf.float32)}

    module = Module()
    tf.saved_model.save(module, directory, signatures=module.__call__)
    with open(os.path.join(directory, "saved_model.pb"), "rb") as file:
        return file.read()


@pytest.fixture(scope="module", autouse=True)
def _silent():
    tf.get_logger().setLevel("ERROR")


def _graph():
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        return _saved_model(directory)


MODEL = _graph()
_OPERATORS = sorted(name for name in dir(tf.raw_ops) if name[0].isupper())
_graphs = st.lists(
    st.tuples(
        st.sampled_from(_OPERATORS),
        st.sampled_from("abcde"),
        st.lists(st.sampled_from(["a", "b:1", "^c", "", ":"]), max_size=3),
    ),
    max_size=6,
)  # fmt: skip


@fuzzing.fuzz(fuzzing.damaged([MODEL]), share=0.03, quick=10)
def test_saved_models(data):
    with fuzzing.confined() as directory, fuzzing.refused("test_saved_models", 64):
        fuzzing.write(directory, "saved_model.pb", data)
        operators.require_safe_saved_model(directory, "--detector=x")
        model = saved_model_pb2.SavedModel()
        model.ParseFromString(data)  # what passes is at least a model


@fuzzing.fuzz(_graphs, share=0.03, quick=15)
def test_graphs(data):
    definition = tf.compat.v1.GraphDef()
    for operator, name, inputs in data:
        node = definition.node.add()
        node.op, node.name = operator, name
        node.input.extend(inputs)
    unsafe = any(operators.is_unsafe(operator) for operator, _, _ in data)
    with fuzzing.refused("test_graphs", 16):
        operators.require_safe_graph(definition, "--inception=x")
        names = [name for _, name, _ in data]
        assert not unsafe or len(set(names)) < len(names)
