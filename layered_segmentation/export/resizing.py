"""The antialiased resize of the SavedModel, of operators that every runtime has.

TensorFlow's own (`tf.image.resize(antialias=True)`, the operator ScaleAndTranslate) is missing in
other runtimes and in TensorFlow's kernels for GPUs. A resize along one axis is a product with a
matrix of weights, so here it is two products.
"""

from typing import Any


def resize(images: Any, height: Any, width: Any) -> Any:
    """Resizes as `tf.image.resize(images, [height, width], antialias=True)` does.

    Args:
        images: Float [B, H, W, C].
        height: Pixels, also known at run time only.
        width: Likewise.

    Returns:
        Float [B, height, width, C].
    """
    import tensorflow as tf

    shape = tf.shape(images)
    batch, channels = shape[0], images.shape[-1]
    lines = tf.reshape(images, [batch, shape[1], shape[2] * channels])
    lines = tf.linalg.matmul(_weights(shape[1], height), lines)
    # Channels first, so that all lines of all images are one product.
    lines = tf.transpose(tf.reshape(lines, [batch, height, shape[2], channels]), [0, 1, 3, 2])
    lines = tf.reshape(lines, [batch * height * channels, shape[2]])
    resized = tf.linalg.matmul(lines, _weights(shape[2], width), transpose_b=True)
    return tf.transpose(tf.reshape(resized, [batch, height, channels, width]), [0, 1, 3, 2])


def _weights(source: Any, target: Any) -> Any:
    """Returns [target, source] weights: triangles of one pixel of the coarser grid on each side."""
    import tensorflow as tf

    scale = tf.cast(source, tf.float32) / tf.cast(target, tf.float32)
    centres = (tf.range(target, dtype=tf.float32) + 0.5) * scale
    places = tf.range(source, dtype=tf.float32) + 0.5
    distances = tf.abs(places[None] - centres[:, None]) / tf.maximum(scale, 1.0)
    weights = tf.maximum(1.0 - distances, 0.0)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)
