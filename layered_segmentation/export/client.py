"""A client of TensorFlow Serving: sends photos to the signature `image_bytes`, by gRPC or REST.

The server is not trusted: what it returns is checked before it becomes a mask, and its messages are
escaped. Run as a module, it is `layerseg client`.
"""

import base64
import dataclasses
import json
import os
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import tenacity
from PIL import Image

from layered_segmentation import photo
from layered_segmentation.errors import UserError
from layered_segmentation.export import answers
from layered_segmentation.images import UnreadableImage
from layered_segmentation.progress import Bar
from layered_segmentation.segmenter import outputs

_SIGNATURE = "image_bytes"
_PORTS = {"grpc": 8500, "rest": 8501}  # TensorFlow Serving's defaults
_UPRIGHT = (None, 1)  # values of EXIF's orientation
_ORIENTATION = 0x0112
_LONGEST_TEXT = 300  # characters of a server's message

# Maps encoded images to masks, float32 [B, R, R, 1].
Predict = Callable[[Sequence[bytes]], np.ndarray]
_Send = Callable[[Sequence[bytes]], tuple[Any, Any]]  # to masks and flags, unchecked


class Unavailable(UserError):
    """The server did not answer: it is down, overloaded or too slow. A later attempt may work."""


class Refused(UserError):
    """The server refused these photos; it may accept others."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model on a server, and how long to try to reach it."""

    server: str  # HOST:PORT
    name: str  # the model's name on the server
    version: int = 0  # its number; 0 for the newest
    timeout: float = 10.0  # seconds that one attempt may take, from connecting to the last byte
    retries: int = 4  # further attempts if the server is unavailable
    # Longest wait before the first of them, seconds; it doubles each time, up to 10.
    backoff: float = 0.5
    tls: bool = False  # whether to encrypt, and to check the server's certificate
    certificates: str = ""  # PEM file of the authorities to trust; empty for those of the system

    def __str__(self) -> str:
        return f"{self.name}, version {self.version}" if self.version else self.name

    def unavailable(self, reason: str) -> Unavailable:
        """Returns the error for a server that did not answer."""
        return Unavailable(
            f"--server={self.server}: {_printable(reason)} ({1 + self.retries} attempts); check "
            "that it runs and that the port is right, or raise --timeout or --retries"
        )

    def unknown(self, reason: str) -> UserError:
        """Returns the error for a model that the server does not have."""
        return UserError(f"--model={self}: {self.server} does not serve it ({_printable(reason)})")

    def refused(self, reason: str) -> Refused:
        """Returns the error for a request that the server refused."""
        return Refused(f"{self.server} refuses the request: {_printable(reason)}")

    def failed(self, reason: str) -> UserError:
        """Returns the error for any other failure."""
        return UserError(f"--server={self.server}: it fails with {_printable(reason)}")

    def wrong(self, found: str, count: int) -> UserError:
        """Returns the error for an answer that is not `count` masks."""
        return UserError(
            f"--server={self.server}: the answer to {count} images is {_printable(found)}; masks, "
            f"finite float32 [{count}, R, R, 1] in [0, 1], are needed. Is --model={self} an export "
            f"of `layerseg export`, and the port {_PORTS['rest']} for REST, {_PORTS['grpc']} for "
            "gRPC?"
        )


def server_address(address: str, protocol: str) -> str:
    """Returns HOST:PORT; an empty host is localhost, an empty port the protocol's.

    Raises:
        UserError: The address contains a scheme or a path.
    """
    if "/" in address:
        raise UserError(f"--server={address}: name it as HOST:PORT, without a scheme or a path")
    if ":" in address:
        return address
    return f"{address or 'localhost'}:{_PORTS[protocol]}"


