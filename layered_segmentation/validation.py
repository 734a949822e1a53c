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
