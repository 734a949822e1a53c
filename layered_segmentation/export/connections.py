"""The two ways to a model server: gRPC and REST, both to its signature `image_bytes`."""

import base64
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tenacity

from layered_segmentation.errors import UserError

SIGNATURE = "image_bytes"
PORTS = {"grpc": 8500, "rest": 8501}  # TF Serving's own


class Unavailable(UserError):
    """The server is away, overloaded or too slow; it may answer later."""


class Refused(UserError):
    """The server does not take these photos; others it might."""


@dataclasses.dataclass(frozen=True)
class Model:
    """What to ask, and how patiently.

    Attributes:
        server: HOST:PORT.
        name: The model's name on the server.
        version: Its number; 0 for the newest.
        timeout: Seconds that one attempt may take.
        retries: How many times a server that is away is asked again.
        backoff: Seconds to wait at most before the first of them; doubled each time, up to 10.
    """

    server: str
    name: str
    version: int = 0
    timeout: float = 10.0
    retries: int = 4
    backoff: float = 0.5

    def __str__(self) -> str:
        return f"{self.name}, version {self.version}" if self.version else self.name

    def unavailable(self, why: str) -> Unavailable:
        """Returns the error for a server that did not answer."""
        return Unavailable(
            f"--server={self.server}: {why} ({1 + self.retries} attempts); see that it runs and "
            "that the port is right, or give it more --timeout or --retries"
        )

    def unknown(self, why: str) -> UserError:
        """Returns the error for a model that the server does not have."""
        return UserError(f"--model={self}: {self.server} does not serve it ({why})")


# Sends encoded images, returns masks, float [B, R, R, 1].
Predict = Callable[[Sequence[bytes]], np.ndarray]


def connect(protocol: str, model: Model) -> Predict:
    """Returns a function that segments encoded JPEG or PNG images.

    Args:
        protocol: `grpc` or `rest`.
        model: Which model where.

    Returns:
        Images, bytes [B], of any sizes -> masks, float32 [B, R, R, 1] in [0, 1]. It raises
        `Unavailable`, `Refused`, or a `UserError` for a model that is not there.
    """
    send = {"grpc": _grpc, "rest": _rest}[protocol](model)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Unavailable),
        stop=tenacity.stop_after_attempt(1 + model.retries),
        # With chance, so that clients that failed together do not come back together.
        wait=tenacity.wait_random_exponential(multiplier=model.backoff, max=10),
        reraise=True,
    )
    return lambda images: retrying(send, images)


def _grpc(model: Model) -> Predict:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    # A batch of photos is larger than gRPC's 4 MB.
    unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    channel = grpc.insecure_channel(model.server, options=unlimited)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def send(images: Sequence[bytes]) -> np.ndarray:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model.name
        request.model_spec.signature_name = SIGNATURE
        if model.version:
            request.model_spec.version.value = model.version
        request.inputs["bytes"].CopyFrom(tf.make_tensor_proto(list(images), tf.string))
        try:
            response = stub.Predict(request, timeout=model.timeout)
        except grpc.RpcError as error:
            raise _grpc_error(model, error) from error
        return tf.make_ndarray(response.outputs["masks"])

    return send


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
        return Refused(f"{model.server} refuses the request: {details}")
    return UserError(f"--server={model.server}: it fails with {code.name}: {details}")


def _rest(model: Model) -> Predict:
    import requests

    version = f"/versions/{model.version}" if model.version else ""
    url = f"http://{model.server}/v1/models/{model.name}{version}:predict"
    session = requests.Session()

    def send(images: Sequence[bytes]) -> np.ndarray:
        instances = [{"b64": base64.b64encode(image).decode()} for image in images]
        body: dict[str, Any] = {"signature_name": SIGNATURE, "instances": instances}
        try:
            response = session.post(url, json=body, timeout=model.timeout)
        except requests.Timeout as error:
            raise model.unavailable(f"no answer within {model.timeout:g} s") from error
        except requests.ConnectionError as error:
            raise model.unavailable(f"no answer, {_reason(error)}") from error
        except requests.RequestException as error:  # such as a port that is no number
            raise UserError(f"--server={model.server}: {error}") from error
        if response.status_code != 200:
            raise _rest_error(model, response)
        try:
            return np.asarray(response.json()["predictions"], np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"--server={model.server}: the answer is none of a model server's "
                f"({response.text[:80]!r}); is it the REST port ({PORTS['rest']})?"
            ) from error

    return send


def _rest_error(model: Model, response: Any) -> UserError:
    try:
        details = " ".join(str(response.json()["error"]).split())
    except (ValueError, KeyError, TypeError):
        details = f"status {response.status_code}"
    if response.status_code in (429, 502, 503, 504):
        return model.unavailable(f"no answer, {details}")
    if response.status_code == 404:
        return model.unknown(details)
    if response.status_code == 400:
        return Refused(f"{model.server} refuses the request: {details}")
    return UserError(f"--server={model.server}: it fails with {details}")


def _reason(error: BaseException) -> str:
    """Returns the innermost reason of a failed connection, without the objects around it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return getattr(error, "strerror", None) or type(error).__name__
