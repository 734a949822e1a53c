"""What a model is given, checked: the settings of a `LayeredGAN`, and images to train on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation.errors import UserError

_ROUNDING = 1e-3


def config_of(resolution: int, settings: dict[str, Any]) -> configs.Config:
    """Returns a config whose section `gan` has the keyword arguments of a `LayeredGAN`.

    Args:
        resolution: Final image side; by default also that of the first stage.
        settings: Other fields of `GANConfig`.

    Raises:
        UserError: An unknown setting, or a value that is out of bounds.
    """
    known = [field.name for field in dataclasses.fields(configs.GANConfig)]
    for name in settings:
        if name not in known:
            raise UserError(
                f"LayeredGAN({name}=...): there is no such argument; there are seed, stages, "
                f"dtype and {', '.join(known)}"
            )
    gan = {"initial_resolution": resolution, **settings, "resolution": resolution}
    return configs.load("", [f"gan.{name}={value}" for name, value in gan.items()])


def prepare(data: Any) -> tf.Tensor:
    """Returns a batch's images as float32 in [-1, 1].

    Args:
        data: Images [B, R, R, 3], float in [-1, 1] or uint8, or a pair of images and labels, which
            are ignored.
    """
    values = tf.convert_to_tensor(images(data))
    if values.dtype == tf.uint8:
        return tf.cast(values, tf.float32) / 127.5 - 1.0
    return tf.cast(values, tf.float32)


def check(data: Any, resolution: int) -> None:
    """Checks a batch before it is used.

    Args:
        data: As for `prepare`.
        resolution: The side that images must have, pixels.

    Raises:
        UserError: Another shape, type or range.
    """
    values = np.asarray(images(data))
    if values.ndim != 4 or values.shape[1:] != (resolution, resolution, 3):
        raise UserError(
            f"images have the shape {list(values.shape)}; the model now trains on "
            f"[batch, {resolution}, {resolution}, 3]: resize them, for example with "
            "keras.ops.image.resize(images, size, antialias=True)"
        )
    if values.dtype == np.uint8:
        return
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"images are {values.dtype}; pass uint8, or float in [-1, 1]")
    least, most = float(np.min(values)), float(np.max(values))
    if not (least >= -1 - _ROUNDING and most <= 1 + _ROUNDING):
        raise UserError(
            f"images have values from {least:g} to {most:g}; pass uint8, or float in [-1, 1]: "
            "images / 127.5 - 1"
        )


def is_even(shares: Sequence[Any]) -> bool:
    """Returns whether all replicas have equally many images.

    The last batch of an epoch may not divide among the replicas. A mean over replicas is then not
    the mean over images, so such a batch is left out.

    Args:
        shares: The data of each replica.
    """
    if len(shares) == 1:
        return True
    return len({count(share) for share in shares}) == 1


def count(data: Any) -> int:
    """Returns the number of images of a batch, given as for `prepare`."""
    return int(images(data).shape[0])


def images(data: Any) -> Any:
    """Returns the images of a batch, given as for `prepare`, without its labels."""
    return keras.utils.unpack_x_y_sample_weight(data)[0]
