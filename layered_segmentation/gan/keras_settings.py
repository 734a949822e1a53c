"""What networks do not take from ~/.keras/keras.json, which the user has set for other programs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

DATA_FORMAT = "channels_last"


def policy(dtype: Any = None) -> Any:
    """Returns the dtype policy of a network: float32, unless one is named.

    A global policy of mixed precision applies, since it keeps the weights in float32; a global
    float type does not. In float16 the training diverges, and in float64 a file is not the same.

    Args:
        dtype: As of a Keras layer; None if the caller named none.
    """
    general = keras.config.dtype_policy()
    is_general = dtype is None or keras.dtype_policies.get(dtype).name == general.name
    # KerasHub's `from_preset` names the general one.
    if is_general and general.variable_dtype != "float32":
        return "float32"
    return general if dtype is None else dtype


@contextlib.contextmanager
def standard() -> Iterator[None]:
    """Sets Keras's data format and float type for the block, or for a function as a decorator.

    For what takes them from nowhere else: optimizers, learning rates, networks of KerasHub.
    """
    config = keras.config
    before = config.image_data_format(), config.floatx(), config.dtype_policy()
    config.set_image_data_format(DATA_FORMAT)
    config.set_floatx("float32")
    config.set_dtype_policy(policy())
    try:
        yield
    finally:
        config.set_image_data_format(before[0])
        config.set_floatx(before[1])
        config.set_dtype_policy(before[2])
