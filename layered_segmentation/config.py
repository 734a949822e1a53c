"""The settings of one experiment: typed, strict about names, loaded from YAML differences.

The defaults are the paper's (section 4 and the supplement of Bielski & Favaro 2019); a YAML file
holds only what differs. `load` merges defaults, file and `--set` overrides, and `validate` refuses
impossible settings before anything is computed.
"""

import dataclasses
import difflib
import os
from collections.abc import Sequence
from typing import Any

import omegaconf
from omegaconf import OmegaConf

from layered_segmentation.errors import UserError
from layered_segmentation.validation import validate

# Where and how photos are kept; it changes nothing of what a run computes.
STORAGE = ("data.cache_dir", "data.cache_memory")


@dataclasses.dataclass
class DataConfig:
    """Where the photos come from and how they reach the network.

    Attributes:
        name: `folder` (a directory of photos), `shapes` (procedural scenes) or `tfds`.
        path: Directory of photos, for `folder`.
        dataset: Prepared TensorFlow Datasets, for `tfds`: `lsun_objects/car[:100000]`, several
            of them joined by `+`; `data/tfds_source.py` has the grammar.
        data_dir: Directory that these were prepared in; empty takes TFDS's own.
        limit: Use only the first so many images; 0 uses all. For `shapes`: how many are drawn.
        test_path: Directory of photos to score on.
        test_masks: Directory of their masks; only ever used for scoring.
        mirror: Whether to mirror images left to right at random.
        crop_margin: Images are resized to this times the resolution, then cropped at random, so
            that real objects move as the generated ones do.
        aspect: `squash` to a square (the paper), `centre_crop` or `pad`.
        cache_memory: Photos resized for all stages stay in memory if they take no more than so
            many megabytes, else they go to disk.
        cache_dir: Directory for those on disk, which runs may share; empty takes RUN/cache.
    """

    name: str = "folder"
    path: str = ""
    dataset: str = ""
    data_dir: str = ""
    limit: int = 0
    test_path: str = ""
    test_masks: str = ""
    mirror: bool = True
    crop_margin: float = 1.125
    aspect: str = "squash"
    cache_memory: int = 2_000
    cache_dir: str = ""


@dataclasses.dataclass
class GANConfig:
    """The layered generator, the perturbation and the losses (eq. 1 to 6).

    Attributes:
        variant: `two_generators`, `one_generator` (7 outputs), `shared_mapping` or
            `single_output` (a plain StyleGAN).
        resolution: Final image side, pixels; a power of two.
        initial_resolution: Side of the first stage, pixels; a power of two.
        latent_dim: Length of the latent and of the style.
        mapping_layers: Dense layers of the mapping network.
        max_channels: Cap on the channels of every layer; 512 is StyleGAN's width.
        mixing: Probability of style mixing.
        average_decay: Decay per step of the exponential average of the generator's weights.
        shift: δ of eq. 2, fraction of the image side.
        contrast_jitter: Half width of the background's contrast factor around 1; 0 is off, the
            paper's setting (d) is 0.3.
        mask_size: η of eq. 3, the least mean coverage a mask is not punished for.
        mask_size_most: The most mean coverage a mask is not punished for; 1 is off, as in the
            paper. It keeps small and short trainings from masks that cover everything.
        mask_size_weight: γ1 of eq. 5.
        mask_binary_weight: γ2 of eq. 5.
        gradient_penalty: λ of eq. 6.
        drift: ε of eq. 6.
        minibatch_std: Whether the discriminator sees the batch's standard deviation.
        r1: Weight of R1, half the squared gradient of the real images' scores; 0 is off.
        augment: Strength of differentiable augmentation of all that the discriminator sees; 0 is
            off, 1 the strength its authors give. The paper has neither.
    """

    variant: str = "two_generators"
    resolution: int = 128
    initial_resolution: int = 8
    latent_dim: int = 512
    mapping_layers: int = 8
    max_channels: int = 512
    mixing: float = 0.9
    average_decay: float = 0.999
    shift: float = 0.125
    contrast_jitter: float = 0.0
    mask_size: float = 0.25
    mask_size_most: float = 1.0
    mask_size_weight: float = 2.0
    mask_binary_weight: float = 2.0
    gradient_penalty: float = 10.0
    drift: float = 0.001
    minibatch_std: bool = True
    r1: float = 0.0
    augment: float = 0.0


