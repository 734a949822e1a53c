"""Inception features of images for FID; the network is read from a local file.

FID is defined with the network of 2015-12-05 (Heusel et al. 2017). Keras's InceptionV3 has other
weights, so its FIDs are comparable only with each other. Each result records the features and the
start of their file's SHA-256 sum.
"""

import os
from typing import Any, Protocol

import numpy as np

from layered_segmentation import files
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import operators

SIDE = 299  # of the networks' input, pixels
SIZE = 2048  # features
GRAPH_URL = "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz"
KERAS_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/"
    "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
GRAPH_NAME, KERAS_NAME = "inception-2015-12-05 pool_3", "keras-inception-v3 avg_pool"

_GRAPH_INPUT, _GRAPH_OUTPUT = "ExpandDims", "pool_3"
_WEIGHTS = (".h5", ".keras")
_HOW = (
    f"for an FID that is comparable with the paper's, unpack classify_image_graph_def.pb from "
    f"{GRAPH_URL} and name it with --inception. Keras's network ({KERAS_URL}) also works; its FIDs "
    "are comparable only with each other"
)


class Features(Protocol):
    """Maps images to vectors.

    Attributes:
        name: Names the features and their file; only FIDs with the same name are comparable.
        protocol: A sentence on how images are prepared.
    """

    name: str
    protocol: str

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Maps uint8 [B, H, W, 3] to float [B, D]."""
        ...


class InceptionGraph:
    """FID's own network: the frozen graph classify_image_graph_def.pb, 2,048 features.

    The graph takes values from 0 to 255 and resizes images to 299 × 299 itself, bilinearly, as
    TensorFlow 1 did. Its batch normalisation is an operation that current graphs may not contain,
    so it runs in its own session.

    Args:
        path: The file.
        trust: Whether the graph may run operators that reach files or the network.

    Raises:
        UserError: The file is not that graph, or not safe.
    """

    protocol = (
        f"Features: pool_3 of the Inception graph of 2015-12-05, which resizes uint8 images "
        f"bilinearly to {SIDE} × {SIDE} itself. "
    )

    def __init__(self, path: str, trust: bool = False):
        import tensorflow as tf
        from google.protobuf.message import DecodeError

        with open(path, "rb") as file:
            content = file.read()
        self.name = _named(GRAPH_NAME, content)
        definition = tf.compat.v1.GraphDef()
        try:
            definition.ParseFromString(content)
        except DecodeError as error:
            raise UserError(f"--inception={path}: not a frozen TensorFlow graph; {_HOW}") from error
        nodes = {node.name for node in definition.node}
        lacking = [name for name in (_GRAPH_INPUT, _GRAPH_OUTPUT) if name not in nodes]
        if lacking:
            raise UserError(
                f"--inception={path}: the graph has no node {' and no '.join(lacking)}, so it is "
                f"not FID's; {_HOW}"
            )
        if not trust:
            operators.require_safe_graph(definition, f"--inception={path}")
        with tf.Graph().as_default() as graph:
            # Replaces the node that fixes the batch at one image.
            self._images = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
            (self._features,) = tf.graph_util.import_graph_def(
                definition,
                input_map={f"{_GRAPH_INPUT}:0": self._images},
                return_elements=[f"{_GRAPH_OUTPUT}:0"],
                name="inception",
            )
        self._session = tf.compat.v1.Session(graph=graph)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Maps uint8 [B, H, W, 3] to float32 [B, 2048]."""
        features = self._session.run(self._features, {self._images: images.astype(np.float32)})
        return np.asarray(features.reshape(len(images), -1))


class KerasInception:
    """Keras's InceptionV3 without its top, averaged over positions: 2,048 features.

    Args:
        path: Weights, `.h5` or `.weights.h5`, of `InceptionV3(include_top=False)`; or a whole
            model, `.keras`, that maps images of 299 × 299 to 2,048 features.

    Raises:
        UserError: The file does not fit.
    """

    protocol = (
        f"Features: Keras's InceptionV3, averaged over positions; uint8 images resized bilinearly "
        f"to {SIDE} × {SIDE}, scaled to [-1, 1]; not comparable with FIDs of the original graph. "
    )

    def __init__(self, path: str):
        import keras

        try:
            if path.endswith(".keras"):
                model = keras.models.load_model(path, compile=False)
            else:
                model = keras.applications.InceptionV3(
                    include_top=False, weights=None, input_shape=(SIDE, SIDE, 3), pooling="avg"
                )
                model.load_weights(path)
        except (ValueError, OSError, KeyError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"--inception={path}: not weights of InceptionV3(include_top=False): {reason}"
            ) from error
        # A subclassed model, or one that was never built, has no input shapes.
        inputs, outputs = (
            [tuple(tensor.shape) for tensor in getattr(model, name, None) or ()]
            for name in ("inputs", "outputs")
        )
        takes_images = len(inputs) == 1 and _fits(inputs[0], (None, SIDE, SIDE, 3))
        if not takes_images or outputs != [(None, SIZE)]:
            raise UserError(
                f"--inception={path}: the model maps {_shapes(inputs)} to {_shapes(outputs)}; "
                f"[None, {SIDE}, {SIDE}, 3] to [None, {SIZE}] is needed, one vector an image, as "
                "of InceptionV3(include_top=False, pooling='avg')"
            )
        with open(path, "rb") as file:
            self.name = _named(KERAS_NAME, file.read())
        self._model = model

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Maps uint8 [B, H, W, 3] to float32 [B, 2048]."""
        from keras import ops

        resized = ops.image.resize(
            ops.convert_to_tensor(images, "float32"),
            (SIDE, SIDE),
            interpolation="bilinear",
            data_format="channels_last",
        )
        features: Any = self._model.predict_on_batch(resized / 127.5 - 1.0)
        return np.asarray(features)


def open_features(path: str, trust: bool = False) -> Features:
    """Opens the feature network that the file's extension indicates.

    Args:
        path: `.pb`, the original graph; `.h5` or `.keras`, Keras's network.
        trust: Whether a graph may run operators that reach files or the network.

    Raises:
        UserError: There is no such file, or it is neither; the message tells where to get it.
    """
    if not path:
        raise UserError(f"--inception is needed: {_HOW}")
    if not os.path.isfile(path):
        raise UserError(f"--inception={path}: there is no such file; {_HOW}")
    if path.endswith(".pb"):
        return InceptionGraph(path, trust)
    if path.endswith(_WEIGHTS):
        return KerasInception(path)
    raise UserError(f"--inception={path}: neither .pb nor {' nor '.join(_WEIGHTS)}; {_HOW}")


def _named(name: str, content: bytes) -> str:
    """Adds the start of a file's hash, so that other weights have another name."""
    return f"{name} sha256:{files.digest(content)[:12]}"


def _fits(shape: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether an input shape, in which None is any size, accepts the wanted one."""
    return len(shape) == len(wanted) and all(
        size in (None, needed) for size, needed in zip(shape, wanted, strict=True)
    )


def _shapes(shapes: list[tuple[int | None, ...]]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes) or "an unknown shape"
