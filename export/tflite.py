"""Exports a segmenter as a TFLite file, from a checkout: `layerseg export --format=tflite`.

Example:
  python export/tflite.py --segmenter=RUN --out=segmenter.tflite --quantize=float16
"""

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from layered_segmentation.cli import export  # noqa: E402

if __name__ == "__main__":
    export.run_format("tflite")
