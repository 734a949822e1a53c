"""Reads checkpoints of the authors' PyTorch release and writes them as run directories.

The authors' training script saves one dictionary: the state dicts `generator`, `generator_running`
(the average) and `discriminator`, both optimisers, the stage `step` (4 · 2^step px) and the fading
weight `alpha`. This module finds the parts by the keys they contain, at any depth and under any
name.
"""

import dataclasses
import operator
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layered_segmentation import choices, config_files, files
from layered_segmentation import config as configs
from layered_segmentation.errors import UserError
from layered_segmentation.gan import networks
from layered_segmentation.gan.discriminator import Discriminator
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.run_directory import RunDirectory

_GENERATOR = re.compile(
    r"(?P<root>(?:.*?\.)?)(generator_bg\.generator|generator\.generators\.0|generator\.generator)"
    r"\.progression\.0\.conv1\.input"
)
_DISCRIMINATOR = re.compile(r"(?P<root>(?:.*?\.)?)linear\.linear\.weight_orig")
_AVERAGES = ("running", "ema", "average", "avg")
_STEPS = range(1, 9)  # stages of 8 to 1024 px, all that the authors' networks have
# Settings on which the config and the networks must agree.
_SIZES = ("variant", "resolution", "latent_dim", "mapping_layers", "max_channels", "minibatch_std")


@dataclasses.dataclass(frozen=True)
class ReleaseCheckpoint:
    """The parts of a checkpoint that a run directory needs."""

    # state dict of the generator, the averaged one if there is one
    generator: dict[str, np.ndarray]
    generator_name: str  # its key in the checkpoint
    is_average: bool  # whether its key names an average
    discriminator: dict[str, np.ndarray]  # state dict of the discriminator; empty without one
    step: int | None  # the stage that was training; None if not stated
    alpha: float  # weight of that stage's own image; 1 once it has faded in

    @property
    def resolution(self) -> int | None:
        """Side of the stage that was training, pixels; None if not stated."""
        return None if self.step is None else 4 * 2**self.step


