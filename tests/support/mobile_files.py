"""What the tests of the code for phones and of the web page share."""

import os

import keras
import numpy as np
import tensorflow as tf

from layered_segmentation.export import signatures, tflite
from layered_segmentation.segmenter import domain
from layered_segmentation.segmenter.preprocessing import (
    crop_from_square,
    pad_to_square,
    resize_masks,
)
from layered_segmentation.segmenter.segmenter import create_segmenter

MOBILE = os.path.join(os.path.dirname(__file__), "..", "..", "export", "mobile")
SIDE = 16
LABEL = "flower & <leaf>"  # what must be escaped in HTML


def export(directory):
    """Exports an untrained segmenter, and returns the file's path."""
    path = str(directory / "segmenter.tflite")
    keras.utils.set_random_seed(0)  # its mask of the page's scene is neither empty nor full
    far = domain.Domain(np.zeros(24), 1e6 * np.eye(24))  # of photos that are unlike any other
    tflite.export_tflite(create_segmenter(8, SIDE), path, label=LABEL, statistics=far)
    return path


def saved_model_input(photo, pads):
    """Returns what the SavedModel's graph makes of a photo, before scaling: [S, S, 3]."""
    batch = photo[None].astype(np.float32)
    batch = pad_to_square(batch) if pads else batch
    return np.asarray(signatures.resize(tf.constant(batch), SIDE, SIDE))[0]


def photo_mask(mask, height, width, pads):
    """Returns a mask of the network at a photo's size, [H, W]."""
    size = [max(height, width)] * 2 if pads else [height, width]
    resized = resize_masks(mask[None, ..., None].astype(np.float32), *size)
    return np.asarray(crop_from_square(resized, height, width) if pads else resized)[0, ..., 0]
