"""What a model server returned, checked: a server is not trusted to return masks."""

import json
from typing import Any

import numpy as np

MOST_BYTES = 1 << 28  # of an answer: 64 masks of 1024 × 1024 pixels

_SLACK = 1e-6  # how far rounding may take a probability out of [0, 1]


class WrongAnswer(Exception):
    """The answer is not masks; the message describes the answer."""


def masks_of(masks: Any, valid: Any, count: int) -> tuple[np.ndarray, bool]:
    """Returns the masks of an answer; the only check, for every protocol.

    Args:
        masks: The output `masks`; anything.
        valid: The output `valid`; anything, None if the model has none.
        count: Number of images sent.

    Returns:
        The masks, float32 [count, R, R, 1] in [0, 1], and whether the server decoded all images.

    Raises:
        WrongAnswer: They are not masks, or the flags are not bool [count].
    """
    is_array = isinstance(masks, np.ndarray)
    found = f"{masks.dtype} {list(masks.shape)}" if is_array else "no masks"
    if not is_array or masks.dtype != np.float32 or masks.ndim != 4 or not masks.size:
        raise WrongAnswer(found)
    if masks.shape != (count, masks.shape[1], masks.shape[1], 1):
        raise WrongAnswer(found)
    if not np.isfinite(masks).all():
        raise WrongAnswer(f"{found} with values that are not finite")
    if masks.min() < -_SLACK or masks.max() > 1 + _SLACK:
        raise WrongAnswer(f"{found} from {masks.min():g} to {masks.max():g}")
    if valid is None:
        valid = np.ones(count, bool)
    if not isinstance(valid, np.ndarray) or valid.dtype != bool or valid.shape != (count,):
        raise WrongAnswer(f"{found} without a `valid` flag for each image")
    return np.clip(masks, 0, 1), bool(valid.all())


def from_message(name: str, message: Any) -> np.ndarray:
    """Converts a tensor message of gRPC; a short message may declare a far larger tensor.

    Args:
        name: The output's name.
        message: A TensorProto.

    Raises:
        WrongAnswer: It is too large, or contradicts itself.
    """
    import tensorflow as tf

    shape = [dimension.size for dimension in message.tensor_shape.dim]
    if min(shape, default=1) < 0 or 4 * np.prod(shape, dtype=np.float64) > MOST_BYTES:
        raise WrongAnswer(f"{name} {shape}")
    try:
        array: np.ndarray = tf.make_ndarray(message)
    except (TypeError, ValueError) as error:
        raise WrongAnswer(f"{name} that cannot be read ({error})") from error
    return array


def from_json(content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the masks and the flags of a REST answer; None if the model has no flags.

    A model with one output returns rows of it; a model with several, rows of objects.

    Raises:
        WrongAnswer: It is not a model server's.
    """
    try:
        rows = json.loads(content)["predictions"]
        if not any(isinstance(row, dict) for row in rows):
            return _floats(rows), None
        masks, valid = ([row[name] for row in rows] for name in ("masks", "valid"))
        return _floats(masks), np.asarray(valid)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise WrongAnswer(repr(content[:80])) from error


def _floats(rows: Any) -> np.ndarray:
    array = np.asarray(rows)
    # JSON does not tell 1 from 1.0. Text that looks like numbers stays text.
    return array.astype(np.float32) if array.dtype.kind in "fi" else array
