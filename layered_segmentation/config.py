"""The settings of one experiment: typed, strict about names, loaded from YAML differences.

The defaults are the paper's (section 4 and the supplement of Bielski & Favaro 2019); a YAML file
holds only what differs. `load` merges defaults, file and `--set` overrides, and refuses impossible
settings before anything is computed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from layered_segmentation import config_files, files, paths
from layered_segmentation.choices import (
    Aspect,
    FeatureTerm,
    MaskLosses,
    Precision,
    Refinement,
    SourceName,
    Strategy,
    StudentMasks,
    Variant,
)
from layered_segmentation.config_files import POWER_OF_TWO, added, bounded, require
from layered_segmentation.errors import UserError

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
    "train.steps_per_execution",
)


@dataclasses.dataclass
class DataConfig:
    """Where the photos come from and how they reach the network."""

    name: SourceName = SourceName.folder
    path: str = ""  # directory of photos, for `folder`
    # Prepared TensorFlow Datasets, for `tfds`: `lsun_objects/car[:100000]`, several of them joined
    # by `+`; `data/tfds.py` has the grammar.
    dataset: str = ""
    data_dir: str = ""  # directory that these were prepared in; empty for that of TFDS
    # Number of images to use, the first ones; 0 for all. For `shapes`: number to draw.
    limit: int = bounded(0, "at least 0")
    # Directory of photos that `layerseg quickstart` and `layerseg evaluate` score on if no others
    # are named.
    test_path: str = ""
    test_masks: str = ""  # directory of their masks
    mirror: bool = False  # whether to mirror images left to right at random
    # Images are resized to this times the resolution, then cropped at random, so that real objects
    # move as the generated ones do.
    crop_margin: float = bounded(1.125, "in [1, 2]")
    aspect: Aspect = Aspect.squash
    # Megabytes that the resized photos may take in memory; above that they are kept on disk.
    cache_memory: int = bounded(2_000, "at least 0")
    cache_dir: str = ""  # directory for those on disk, which runs may share; empty for RUN/cache
    objects: int = added(1, was=1, possible="in [1, 4]")  # objects in each scene of `shapes`


@dataclasses.dataclass
class GANConfig:
    """The layered generator, the perturbation and the losses (eq. 1 to 6)."""

    variant: Variant = Variant.two_generators
    resolution: int = bounded(128, POWER_OF_TWO)  # final image side, pixels
    initial_resolution: int = bounded(8, POWER_OF_TWO)  # image side of the first stage, pixels
    latent_dim: int = bounded(512, "at least 1")  # length of the latent and of the style
    mapping_layers: int = bounded(8, "at least 1")  # dense layers of the mapping network
    # Cap on the channels of every layer; 512 is StyleGAN's width.
    max_channels: int = bounded(512, "at least 1")
    mixing: float = bounded(0.9, "in [0, 1]")  # probability of style mixing
    # Decay per step of the exponential average of the generator's weights.
    average_decay: float = bounded(0.999, "in [0, 1)")
    # δ of eq. 2, fraction of the image side.
    shift: float = bounded(0.125, "in [0, 1): a shift as large as the image hides the object")
    # Half width of the background's contrast factor around 1; 0 is off, the paper's setting (d) is
    # 0.3.
    contrast_jitter: float = bounded(0.0, "in [0, 1)")
    # η of eq. 3, the mean coverage below which a mask is penalised.
    mask_size: float = bounded(0.25, "in (0, 1)")
    # The mean coverage above which a mask is penalised; 1 is off, as in the paper. It keeps small
    # and short trainings from masks that cover everything.
    mask_size_most: float = 1.0
    mask_size_weight: float = bounded(2.0, "at least 0")  # γ1 of eq. 5
    mask_binary_weight: float = bounded(2.0, "at least 0")  # γ2 of eq. 5
    gradient_penalty: float = bounded(10.0, "at least 0")  # λ of eq. 6
    drift: float = bounded(0.001, "at least 0")  # ε of eq. 6
    minibatch_std: bool = True  # whether the discriminator sees the batch's standard deviation
    # Weight of R1, half the squared gradient of the real images' scores; 0 is off, as in the paper.
    r1: float = bounded(0.0, "at least 0")
    # Strength of differentiable augmentation of all that the discriminator sees; 0 is off, as in
    # the paper, 1 the published strength.
    augment: float = bounded(0.0, "in [0, 1]")
    # Probability of another scene's background, also in the student's pairs; 0 is off.
    background_swap: float = added(0.0, was=0.0, possible="in [0, 1]")
    # σ of ILSGAN, the weight of the layers' mutual information; 0 is off.
    independence: float = added(0.0, was=0.0, possible="at least 0")
    # A segmenter that must find nothing in drawn backgrounds: a run's or preset's directory, or the
    # name of a packaged preset; it does not train. Empty is off.
    background_student: str = added("", was="")
    # Weight of that loss, a cross-entropy.
    background_student_weight: float = added(1.0, was=1.0, possible="in [0, inf)")
    # Largest factor by which the perturbation scales foreground and mask; 1 is off.
    scale: float = added(1.0, was=1.0, possible="in [1, 1.25]")
    mask_losses_on: MaskLosses = added(MaskLosses.unshifted, was=MaskLosses.shifted)
    # Whether both generators get the same noise images; with `shared_mapping` they always do.
    shared_noise: bool = added(False, was=True)
    # K, foreground layers, each with its own mask, shift and mask size loss.
    layers: int = added(1, was=1, possible="in [1, 4]")
    # Steps from one gradient penalty (and R1) to the next, each with this times the weight and an
    # update of its own, as in StyleGAN2; 1 is every step's loss, as in the paper.
    penalty_every: int = added(1, was=1, possible="at least 1")
    # Whether the discriminator learns from the generator step's composites; the paper draws others.
    shared_pass: bool = added(False, was=False)
    # Whether both networks follow the scores before the discriminator's update, on shared
    # composites: one pass through the discriminator serves both. The paper alternates.
    simultaneous: bool = added(False, was=False)
    # Steps from one update of the average to the next, with that power of the decay.
    average_every: int = added(1, was=1, possible="at least 1")


@dataclasses.dataclass
class ScheduleConfig:
    """Progressive growing by images seen."""

    images_per_stage: int = bounded(1_200_000, "at least 1")  # real images at each resolution
    images_at: dict[int, int] = dataclasses.field(default_factory=dict)  # exceptions by resolution
    fade_fraction: float = bounded(0.5, "in [0, 1]")  # share of a stage that fades in
    # Global batch size by resolution; one that is not listed has that of the next smaller one.
    batch: dict[int, int] = dataclasses.field(
        default_factory=lambda: {8: 256, 16: 128, 32: 64, 64: 32, 128: 32}
    )
    # `default`, and exceptions by resolution.
    learning_rate: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"default": 0.001, "128": 0.0015}
    )


@dataclasses.dataclass
class StudentConfig:
    """The student segmenter, trained on generated image/mask pairs."""

    width: int = bounded(24, "at least 1")  # channels of the U-Net's first level
    # Side of its input, pixels; 0 for the generator's resolution.
    resolution: int = bounded(0, "0 or a multiple of 8")
    steps: int = bounded(1_000, "at least 1")  # training steps
    batch: int = bounded(64, "at least 1")  # pairs per step
    learning_rate: float = bounded(0.005, "more than 0")  # peak of Adam's cosine schedule
    # Strength of shift, colour and geometric augmentation; 0 is none.
    augment: float = bounded(1.6, "at least 0")
    # ψ of the styles the pairs are drawn with; 1 draws from the whole distribution.
    truncation: float = bounded(1.0, "in (0, 1]")
    # Rounds in which the distilled student learns from its own masks of the unlabelled training
    # photos; 0 is none.
    self_training: int = bounded(3, "at least 0")
    self_training_steps: int = bounded(300, "at least 1")  # training steps per round
    # How those masks are first fitted to the edges of the photos, at 128 px or more; it helps where
    # objects have crisp edges. With `consensus`, pixels and photos on which the votes are split are
    # left out.
    self_training_refine: Refinement = Refinement.none
    # Of each GrabCut, in `grabcut` and `consensus`.
    self_training_grabcut_iterations: int = added(5, was=5, possible="at least 1")
    # Whether rounds end early, once one has raised the student's agreement with the refined masks
    # by less than `self_training_rise`; `self_training` is then the most rounds.
    self_training_early_stop: bool = added(False, was=False)
    self_training_rise: float = added(0.005, was=0.005, possible="at least 0")
    # Photos of a round at most; 0 for 8,000, or 4,000 if masks are refined.
    self_training_photos: int = added(0, was=0, possible="at least 0")
    # Steps and photos of the last of `self_training` rounds; 0 for as many as in the others. Masks
    # are best by then, and the student learns more from more of them. With steps of its own, this
    # round follows also if the others end early.
    self_training_last_steps: int = added(0, was=0, possible="at least 0")
    self_training_last_photos: int = added(0, was=0, possible="at least 0")
    # Whether the masks of the first round are those of photos as coarse as the generated pairs. The
    # student has seen nothing finer; it then learns them together with the photos as they are.
    self_training_coarse: bool = added(False, was=False)
    masks: StudentMasks = added(StudentMasks.union, was=StudentMasks.union)
    # Into how many parts a step divides its batch, each with its own batch norm. They are computed
    # at the same time, so 2 are faster on two cores or more. Several devices take a part each.
    parts: int = added(1, was=1, possible="at least 1")
    # Of its training; its weights are float32. `auto` measures, and takes mixed precision only
    # where it is clearly faster.
    precision: Precision = added(Precision.float32, was=Precision.float32)


@dataclasses.dataclass
class EncoderConfig:
    """The paper's encoder (eq. 7)."""

    chunk: int = bounded(100, "at least 1")  # number of images that each encoder is trained on
    iterations: int = bounded(1_000, "at least 1")  # training steps per chunk
    learning_rate: float = bounded(0.0001, "more than 0")  # of Adam
    # Images per step, at most the chunk; the paper does not give it. Batch norm needs 2.
    batch: int = bounded(32, "at least 2")
    # Side that its input is resized to, pixels; 0 for the generator's resolution.
    input_resolution: int = bounded(64, "0 or at least 8")
    # Cap on the channels of the ResNet's stages; 512 is ResNet-18.
    max_channels: int = bounded(512, "at least 64")
    # Number of chunks whose encoders train at once on each device. The results do not depend on it.
    # Each encoder takes as much memory as one alone, so more than 1 pays only where networks are
    # small and cores idle.
    together: int = bounded(1, "at least 1")
    feature_term: FeatureTerm = added(FeatureTerm.sum, was=FeatureTerm.mean)


