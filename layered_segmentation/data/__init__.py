"""Photos for training; importing it registers our builders with TensorFlow Datasets."""

import importlib.util

if importlib.util.find_spec("tensorflow_datasets"):  # an extra: `pip install '.[tfds]'`
    from layered_segmentation.data.prepare import cub as cub
    from layered_segmentation.data.prepare import lsun as lsun
