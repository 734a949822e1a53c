"""Records that this package has written: JSON, checked against a shape before it is used.

A record may be cut off, edited, or of another version. What does not have its shape counts as
damaged, so that no reader meets a value that it does not expect.

A shape is a function that accepts a value; a dictionary of shapes, of which `optional` ones may be
absent and to which other keys may be added; or a list of one shape, of all items.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from layered_segmentation import files

Shape = Callable[[Any], bool] | Mapping[str, Any] | list[Any]

_MOST = 1e15  # far above any number that is recorded


def is_number(value: Any) -> bool:
    """Accepts a finite number."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) < _MOST and math.isfinite(value)


def is_count(value: Any) -> bool:
    """Accepts a whole number from 0."""
    return isinstance(value, int) and is_number(value) and value >= 0


def is_duration(value: Any) -> bool:
    """Accepts a number from 0, such as seconds or a speed."""
    return is_number(value) and value >= 0


def is_text(value: Any) -> bool:
    """Accepts a text."""
    return isinstance(value, str)


def is_inner_path(value: Any) -> bool:
    """Accepts a relative path that stays in the directory it is joined to."""
    if not is_text(value) or "\0" in value or not value:
        return False
    parts = value.replace(os.sep, "/").split("/")
    return ".." not in parts and not os.path.isabs(value) and not os.path.splitdrive(value)[0]


def is_anything(value: Any) -> bool:
    """Accepts any value; the key must be there."""
    return True


def nullable(shape: Shape) -> Shape:
    """Returns a shape that accepts null too."""
    return lambda value: value is None or matches(value, shape)


def table(shape: Shape) -> Shape:
    """Returns the shape of a dictionary of any keys whose values have a shape."""
    return lambda value: isinstance(value, dict) and matches(list(value.values()), [shape])


class _Optional:
    """A shape whose key may be absent."""

    def __init__(self, shape: Shape):
        self.shape = shape


def optional(shape: Shape) -> Any:
    """Returns a shape for a key that may be absent; null is like absent."""
    return _Optional(nullable(shape))


def matches(value: Any, shape: Shape) -> bool:
    """Returns whether a JSON value has a shape."""
    if isinstance(shape, list):
        return isinstance(value, list) and all(matches(item, shape[0]) for item in value)
    if not isinstance(shape, Mapping):
        return shape(value)
    if not isinstance(value, dict):
        return False
    for key, part in shape.items():
        if isinstance(part, _Optional):
            if not matches(value.get(key), part.shape):
                return False
        elif key not in value or not matches(value[key], part):
            return False
    return True


def read(path: str, shape: Shape) -> Any:
    """Returns the content of a JSON file, or None if there is no file or it is damaged."""
    value = files.read_json(path)
    return value if matches(value, shape) else None


def parse(text: str, shape: Shape) -> Any:
    """Returns the JSON value of a text, or None if it is damaged."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if matches(value, shape) else None