@dataclasses.dataclass
class ScheduleConfig:
    """Progressive growing by images seen.

    Attributes:
        images_per_stage: Real images shown at each resolution.
        images_at: Exceptions to `images_per_stage`, by resolution.
        fade_fraction: Share of a stage in which the new resolution fades in.
        batch: Global batch size by resolution; a resolution that is not listed takes the value
            of the next smaller one.
        learning_rate: `default`, and exceptions by resolution.
    """

    images_per_stage: int = 1_200_000
    images_at: dict[int, int] = dataclasses.field(default_factory=dict)
    fade_fraction: float = 0.5
    batch: dict[int, int] = dataclasses.field(
        default_factory=lambda: {8: 256, 16: 128, 32: 64, 64: 32, 128: 32}
    )
    learning_rate: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"default": 0.001, "128": 0.0015}
    )


@dataclasses.dataclass
class StudentConfig:
    """The student segmenter, trained on generated image/mask pairs.

    Attributes:
        width: Channels of the U-Net's first level.
        resolution: Side of its input, pixels; 0 takes the generator's resolution.
        steps: Training steps.
        batch: Pairs a step.
        learning_rate: Peak of Adam's cosine schedule.
        augment: Strength of shift, colour and geometric augmentation; 0 is none, 1 the default.
        truncation: ψ of the styles the pairs are drawn with; 1 draws from the whole
            distribution.
        self_training: Rounds in which the student, once distilled, learns from its own masks of
            the unlabelled training photos; 0 is none.
        self_training_steps: Training steps a round.
        self_training_refine: `none`, `guided`, `grabcut` or `consensus`: how those masks are first
            fitted to the edges of the photos, at 128 px or more; worth it where photos have crisp
            objects.
    """

    width: int = 24
    resolution: int = 0
    steps: int = 1_000
    batch: int = 64
    learning_rate: float = 0.005
    augment: float = 1.6
    truncation: float = 1.0
    self_training: int = 3
    self_training_steps: int = 300
    self_training_refine: str = "none"


@dataclasses.dataclass
class EncoderConfig:
    """The paper's encoder (eq. 7).

    Attributes:
        chunk: Images a separately trained encoder sees.
        iterations: Training steps a chunk.
        learning_rate: Adam's.
        batch: Images a step, at most the chunk; the paper does not say how many.
        input_resolution: Side that its input is resized to, pixels; 0 takes the generator's
            resolution.
        max_channels: Cap on the channels of the ResNet's stages; 512 is ResNet-18, 64 the least.
        together: Chunks whose encoders train at once, in one graph; the results do not depend on
            it. Each takes as much memory as one alone, so more pay only where networks are small
            and cores idle.
    """

    chunk: int = 100
    iterations: int = 1_000
    learning_rate: float = 0.0001
    batch: int = 32
    input_resolution: int = 64
    max_channels: int = 512
    together: int = 1


@dataclasses.dataclass
class TrainConfig:
    """How a run is carried out.

    Attributes:
        seed: Seed of everything that is drawn.
        precision: `float32`, `mixed_bfloat16` or `mixed_float16`.
        jit_compile: Whether XLA compiles the step; slower on CPU.
        strategy: `one_device`, `mirrored` or `multi_worker`.
        checkpoint_every: Images between checkpoints.
        sheet_every: Images between image sheets.
        keep_checkpoints: How many checkpoints stay on disk.
    """

    seed: int = 0
    precision: str = "float32"
    jit_compile: bool = False
    strategy: str = "one_device"
    checkpoint_every: int = 50_000
    sheet_every: int = 20_000
    keep_checkpoints: int = 3