def read(path: str) -> dict[str, Any]:
    """Reads a file written by `torch.save` as nested dictionaries of NumPy arrays.

    Only weights and plain values are read; code in the file does not run.

    Raises:
        UserError: PyTorch is not installed, or it cannot read the file as weights.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "reading a PyTorch checkpoint needs PyTorch, which is not installed: pip install torch "
            "(without a GPU, --index-url https://download.pytorch.org/whl/cpu has a small one)"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # a file that is not PyTorch's may raise anything
        raise UserError(
            f"--checkpoint={path}: PyTorch cannot read it as weights ({type(error).__name__}); it "
            "must be what torch.save wrote of state dicts, not of whole modules"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"--checkpoint={path}: it holds a {type(content).__name__}; a dictionary of state "
            "dicts is needed"
        )
    return _as_numpy(content)


def find_parts(checkpoint: Mapping[Any, Any], needs_stage: bool = True) -> ReleaseCheckpoint:
    """Finds generator, discriminator and stage in a checkpoint.

    Args:
        checkpoint: Nested dictionaries of arrays and plain values.
        needs_stage: Whether an invalid stage is an error; otherwise it counts as not stated.

    Raises:
        UserError: It contains no generator of the release, or several of which none or more than
            one is an average; several discriminators; or an invalid stage.
    """
    flat = config_files.flatten(checkpoint)
    generators = _roots(_GENERATOR, flat)
    if not generators:
        raise UserError(
            f"no generator of the authors' release in it; it holds {_summary(checkpoint)}"
        )
    averages = [root for root in generators if _is_average(root)]
    candidates = averages or generators
    if len(candidates) > 1:
        raise UserError(
            f"several generators in it ({', '.join(map(_name, candidates))}); leave one of them, "
            "the average"
        )
    root = candidates[0]
    discriminators = _roots(_DISCRIMINATOR, flat)
    if len(discriminators) > 1:
        raise UserError(
            f"several discriminators in it ({', '.join(map(_name, discriminators))}); leave one"
        )
    return ReleaseCheckpoint(
        generator=_subtree(flat, root),
        generator_name=_name(root),
        is_average=bool(averages),
        discriminator=_subtree(flat, discriminators[0]) if discriminators else {},
        step=_stage(_nearest(flat, root, "step"), needs_stage),
        alpha=_fading_weight(_nearest(flat, root, "alpha")),
    )


def run_config(
    generator: LayeredGenerator, discriminator: Discriminator | None, overrides: Sequence[str]
) -> configs.Config:
    """Returns the config of a run with these networks.

    `overrides` are `section.field=value` strings for the other settings.

    Raises:
        UserError: An override is invalid, or contradicts a size of the networks.
    """
    sizes = {name: getattr(generator, name) for name in _SIZES if name != "minibatch_std"}
    sizes["minibatch_std"] = discriminator is None or discriminator.minibatch_std
    fixed = [f"gan.{name}={value}" for name, value in sizes.items()]
    fixed.append(f"gan.mask_losses_on={choices.MaskLosses.shifted}")  # as the authors' script
    config = configs.load(overrides=[*fixed, *overrides])
    for name, value in sizes.items():
        configured = getattr(config.gan, name)
        if configured != value:
            more = "; --resolution chooses a smaller one" if name == "resolution" else ""
            raise UserError(f"--set=gan.{name}={configured}: the checkpoint has {value}{more}")
    return configs.with_absolute_paths(config)


def write_run(
    out: str,
    config: configs.Config,
    generator: LayeredGenerator,
    discriminator: Discriminator | None,
) -> RunDirectory:
    """Writes a finished run; the directory appears only when it is complete.

    Args:
        out: The new directory.
        config: The config, from `run_config`.
        generator: The converted generator; this sets its mean styles.
        discriminator: The converted discriminator; None leaves it out.

    Raises:
        UserError: A file or directory of this name exists.
    """
    from layered_segmentation.gan.draws import mean_style_latents

    if os.path.lexists(out):
        raise UserError(f"--out={out}: there is one already; name a new directory")
    with files.replacing_directory(out, overwrite=False) as partial:
        run = RunDirectory(partial)
        run.create_or_resume(config)
        latents = mean_style_latents(config.train.seed, config.gan.latent_dim)
        generator.update_mean_styles(latents)
        if discriminator is not None:
            networks.save_discriminator(run, discriminator)
        networks.save_generator(run, generator)
        run.finish(images_seen=0, seconds=0.0, images_per_second=0.0)  # trained elsewhere
    return RunDirectory(out)


def _as_numpy(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns nested dictionaries with arrays in place of tensors; floats become float32."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result[str(key)] = _as_numpy(value)
        elif hasattr(value, "detach"):
            value = value.detach()
            result[str(key)] = (value.float() if value.is_floating_point() else value).numpy()
        else:
            result[str(key)] = value
    return result


def _roots(pattern: re.Pattern[str], flat: Mapping[str, Any]) -> list[str]:
    """Returns the prefixes, with their dots, under which networks of a kind are found."""
    matches = (pattern.fullmatch(key) for key in flat)
    return sorted(match["root"] for match in matches if match)


def _subtree(flat: Mapping[str, Any], root: str) -> dict[str, np.ndarray]:
    return {
        key.removeprefix(root): value
        for key, value in flat.items()
        if key.startswith(root) and isinstance(value, np.ndarray)
    }


def _nearest(flat: Mapping[str, Any], root: str, name: str) -> Any:
    """Returns the value of this name in the innermost dictionary around `root`, or None."""
    parts = root.split(".")
    for depth in reversed(range(len(parts))):
        value = flat.get(".".join([*parts[:depth], name]))
        if value is not None and not (isinstance(value, np.ndarray) and value.ndim):
            return value
    return None


def _stage(step: Any, is_needed: bool) -> int | None:
    """Returns the stage that a checkpoint states, or None."""
    if step is None:
        return None
    try:
        number = operator.index(step)
    except TypeError:
        number = 0
    if number in _STEPS and not isinstance(step, bool):
        return number
    if not is_needed:
        return None
    try:
        shown = repr(step)[:40]
    except ValueError:  # Python refuses to print integers of so many digits
        shown = "an integer of thousands of digits"
    sides = f"{_STEPS[0]} (8 px) to {_STEPS[-1]} (1024 px)"
    raise UserError(
        f"its `step`, the stage that was training, is {shown}; it must be an integer from {sides}. "
        "Name the side of its images with --resolution"
    )


def _fading_weight(alpha: Any) -> float:
    """Returns the weight of the last stage's own image; an invalid one, such as -1, means 1."""
    try:
        weight = float(alpha)
    except (TypeError, ValueError, OverflowError):
        return 1.0
    return weight if 0 <= weight <= 1 else 1.0


def _is_average(root: str) -> bool:
    return any(word in root.lower() for word in _AVERAGES)


def _name(root: str) -> str:
    return root.removesuffix(".") or "the file itself"


def _summary(checkpoint: Mapping[Any, Any]) -> str:
    """Describes a checkpoint's entries: `generator (205 entries), step`."""
    entries = [
        f"{key} ({len(value)} entries)" if isinstance(value, Mapping) else str(key)
        for key, value in checkpoint.items()
    ]
    return (
        ", ".join(entries[:10]) + (f" and {len(entries) - 10} more" if entries[10:] else "")
        or "nothing"
    )
