"""Segments photos on TensorFlow Serving, from a checkout: `layerseg client`.

Example:
  python export/serving/client.py --input=PHOTOS --out=MASKS --server=localhost:8500
"""

import os
import sys

sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")

from layered_segmentation.cli import app, client  # noqa: E402

if __name__ == "__main__":
    app.run(client.main)
