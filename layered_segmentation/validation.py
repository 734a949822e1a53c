"""Bounds of settings, declared where a setting is and checked before anything is computed."""

import dataclasses
import re
from typing import Any

from layered_segmentation.errors import UserError

POWER_OF_TWO = "a power of two, at least 8"
_INTERVAL = re.compile(r"in ([\[(])([^,]+), ([^\])]+)([\])])")


def bounded(default: Any, possible: str) -> Any:
    """Returns a dataclass field whose value is checked by `check_bounds`.

    Args:
        default: The field's default.
        possible: `at least 1`, `more than 0`, `POWER_OF_TWO`, or an interval such as `in [0, 1)`,
            whose reason may follow. It is part of the error message.
    """
    return dataclasses.field(default=default, metadata={"possible": possible})


def added(default: Any, was: Any, possible: str | None = None) -> Any:
    """Returns a dataclass field that version 0.1.0 did not have.

    Args:
        default: The field's default, the paper's behaviour.
        was: What version 0.1.0 did: the value in a saved config that lacks the field, so that its
            run continues as it began.
        possible: As for `bounded`; None for any value.
    """
    return dataclasses.field(default=default, metadata={"was": was, "possible": possible})


def check_bounds(config: Any) -> None:
    """Checks every `bounded` field of a dataclass of dataclasses.

    Raises:
        UserError: A value is out of bounds; the message names the field and quotes the value.
    """
    for section in dataclasses.fields(config):
        settings = getattr(config, section.name)
        for field in dataclasses.fields(settings):
            possible, value = field.metadata.get("possible"), getattr(settings, field.name)
            if possible is not None:
                is_possible = _is_within(value, possible)
                require(is_possible, f"{section.name}.{field.name}", value, possible)


def check_combinations(config: Any) -> None:
    """Checks what the bounds of a single field cannot express.

    Args:
        config: A `Config`.

    Raises:
        UserError: Two settings contradict each other, or a table has an impossible row.
    """
    gan, schedule = config.gan, config.schedule
    first, last = gan.initial_resolution, gan.resolution
    require(first <= last, "gan.initial_resolution", first, f"at most gan.resolution ({last})")
    pixels = round(gan.shift * first)
    possible = f"less than the whole image at {first} px, where it rounds to {pixels} pixels"
    require(pixels < first, "gan.shift", gan.shift, possible)
    is_more = gan.mask_size < gan.mask_size_most <= 1
    possible = f"more than gan.mask_size ({gan.mask_size:g}) and at most 1"
    require(is_more, "gan.mask_size_most", gan.mask_size_most, possible)
    for table in ("images_at", "batch"):
        for key, value in getattr(schedule, table).items():
            is_power = is_power_of_two(key)
            require(is_power, f"schedule.{table}", key, "keyed by powers of two, at least 8")
            require(value >= 1, f"schedule.{table}.{key}", value, "at least 1")
    require(bool(schedule.batch), "schedule.batch", schedule.batch, "a size for a resolution")
    for name, rate in schedule.learning_rate.items():
        is_known = name == "default" or name.isdigit()
        require(is_known, "schedule.learning_rate", name, "keyed by `default` or a resolution")
        require(rate > 0, f"schedule.learning_rate.{name}", rate, "more than 0")
    for side in config.train.keep_stages or []:
        is_stage = is_power_of_two(side) and first <= side < last
        possible = f"null, or resolutions from {first} to below {last} (gan.resolution)"
        require(is_stage, "train.keep_stages", config.train.keep_stages, possible)
    side = config.student.resolution
    is_side = side == 0 or (side >= 8 and side % 8 == 0)
    require(is_side, "student.resolution", side, "0 or a multiple of 8")
    side = config.encoder.input_resolution
    require(side == 0 or side >= 8, "encoder.input_resolution", side, "0 or at least 8")


def require(condition: bool, field: str, value: Any, possible: str) -> None:
    """Raises UserError unless the condition holds; `possible` says what the value must be."""
    if not condition:
        raise UserError(f"{field}={value!r} is not possible; it must be {possible}")


def is_power_of_two(value: int) -> bool:
    """Returns whether a value is `POWER_OF_TWO`."""
    return value >= 8 and value & (value - 1) == 0


def _is_within(value: float, possible: str) -> bool:
    # Each comparison is false for NaN.
    if possible == POWER_OF_TWO:
        return is_power_of_two(int(value))
    if possible.startswith("at least "):
        return value >= float(possible.removeprefix("at least "))
    if possible.startswith("more than "):
        return value > float(possible.removeprefix("more than "))
    interval = _INTERVAL.match(possible)
    assert interval is not None, possible
    opening, least, most, closing = interval.groups()
    is_above = value >= float(least) if opening == "[" else value > float(least)
    is_below = value <= float(most) if closing == "]" else value < float(most)
    return is_above and is_below
