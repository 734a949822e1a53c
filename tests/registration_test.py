"""Our classes are found by TensorFlow Datasets once `layered_segmentation.data` is imported."""

import subprocess
import sys

LIGHT = """
import sys
import layered_segmentation
heavy = [name for name in ("tensorflow", "tensorflow_datasets", "keras") if name in sys.modules]
assert not heavy, heavy
import layered_segmentation.data
import tensorflow_datasets as tfds
assert "tensorflow" not in sys.modules  # TFDS does not need it yet, nor do the builders
for name, config in (("lsun_objects", "tv-monitor"), ("cub200_segmentation", "redo")):
    assert config in tfds.builder_cls(name).builder_configs
"""


def test_builders_are_found_by_name():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_changes_no_import_machinery():
    program = (
        "import sys; before = list(sys.meta_path); import layered_segmentation; "
        "assert sys.meta_path == before; assert len(layered_segmentation.__path__) == 1"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
