"""The student's network: a small fully convolutional U-Net, as a KerasHub backbone.

It has plain convolutions, with few channels where there are many pixels. On the CPUs of phones and
desktops these run close to peak speed and have fast gradients; depthwise convolutions do not.
"""

from typing import Any

import keras
import keras_hub
import tensorflow as tf
from keras import layers, ops

from layered_segmentation.gan.keras_settings import DATA_FORMAT, policy
from layered_segmentation.segmenter.preset_checks import Checked

MAX_LEVELS = 5
_DEEPEST_SIDE = 4  # no level is smaller than this
_GROWTH = (1.0, 1.5, 2.5, 4.0, 4.0)  # channels of each level, times the width


def levels_for(resolution: int) -> int:
    """Returns the number of levels for an input side: it is halved while integer and at least 4.

    8 -> 2, 16 -> 3, 32 -> 4, 64 and 128 -> 5, 24 -> 3.
    """
    levels, side = 1, resolution
    while levels < MAX_LEVELS and side % 2 == 0 and side // 2 >= _DEEPEST_SIDE:
        levels, side = levels + 1, side // 2
    return levels


@keras.saving.register_keras_serializable(package="layered_segmentation")
class UNetBackbone(Checked, keras_hub.models.Backbone):
    """A U-Net from images to features at the images' own resolution.

    On the way down, each level halves the side with a strided convolution; levels after the second
    have one more convolution. The deepest level adds the mean of its features over the image to
    every pixel, so each pixel depends on the whole scene. On the way up, a 2 × 2 transposed
    convolution doubles the side, and the features of that level are added.

    Args:
        width: Channels of the first level; the others have up to 4 times as many.
        levels: Number of levels, at least 1; see `levels_for`. The sides of the input must be
            multiples of 2 ** (levels - 1).
        dtype: Keras dtype policy.
        **kwargs: `name`, `trainable`.

    Call:
        Float [B, H, W, 3] in [-1, 1] -> float [B, H, W, width].
    """

    def __init__(self, width: int = 24, levels: int = 5, dtype: Any = None, **kwargs: Any):
        if width < 1 or not 1 <= levels <= MAX_LEVELS:
            raise ValueError(
                f"width={width}, levels={levels}: the width must be at least 1 and the levels in "
                f"[1, {MAX_LEVELS}]"
            )
        channels = [_channels(width, level) for level in range(levels)]
        dtype = policy(dtype)
        images = keras.Input((None, None, 3), dtype="float32", name="images")
        x = _convolution(images, channels[0], "level0_in", dtype)
        skips = [x]
        for level in range(1, levels):
            x = _convolution(x, channels[level], f"level{level}_down", dtype, strides=2)
            if level > 1 or level == levels - 1:
                x = _convolution(x, channels[level], f"level{level}_in", dtype)
            skips.append(x)
        x = _add_context(x, dtype)
        for level in reversed(range(levels - 1)):
            x = _double(x, channels[level], f"level{level}_up", dtype)
            x = layers.Add(dtype=dtype, name=f"level{level}_add")([x, skips[level]])
            x = _convolution(x, channels[level], f"level{level}_out", dtype)
        super().__init__(inputs=images, outputs=x, dtype=dtype, **kwargs)
        self.width = width
        self.levels = levels

    @property
    def stride(self) -> int:
        """What the sides of an input must be multiples of."""
        return 1 << (self.levels - 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "levels": self.levels}


@keras.saving.register_keras_serializable(package="layered_segmentation")
class BatchNormalization(layers.BatchNormalization):
    """Keras's batch norm, with TensorFlow's fused kernel in training, which is faster.

    It has Keras's name, by which saved files find its weights.

    Call:
        Float [B, H, W, C] -> the same shape, in the layer's compute dtype.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        is_plain = not self.trainable or self.synchronized or mask is not None
        if not training or is_plain or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        images = ops.cast(inputs, "float32")  # as Keras does: half precision overflows
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            images, self.gamma, self.beta, epsilon=self.epsilon, data_format="NHWC"
        )
        # The kernel divides by one less than the number of pixels, Keras by their number.
        pixels = ops.cast(tf.size(images) // images.shape[-1], "float32")
        variance = variance * (pixels - 1.0) / pixels
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)


def _channels(width: int, level: int) -> int:
    if level == 0:
        return width
    channels = 8 * round(width * _GROWTH[level] / 8)  # CPU kernels work on 8 channels at a time
    return max(8, channels)


def _convolution(x: Any, channels: int, name: str, dtype: Any, strides: int = 1) -> Any:
    """3 × 3 convolution, batch norm, ReLU."""
    x = layers.Conv2D(
        channels,
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        data_format=DATA_FORMAT,
        dtype=dtype,
        name=name,
    )(x)
    # A low momentum, because training may have only a few hundred steps.
    x = BatchNormalization(momentum=0.95, dtype=dtype, name=f"{name}_norm")(x)
    return layers.ReLU(dtype=dtype, name=f"{name}_relu")(x)


def _double(x: Any, channels: int, name: str, dtype: Any) -> Any:
    """Doubles the side. Unlike that of a resize, its gradient is as fast as a convolution's."""
    return layers.Conv2DTranspose(
        channels,
        2,
        strides=2,
        use_bias=False,
        kernel_initializer="he_normal",
        data_format=DATA_FORMAT,
        dtype=dtype,
        name=name,
    )(x)


def _add_context(x: Any, dtype: Any) -> Any:
    """Adds a projection of the mean over all pixels to every pixel."""
    channels = x.shape[-1]
    pooling = layers.GlobalAveragePooling2D(
        data_format=DATA_FORMAT, keepdims=True, dtype=dtype, name="context_mean"
    )
    mean = pooling(x)
    mean = layers.Conv2D(channels, 1, data_format=DATA_FORMAT, dtype=dtype, name="context")(mean)
    return layers.Add(dtype=dtype, name="context_add")([x, mean])
