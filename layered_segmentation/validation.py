"""Which settings are possible: refused before anything is computed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    from layered_segmentation.config import Config


def validate(config: "Config") -> None:
    """Refuses impossible settings.

    Raises:
        UserError: Names the field, quotes its value and says what is possible.
    """
    data, gan, schedule, train = config.data, config.gan, config.schedule, config.train
    _one_of("data.name", data.name, ("folder", "shapes", "tfds"))
    _one_of("data.aspect", data.aspect, ("squash", "centre_crop", "pad"))
    _require(data.limit >= 0, "data.limit", data.limit, "0 (all) or a positive count")
    _require(data.cache_memory >= 0, "data.cache_memory", data.cache_memory, "not negative (MB)")
    _require(1.0 <= data.crop_margin <= 2.0, "data.crop_margin", data.crop_margin, "in [1, 2]")

    variants = ("two_generators", "one_generator", "shared_mapping", "single_output")
    _one_of("gan.variant", gan.variant, variants)
    for field in ("resolution", "initial_resolution"):
        value = getattr(gan, field)
        is_power = value >= 8 and value & (value - 1) == 0
        _require(is_power, f"gan.{field}", value, "a power of two, at least 8")
    _require(
        gan.initial_resolution <= gan.resolution,
        "gan.initial_resolution",
        gan.initial_resolution,
        f"at most gan.resolution ({gan.resolution})",
    )
    for field in ("latent_dim", "mapping_layers", "max_channels"):
        _require(getattr(gan, field) >= 1, f"gan.{field}", getattr(gan, field), "at least 1")
    _require(0 <= gan.mixing <= 1, "gan.mixing", gan.mixing, "in [0, 1]")
    _require(0 <= gan.average_decay < 1, "gan.average_decay", gan.average_decay, "in [0, 1)")
    _require(
        0 <= gan.shift < 1,
        "gan.shift",
        gan.shift,
        "in [0, 1): a fraction of the image side; a shift as large as the image hides the object",
    )
    _require(
        round(gan.shift * gan.initial_resolution) < gan.initial_resolution,
        "gan.shift",
        gan.shift,
        f"less than the whole image at {gan.initial_resolution} px, where it rounds to "
        f"{round(gan.shift * gan.initial_resolution)} pixels",
    )
    _require(0 <= gan.contrast_jitter < 1, "gan.contrast_jitter", gan.contrast_jitter, "in [0, 1)")
    _require(0 < gan.mask_size < 1, "gan.mask_size", gan.mask_size, "in (0, 1)")
    _require(
        gan.mask_size < gan.mask_size_most <= 1,
        "gan.mask_size_most",
        gan.mask_size_most,
        f"more than gan.mask_size ({gan.mask_size:g}) and at most 1",
    )
    for field in ("mask_size_weight", "mask_binary_weight", "gradient_penalty", "drift", "r1"):
        _require(getattr(gan, field) >= 0, f"gan.{field}", getattr(gan, field), "not negative")
    _require(0 <= gan.augment <= 1, "gan.augment", gan.augment, "in [0, 1]")

    _require(
        schedule.images_per_stage >= 1,
        "schedule.images_per_stage",
        schedule.images_per_stage,
        "at least 1",
    )
    _require(
        0 <= schedule.fade_fraction <= 1,
        "schedule.fade_fraction",
        schedule.fade_fraction,
        "in [0, 1]",
    )
    for table in ("images_at", "batch"):
        for key, value in getattr(schedule, table).items():
            is_power = key >= 8 and key & (key - 1) == 0
            _require(is_power, f"schedule.{table}", key, "keyed by powers of two, at least 8")
            _require(value >= 1, f"schedule.{table}.{key}", value, "at least 1")
    _require(bool(schedule.batch), "schedule.batch", schedule.batch, "a size for a resolution")
    for name, rate in schedule.learning_rate.items():
        is_known = name == "default" or name.isdigit()
        _require(is_known, "schedule.learning_rate", name, "keyed by `default` or a resolution")
        _require(rate > 0, f"schedule.learning_rate.{name}", rate, "positive")

    student, encoder = config.student, config.encoder
    for field in ("width", "steps", "batch", "self_training_steps"):
        _require(getattr(student, field) >= 1, f"student.{field}", getattr(student, field), ">= 1")
    is_side = student.resolution == 0 or (student.resolution >= 8 and student.resolution % 8 == 0)
    _require(is_side, "student.resolution", student.resolution, "0 or a multiple of 8")
    _require(student.learning_rate > 0, "student.learning_rate", student.learning_rate, "positive")
    _require(student.augment >= 0, "student.augment", student.augment, "not negative")
    _require(
        student.self_training >= 0, "student.self_training", student.self_training, "not negative"
    )
    _one_of(
        "student.self_training_refine",
        student.self_training_refine,
        ("none", "guided", "grabcut", "consensus"),
    )
    _require(0 < student.truncation <= 1, "student.truncation", student.truncation, "in (0, 1]")
    for field in ("chunk", "iterations", "together"):
        value = getattr(encoder, field)
        _require(value >= 1, f"encoder.{field}", value, "at least 1")
    # Batch norm needs more than one image.
    _require(encoder.batch >= 2, "encoder.batch", encoder.batch, "at least 2")
    is_side = encoder.input_resolution == 0 or encoder.input_resolution >= 8
    _require(is_side, "encoder.input_resolution", encoder.input_resolution, "0 or at least 8")
    _require(encoder.max_channels >= 64, "encoder.max_channels", encoder.max_channels, ">= 64")
    _require(encoder.learning_rate > 0, "encoder.learning_rate", encoder.learning_rate, "positive")

    _require(0 <= train.seed < 2**31, "train.seed", train.seed, "in [0, 2**31)")
    _one_of("train.precision", train.precision, ("float32", "mixed_bfloat16", "mixed_float16"))
    _one_of("train.strategy", train.strategy, ("one_device", "mirrored", "multi_worker"))
    for field in ("checkpoint_every", "sheet_every", "keep_checkpoints"):
        _require(getattr(train, field) >= 1, f"train.{field}", getattr(train, field), "at least 1")


def _require(condition: bool, field: str, value: Any, possible: str) -> None:
    if not condition:
        raise UserError(f"{field}={value!r} is not possible; it must be {possible}")


def _one_of(field: str, value: str, choices: Sequence[str]) -> None:
    _require(value in choices, field, value, f"one of {', '.join(choices)}")
