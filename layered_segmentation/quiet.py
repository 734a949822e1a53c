"""Imports TensorFlow without its start-up notes; errors are still shown.

TF_CPP_MIN_LOG_LEVEL does not silence TensorFlow's libraries while they load. So stderr goes to a
file during the import, and all lines but these notes are printed afterwards.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_NOTES = re.compile(
    rb"^(WARNING: All log messages before absl::InitializeLog|I0000 |"
    rb"To enable the following instructions|INFO: Created TensorFlow Lite )"
)


def import_tensorflow(logical_cpus: int = 1) -> None:
    """Imports TensorFlow and Keras for a command; call it before any other module imports them.

    What the user has set for other Keras programs does not apply: neither the data format and
    float type of ~/.keras/keras.json nor TF_USE_LEGACY_KERAS.

    Args:
        logical_cpus: Number of devices to split the CPU into.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    if "tensorflow" not in sys.modules:
        with without_notes():
            import tensorflow as tf

        # Each round of self-training traces functions of its own.
        tf.get_logger().addFilter(lambda record: "tf.function retracing" not in record.getMessage())
    import keras

    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    if logical_cpus > 1:
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * logical_cpus,
        )


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Leaves out what TensorFlow's and LiteRT's libraries note on stderr in the block."""
    try:
        sys.stderr.flush()
        screen = os.dup(2)
    except (OSError, AttributeError):  # no error stream at all
        yield
        return
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            aside.seek(0)
            for line in aside:
                if not _NOTES.match(line):
                    os.write(2, line)
