"""What a model server returns: received within limits and checked, since it is not trusted."""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from typing import Any

import numpy as np

from layered_segmentation.errors import UserError

MOST_BYTES = 1 << 28  # of an answer: 64 masks of 1024 × 1024 pixels

_PART = 1 << 16  # bytes that are read at once
_SLACK = 1e-6  # how far rounding may take a probability out of [0, 1]


class WrongAnswer(Exception):
    """The answer is not masks; the message describes the answer."""


class Untrusted(Exception):
    """The server's certificate is not valid, or there is no encryption."""


def masks_of(masks: Any, valid: Any, count: int) -> tuple[np.ndarray, bool]:
    """Returns the masks of an answer; the only check, for every protocol.

    Args:
        masks: The output `masks`; anything.
        valid: The output `valid`; anything, None if the model has none.
        count: Number of images sent.

    Returns:
        The masks, float32 [count, R, R, 1] in [0, 1], and whether the server decoded all images.

    Raises:
        WrongAnswer: They are not masks, or the flags are not bool [count].
    """
    is_array = isinstance(masks, np.ndarray)
    found = f"{masks.dtype} {list(masks.shape)}" if is_array else "no masks"
    if not is_array or masks.dtype != np.float32 or masks.ndim != 4 or not masks.size:
        raise WrongAnswer(found)
    if masks.shape != (count, masks.shape[1], masks.shape[1], 1):
        raise WrongAnswer(found)
    if not np.isfinite(masks).all():
        raise WrongAnswer(f"{found} with values that are not finite")
    if masks.min() < -_SLACK or masks.max() > 1 + _SLACK:
        raise WrongAnswer(f"{found} from {masks.min():g} to {masks.max():g}")
    if valid is None:
        valid = np.ones(count, bool)
    if not isinstance(valid, np.ndarray) or valid.dtype != bool or valid.shape != (count,):
        raise WrongAnswer(f"{found} without a `valid` flag for each image")
    return np.clip(masks, 0, 1), bool(valid.all())


def from_message(name: str, message: Any) -> np.ndarray:
    """Converts a tensor message of gRPC; a short message may declare a far larger tensor.

    Args:
        name: The output's name.
        message: A TensorProto.

    Raises:
        WrongAnswer: It is too large, or contradicts itself.
    """
    import tensorflow as tf

    shape = [dimension.size for dimension in message.tensor_shape.dim]
    if min(shape, default=1) < 0 or 4 * np.prod(shape, dtype=np.float64) > MOST_BYTES:
        raise WrongAnswer(f"{name} {shape}")
    try:
        array: np.ndarray = tf.make_ndarray(message)
    except Exception as error:  # of many kinds, by how the message contradicts itself
        raise WrongAnswer(f"{name} that cannot be read ({error})") from error
    return array


def from_json(content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the masks and the flags of a REST answer; None if the model has no flags.

    A model with one output returns rows of it; a model with several, rows of objects.

    Raises:
        WrongAnswer: It is not a model server's.
    """
    try:
        rows = json.loads(content)["predictions"]
        if not any(isinstance(row, dict) for row in rows):
            return _floats(rows), None
        masks, valid = ([row[name] for row in rows] for name in ("masks", "valid"))
        return _floats(masks), np.asarray(valid)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise WrongAnswer(repr(content[:80])) from error


def _floats(rows: Any) -> np.ndarray:
    array = np.asarray(rows)
    # JSON does not tell 1 from 1.0. Text that looks like numbers stays text.
    return array.astype(np.float32) if array.dtype.kind in "fi" else array


class Server:
    """A server that answers HTTP POST: no redirects, proxies or stored passwords.

    Args:
        address: HOST:PORT.
        tls: Whether to encrypt, and to check the server's certificate.
        authorities: Certificates to trust, in PEM format; empty for those of the system.

    Raises:
        UserError: The port is not a number, or the certificates cannot be used.
    """

    def __init__(self, address: str, tls: bool = False, authorities: str = ""):
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UserError(f"--server={address}: {port!r} is not a port, 1 to 65535")
        self._address, self._host, self._port = address, host.strip("[]"), int(port)
        self._context = None
        if tls:
            try:
                self._context = ssl.create_default_context(cadata=authorities or None)
            except ssl.SSLError as error:
                raise UserError(f"--tls_ca: cannot be used as certificates ({error})") from error

    def post(self, path: str, body: bytes, timeout: float) -> tuple[int, bytes]:
        """Sends JSON and returns the answer's status and content.

        Args:
            path: The path of the URL.
            body: The content to send.
            timeout: Seconds from connecting to the last byte. A socket's own timeout begins anew
                with every byte, so a server that drips would never reach it.

        Raises:
            TimeoutError: The time is over.
            WrongAnswer: The answer is longer than `MOST_BYTES`.
            Untrusted: The server's certificate is not valid.
            OSError: The server did not answer, or not in HTTP.
        """
        end = time.monotonic() + timeout
        connected = socket.create_connection((self._host, self._port), timeout)
        sockets = [connected]
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            for one in sockets:
                with contextlib.suppress(OSError):
                    # Not the method of an encrypted socket, which is not safe in another thread.
                    socket.socket.shutdown(one, socket.SHUT_RDWR)

        timer = threading.Timer(max(0.0, end - time.monotonic()), stop)
        timer.daemon = True
        timer.start()
        try:
            if self._context:
                wrapped = self._context.wrap_socket(
                    connected, server_hostname=self._host, do_handshake_on_connect=False
                )
                sockets.append(wrapped)
                wrapped.do_handshake()
            answer = self._exchange(sockets[-1], path, body)
            if is_late.is_set():  # an answer that was cut off in its header looks like an empty one
                raise TimeoutError
            return answer
        except (OSError, http.client.HTTPException) as error:
            if is_late.is_set() or isinstance(error, TimeoutError):
                raise TimeoutError from error
            if isinstance(error, ssl.SSLError):
                raise Untrusted(_reason(error)) from error
            if isinstance(error, OSError):
                raise
            raise OSError(f"not an answer in HTTP ({type(error).__name__})") from error
        finally:
            timer.cancel()
            for one in sockets:
                one.close()

    def _exchange(self, connected: socket.socket, path: str, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.sock = connected
        headers = {"Content-Type": "application/json", "Host": self._address, "Connection": "close"}
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        parts: list[bytes] = []
        length = 0
        while part := response.read(_PART):
            length += len(part)
            if length > MOST_BYTES:
                raise WrongAnswer(f"longer than {MOST_BYTES >> 20} MiB")
            parts.append(part)
        if response.length:  # a shorter answer than announced
            raise http.client.IncompleteRead(b"")
        return response.status, b"".join(parts)


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); name its authority with "
            "--tls_ca"
        )
    return f"there is no TLS ({error.reason or error}); is it the port for TLS?"
