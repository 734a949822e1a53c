"""The layered generator: latents -> background, foreground and mask (section 3)."""

from typing import Any

import keras
from keras import ops

from layered_segmentation.choices import Variant
from layered_segmentation.gan import network_files
from layered_segmentation.gan.composite import Layers
from layered_segmentation.gan.keras_settings import policy
from layered_segmentation.gan.layers import copy_layers
from layered_segmentation.gan.synthesis import MappingNetwork, SynthesisNetwork


@keras.saving.register_keras_serializable(package="layered_segmentation")
class LayeredGenerator(keras.Model):
    """Draws the layers of scenes from latents.

    Args:
        variant: Architecture, one of `Variant`. The image of `single_output` is the background,
            and its mask is 0.
        resolution: Final image side, a power of two from 8.
        latent_dim: Length of latents and styles.
        mapping_layers: Dense layers of a mapping network.
        max_channels: Cap on every layer's channels.
        fused: Whether upsampling convolutions are fused.
        shared_noise: Whether all synthesis networks get the same noise images; those of
            `shared_mapping` always do.
        foreground_layers: K, foreground layers. `two_generators` then has a mapping and a
            synthesis network for each; the others draw 1.
    """

    def __init__(
        self,
        variant: str = "two_generators",
        resolution: int = 128,
        latent_dim: int = 512,
        mapping_layers: int = 8,
        max_channels: int = 512,
        fused: bool = True,
        shared_noise: bool = False,
        foreground_layers: int = 1,
        **kwargs: Any,
    ):
        # Each layer casts for itself: alpha, styles and truncation stay float32.
        super().__init__(autocast=False, **{**kwargs, "dtype": policy(kwargs.get("dtype"))})
        if variant not in list(Variant):
            raise ValueError(f"variant={variant!r}: it must be one of {', '.join(Variant)}")
        if resolution < 8 or resolution & (resolution - 1):
            raise ValueError(f"resolution={resolution}: it must be a power of two from 8")
        if foreground_layers < 1 or (foreground_layers > 1 and variant != Variant.two_generators):
            raise ValueError(
                f"foreground_layers={foreground_layers}: it must be at least 1, and 1 with "
                f"variant={str(variant)!r}"
            )
        self.variant = Variant(variant)
        self.resolution = resolution
        self.latent_dim = latent_dim
        self.mapping_layers = mapping_layers
        self.max_channels = max_channels
        self.fused = fused
        self.shared_noise = shared_noise
        self.foreground_layers = foreground_layers
        self.num_blocks = resolution.bit_length() - 2
        outputs = {Variant.one_generator: [7], Variant.single_output: [3]}.get(
            self.variant, [3] + foreground_layers * [4]
        )
        mappings = len(outputs) if self.variant is Variant.two_generators else 1
        self.mappings = [MappingNetwork(latent_dim, mapping_layers) for _ in range(mappings)]
        self.syntheses = [
            SynthesisNetwork(
                count, resolution, latent_dim, max_channels, fused, dtype=self.dtype_policy
            )
            for count in outputs
        ]
        self.built = True

    def call(
        self,
        latents: Any,
        noise: Any = None,
        crossover: Any = None,
        alpha: Any = 1.0,
        resolution: int | None = None,
        truncation: Any = None,
    ) -> Layers:
        """Draws layers.

        Args:
            latents: Float [B, latent_dim], or [B, 2, latent_dim] for style mixing.
            noise: List of float [B, R, R, N] for R = 4, 8, … up to the resolution: one image for
                each synthesis network, or one for all of them; None adds no noise.
            crossover: Int [B], the first block that uses the second latent's style, shared
                by both generators.
            alpha: Weight of the last block's own image, in [0, 1].
            resolution: The stage's resolution; the final one if None.
            truncation: ψ in [0, 1], or None for 1.

        Returns:
            Layers in float32, mask after the sigmoid.
        """
        last = (resolution or self.resolution).bit_length() - 3
        images = []
        styles: list[Any] = []
        for index, synthesis in enumerate(self.syntheses):
            if index < len(self.mappings):
                styles = self._styles(
                    self.mappings[index], latents, crossover, truncation, last + 1
                )
            images.append(synthesis(styles, _of_network(noise, index), alpha=alpha, last=last))
        return self.to_layers(_joined(images))

    def from_codes(self, codes: Any, resolution: int | None = None) -> Layers:
        """Draws layers from codes: styles that bypass the mapping network, without noise.

        Args:
            codes: Float [B, generators, blocks, 2, latent_dim], one for each AdaIN (the paper's
                section on segmenting real images); see `codes_shape`.
            resolution: The stage's resolution; the final one if None.

        Returns:
            Layers in float32, mask after the sigmoid.
        """
        return self.to_layers(self.outputs_from_codes(codes, resolution))

    def outputs_from_codes(self, codes: Any, resolution: int | None = None) -> Any:
        """Draws the networks' raw output from codes; `to_layers` splits it.

        Args:
            codes: As for `from_codes`.
            resolution: The stage's resolution; the final one if None.

        Returns:
            Float32 [B, R, R, 3 + 4·K]: background, foreground, mask logits; [B, R, R, 3] without a
            mask.
        """
        last = (resolution or self.resolution).bit_length() - 3
        images = []
        for index, synthesis in enumerate(self.syntheses):
            styles = [
                (codes[:, index, block, 0], codes[:, index, block, 1]) for block in range(last + 1)
            ]
            images.append(synthesis(styles, last=last))
        return _joined(images)

    @property
    def has_mask(self) -> bool:
        """Whether it draws a mask."""
        return self.variant.has_mask

    @property
    def noise_images(self) -> int:
        """Noise images per block: one for each synthesis network, or one for all."""
        is_shared = self.shared_noise or self.variant is Variant.shared_mapping
        return 1 if is_shared else len(self.syntheses)

    @property
    def codes_shape(self) -> tuple[int, int, int, int]:
        """Shape of one scene's codes at the final resolution: generators, blocks, 2, length."""
        return len(self.syntheses), self.num_blocks, 2, self.latent_dim

    def mean_codes(self) -> Any:
        """Returns the mean style as codes, float of `codes_shape`: the centre of truncation."""
        styles = [mapping.mean_style for mapping in self.mappings]
        styles += styles[-1:] * (len(self.syntheses) - len(styles))
        styles = [ops.reshape(style, (1, 1, 1, -1)) for style in styles]
        return ops.broadcast_to(ops.concatenate(styles), self.codes_shape)

    def to_layers(self, output: Any) -> Layers:
        """Splits `outputs_from_codes` into layers; the mask goes through the sigmoid."""
        if not self.has_mask:
            return Layers(output, output, ops.zeros_like(output[..., :1]))
        first = 3 + 3 * self.foreground_layers  # channel of the masks
        return Layers(output[..., :3], output[..., 3:first], ops.sigmoid(output[..., first:]))

    def _styles(
        self, mapping: MappingNetwork, latents: Any, crossover: Any, truncation: Any, count: int
    ) -> list[Any]:
        """Returns one style per block, each [B, latent_dim]."""
        pair = len(latents.shape) == 3
        first = mapping(latents[:, 0] if pair else latents)
        second = mapping(latents[:, 1]) if pair and crossover is not None else None
        if truncation is not None:
            first = mapping.truncate(first, truncation)
            second = None if second is None else mapping.truncate(second, truncation)
        if second is None or crossover is None:
            return [first] * count
        crossover = ops.cast(crossover, "int32")[:, None]
        return [ops.where(crossover > block, first, second) for block in range(count)]

    def at_resolution(self, resolution: int) -> "LayeredGenerator":
        """Returns a copy whose final resolution is that of an earlier stage, faded in."""
        smaller = LayeredGenerator.from_config({**self.get_config(), "resolution": resolution})
        copy_layers(smaller.mappings, self.mappings)
        for copy, synthesis in zip(smaller.syntheses, self.syntheses, strict=True):
            copy_layers(copy.blocks, synthesis.blocks)
            copy_layers(copy.to_image, synthesis.to_image)
        return smaller

    def update_mean_styles(self, latents: Any) -> None:
        """Sets the centre of truncation to the mean style of the latents, [N, latent_dim]."""
        for mapping in self.mappings:
            mapping.mean_style.assign(ops.mean(mapping(latents), axis=0))

    def mapping_variables(self) -> list[Any]:
        """Returns the variables that train at 0.01 × the learning rate."""
        return [v for mapping in self.mappings for v in mapping.trainable_variables]

    def stage_variables(self, resolution: int) -> list[Any]:
        """Returns the trainable variables that a stage uses, its fading branch included."""
        last = resolution.bit_length() - 3
        variables = self.mapping_variables()
        for synthesis in self.syntheses:
            for block in synthesis.blocks[: last + 1]:
                variables += block.trainable_variables
            for head in synthesis.to_image[max(0, last - 1) : last + 1]:
                variables += head.trainable_variables
        return variables

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "variant": str(self.variant),
            "resolution": self.resolution,
            "latent_dim": self.latent_dim,
            "mapping_layers": self.mapping_layers,
            "max_channels": self.max_channels,
            "fused": self.fused,
            "shared_noise": self.shared_noise,
            "foreground_layers": self.foreground_layers,
        }

    @classmethod
    def from_preset(cls, preset: str) -> "LayeredGenerator":
        """Loads a generator that comes with the package.

        Args:
            preset: Its name, such as `layered_generator_flowers_16`.

        Raises:
            UserError: There is no such generator; the message lists those there are.

        Example:
            ```python
            generator = LayeredGenerator.from_preset("layered_generator_flowers_16")
            latents = np.random.normal(size=(8, generator.latent_dim)).astype("float32")
            background, foreground, mask = generator(latents)  # [8, 16, 16, C]
            ```
        """
        generator: LayeredGenerator = network_files.load_packaged(preset)
        return generator

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "LayeredGenerator":
        # A file of version 0.1.0 has no such entry; that version shared the noise.
        generator: LayeredGenerator = super().from_config(
            {"shared_noise": True, **config}, custom_objects
        )
        return generator


def _joined(images: list[Any]) -> Any:
    """Joins the images of all networks: background, foregrounds, mask logits."""
    background, *foregrounds = images
    colours, masks = [one[..., :3] for one in foregrounds], [one[..., 3:] for one in foregrounds]
    return ops.concatenate([background, *colours, *masks], axis=-1)


def _of_network(noise: Any, index: int) -> Any:
    """Returns a network's share of the noise, a list of [B, R, R, 1]."""
    if noise is None or noise[0].shape[-1] == 1:
        return noise
    return [images[..., index : index + 1] for images in noise]
