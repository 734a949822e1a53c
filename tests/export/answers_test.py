"""What a server returned that is not what was asked for: wrong masks, floods, drips, escapes."""

import contextlib
import socket
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from loopback_server import PROTOCOLS, LoopbackServer, address, connect

from layered_segmentation.errors import UserError
from layered_segmentation.export import answers, client


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with LoopbackServer(str(tmp_path_factory.mktemp("models"))) as server:  # it serves no model
        yield server


@pytest.fixture
def server(running):
    """A server that returns its `answers` whatever it is asked."""
    running.failures.clear()
    running.answers.clear()
    return running


def masks_of(*shape, value=0.5):
    return {"masks": np.full(shape, value, np.float32)}


def with_one(value):
    answer = masks_of(2, 8, 8, 1)
    answer["masks"][1, 3, 4] = value
    return answer


WRONG = {
    "not a number": with_one(np.nan),
    "infinite": with_one(np.inf),
    "900": with_one(900),
    "negative": with_one(-0.01),
    "logits": masks_of(2, 8, 8, 1, value=-7),
    "three channels": masks_of(2, 8, 8, 3),
    "rank 3": masks_of(2, 8, 8),
    "rank 5": masks_of(2, 1, 8, 8, 1),
    "not square": masks_of(2, 8, 4, 1),
    "empty": masks_of(2, 0, 0, 1),
    "one too few": masks_of(1, 8, 8, 1),
    "one too many": masks_of(3, 8, 8, 1),
    "none": masks_of(0, 8, 8, 1),
    "text": {"masks": np.full((2, 8, 8, 1), "0.5")},
    "flags": {"masks": np.full((2, 8, 8, 1), True)},
    "too many flags": {**masks_of(2, 8, 8, 1), "valid": np.array([[True] * 2] * 2)},
    "numbers for flags": {**masks_of(2, 8, 8, 1), "valid": np.array([1.0, 1.0])},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_is_not_masks_is_refused(server, protocol, name):
    server.answers[:] = [WRONG[name]]
    with pytest.raises(UserError, match=r"the answer to 2 images is .* are needed") as error:
        connect(server, protocol)([b"a", b"b"])
    assert type(error.value) is UserError and f"--server={address(server, protocol)}" in str(error)
    assert not server.answers


def message_of(shape, **fields):
    """Returns a tensor message that may contradict itself."""
    message = tf.make_tensor_proto(np.zeros(1, np.float32))
    message.ClearField("tensor_content")
    message.tensor_shape.Clear()
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    for name, value in fields.items():
        if isinstance(value, bytes):
            setattr(message, name, value)
        else:
            getattr(message, name).extend(value)
    return {"masks": message}


@pytest.mark.parametrize(
    "answer",
    [
        {"other": np.zeros((2, 8, 8, 1), np.float32)},
        {"masks": np.zeros((2, 8, 8, 1), np.float64)},
        {"masks": np.zeros((2, 8, 8, 1), np.int32)},
        message_of((2, 1_000_000, 1_000_000, 1), float_val=[0.5]),  # would become 8 TB
        message_of((2, -8, 8, 1), float_val=[0.5]),
        message_of((2, 8, 8, 1), tensor_content=b"abc"),
        message_of((1 << 62, 1 << 62, 4, 1)),
    ],
)
def test_tensor_messages_that_are_not_masks_are_refused(server, answer):
    server.answers[:] = [answer]
    with pytest.raises(UserError, match=r"the answer to 2 images is "):
        connect(server, "grpc")([b"a", b"b"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b'{"predictions": 7}',
        b'{"predictions": null}',
        b'{"predictions": [[[[0.5]]], [[[0.5], [0.5]]]]}',
        b'{"predictions": [[[["0.5"]]], [[["0.5"]]]]}',
        b'{"predictions": [[[[1e999]]], [[[0.5]]]]}',
        b'{"predictions": [[[[1%b]]], [[[0.5]]]]}' % (b"0" * 400),
        b'{"predictions": [{"masks": [[[0.5]]], "valid": true}, [[[0.5]]]]}',
        b'{"predictions": [{"masks": [[[0.5]]]}, {"valid": true}]}',
        b"[" * 100_000,
    ],
)
def test_rest_answers_that_are_not_masks_are_refused(server, content):
    server.answers[:] = [content]
    with pytest.raises(UserError, match=r"the answer to 2 images is "):
        connect(server, "rest")([b"a", b"b"])


def test_a_long_answer_is_not_read(server, monkeypatch):
    monkeypatch.setattr(answers, "MOST_BYTES", 1 << 20)
    server.answers[:] = [b" " * (1 << 20) + b"{}"]
    with pytest.raises(UserError, match=r"the answer to 1 images is longer than 1 MiB"):
        connect(server, "rest")([b"a"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_good_answers_with_and_without_flags(server, protocol):
    valid = {"valid": np.array([True, True])}
    for answer in (masks_of(2, 8, 8, 1), masks_of(2, 8, 8, 1) | valid, masks_of(2, 1, 1, 1)):
        server.answers[:] = [answer]
        found = connect(server, protocol)([b"a", b"b"])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, answer["masks"])
    server.answers[:] = [with_one(1 + 1e-7)]  # rounding
    assert connect(server, protocol)([b"a", b"b"]).max() <= 1
    server.answers[:] = [masks_of(2, 8, 8, 1) | {"valid": np.array([True, False])}]
    with pytest.raises(client.Refused, match="it cannot decode an image"):
        connect(server, protocol)([b"a", b"b"])


def test_a_header_that_drips_ends_in_time_too():
    """Cut off there, the answer would look like an empty one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + b"X: y\r\n" * 40:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        model = client.Model(f"127.0.0.1:{listening.getsockname()[1]}", "m", timeout=0.7, retries=0)
        with pytest.raises(client.Unavailable, match=r"no answer within 0\.7 s"):
            client.connect("rest", model)([b"photo"])


def test_an_answer_that_drips_ends_in_time(server):
    server.failures[:] = ["drip"]
    start = time.monotonic()
    with pytest.raises(client.Unavailable, match=r"no answer within 0\.3 s \(1 attempts\)"):
        connect(server, "rest", timeout=0.3, retries=0)([b"x"])
    assert time.monotonic() - start < 2  # all of it would take 4


def test_control_characters_of_a_server_are_escaped(server):
    server.answers[:] = [b"\x1b[2J\x07nothing"]
    with pytest.raises(UserError) as error:
        connect(server, "rest")([b"x"])
    model = client.Model("host:1", "layerseg")
    hostile = "\x1b]0;title\x07\r\n\u202eabc" + 1000 * "x"
    for message in (
        error.value, model.unavailable(hostile), model.unknown(hostile), model.refused(hostile),
        model.failed(hostile), model.wrong(hostile, 1),
    ):  # fmt: skip
        assert str(message).isprintable() and len(str(message)) < 700
