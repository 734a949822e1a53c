"""The settings of one experiment: typed, strict about names, loaded from YAML differences.

The defaults are the paper's (section 4 and the supplement of Bielski & Favaro 2019); a YAML file
holds only what differs. `load` merges defaults, file and `--set` overrides, and refuses impossible
settings before anything is computed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from layered_segmentation import config_files, files
from layered_segmentation.choices import Aspect as Aspect
from layered_segmentation.choices import Choice as Choice
from layered_segmentation.choices import FeatureTerm as FeatureTerm
from layered_segmentation.choices import MaskLosses as MaskLosses
from layered_segmentation.choices import Precision as Precision
from layered_segmentation.choices import Refinement as Refinement
from layered_segmentation.choices import SourceName as SourceName
from layered_segmentation.choices import Strategy as Strategy
from layered_segmentation.choices import Variant as Variant
from layered_segmentation.errors import UserError
from layered_segmentation.validation import (
    POWER_OF_TWO,
    added,
    bounded,
    check_bounds,
    check_combinations,
)

# Fields that change nothing of what a training computes.
NOT_TRAINED = (
    "data.cache_dir",
    "data.cache_memory",
    "data.test_path",
    "data.test_masks",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.sheet_every",
    "train.keep_checkpoints",
    "encoder.feature_term",
    "train.keep_stages",
    "train.strategy",
)


@dataclasses.dataclass
class DataConfig:
    """Where the photos come from and how they reach the network.

    Attributes:
        name: Kind of source; see `SourceName`.
        path: Directory of photos, for `folder`.
        dataset: Prepared TensorFlow Datasets, for `tfds`: `lsun_objects/car[:100000]`, several
            of them joined by `+`; `data/tfds.py` has the grammar.
        data_dir: Directory that these were prepared in; empty for that of TFDS.
        limit: Number of images to use, the first ones; 0 for all. For `shapes`: number to draw.
        test_path: Directory of photos that `layerseg quickstart` and `layerseg evaluate` score on
            if no others are named.
        test_masks: Directory of their masks.
        mirror: Whether to mirror images left to right at random.
        crop_margin: Images are resized to this times the resolution, then cropped at random, so
            that real objects move as the generated ones do.
        aspect: How a photo becomes a square; see `Aspect`.
        cache_memory: Megabytes that the resized photos may take in memory; above that they are
            kept on disk.
        cache_dir: Directory for those on disk, which runs may share; empty for RUN/cache.
    """

    name: SourceName = SourceName.folder
    path: str = ""
    dataset: str = ""
    data_dir: str = ""
    limit: int = bounded(0, "at least 0")
    test_path: str = ""
    test_masks: str = ""
    mirror: bool = False
    crop_margin: float = bounded(1.125, "in [1, 2]")
    aspect: Aspect = Aspect.squash
    cache_memory: int = bounded(2_000, "at least 0")
    cache_dir: str = ""


@dataclasses.dataclass
class GANConfig:
    """The layered generator, the perturbation and the losses (eq. 1 to 6).

    Attributes:
        variant: Architecture of the generator; see `Variant`.
        resolution: Final image side, pixels.
        initial_resolution: Image side of the first stage, pixels.
        latent_dim: Length of the latent and of the style.
        mapping_layers: Dense layers of the mapping network.
        max_channels: Cap on the channels of every layer; 512 is StyleGAN's width.
        mixing: Probability of style mixing.
        average_decay: Decay per step of the exponential average of the generator's weights.
        shift: δ of eq. 2, fraction of the image side.
        contrast_jitter: Half width of the background's contrast factor around 1; 0 is off, the
            paper's setting (d) is 0.3.
        mask_size: η of eq. 3, the mean coverage below which a mask is penalised.
        mask_size_most: The mean coverage above which a mask is penalised; 1 is off, as in the
            paper. It keeps small and short trainings from masks that cover everything.
        mask_size_weight: γ1 of eq. 5.
        mask_binary_weight: γ2 of eq. 5.
        gradient_penalty: λ of eq. 6.
        drift: ε of eq. 6.
        minibatch_std: Whether the discriminator sees the batch's standard deviation.
        r1: Weight of R1, half the squared gradient of the real images' scores; 0 is off, as in
            the paper.
        augment: Strength of differentiable augmentation of all that the discriminator sees; 0 is
            off, as in the paper, 1 the published strength.
        mask_losses_on: The mask that the mask losses act on; see `MaskLosses`.
        shared_noise: Whether both generators get the same noise images; with `shared_mapping` they
            always do.
    """

    variant: Variant = Variant.two_generators
    resolution: int = bounded(128, POWER_OF_TWO)
    initial_resolution: int = bounded(8, POWER_OF_TWO)
    latent_dim: int = bounded(512, "at least 1")
    mapping_layers: int = bounded(8, "at least 1")
    max_channels: int = bounded(512, "at least 1")
    mixing: float = bounded(0.9, "in [0, 1]")
    average_decay: float = bounded(0.999, "in [0, 1)")
    shift: float = bounded(0.125, "in [0, 1): a shift as large as the image hides the object")
    contrast_jitter: float = bounded(0.0, "in [0, 1)")
    mask_size: float = bounded(0.25, "in (0, 1)")
    mask_size_most: float = 1.0
    mask_size_weight: float = bounded(2.0, "at least 0")
    mask_binary_weight: float = bounded(2.0, "at least 0")
    gradient_penalty: float = bounded(10.0, "at least 0")
    drift: float = bounded(0.001, "at least 0")
    minibatch_std: bool = True
    r1: float = bounded(0.0, "at least 0")
    augment: float = bounded(0.0, "in [0, 1]")
    mask_losses_on: MaskLosses = added(MaskLosses.unshifted, was=MaskLosses.shifted)
    shared_noise: bool = added(False, was=True)


@dataclasses.dataclass
class ScheduleConfig:
    """Progressive growing by images seen.

    Attributes:
        images_per_stage: Real images shown at each resolution.
        images_at: Exceptions to `images_per_stage`, by resolution.
        fade_fraction: Share of a stage in which the new resolution fades in.
        batch: Global batch size by resolution; a resolution that is not listed has that of the
            next smaller one.
        learning_rate: `default`, and exceptions by resolution.
    """

    images_per_stage: int = bounded(1_200_000, "at least 1")
    images_at: dict[int, int] = dataclasses.field(default_factory=dict)
    fade_fraction: float = bounded(0.5, "in [0, 1]")
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
        resolution: Side of its input, pixels; 0 for the generator's resolution.
        steps: Training steps.
        batch: Pairs per step.
        learning_rate: Peak of Adam's cosine schedule.
        augment: Strength of shift, colour and geometric augmentation; 0 is none.
        truncation: ψ of the styles the pairs are drawn with; 1 draws from the whole
            distribution.
        self_training: Rounds in which the distilled student learns from its own masks of the
            unlabelled training photos; 0 is none.
        self_training_steps: Training steps per round.
        self_training_refine: How those masks are first fitted to the edges of the photos, at
            128 px or more; it helps where objects have crisp edges.
    """

    width: int = bounded(24, "at least 1")
    resolution: int = 0
    steps: int = bounded(1_000, "at least 1")
    batch: int = bounded(64, "at least 1")
    learning_rate: float = bounded(0.005, "more than 0")
    augment: float = bounded(1.6, "at least 0")
    truncation: float = bounded(1.0, "in (0, 1]")
    self_training: int = bounded(3, "at least 0")
    self_training_steps: int = bounded(300, "at least 1")
    self_training_refine: Refinement = Refinement.none


