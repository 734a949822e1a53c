"""Layers of StyleGAN (Karras et al. 2018b), in `keras.ops` only.

Weights are drawn from N(0, 1) and scaled at run time by He's constant (equalised learning rate);
`sqrt(2 / fan_in)` everywhere, as in the reference code.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from layered_segmentation.gan.keras_settings import DATA_FORMAT

LEAK = 0.2


def unit_normal() -> keras.initializers.Initializer:
    """Returns the initialiser of equalised weights, N(0, 1)."""
    return keras.initializers.RandomNormal(stddev=1.0)


def leaky_relu(x: Any) -> Any:
    """Leaky ReLU with slope 0.2, any shape."""
    return ops.leaky_relu(x, LEAK)


def upsample(x: Any) -> Any:
    """Doubles height and width by repetition, [B, H, W, C] -> [B, 2H, 2W, C]."""
    batch, height, width, channels = ops.shape(x)
    x = ops.reshape(x, (batch, height, 1, width, 1, channels))
    x = ops.broadcast_to(x, (batch, height, 2, width, 2, channels))
    return ops.reshape(x, (batch, 2 * height, 2 * width, channels))


def downsample(x: Any) -> Any:
    """Halves height and width by averaging, [B, 2H, 2W, C] -> [B, H, W, C]."""
    return ops.average_pool(x, 2, strides=2, padding="valid", data_format=DATA_FORMAT)


def blur(x: Any) -> Any:
    """Smooths with [1, 2, 1] along both axes, zero padded, [B, H, W, C] -> the same shape."""
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16.0
    kernel = np.tile(kernel[:, :, None, None], (1, 1, x.shape[-1], 1))
    return ops.depthwise_conv(
        x, ops.cast(kernel, x.dtype), strides=1, padding="same", data_format=DATA_FORMAT
    )


def pixel_norm(x: Any) -> Any:
    """Scales each vector of the last axis to a mean square of 1."""
    return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-8)


def minibatch_std(
    x: Any, batches: int = 1, across_replicas: Callable[[Any], Any] | None = None
) -> Any:
    """Appends the batch's mean standard deviation as a channel, [B, H, W, C] -> [..., C + 1].

    One scalar over the whole batch, as in the reference code; in float32.

    Args:
        x: Float [B, H, W, C].
        batches: Number of batches of equal size, one after another in `x`; each has its own
            scalar.
        across_replicas: Returns the mean of a tensor over the replicas that share the batch; None
            if there is one.
    """
    across = across_replicas or (lambda value: value)
    _, height, width, channels = ops.shape(x)
    x32 = ops.reshape(ops.cast(x, "float32"), (batches, -1, height, width, channels))
    mean = across(ops.mean(x32, axis=1, keepdims=True))
    variance = across(ops.mean(ops.square(x32 - mean), axis=1))
    deviation = ops.mean(ops.sqrt(variance + 1e-8), axis=(1, 2, 3))
    channel = ops.zeros_like(x32[..., :1]) + deviation[:, None, None, None, None]
    channel = ops.reshape(ops.cast(channel, x.dtype), (-1, height, width, 1))
    return ops.concatenate([x, channel], axis=-1)


def copy_layers(copies: Sequence[keras.layers.Layer], layers: Sequence[keras.layers.Layer]) -> None:
    """Sets the weights of some layers to those of others, which may be more."""
    for copy, layer in zip(copies, layers, strict=False):
        copy.set_weights(layer.get_weights())


class EqualDense(keras.layers.Layer):
    """Dense layer with equalised learning rate, [..., I] -> [..., units]."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        fan_in = input_shape[-1]
        assert fan_in is not None
        self.scale = math.sqrt(2.0 / fan_in)
        self.kernel = self.add_weight(
            shape=(fan_in, self.units), initializer=unit_normal(), name="kernel"
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, x: Any) -> Any:
        return ops.matmul(x, self.kernel * self.scale) + self.bias

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


