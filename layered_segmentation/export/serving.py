"""Warm-up requests: a model server answers them while it loads, so that no user waits for it.

TF Serving reads assets.extra/tf_serving_warmup_requests, a TFRecord file of PredictionLog messages,
and sends a new version no request before it has answered them all.
"""

import os
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from layered_segmentation.segmenter.segmenter import LayeredSegmenter

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
_LARGE = 256  # pixels: a photo is seldom of the network's own size


def write(directory: str, segmenter: "LayeredSegmenter", model: str) -> int:
    """Writes requests for every signature, of drawn scenes: nobody's photos travel along.

    Args:
        directory: Of the version.
        segmenter: What was exported there.
        model: The model's name on the server.

    Returns:
        How many requests were written.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    from layered_segmentation.export import signatures

    path = os.path.join(directory, FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    count = 0
    with tf.io.TFRecordWriter(path) as writer:
        for name, signature in signatures.of(segmenter).items():
            for batch in _batches(signature.specification.name, segmenter.resolution):
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = model
                request.model_spec.signature_name = name
                request.inputs[signature.specification.name].CopyFrom(tf.make_tensor_proto(batch))
                writer.write(log.SerializeToString())
                count += 1
    return count


def replay(directory: str, loaded: Any) -> int:
    """Answers the requests as a server does; returns how many.

    Args:
        directory: Of the version.
        loaded: What `tf.saved_model.load` made of it.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    count = 0
    for record in tf.data.TFRecordDataset(os.path.join(directory, FILE)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {
            name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
        }
        loaded.signatures[request.model_spec.signature_name](**inputs)
        count += 1
    return count


def _batches(name: str, side: int) -> list[Any]:
    """Returns inputs of that name: single ones and two at once."""
    from layered_segmentation.data.scenes import Scenes

    own, large = (Scenes(seed=0, count=2, split="test").load(size) for size in (side, _LARGE))
    if name == "images":
        return [own[:1], own, large[:1]]
    jpeg, png = (
        cv2.imencode(kind, np.ascontiguousarray(image[..., ::-1]))[1].tobytes()
        for kind, image in ((".jpg", large[0]), (".png", own[0]))
    )
    return [[jpeg], [png], [jpeg, png]]