def connect(protocol: str, model: Model) -> Predict:
    """Returns a function that segments encoded JPEG or PNG images on a server.

    Args:
        protocol: `grpc` or `rest`.
        model: The model to ask.

    Returns:
        A function from images, bytes [B] of any sizes, to masks, float32 [B, R, R, 1] in [0, 1].
        It raises `Unavailable`, `Refused`, or a `UserError` if the server lacks the model or
        returns anything but masks.

    Raises:
        UserError: The file of certificates cannot be used.
    """
    send = {"grpc": _grpc, "rest": _rest}[protocol](model)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Unavailable),
        stop=tenacity.stop_after_attempt(1 + model.retries),
        # Random waits, so that clients that failed together do not return together.
        wait=tenacity.wait_random_exponential(multiplier=model.backoff, max=10),
        reraise=True,
    )

    def predict(images: Sequence[bytes]) -> np.ndarray:
        try:
            masks, is_valid = answers.masks_of(*retrying(send, images), len(images))
        except answers.WrongAnswer as error:
            raise model.wrong(str(error), len(images)) from error
        if not is_valid:
            raise model.refused("it cannot decode an image, or the image has too many pixels")
        return masks

    return predict


def segment(
    predict: Predict,
    path: str,
    out: str,
    threshold: float = 0.5,
    batch: int = 8,
    overwrite: bool = False,
) -> tuple[int, list[str]]:
    """Segments one photo or a directory of them, and writes masks and cut-outs.

    Args:
        predict: A function from `connect`.
        path: A photo, or a directory of photos.
        out: Directory to write to.
        threshold: Probability from which a pixel counts as the object.
        batch: Photos in a request.
        overwrite: Whether to replace existing masks and cut-outs.

    Returns:
        The number of photos segmented, and one message for each of the others.

    Raises:
        UserError: The server does not answer or does not have the model, or as
            `outputs.find_photos` and `outputs.require_free` raise it.
    """
    outputs.require_threshold(threshold)
    root, names = outputs.find_photos(path, out)
    paths = outputs.name_outputs(names, out)
    if not overwrite:
        outputs.require_free(paths.values())
    done, failed = 0, []
    with Bar(len(names), "segmenting", "photo") as bar:
        for chunk in outputs.batches(root, names, batch):
            masks, errors = _segment_batch(predict, [os.path.join(root, name) for name in chunk])
            failed += errors
            for name in chunk:
                if (found := masks.get(os.path.join(root, name))) is not None:
                    image, mask = found
                    outputs.write(paths[name], image, mask, outputs.Style(threshold, edges="mask"))
                    done += 1
            bar.update(len(chunk))
    outputs.sync(paths.values())
    return done, failed


_Segmented = dict[str, tuple[photo.Photo, np.ndarray]]  # photo and mask of its size, by path


def _segment_batch(predict: Predict, paths: list[str]) -> tuple[_Segmented, list[str]]:
    """Returns the photos segmented, and one message for each of the others."""
    images, failed = {}, []
    for path in paths:
        try:
            images[path] = photo.read(path)
        except UnreadableImage as error:
            failed.append(str(error))
    if not images:
        return {}, failed
    segmented: _Segmented = {}
    try:
        masks = predict([_encode(path, one.image) for path, one in images.items()])
    except Refused as error:
        if len(images) == 1:
            return {}, [*failed, f"{next(iter(images))}: {error}"]
        for path in images:  # finds the photo that the server refuses
            alone, errors = _segment_batch(predict, [path])
            segmented |= alone
            failed += errors
        return segmented, failed
    for (path, image), mask in zip(images.items(), masks, strict=True):
        height, width = image.image.shape[:2]
        resized = cv2.resize(mask[..., 0], (width, height), interpolation=cv2.INTER_LINEAR)
        segmented[path] = image, np.clip(resized, 0, 1)
    return segmented, failed