@dataclasses.dataclass
class EncoderConfig:
    """The paper's encoder (eq. 7).

    Attributes:
        chunk: Number of images that each encoder is trained on.
        iterations: Training steps per chunk.
        learning_rate: Learning rate of Adam.
        batch: Images per step, at most the chunk; the paper does not give it. Batch norm needs 2.
        input_resolution: Side that its input is resized to, pixels; 0 for the generator's
            resolution.
        max_channels: Cap on the channels of the ResNet's stages; 512 is ResNet-18.
        together: Number of chunks whose encoders train at once, in one graph. The results do not
            depend on it. Each encoder takes as much memory as one alone, so more than 1 pays only
            where networks are small and cores idle.
        feature_term: How eq. 7 weights features against pixels; see `FeatureTerm`.
    """

    chunk: int = bounded(100, "at least 1")
    iterations: int = bounded(1_000, "at least 1")
    learning_rate: float = bounded(0.0001, "more than 0")
    batch: int = bounded(32, "at least 2")
    input_resolution: int = 64
    max_channels: int = bounded(512, "at least 64")
    together: int = bounded(1, "at least 1")
    feature_term: FeatureTerm = added(FeatureTerm.sum, was=FeatureTerm.mean)


@dataclasses.dataclass
class TrainConfig:
    """How a run is carried out.

    Attributes:
        seed: Seed of everything that is drawn.
        precision: Keras dtype policy of the networks.
        jit_compile: Whether XLA compiles the step; slower on CPU.
        strategy: Which devices train; see `Strategy`.
        checkpoint_every: Images between checkpoints.
        checkpoint_minutes: Minutes between checkpoints, whichever comes first.
        sheet_every: Images between image sheets.
        keep_checkpoints: Number of checkpoints to keep on disk.
        keep_stages: Resolutions below the final one whose networks are kept in RUN/stages at the
            end of their stage, as in [64]; null keeps all, [] none.
    """

    seed: int = bounded(0, "in [0, 2147483648)")
    precision: Precision = Precision.float32
    jit_compile: bool = False
    strategy: Strategy = Strategy.auto
    checkpoint_every: int = bounded(50_000, "at least 1")
    checkpoint_minutes: float = added(5.0, was=5.0, possible="more than 0")
    sheet_every: int = bounded(20_000, "at least 1")
    keep_checkpoints: int = bounded(3, "at least 1")
    keep_stages: list[int] | None = added(None, was=None)


