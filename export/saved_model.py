"""Exports a segmenter as a SavedModel, from a checkout: `layerseg export --format=saved_model`.

Example:
  python export/saved_model.py --segmenter=RUN --out=MODELS/layerseg
"""

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from layered_segmentation.cli import export  # noqa: E402

if __name__ == "__main__":
    export.run_format("saved_model")
