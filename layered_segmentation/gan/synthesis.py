"""Mapping and synthesis networks of StyleGAN, the two halves of a generator."""

from typing import Any

import keras
from keras import ops

from layered_segmentation.gan.layers import (
    AdaIN,
    EqualConv,
    EqualDense,
    Noise,
    blur,
    leaky_relu,
    pixel_norm,
    unit_normal,
    upsample,
)


def block_channels(resolution: int, max_channels: int) -> int:
    """Returns StyleGAN's width at a resolution: 512 up to 32 px, then halved each doubling."""
    return max(1, min(max_channels, 512, 16384 // resolution))


def up_gain(resolution: int) -> float:
    """Returns the gain of the upsampling convolution at a resolution: a quarter from 128 px.

    From there on the reference code takes the mean of the four one-pixel shifts of its kernel, not
    the sum. AdaIN normalises the difference away, but the kernel's effective learning rate depends
    on it.
    """
    return 0.25 if resolution >= 128 else 1.0


class MappingNetwork(keras.layers.Layer):
    """Latent -> style, both [B, latent_dim]; pixel norm, then dense layers, always float32.

    Args:
        latent_dim: Length of latent and style.
        layers: Number of dense layers.
    """

    def __init__(self, latent_dim: int, layers: int, **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.latent_dim = latent_dim
        self.dense = [EqualDense(latent_dim, dtype="float32") for _ in range(layers)]
        for layer in self.dense:
            layer.build((None, latent_dim))
        self.mean_style = self.add_weight(
            shape=(latent_dim,), initializer="zeros", trainable=False, name="mean_style"
        )
        self.built = True

    def call(self, latents: Any) -> Any:
        x = pixel_norm(latents)
        for layer in self.dense:
            x = leaky_relu(layer(x))
        return x

    def truncate(self, styles: Any, truncation: Any) -> Any:
        """Truncates styles towards the mean style, `mean + ψ·(style - mean)`."""
        return self.mean_style + truncation * (styles - self.mean_style)


class SynthesisBlock(keras.layers.Layer):
    """One scale: (constant or upsampling convolution), then a convolution, each with a style.

    The order within each half is convolution, blur (after upsampling), noise, leaky ReLU, AdaIN.

    Args:
        channels: Output channels.
        in_channels: Input channels; None for the first block, which starts from a constant.
        latent_dim: Length of the style.
        fused: Whether the upsampling convolution is fused.
        gain: Gain of the upsampling convolution.
    """

    def __init__(
        self,
        channels: int,
        in_channels: int | None,
        latent_dim: int,
        fused: bool = True,
        gain: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        policy = self.dtype_policy
        shape = (None, None, None, channels)
        if in_channels is None:
            self.constant = self.add_weight(
                shape=(1, 4, 4, channels), initializer=unit_normal(), name="constant"
            )
            self.up = None
        else:
            self.up = EqualConv(channels, resample="up", fused=fused, gain=gain, dtype=policy)
            self.up.build((None, None, None, in_channels))
        self.conv = EqualConv(channels, dtype=policy)
        self.conv.build(shape)
        self.noises = [Noise(dtype=policy), Noise(dtype=policy)]
        self.adains = [AdaIN(channels, dtype=policy), AdaIN(channels, dtype=policy)]
        for noise, adain in zip(self.noises, self.adains, strict=True):
            noise.build(shape)
            adain.build(shape, style_dim=latent_dim)
        self.built = True

    def call(self, x: Any, style: Any, noise: Any = None) -> Any:
        """Computes the block.

        Args:
            x: Float [B, H/2, W/2, in_channels]; None in the first block.
            style: Float [B, latent_dim] for both halves, or a pair, one per half, as the paper's
                encoder gives.
            noise: Float [B, H, W, 1] for both halves, or None.
        """
        first, second = style if isinstance(style, tuple) else (style, style)
        if self.up is None:
            constant = ops.cast(self.constant, self.compute_dtype)
            x = ops.repeat(constant, ops.shape(first)[0], axis=0)
        else:
            x = blur(self.up(x))
        x = self._finish(x, first, noise, half=0)
        return self._finish(self.conv(x), second, noise, half=1)

    def _finish(self, x: Any, style: Any, noise: Any, half: int) -> Any:
        if noise is not None:
            x = self.noises[half](x, noise)
        return self.adains[half](leaky_relu(x), style)


class SynthesisNetwork(keras.layers.Layer):
    """Styles -> an image of `outputs` channels at any stage's resolution, [B, R, R, outputs].

    Args:
        outputs: Output channels.
        resolution: Final resolution.
        latent_dim: Length of the style.
        max_channels: Cap on every layer's channels.
        fused: Whether upsampling convolutions are fused.
    """

    def __init__(
        self,
        outputs: int,
        resolution: int,
        latent_dim: int,
        max_channels: int,
        fused: bool = True,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        policy = self.dtype_policy
        self.blocks: list[SynthesisBlock] = []
        self.to_image: list[EqualConv] = []
        previous: int | None = None
        side = 4
        while side <= resolution:
            channels = block_channels(side, max_channels)
            block = SynthesisBlock(
                channels, previous, latent_dim, fused, up_gain(side), dtype=policy
            )
            head = EqualConv(outputs, kernel_size=1, dtype=policy)
            head.build((None, None, None, channels))
            self.blocks.append(block)
            self.to_image.append(head)
            previous, side = channels, 2 * side
        self.built = True

    def call(self, styles: Any, noise: Any = None, alpha: Any = 1.0, last: int = -1) -> Any:
        """Draws images at the resolution of block `last`.

        Args:
            styles: List of float [B, latent_dim], or of pairs of these, one per block.
            noise: List of float [B, R, R, 1], one per block, or None.
            alpha: Weight of the last block's own image; the rest is that of the block before it.
                A Python 1.0 leaves the fading branch out of the graph.
            last: Index of the last block to compute.
        """
        last = last % len(self.blocks)
        x = before = None
        for index in range(last + 1):
            before = x
            x = self.blocks[index](x, styles[index], None if noise is None else noise[index])
        image = ops.cast(self.to_image[last](x), "float32")
        if last == 0 or (isinstance(alpha, float) and alpha == 1.0):
            return image
        coarse = ops.cast(self.to_image[last - 1](before), "float32")
        return alpha * image + (1.0 - alpha) * upsample(coarse)