@dataclasses.dataclass
class Config:
    """All settings of an experiment."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    gan: GANConfig = dataclasses.field(default_factory=GANConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


_KEY_TYPES = {"schedule.learning_rate": str, "schedule.batch": int, "schedule.images_at": int}


def load(name_or_path: str = "", overrides: Sequence[str] = ()) -> Config:
    """Loads a config: the defaults, then the YAML file, then the overrides; validated.

    Args:
        name_or_path: A packaged config's name (`quickstart`, `ablations/b_no_shift`) or the path
            of a YAML file; empty for the defaults.
        overrides: `section.field=value` strings, later ones win.

    Raises:
        UserError: An unknown name, field or type, or an impossible setting.
    """
    path = config_files.find(name_or_path) if name_or_path else ""
    config: Config = config_files.read(Config, path, overrides, _KEY_TYPES)
    check_bounds(config)
    for section, fields in dataclasses.asdict(config).items():
        for field, value in fields.items():
            if isinstance(value, str) and not files.is_utf8(value):
                raise UserError(
                    f"{section}.{field}={files.printable(value)}: it has bytes that are not UTF-8, "
                    "which a config cannot hold; name the file by another path, such as a link"
                )
    check_combinations(config)
    return config


def section_overrides(name_or_path: str, section: str) -> list[str]:
    """Returns the settings of one section of a config, as `section.field=value` strings.

    Raises:
        UserError: As of `load`, or the config does not have that section.
    """
    load(name_or_path)  # refuses what is no config
    settings = OmegaConf.select(OmegaConf.load(config_files.find(name_or_path)), section)
    if not settings:
        raise UserError(f"--config={name_or_path}: it has no section {section!r}")
    return [f"{section}.{field}={value}" for field, value in settings.items()]


def save(config: Config, path: str) -> None:
    """Writes the whole effective config as YAML."""
    files.write_text(path, to_yaml(config))


def to_yaml(config: Config) -> str:
    """Returns the whole effective config as YAML."""
    text: str = OmegaConf.to_yaml(OmegaConf.structured(config))
    return text


def is_saved(path: str) -> bool:
    """Returns whether a file is as `save` wrote it, not written or changed by a person."""
    with open(path, encoding="utf-8") as file:
        return file.read() == to_yaml(load(path))


def with_absolute_paths(config: Config) -> Config:
    """Returns a config whose photos and caches are found from any directory."""
    data = config.data
    paths: dict[str, Any] = {
        name: files.absolute(getattr(data, name))
        for name in ("path", "data_dir", "cache_dir", "test_path", "test_masks")
    }
    return dataclasses.replace(config, data=dataclasses.replace(data, **paths))