class EqualConv(keras.layers.Layer):
    """Convolution with equalised learning rate, optionally with resampling fused into it.

    `resample="up"` is nearest upsampling then the convolution, `"down"` the convolution then
    2 × 2 averaging. Fused, each is one strided convolution of a 4 × 4 kernel, the sum (or a
    quarter of it) of the kernel's four one-pixel shifts: the same function in 2.25 times fewer
    operations.

    Args:
        channels: Output channels.
        kernel_size: 1, 3 or 4.
        resample: None, `up` or `down`; the latter two need a 3 × 3 kernel.
        fused: Whether resampling is fused; False for tests and benchmarks.
        padding: `same` or `valid`.
        gain: Extra factor of the kernel, besides He's constant.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        resample: str | None = None,
        fused: bool = True,
        padding: str = "same",
        gain: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if resample not in (None, "up", "down"):
            raise ValueError(f"resample={resample!r}: it must be None, 'up' or 'down'")
        if resample and kernel_size != 3:
            raise ValueError(f"kernel_size={kernel_size}: resampling needs a 3 x 3 kernel")
        self.channels = channels
        self.kernel_size = kernel_size
        self.resample = resample
        self.fused = fused
        self.padding = padding
        self.gain = gain

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        in_channels = input_shape[-1]
        assert in_channels is not None
        self.scale = self.gain * math.sqrt(2.0 / (self.kernel_size**2 * in_channels))
        self.kernel = self.add_weight(
            shape=(self.kernel_size, self.kernel_size, in_channels, self.channels),
            initializer=unit_normal(),
            name="kernel",
        )
        self.bias = self.add_weight(shape=(self.channels,), initializer="zeros", name="bias")

    def call(self, x: Any) -> Any:
        kernel = self.kernel * self.scale
        if self.resample == "up" and self.fused:
            # One axis at a time, since OpenVINO cannot read a reversal of two.
            kernel = ops.flip(ops.flip(kernel, 0), 1)
            kernel = ops.transpose(_four_shifts(kernel), (0, 1, 3, 2))
            x = ops.conv_transpose(x, kernel, strides=2, padding="same", data_format=DATA_FORMAT)
        elif self.resample == "down" and self.fused:
            x = self._conv(x, 0.25 * _four_shifts(kernel), strides=2, padding="same")
        else:
            x = upsample(x) if self.resample == "up" else x
            x = self._conv(x, kernel, strides=1, padding=self.padding)
            x = downsample(x) if self.resample == "down" else x
        return x + self.bias

    def _conv(self, x: Any, kernel: Any, strides: int, padding: str) -> Any:
        return ops.conv(x, kernel, strides=strides, padding=padding, data_format=DATA_FORMAT)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "channels": self.channels,
            "kernel_size": self.kernel_size,
            "resample": self.resample,
            "fused": self.fused,
            "padding": self.padding,
            "gain": self.gain,
        }


class Noise(keras.layers.Layer):
    """Adds a noise image with a learned strength for each channel, at first 0.

    The strength is scaled by `sqrt(2 / channels)`, as in the reference code.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = input_shape[-1]
        assert channels is not None
        self.scale = math.sqrt(2.0 / channels)
        self.strength = self.add_weight(shape=(channels,), initializer="zeros", name="strength")

    def call(self, x: Any, noise: Any) -> Any:
        return x + ops.cast(noise, x.dtype) * (self.strength * self.scale)


class AdaIN(keras.layers.Layer):
    """Adaptive instance normalisation: the style sets each channel's scale and offset.

    Statistics and style are float32 whatever the precision; the style's bias starts at (1, 0).

    Args:
        channels: Channels of the features.
    """

    def __init__(self, channels: int, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.channels = channels

    def build(self, input_shape: tuple[int | None, ...], style_dim: int | None = None) -> None:
        self.style_dim = style_dim or input_shape[-1]
        self.style = EqualDense(2 * self.channels, dtype="float32", name="style")
        self.style.build((None, self.style_dim))
        bias = [1.0] * self.channels + [0.0] * self.channels
        self.style.bias.assign(ops.convert_to_tensor(bias, dtype="float32"))

    def call(self, x: Any, style: Any) -> Any:
        scale, offset = ops.split(self.style(style), 2, axis=-1)
        x32 = ops.cast(x, "float32")
        mean = ops.mean(x32, axis=(1, 2), keepdims=True)
        centred = x32 - mean
        variance = ops.mean(ops.square(centred), axis=(1, 2), keepdims=True)
        # Reshaped, since the gradient of an index is slow.
        scale, offset = (ops.reshape(part, (-1, 1, 1, self.channels)) for part in (scale, offset))
        scale = scale * ops.rsqrt(variance + 1e-5)
        return ops.cast(centred * scale + offset, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}


def _four_shifts(kernel: Any) -> Any:
    """Sums the four one-pixel shifts of a kernel, [3, 3, I, O] -> [4, 4, I, O]."""
    # Padded, since the gradient of a slice is slow.
    shifts = [
        ops.pad(kernel, (rows, columns, (0, 0), (0, 0)))
        for columns in ((0, 1), (1, 0))
        for rows in ((0, 1), (1, 0))
    ]
    return shifts[0] + shifts[1] + shifts[2] + shifts[3]