@dataclasses.dataclass
class TrainConfig:
    """How a run is carried out."""

    seed: int = bounded(0, "in [0, 2147483648)")  # of everything that is drawn
    # `auto` measures when a run begins, and takes mixed precision only where it is clearly faster.
    precision: Precision = Precision.float32
    jit_compile: bool = False  # whether XLA compiles the step; slower on CPU
    # Steps from one update of log, checkpoints and progress to the next. More are faster where
    # steps are small; the networks are the same.
    steps_per_execution: int = added(1, was=1, possible="at least 1")
    strategy: Strategy = Strategy.auto
    checkpoint_every: int = bounded(50_000, "at least 1")  # images between checkpoints
    # Minutes between checkpoints, whichever comes first.
    checkpoint_minutes: float = added(5.0, was=5.0, possible="more than 0")
    sheet_every: int = bounded(20_000, "at least 1")  # images between image sheets
    keep_checkpoints: int = bounded(3, "at least 1")  # number of checkpoints to keep on disk
    # Resolutions below the final one whose networks are kept in RUN/stages at the end of their
    # stage, as in [64]; null keeps all, [] none.
    keep_stages: list[int] | None = added(None, was=None)
    # How often training may begin again after a collapse, with other bounds and seed; 0 only warns.
    restarts: int = added(0, was=0, possible="at least 0")


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
    config_files.check_values(config)
    _check_combinations(config)
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
    return str(OmegaConf.to_yaml(OmegaConf.structured(config)))


