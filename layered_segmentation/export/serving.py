"""The files that TensorFlow Serving reads next to a SavedModel: warm-up requests and settings.

A new version of a model receives no request before it has answered its warm-up requests, so no user
waits for the first, slow one.
"""

import os
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from layered_segmentation import files
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.export import signatures
from layered_segmentation.segmenter.segmenter import LayeredSegmenter

# TensorFlow Serving's own names inside a version's directory.
WARMUP = os.path.join("assets.extra", "tf_serving_warmup_requests")
BATCHING = "batching_params.pbtxt"
MODELS = "models.config"

_LARGE = 256  # pixels: few photos have the network's own size
_MODELS_IN_DOCKER = "/models"  # the model directory of TensorFlow Serving's Docker image

# For a CPU: small batches and little waiting. A full queue fails at once instead of growing.
_BATCHING_PARAMETERS = """\
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 100 }
"""


def write_warmup(directory: str, segmenter: LayeredSegmenter, model: str) -> None:
    """Writes warm-up requests for every signature.

    They show procedural scenes, so that no one's photos become part of the model. `model` is its
    name on the server.
    """
    path = os.path.join(directory, WARMUP)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as writer:
        for name, signature in signatures.build(segmenter).items():
            for batch in _batches(signature.specification.name, segmenter.resolution):
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = model
                request.model_spec.signature_name = name
                request.inputs[signature.specification.name].CopyFrom(tf.make_tensor_proto(batch))
                writer.write(log.SerializeToString())


def replay_warmup(directory: str, loaded: Any) -> int:
    """Answers the warm-up requests with a loaded model, as a server does; returns their number."""
    count = 0
    for record in tf.data.TFRecordDataset(os.path.join(directory, WARMUP)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {
            name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
        }
        loaded.signatures[request.model_spec.signature_name](**inputs)
        count += 1
    return count


def write_batching(directory: str) -> None:
    """Writes a version's batching parameters, read under --enable_per_model_batching_parameters."""
    files.write_text(os.path.join(directory, BATCHING), _BATCHING_PARAMETERS)


def write_models(out: str, model: str) -> None:
    """Writes OUT/models.config, for --model_config_file; an existing file stays as it is."""
    path = os.path.join(out, MODELS)
    if os.path.lexists(path):
        return
    config = model_server_config_pb2.ModelServerConfig()
    served = config.model_config_list.config.add()
    served.name = model
    served.base_path = f"{_MODELS_IN_DOCKER}/{model}"
    served.model_platform = "tensorflow"
    files.write_text(path, text_format.MessageToString(config))


def _batches(name: str, side: int) -> list[Any]:
    """Returns batches of one and of two images for the input of that name."""
    small, large = (Scenes(seed=0, count=2, split="test").load(size) for size in (side, _LARGE))
    if name == "images":
        return [small[:1], small, large[:1]]
    jpeg, png = (
        cv2.imencode(kind, np.ascontiguousarray(image[..., ::-1]))[1].tobytes()
        for kind, image in ((".jpg", large[0]), (".png", small[0]))
    )
    return [[jpeg], [png], [jpeg, png]]
