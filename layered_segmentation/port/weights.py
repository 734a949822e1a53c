"""Converts state dicts of the authors' PyTorch networks to this package's networks.

The authors' state dicts are NCHW, with convolutions as OIHW, transposed convolutions as IOHW and
dense layers as OI. Equalised layers keep the raw weight as `*_orig`, and the fixed kernels of the
blur are included. There are always blocks up to 1024 px, the generator's from 4 px up, the
discriminator's from the largest down. From 128 px, resampling convolutions are fused and have other
names.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from layered_segmentation.errors import UserError
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.gan.synthesis import block_channels, up_gain

# By variant: the mapping networks; the synthesis networks, each with the name of its heads.
_GENERATORS = {
    "two_generators": (
        ("generator_bg.style", "generator_objects.style"),
        (("generator_bg.generator", "to_rgb"), ("generator_objects.generator", "to_out")),
    ),
    "one_generator": (("generator.style",), (("generator.generator", "to_out"),)),
    "shared_mapping": (
        ("generator.style",),
        (("generator.generators.0", "to_rgb"), ("generator.generators.1", "to_out")),
    ),
}
_LISTED = 6  # keys that an error lists; it counts the others

State = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Weight:
    """One array of a state dict."""

    key: str  # its name in the state dict
    find: Callable[[Any], Any]  # returns the variable of the Keras network that takes it
    convert: Callable[[np.ndarray], np.ndarray]  # converts its layout


def generator_from_state_dict(state: State, resolution: int | None = None) -> LayeredGenerator:
    """Converts a generator; its variant and sizes are inferred from the state dict.

    Mean styles stay 0: `update_mean_styles` sets them.

    Args:
        state: Float arrays by name, of one of the three variants.
        resolution: Image side to keep, pixels; blocks above it are left out. None keeps all.

    Raises:
        UserError: Keys are missing or unknown, shapes do not fit, or numbers are not finite.
    """
    state = {key: np.asarray(value) for key, value in state.items()}
    variant = _variant(state)
    mappings, syntheses = _GENERATORS[variant]
    stored = max(_count(state, rf"{re.escape(net)}\.progression") for net, _ in syntheses)
    blocks = _blocks(resolution, stored)
    depth = max((_count(state, re.escape(mapping)) for mapping in mappings), default=0) // 2
    weights: list[_Weight] = []
    ignored: list[str] = []  # the kernels of the blur, and blocks above the resolution
    for index, mapping in enumerate(mappings):
        for layer in range(max(depth, 1)):
            weights += _mapping_weights(mapping, index, layer)
    for index, (net, head) in enumerate(syntheses):
        for block in range(blocks):
            is_fused = f"{net}.progression.{block}.conv1.0.weight" in state
            weights += _synthesis_weights(net, head, index, block, is_fused)
            blurred = f"{net}.progression.{block}.conv1.{1 if is_fused else 2}"
            ignored += [f"{blurred}.weight", f"{blurred}.weight_flip"]
        unused = range(blocks, stored)
        ignored += _under(
            state, [f"{net}.{part}.{i}." for part in ("progression", head) for i in unused]
        )
    _require_keys(state, weights, ignored, f"the generator ({variant}, {4 * 2 ** (blocks - 1)} px)")
    net = syntheses[0][0]
    generator = LayeredGenerator(
        variant,
        resolution=4 * 2 ** (blocks - 1),
        latent_dim=_size(state, f"{mappings[0]}.1.linear.weight_orig", axis=1),
        mapping_layers=depth,
        max_channels=_cap(
            [_size(state, f"{net}.progression.{b}.conv2.conv.weight_orig") for b in range(blocks)]
        ),
    )
    _assign(generator, state, weights)
    return generator


def discriminator_from_state_dict(state: State, resolution: int | None = None) -> Discriminator:
    """Converts a discriminator; its sizes are inferred from the state dict.

    Args:
        state: Float arrays by name.
        resolution: Image side to keep, pixels; blocks above it are left out. None keeps all.

    Raises:
        UserError: Keys are missing or unknown, shapes do not fit, or numbers are not finite.
    """
    state = {key: np.asarray(value) for key, value in state.items()}
    stored = max(_count(state, "progression"), _count(state, "from_rgb"))
    if stored == 0:
        raise UserError(f"not the authors' discriminator: it holds {_listed(state)}")
    blocks = _blocks(resolution, stored)
    weights: list[_Weight] = []
    ignored: list[str] = []
    for block in range(blocks):
        name = f"progression.{stored - 1 - block}"
        weights += _conv_weights(f"from_rgb.{stored - 1 - block}.0.conv", _from_image(block))
        if block:
            is_fused = f"{name}.conv2.1.weight" in state
            weights += _discriminator_weights(name, block, is_fused)
            ignored += [f"{name}.conv2.0.weight", f"{name}.conv2.0.weight_flip"]
    last = f"progression.{stored - 1}"
    weights += _conv_weights(f"{last}.conv1.0.conv", lambda model: model.conv)
    weights += _conv_weights(f"{last}.conv2.0.conv", lambda model: model.dense_conv)
    weights += _dense_weights("linear.linear", lambda model: model.score)
    unused = range(stored - blocks)
    ignored += _under(
        state, [f"{part}.{i}." for part in ("progression", "from_rgb") for i in unused]
    )
    _require_keys(state, weights, ignored, f"the discriminator ({4 * 2 ** (blocks - 1)} px)")
    widths = [
        _size(state, f"from_rgb.{stored - 1 - block}.0.conv.weight_orig") for block in range(blocks)
    ]
    discriminator = Discriminator(
        resolution=4 * 2 ** (blocks - 1),
        max_channels=_cap(widths),
        minibatch_std=_size(state, f"{last}.conv1.0.conv.weight_orig", axis=1) == widths[0] + 1,
    )
    _assign(discriminator, state, weights)
    return discriminator


def _mapping_weights(mapping: str, index: int, layer: int) -> list[_Weight]:
    # Entry 0 is the pixel norm, and an activation follows each dense layer.
    key = f"{mapping}.{2 * layer + 1}.linear"
    return _dense_weights(key, lambda model: model.mappings[index].dense[layer])


def _synthesis_weights(
    net: str, head: str, index: int, block: int, is_fused: bool
) -> list[_Weight]:
    key = f"{net}.progression.{block}"

    def target(model: Any) -> Any:
        return model.syntheses[index].blocks[block]

    def half(number: int) -> list[_Weight]:
        noise = f"{key}.noise{number + 1}.weight_orig"
        style = f"{key}.adain{number + 1}.style.linear"
        return [
            _Weight(noise, lambda model: target(model).noises[number].strength, np.ravel),
            *_dense_weights(style, lambda model: target(model).adains[number].style),
        ]

    if block == 0:
        first = [_Weight(f"{key}.conv1.input", lambda model: target(model).constant, _nhwc)]
    elif is_fused:
        # The authors average four shifts of the stored kernel; the layer here sums them and has
        # its own gain.
        factor = 0.25 / up_gain(4 * 2**block)
        first = [
            _Weight(
                f"{key}.conv1.0.weight",
                lambda model: target(model).up.kernel,
                lambda kernel: factor * kernel.transpose(2, 3, 0, 1)[::-1, ::-1],
            ),
            _Weight(f"{key}.conv1.0.bias", lambda model: target(model).up.bias, np.ravel),
        ]
    else:
        factor = 1.0 / up_gain(4 * 2**block)
        first = _conv_weights(f"{key}.conv1.1.conv", lambda model: target(model).up, factor)
    return [
        *first,
        *_conv_weights(f"{key}.conv2.conv", lambda model: target(model).conv),
        *half(0),
        *half(1),
        *_conv_weights(
            f"{net}.{head}.{block}.conv", lambda model: model.syntheses[index].to_image[block]
        ),
    ]


def _discriminator_weights(key: str, block: int, is_fused: bool) -> list[_Weight]:
    def target(model: Any) -> Any:
        return model.blocks[block - 1]

    # Fused or not, it is a convolution followed by averaging, as here.
    down, kernel = (".conv2.1", "weight") if is_fused else (".conv2.1.conv", "weight_orig")
    return [
        *_conv_weights(f"{key}.conv1.0.conv", lambda model: target(model).conv),
        _Weight(f"{key}{down}.{kernel}", lambda model: target(model).down.kernel, _hwio),
        _Weight(f"{key}{down}.bias", lambda model: target(model).down.bias, np.ravel),
    ]


def _from_image(block: int) -> Callable[[Any], Any]:
    return lambda model: model.from_image[block]


def _conv_weights(key: str, layer: Callable[[Any], Any], factor: float = 1.0) -> list[_Weight]:
    return [
        _Weight(
            f"{key}.weight_orig",
            lambda model: layer(model).kernel,
            lambda kernel: factor * _hwio(kernel),
        ),
        _Weight(f"{key}.bias", lambda model: layer(model).bias, np.ravel),
    ]


def _dense_weights(key: str, layer: Callable[[Any], Any]) -> list[_Weight]:
    return [
        _Weight(f"{key}.weight_orig", lambda model: layer(model).kernel, np.transpose),
        _Weight(f"{key}.bias", lambda model: layer(model).bias, np.ravel),
    ]


def _hwio(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)


def _nhwc(image: np.ndarray) -> np.ndarray:
    return image.transpose(0, 2, 3, 1)


def _variant(state: State) -> str:
    for variant, (_, syntheses) in _GENERATORS.items():
        if _under(state, [f"{net}.progression." for net, _ in syntheses]):
            return variant
    raise UserError(
        f"not the authors' generator: it holds {_listed(state)}; known are "
        + ", ".join(
            f"{syntheses[0][0]}.progression.… ({variant})"
            for variant, (_, syntheses) in _GENERATORS.items()
        )
    )


def _count(state: State, list_pattern: str) -> int:
    """Returns the length of a list in the state dict: 1 + the largest index after its name."""
    found = (re.match(rf"{list_pattern}\.(\d+)\.", key) for key in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _blocks(resolution: int | None, stored: int) -> int:
    """Returns the number of blocks that a resolution needs."""
    largest = 4 * 2 ** (stored - 1)
    if resolution is None:
        resolution = largest
    if resolution < 8 or resolution & (resolution - 1) or resolution > largest:
        raise UserError(
            f"resolution={resolution}: it must be a power of two from 8 to {largest}, where the "
            "state dict ends"
        )
    return resolution.bit_length() - 2


def _under(state: State, prefixes: Iterable[str]) -> list[str]:
    prefixes = tuple(prefixes)
    return [key for key in state if key.startswith(prefixes)]


def _require_keys(state: State, weights: list[_Weight], ignored: list[str], name: str) -> None:
    needed = [weight.key for weight in weights]
    missing = sorted(set(needed) - set(state))
    unexpected = sorted(set(state) - set(needed) - set(ignored))
    if missing or unexpected:
        raise UserError(
            f"the state dict does not fit {name}: missing {_listed(missing)}; unexpected "
            f"{_listed(unexpected)}"
        )


def _size(state: State, key: str, axis: int = 0) -> int:
    shape = state[key].shape
    if axis >= len(shape):
        raise UserError(f"{key}: its shape is {list(shape)}, which is not a kernel's")
    return int(shape[axis])


def _cap(widths: list[int]) -> int:
    """Returns `max_channels` of networks with the given widths at 4, 8, … px."""
    cap = max(widths)
    sides = [4 * 2**block for block in range(len(widths))]
    expected = [block_channels(side, cap) for side in sides]
    if widths != expected:
        raise UserError(
            f"the channels at {', '.join(map(str, sides))} px are {', '.join(map(str, widths))}; "
            "this package's networks have min(gan.max_channels, 512, 16384 / side), that is "
            f"{', '.join(map(str, expected))}"
        )
    return cap


def _assign(model: Any, state: State, weights: list[_Weight]) -> None:
    for weight in weights:
        variable = weight.find(model)
        try:
            value = np.ascontiguousarray(weight.convert(state[weight.key]), np.float32)
        except ValueError:  # it lacks axes
            value = None
        if value is None or value.shape != tuple(variable.shape):
            raise UserError(
                f"{weight.key}: its shape is {list(state[weight.key].shape)}, which does not fit "
                f"{list(variable.shape)}"
            )
        if not np.isfinite(value).all():
            raise UserError(
                f"{weight.key}: {np.count_nonzero(~np.isfinite(value)):,} of its {value.size:,} "
                "numbers are not finite (NaN or infinite), so the network draws nothing; use a "
                "checkpoint from before the training diverged"
            )
        variable.assign(value)


def _listed(keys: Iterable[str]) -> str:
    keys = list(keys)
    if not keys:
        return "none"
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more
