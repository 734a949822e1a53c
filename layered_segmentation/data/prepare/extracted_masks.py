"""Masks of prepared TensorFlow datasets as PNG of 0 and 255."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from layered_segmentation import images
from layered_segmentation.data.source import first_few
from layered_segmentation.errors import UserError

FEATURES = ("mask", "segmentation_mask")

_ORIENTATION = 0x0112  # EXIF's tag


def feature_of(info: Any) -> str:
    """Returns the feature of a dataset that is its photos' masks.

    Args:
        info: The dataset's `tfds.core.DatasetInfo`.

    Raises:
        UserError: There is none.
    """
    import tensorflow_datasets as tfds

    features = dict(info.features.items())
    for name in FEATURES:
        feature = features.get(name)
        if isinstance(feature, tfds.features.Image) and feature.shape[-1] == 1:
            return name
    raise UserError(
        f"--masks_out: {info.full_name} has no masks (a feature "
        f"{' or '.join(map(repr, FEATURES))} that is an image of one channel), only "
        f"{', '.join(sorted(features))}; leave --masks_out out"
    )


def to_png(file: bytes, photo: bytes, name: str, label: int | None = None) -> bytes:
    """Returns a mask as PNG of 0 and 255, upright as its photo will be read.

    Args:
        file: The mask as it is stored, of the photo's size as that is stored.
        photo: Its photo's file.
        name: What a message calls it.
        label: Value of the object; None if the mask has 0 and 1, or 0 and 255.

    Raises:
        photos.UnreadableImage: It cannot be read, or has another size than the photo.
        UserError: Its values are others.
    """
    try:
        with Image.open(io.BytesIO(photo)) as image:
            size, orientation = image.size, image.getexif().get(_ORIENTATION, 1)
        with Image.open(io.BytesIO(file)) as drawn:
            values = np.asarray(drawn if len(drawn.getbands()) == 1 else drawn.convert("L"))
    except Exception as error:  # Pillow raises nearly anything
        raise images.UnreadableImage("its mask cannot be read as an image") from error
    if values.shape != size[::-1]:
        raise images.UnreadableImage(
            f"its mask is {values.shape[1]} × {values.shape[0]}, the photo {size[0]} × {size[1]}"
        )
    if label is None:
        found = np.unique(values).tolist()
        if not (set(found) <= {0, 1} or set(found) <= {0, 255}):
            raise UserError(
                f"--masks_out: the mask of {name} holds {first_few(list(map(str, found)))}, not 0 "
                "and 1 or 0 and 255; if these are labels, name the object's with --mask_label"
            )
    is_object = values > 0 if label is None else values == label
    mask = Image.fromarray(images.to_uint8_mask(is_object))
    # TFDS looks at no orientation, we do.
    mask.getexif()[_ORIENTATION] = orientation
    png = io.BytesIO()
    ImageOps.exif_transpose(mask).save(png, format="PNG")
    return png.getvalue()