def _encode(path: str, image: np.ndarray) -> bytes:
    """Returns the file itself if the server decodes it to `image`, otherwise a PNG file."""
    with Image.open(path) as header:
        is_plain = header.format in ("JPEG", "PNG") and header.mode in ("RGB", "L")
        if is_plain and header.getexif().get(_ORIENTATION) in _UPRIGHT:
            with open(path, "rb") as file:
                return file.read()
    return bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def _grpc(model: Model) -> _Send:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    # A batch of photos is larger than gRPC's 4 MB.
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", answers.MOST_BYTES),
    ]
    if model.tls:
        roots = _read_certificates(model)
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        channel = grpc.secure_channel(model.server, credentials, options=options)
    else:
        channel = grpc.insecure_channel(model.server, options=options)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def send(images: Sequence[bytes]) -> tuple[Any, Any]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model.name
        request.model_spec.signature_name = _SIGNATURE
        if model.version:
            request.model_spec.version.value = model.version
        request.inputs["bytes"].CopyFrom(tf.make_tensor_proto(list(images), tf.string))
        try:
            response = stub.Predict(request, timeout=model.timeout)
        except grpc.RpcError as error:
            raise _grpc_error(model, error) from error
        masks, valid = (
            answers.from_message(name, response.outputs[name]) if name in response.outputs else None
            for name in ("masks", "valid")
        )
        return masks, valid

    return send


def _read_certificates(model: Model) -> bytes | None:
    if not model.certificates:
        return None
    try:
        with open(model.certificates, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"--tls_ca={model.certificates}: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise UserError(f"--tls_ca={model.certificates}: contains no certificate in PEM format")
    return content


def _grpc_error(model: Model, error: Any) -> UserError:
    import grpc

    code, details = error.code(), " ".join(str(error.details()).split())
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return model.unavailable(f"no answer, {details}")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return model.unavailable(f"no answer within {model.timeout:g} s")
    if code == grpc.StatusCode.NOT_FOUND:
        return model.unknown(details)
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return model.refused(details)
    return model.failed(f"{code.name}: {details}")


def _rest(model: Model) -> _Send:
    version = f"/versions/{model.version}" if model.version else ""
    path = f"/v1/models/{urllib.parse.quote(model.name, safe='')}{version}:predict"
    roots = _read_certificates(model)
    server = answers.Server(model.server, model.tls, roots.decode() if roots else "")

    def send(images: Sequence[bytes]) -> tuple[Any, Any]:
        instances = [{"b64": base64.b64encode(image).decode()} for image in images]
        body = json.dumps({"signature_name": _SIGNATURE, "instances": instances}).encode()
        try:
            status, content = server.post(path, body, model.timeout)
        except TimeoutError as error:
            raise model.unavailable(f"no answer within {model.timeout:g} s") from error
        except answers.Untrusted as error:
            raise UserError(f"--server={model.server}: {_printable(str(error))}") from error
        except OSError as error:
            raise model.unavailable(f"no answer, {error.strerror or error}") from error
        if status != 200:
            raise _rest_error(model, status, content)
        return answers.from_json(content)

    return send


def _rest_error(model: Model, status: int, content: bytes) -> UserError:
    try:
        details = " ".join(str(json.loads(content)["error"]).split())
    except (ValueError, KeyError, TypeError, RecursionError):
        details = f"status {status}"
    if status in (429, 502, 503, 504):
        return model.unavailable(f"no answer, {details}")
    if 300 <= status < 400:
        return model.failed(f"status {status}, a redirect; photos go only to the named server")
    if status == 404:
        return model.unknown(details)
    if status == 400:
        return model.refused(details)
    return model.failed(details)


def _printable(text: str) -> str:
    """Escapes what would control the user's terminal, and cuts long texts."""
    characters = (
        character if character.isprintable() else ascii(character)[1:-1]
        for character in text[:_LONGEST_TEXT]
    )
    return "".join(characters)


if __name__ == "__main__":
    from layered_segmentation.cli import app
    from layered_segmentation.cli import client as verb

    app.run(verb.main)
