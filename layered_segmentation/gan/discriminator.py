"""The discriminator: images -> scores, growing with the generator."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from layered_segmentation.gan.keras_settings import policy
from layered_segmentation.gan.layers import (
    EqualConv,
    EqualDense,
    blur,
    copy_layers,
    downsample,
    leaky_relu,
    minibatch_std,
)
from layered_segmentation.gan.synthesis import block_channels


class DiscriminatorBlock(keras.layers.Layer):
    """One scale: convolution, then blur and a downsampling convolution.

    Args:
        in_channels: Input channels.
        channels: Output channels.
        fused: Whether the downsampling convolution is fused.
    """

    def __init__(self, in_channels: int, channels: int, fused: bool = True, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.conv = EqualConv(channels, dtype=self.dtype_policy)
        self.conv.build((None, None, None, in_channels))
        self.down = EqualConv(channels, resample="down", fused=fused, dtype=self.dtype_policy)
        self.down.build((None, None, None, channels))
        self.built = True

    def call(self, x: Any) -> Any:
        """Computes [B, 2H, 2W, in_channels] -> [B, H, W, channels]."""
        return leaky_relu(self.down(blur(leaky_relu(self.conv(x)))))


@keras.saving.register_keras_serializable(package="layered_segmentation")
class Discriminator(keras.Model):
    """Scores images; higher is more realistic (eq. 6).

    Args:
        resolution: Final image side, a power of two from 8.
        max_channels: Cap on every layer's channels.
        minibatch_std: Whether the last block sees the batch's standard deviation.
        fused: Whether downsampling convolutions are fused.

    Attributes:
        across_replicas: Returns the mean of a tensor over the replicas that share a batch, for the
            minibatch standard deviation; None if there is one.
    """

    def __init__(
        self,
        resolution: int = 128,
        max_channels: int = 512,
        minibatch_std: bool = True,
        fused: bool = True,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **{**kwargs, "dtype": policy(kwargs.get("dtype"))})
        self.resolution = resolution
        self.max_channels = max_channels
        self.minibatch_std = minibatch_std
        self.fused = fused
        self.across_replicas: Callable[[Any], Any] | None = None
        dtype = self.dtype_policy
        sides = [4 * 2**index for index in range(resolution.bit_length() - 2)]
        width = [block_channels(side, max_channels) for side in sides]
        # Index 0 belongs to 4 px, as in the generator; block i brings side i to side i - 1.
        self.from_image = [EqualConv(channels, kernel_size=1, dtype=dtype) for channels in width]
        for layer in self.from_image:
            layer.build((None, None, None, 3))
        self.blocks = [
            DiscriminatorBlock(width[index], width[index - 1], fused, dtype=dtype)
            for index in range(1, len(sides))
        ]
        self.conv = EqualConv(width[0], dtype=dtype)
        self.conv.build((None, 4, 4, width[0] + int(minibatch_std)))
        self.dense_conv = EqualConv(width[0], kernel_size=4, padding="valid", dtype=dtype)
        self.dense_conv.build((None, 4, 4, width[0]))
        self.score = EqualDense(1, dtype="float32")
        self.score.build((None, width[0]))
        self.built = True

    def call(self, images: Any, alpha: Any = 1.0, batches: int = 1) -> Any:
        """Scores images of any stage's resolution.

        Args:
            images: Float [B, R, R, 3] in [-1, 1].
            alpha: Weight of the first block; the rest is the image at half the resolution.
            batches: Number of batches, one after another in `images`; the minibatch standard
                deviation is taken over each separately.

        Returns:
            Float32 [B, 1].
        """
        x = self.features(images, alpha, side=4)
        if self.minibatch_std:
            x = minibatch_std(x, batches, self.across_replicas)
        x = leaky_relu(self.conv(x))
        x = leaky_relu(self.dense_conv(x))
        return self.score(ops.cast(ops.reshape(x, (-1, x.shape[-1])), "float32"))

    def features(self, images: Any, alpha: Any = 1.0, side: int = 4) -> Any:
        """Returns the features with the given side, [B, side, side, C] (eq. 7 takes 8 × 8)."""
        last = images.shape[1].bit_length() - 3
        if last >= len(self.from_image):
            raise ValueError(
                f"images of {images.shape[1]} px: this discriminator's resolution is "
                f"{self.resolution}"
            )
        x = leaky_relu(self.from_image[last](images))
        for index in range(last, side.bit_length() - 3, -1):
            x = self.blocks[index - 1](x)
            is_fading = index == last and not (isinstance(alpha, float) and alpha == 1.0)
            if is_fading:
                coarse = leaky_relu(self.from_image[last - 1](downsample(images)))
                alpha = ops.cast(alpha, x.dtype)
                x = alpha * x + (1.0 - alpha) * coarse
        return x

    def stage_variables(self, resolution: int) -> list[Any]:
        """Returns the trainable variables that a stage uses, its fading branch included."""
        last = resolution.bit_length() - 3
        used: list[Any] = [*self.from_image[max(0, last - 1) : last + 1], *self.blocks[:last]]
        used += [self.conv, self.dense_conv, self.score]
        return [variable for layer in used for variable in layer.trainable_variables]

    def at_resolution(self, resolution: int) -> "Discriminator":
        """Returns a copy whose final resolution is that of an earlier stage, faded in."""
        smaller: Discriminator = Discriminator.from_config(
            {**self.get_config(), "resolution": resolution}
        )
        copy_layers(smaller.from_image, self.from_image)
        copy_layers(smaller.blocks, self.blocks)
        last = (self.conv, self.dense_conv, self.score)
        copy_layers((smaller.conv, smaller.dense_conv, smaller.score), last)
        return smaller

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "resolution": self.resolution,
            "max_channels": self.max_channels,
            "minibatch_std": self.minibatch_std,
            "fused": self.fused,
        }