@dataclasses.dataclass
class Config:
    """All settings of an experiment."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    gan: GANConfig = dataclasses.field(default_factory=GANConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


def load(name_or_path: str = "", overrides: Sequence[str] = ()) -> Config:
    """Loads a config: the defaults, then the YAML file, then the overrides; validated.

    Args:
        name_or_path: A packaged config's name (`quickstart`, `ablations/b_no_shift`) or the path
            of a YAML file; empty for the defaults.
        overrides: `section.field=value` strings, later ones win.

    Raises:
        UserError: An unknown name, field or type, or an impossible setting.
    """
    merged = OmegaConf.structured(Config)
    if name_or_path:
        path = find(name_or_path)
        try:
            merged = _merge(merged, OmegaConf.load(path), source=path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as a config: {error}") from error
        except Exception as error:
            if type(error).__module__.startswith("yaml"):
                reason = " ".join(str(error).split())
                raise UserError(f"{path}: not valid YAML: {reason}") from error
            raise
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise UserError(f"--set={override}: write it as --set=section.field=value")
        try:
            difference = OmegaConf.from_dotlist([override])
        except Exception as error:
            raise UserError(f"--set={override}: the value is not valid YAML: {error}") from error
        merged = _merge(merged, difference, source=f"--set={override}")
    try:
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except omegaconf.errors.OmegaConfBaseException as error:  # `???`, or `${…}` of nothing
        reason = str(error).splitlines()[0]
        raise UserError(f"{error.full_key}: no usable value: {reason}") from error
    validate(config)
    return config


def section_overrides(name_or_path: str, section: str) -> list[str]:
    """Returns what a config says of one section alone, as `section.field=value` strings.

    Raises:
        UserError: As of `load`, or it says nothing of that section.
    """
    load(name_or_path)  # refuses what is no config
    settings = OmegaConf.select(OmegaConf.load(find(name_or_path)), section)
    if not settings:
        raise UserError(f"--config={name_or_path}: it has no section {section!r}")
    return [f"{section}.{field}={value}" for field, value in settings.items()]


def find(name_or_path: str) -> str:
    """Returns the path of a config, by packaged name or by path.

    Raises:
        UserError: There is no such config; the message lists the packaged names.
    """
    if os.path.isfile(name_or_path):
        return name_or_path
    packaged = os.path.join(_packaged_directory(), name_or_path + ".yaml")
    if os.path.isfile(packaged):
        return packaged
    names = packaged_names()
    close = difflib.get_close_matches(name_or_path, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(
        f"--config={name_or_path}: neither a file nor a packaged config; {hint}"
        f"packaged configs: {', '.join(names)}"
    )


def packaged_names() -> list[str]:
    """Returns the names of the configs that come with the package, sorted."""
    root = _packaged_directory()
    names = []
    for folder, _, files in os.walk(root):
        for file in files:
            if file.endswith(".yaml"):
                relative = os.path.relpath(os.path.join(folder, file), root)
                names.append(relative.removesuffix(".yaml").replace(os.sep, "/"))
    return sorted(names)


def _packaged_directory() -> str:
    """Returns configs/: inside the installed package, beside it in a checkout."""
    package = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.join(package, "configs")
    return installed if os.path.isdir(installed) else os.path.join(package, "..", "configs")


def save(config: Config, path: str) -> None:
    """Writes the whole effective config as YAML, beside `path` first, then renamed."""
    partial = f"{path}.partial"
    OmegaConf.save(OmegaConf.structured(config), partial)
    os.replace(partial, path)


def is_saved(path: str) -> bool:
    """Returns whether a file is as `save` wrote it, not written or changed by a person."""
    with open(path, encoding="utf-8") as file:
        return file.read() == OmegaConf.to_yaml(OmegaConf.structured(load(path)))


def with_absolute_paths(config: Config) -> Config:
    """Returns a config whose photos and caches are found from any directory."""
    data = config.data
    paths = {
        name: os.path.abspath(os.path.expanduser(path))
        for name in ("path", "data_dir", "cache_dir")
        if (path := getattr(data, name)) and "://" not in path
    }
    return dataclasses.replace(config, data=dataclasses.replace(data, **paths))


def differences(ours: Config, theirs: Config) -> list[str]:
    """Returns one `section.field: ours != theirs` line for each field that differs."""
    left, right = _flatten(dataclasses.asdict(ours)), _flatten(dataclasses.asdict(theirs))
    absent = "(absent)"
    return [
        f"{key}: {left.get(key, absent)!r} != {right.get(key, absent)!r}"
        for key in sorted(set(left) | set(right))
        if left.get(key, absent) != right.get(key, absent)
    ]


def _merge(merged: Any, difference: Any, source: str) -> Any:
    if difference is None:
        return merged
    if not isinstance(difference, omegaconf.DictConfig):
        raise UserError(f"{source}: a config is a mapping of sections ({', '.join(_sections())})")
    try:
        # YAML reads `128:` as a number, a --set as text; each table has one kind of key.
        for table, kind in (("learning_rate", str), ("batch", int), ("images_at", int)):
            rows = OmegaConf.select(difference, f"schedule.{table}")
            if isinstance(rows, omegaconf.DictConfig):
                keyed = {
                    kind(str(key)) if str(key).isdigit() else key: value
                    for key, value in rows.items()
                }
                OmegaConf.update(difference, f"schedule.{table}", keyed, merge=False)
        return OmegaConf.merge(merged, difference)
    except omegaconf.errors.ConfigKeyError as error:
        raise UserError(f"{source}: {_unknown_field(str(error.full_key))}") from error
    except omegaconf.errors.OmegaConfBaseException as error:
        field = getattr(error, "full_key", "") or ""
        reason = str(error).splitlines()[0]
        raise UserError(f"{source}: {field}: {reason}") from error
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{source}: a config is a mapping of sections ({', '.join(_sections())})"
        ) from error


def _sections() -> list[str]:
    return [field.name for field in dataclasses.fields(Config)]


def _unknown_field(key: str) -> str:
    section, _, field = key.partition(".")
    names = _sections()
    if section in names and field:
        names = [f"{section}.{name}" for name in dataclasses.asdict(Config())[section]]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown field {key!r}; {hint}known: {', '.join(names)}"


def _flatten(tree: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