def is_saved(path: str) -> bool:
    """Returns whether a file is as `save` wrote it, not written or changed by a person."""
    with open(path, encoding="utf-8") as file:
        return file.read() == to_yaml(load(path))


def with_absolute_paths(config: Config) -> Config:
    """Returns a config whose photos, caches and student are found from any directory."""
    data = config.data
    absolute: dict[str, Any] = {
        name: paths.absolute(getattr(data, name))
        for name in ("path", "data_dir", "cache_dir", "test_path", "test_masks")
    }
    return with_absolute_student(
        dataclasses.replace(config, data=dataclasses.replace(data, **absolute))
    )


def with_absolute_student(config: Config) -> Config:
    """Returns a config whose `gan.background_student` is found from any directory."""
    path = paths.absolute_unless_name(config.gan.background_student)
    return dataclasses.replace(config, gan=dataclasses.replace(config.gan, background_student=path))


def _check_combinations(config: Config) -> None:
    """Refuses settings that contradict each other, and impossible rows of tables."""
    gan, schedule = config.gan, config.schedule
    first, last = gan.initial_resolution, gan.resolution
    require(first <= last, "gan.initial_resolution", first, f"at most gan.resolution ({last})")
    pixels = round(gan.shift * first)
    possible = f"less than the whole image at {first} px, where it rounds to {pixels} pixels"
    require(pixels < first, "gan.shift", gan.shift, possible)
    is_more = gan.mask_size < gan.mask_size_most <= 1
    possible = f"more than gan.mask_size ({gan.mask_size:g}) and at most 1"
    require(is_more, "gan.mask_size_most", gan.mask_size_most, possible)
    is_possible = gan.layers == 1 or gan.variant == Variant.two_generators
    require(is_possible, "gan.layers", gan.layers, f"1 with gan.variant={gan.variant}")
    is_possible = gan.layers == 1 or not gan.independence
    require(is_possible, "gan.independence", gan.independence, f"0 with gan.layers={gan.layers}")
    is_possible = gan.variant.has_mask or not gan.background_student
    possible = f"empty with gan.variant={gan.variant}, which has no layers"
    require(is_possible, "gan.background_student", gan.background_student, possible)
    data, student = config.data, config.student
    is_possible = data.objects == 1 or data.name == SourceName.shapes
    require(is_possible, "data.objects", data.objects, f"1 with data.name={data.name}")
    refine = student.self_training_refine  # fits one mask to a photo
    is_possible = refine == Refinement.none or student.masks == StudentMasks.union
    require(is_possible, "student.self_training_refine", refine, "none with student.masks=each")
    is_possible = student.batch % student.parts == 0
    require(is_possible, "student.parts", student.parts, f"a divisor of {student.batch}, the batch")
    is_possible = student.precision != Precision.mixed_float16  # it would need scaled losses
    possible = "auto, float32 or mixed_bfloat16"
    require(is_possible, "student.precision", student.precision, possible)
    for table in ("images_at", "batch"):
        for key, value in getattr(schedule, table).items():
            is_power = config_files.is_power_of_two(key)
            require(is_power, f"schedule.{table}", key, "keyed by powers of two, at least 8")
            require(value >= 1, f"schedule.{table}.{key}", value, "at least 1")
    require(bool(schedule.batch), "schedule.batch", schedule.batch, "a size for a resolution")
    for name, rate in schedule.learning_rate.items():
        is_known = name == "default" or name.isdigit()
        require(is_known, "schedule.learning_rate", name, "keyed by `default` or a resolution")
        require(rate > 0, f"schedule.learning_rate.{name}", rate, "more than 0")
    for side in config.train.keep_stages or []:
        is_stage = config_files.is_power_of_two(side) and first <= side < last
        possible = f"null, or resolutions from {first} to below {last} (gan.resolution)"
        require(is_stage, "train.keep_stages", config.train.keep_stages, possible)
    restarts, is_one = config.train.restarts, config.train.strategy != Strategy.multi_worker
    require(is_one or not restarts, "train.restarts", restarts, "0 with several machines")
