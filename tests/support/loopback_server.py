"""A stand-in for TensorFlow Serving, which PyPI does not have.

It answers gRPC's PredictionService.Predict and REST's `:predict` from exported SavedModels, with
the messages and statuses of the real server's documentation and protocol files. It does no
batching, warm-up or loading of new versions. On request it is a bad server, whose answers are not
masks.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import json
import os
import re
import ssl
import threading
import time

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from layered_segmentation.export import client

PROTOCOLS = ("grpc", "rest")

_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict")


class NotServed(Exception):
    """There is no such model or version."""


class LoopbackServer:
    """Serves the versions of one model on two free ports of 127.0.0.1.

    Attributes:
        requests: The requests so far, as (protocol, signature, images).
        failures: Faults of the next answers: `away`, `full`, `slow` or `broken`; REST only: `drip`
            (a byte at a time) and `redirect` (to `elsewhere`).
        answers: What the next answers contain instead of the model's outputs: arrays or tensor
            messages by name, or the bytes of a whole REST answer.
        elsewhere: URL of redirects.
        grpc_address: HOST:PORT.
        rest_address: Likewise.

    Args:
        directory: Directory of the versions.
        model: The model's name.
        tls: Files of a certificate and its key, both in PEM format; empty for no encryption.
    """

    def __init__(self, directory, model="layerseg", tls=()):
        self.requests, self.failures, self.answers = [], [], []
        self.elsewhere = ""
        self._model = model
        self._versions = {
            int(name): tf.saved_model.load(os.path.join(directory, name))
            for name in os.listdir(directory)
            if name.isdigit()
        }
        pool = concurrent.futures.ThreadPoolExecutor(2)
        self._grpc = grpc.server(pool, options=[("grpc.max_receive_message_length", -1)])
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _Servicer(self), self._grpc
        )
        if tls:
            certificate, key = (open(path, "rb").read() for path in tls)
            credentials = grpc.ssl_server_credentials([(key, certificate)])
            port = self._grpc.add_secure_port("127.0.0.1:0", credentials)
        else:
            port = self._grpc.add_insecure_port("127.0.0.1:0")
        self.grpc_address = f"127.0.0.1:{port}"
        handler = type("Handler", (_Handler,), {"owner": self})
        self._rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._rest.socket = context.wrap_socket(self._rest.socket, server_side=True)
        self.rest_address = f"127.0.0.1:{self._rest.server_port}"

    def __enter__(self):
        self._grpc.start()
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._grpc.stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()

    def predict(self, protocol, model, version, signature, inputs):
        """Returns a signature's outputs, by name."""
        if model != self._model or (version and version not in self._versions):
            raise NotServed(f"Servable not found for request: Latest({model})")
        self.requests.append((protocol, signature, len(next(iter(inputs.values())))))
        if self.answers:
            return self.answers.pop(0)
        loaded = self._versions[version or max(self._versions)]
        if signature not in loaded.signatures:
            raise ValueError(f'Serving signature name: "{signature}" not found in signature def')
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return {name: y.numpy() for name, y in loaded.signatures[signature](**tensors).items()}

    def next_failure(self):
        return self.failures.pop(0) if self.failures else None


def address(server, protocol):
    return {"grpc": server.grpc_address, "rest": server.rest_address}[protocol]


def connect(server, protocol, **options):
    """Returns a function from encoded images to the masks that a server returns."""
    options = {"backoff": 0.01, "timeout": 20, **options}
    name = options.pop("name", "layerseg")
    return client.connect(protocol, client.Model(address(server, protocol), name, **options))


class _Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, owner):
        self._owner = owner

    def Predict(self, request, context):
        failure = self._owner.next_failure()
        if failure == "slow":
            time.sleep(1)
        elif failure:
            code = {"away": "UNAVAILABLE", "full": "RESOURCE_EXHAUSTED", "broken": "INTERNAL"}[
                failure
            ]
            context.abort(getattr(grpc.StatusCode, code), f"the server is {failure}")
        specification = request.model_spec
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        try:
            outputs = self._owner.predict(
                "grpc", specification.name, specification.version.value,
                specification.signature_name or "serving_default", inputs,
            )  # fmt: skip
        except NotServed as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error)[:200])
        response = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            is_message = isinstance(value, tensor_pb2.TensorProto)
            message = value if is_message else tf.make_tensor_proto(value)
            response.outputs[name].CopyFrom(message)
        return response


class _Handler(http.server.BaseHTTPRequestHandler):
    owner = None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        failure = self.owner.next_failure()
        if failure == "slow":
            time.sleep(1)
        elif failure == "drip":
            return self._drip()
        elif failure == "redirect":
            self.send_response(307)
            self.send_header("Location", self.owner.elsewhere)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        elif failure:
            return self._answer(
                {"away": 503, "full": 429, "broken": 500}[failure],
                {"error": f"the server is {failure}"},
            )
        found = _PATH.fullmatch(self.path)
        if not found:
            return self._answer(404, {"error": f"Malformed request: POST {self.path}"})
        signature = body.get("signature_name", "serving_default")
        values = [_value(instance) for instance in body["instances"]]
        inputs = (
            {"bytes": values}
            if signature == "image_bytes"
            else {"images": np.asarray(values, np.uint8)}
        )
        try:
            version = int(found[2] or 0)
            outputs = self.owner.predict("rest", found[1], version, signature, inputs)
        except NotServed as error:
            return self._answer(404, {"error": str(error)})
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            return self._answer(400, {"error": str(error)[:200]})
        if isinstance(outputs, bytes):
            return self._answer(200, outputs)
        columns = {name: values.tolist() for name, values in outputs.items()}
        if len(columns) == 1:  # a single output goes by no name
            (rows,) = columns.values()
        else:
            rows = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
        return self._answer(200, {"predictions": rows})

    def _drip(self):
        """Sends a byte at a time, so that no single wait is long."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(200):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.02)

    def _answer(self, status, body):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Says nothing on stderr."""


def _value(instance):
    if isinstance(instance, dict) and set(instance) == {"b64"}:
        return base64.b64decode(instance["b64"])
    return instance
