"""Checkpoints of the authors' PyTorch release: read, understood, written as a run directory.

Their training script saves one dictionary: the state dicts `generator`, `generator_running` (the
average) and `discriminator`, both optimisers, the stage `step` (4 · 2^step px) and the fading
weight `alpha`. Here the parts are found by the keys in them, wherever they are and whatever they
are called.
"""

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layered_segmentation import config as configs
from layered_segmentation.errors import UserError
from layered_segmentation.models.discriminator import Discriminator
from layered_segmentation.models.generator import LayeredGenerator
from layered_segmentation.training.run_directory import RunDirectory

_GENERATOR = re.compile(
    r"(?P<root>(?:.*?\.)?)(generator_bg\.generator|generator\.generators\.0|generator\.generator)"
    r"\.progression\.0\.conv1\.input"
)
_DISCRIMINATOR = re.compile(r"(?P<root>(?:.*?\.)?)linear\.linear\.weight_orig")
_AVERAGES = ("running", "ema", "average", "avg")
# What the config and the networks must agree on.
_SIZES = ("variant", "resolution", "latent_dim", "mapping_layers", "max_channels", "minibatch_std")


@dataclasses.dataclass(frozen=True)
class ReleaseCheckpoint:
    """The parts of a checkpoint that a run directory is made of.

    Attributes:
        generator: State dict of the generator, the averaged one where there is one.
        generator_name: Where it was found.
        is_average: Whether its name says that it is the average.
        discriminator: State dict of the discriminator, empty if there is none.
        resolution: Side of the stage that was training, pixels; None if the file does not say.
        alpha: Weight of that stage's own image; 1 once it has faded in.
    """

    generator: dict[str, np.ndarray]
    generator_name: str
    is_average: bool
    discriminator: dict[str, np.ndarray]
    resolution: int | None
    alpha: float


def read(path: str) -> dict[str, Any]:
    """Reads a file that `torch.save` wrote, as nested dictionaries of numpy arrays.

    Only weights and plain values are read; code in the file does not run.

    Raises:
        UserError: PyTorch is not installed, or the file is not such a file.
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
    except Exception as error:  # PyTorch raises whatever a file that is not its own leads to
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


def find_parts(checkpoint: Mapping[Any, Any]) -> ReleaseCheckpoint:
    """Finds generator, discriminator and stage in a checkpoint.

    Args:
        checkpoint: Nested dictionaries of arrays and plain values.

    Raises:
        UserError: There is no generator of the release in it, or several and none is the average.
    """
    flat = _flatten(checkpoint)
    generators = _roots(_GENERATOR, flat)
    if not generators:
        raise UserError(
            f"no generator of the authors' release in it; it holds {_summary(checkpoint)}"
        )
    averages = [root for root in generators if _says_average(root)]
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
    step, alpha = _beside(flat, root, "step"), _beside(flat, root, "alpha")
    return ReleaseCheckpoint(
        generator=_below(flat, root),
        generator_name=_name(root),
        is_average=bool(averages),
        discriminator=_below(flat, discriminators[0]) if discriminators else {},
        resolution=None if step is None else 4 * 2 ** int(step),
        alpha=1.0 if alpha is None or not 0 <= alpha <= 1 else float(alpha),  # -1 is faded in
    )


def run_config(
    generator: LayeredGenerator, discriminator: Discriminator | None, overrides: Sequence[str]
) -> configs.Config:
    """Returns the config of a run that has these networks.

    Args:
        generator: The converted generator.
        discriminator: The converted discriminator, or None.
        overrides: `section.field=value` strings for all else.

    Raises:
        UserError: An override is none, or of a size that the networks fix.
    """
    sizes = {name: getattr(generator, name) for name in _SIZES if name != "minibatch_std"}
    sizes["minibatch_std"] = discriminator is None or discriminator.minibatch_std
    fixed = [f"gan.{name}={value}" for name, value in sizes.items()]
    config = configs.load(overrides=[*fixed, *overrides])
    for name, value in sizes.items():
        asked = getattr(config.gan, name)
        if asked != value:
            more = "; --resolution chooses a smaller one" if name == "resolution" else ""
            raise UserError(f"--set=gan.{name}={asked}: the checkpoint has {value}{more}")
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
        config: From `run_config`.
        generator: Its mean styles are set here.
        discriminator: Or None, and the run has none.

    Raises:
        UserError: There is such a directory or file already.
    """
    from layered_segmentation.training import trainer

    if os.path.lexists(out):
        raise UserError(f"--out={out}: there is one already; name a new directory")
    partial = os.path.normpath(out) + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        run = RunDirectory(partial)
        run.create_or_resume(config)
        trainer.finish_average(generator, config)
        if discriminator is not None:
            run.save_discriminator(discriminator)
        run.save_generator(generator)
        run.finish(images_seen=0, seconds=0.0, images_per_second=0.0)  # none of them ours
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return RunDirectory(out)


def _as_numpy(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns nested dictionaries with arrays for tensors, float32 for any floating point."""
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


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _roots(pattern: re.Pattern[str], flat: Mapping[str, Any]) -> list[str]:
    """Returns what stands before the names of a network's own arrays, with its dot."""
    matches = (pattern.fullmatch(key) for key in flat)
    return sorted(match["root"] for match in matches if match)


def _below(flat: Mapping[str, Any], root: str) -> dict[str, np.ndarray]:
    return {
        key.removeprefix(root): value
        for key, value in flat.items()
        if key.startswith(root) and isinstance(value, np.ndarray)
    }


def _beside(flat: Mapping[str, Any], root: str, name: str) -> Any:
    """Returns the number of this name in the innermost dictionary around a part, or None."""
    parts = root.split(".")
    for depth in reversed(range(len(parts))):
        value = flat.get(".".join([*parts[:depth], name]))
        if value is not None and np.ndim(value) == 0:
            return value
    return None


def _says_average(root: str) -> bool:
    return any(word in root.lower() for word in _AVERAGES)


def _name(root: str) -> str:
    return root.removesuffix(".") or "the file itself"


def _summary(checkpoint: Mapping[Any, Any]) -> str:
    """Says what a file holds: `generator (205 entries), step`."""
    entries = [
        f"{key} ({len(value)} entries)" if isinstance(value, Mapping) else str(key)
        for key, value in checkpoint.items()
    ]
    return (
        ", ".join(entries[:10]) + (f" and {len(entries) - 10} more" if entries[10:] else "")
        or "nothing"
    )
