"""Photos for training. Importing it registers the sources by name, and the builders with TFDS."""

import importlib.util

from layered_segmentation.data import folder as folder
from layered_segmentation.data import scenes as scenes
from layered_segmentation.data import tfds as tfds

if importlib.util.find_spec("tensorflow_datasets"):  # an extra: `pip install '.[tfds]'`
    from layered_segmentation.data.prepare import cub as cub
    from layered_segmentation.data.prepare import lsun as lsun
