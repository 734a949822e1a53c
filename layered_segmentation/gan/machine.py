"""What a run's last bits depend on besides its config: kept with the run, compared on resume."""

import os
import sys
from typing import Any

import tensorflow as tf

from layered_segmentation import files
from layered_segmentation.run_directory import RunDirectory


def describe(engine: tf.distribute.Strategy) -> dict[str, Any]:
    """Returns the versions, threads, kernels and devices in use."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    threading = tf.config.threading
    threads = {
        "intra_op_threads": threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": threading.get_inter_op_parallelism_threads(),
    }
    for name in threads:
        variable = f"TF_NUM_{name.split('_')[0].upper()}OP_THREADS"
        threads[name] = threads[name] or _number(os.environ.get(variable)) or cores
    return {
        "tensorflow": tf.__version__,
        **threads,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "devices": _devices(engine),
    }


def note(run: RunDirectory, engine: tf.distribute.Strategy, images_seen: int) -> None:
    """Records the machine of a session in the run, and prints what differs from the last one's.

    Args:
        run: The run.
        engine: The devices in use.
        images_seen: Of the checkpoint that training resumes from.
    """
    before, now = files.read_json(run.machine_path), describe(engine)
    if images_seen and isinstance(before, dict):
        changes = [
            f"{name} {before[name]} then, {value} now"
            for name, value in now.items()
            if before.get(name, value) != value
        ]
        if changes:
            print(
                f"note: not the machine or settings of the last session ({'; '.join(changes)}): "
                "the run goes on, but sums may be rounded otherwise, so it may not end the same "
                "bit for bit",
                file=sys.stderr,
                flush=True,
            )
    if now != before:
        files.write_json(run.machine_path, now)


def _devices(engine: tf.distribute.Strategy) -> list[str]:
    try:
        names = engine.extended.worker_devices
    except RuntimeError:  # the default strategy, of a machine without accelerators
        names = ["/device:CPU:0"]
    return [_kind(name) for name in names]


def _kind(device: str) -> str:
    """Returns a device's name: that of the GPU's model, or CPU."""
    kind = tf.DeviceSpec.from_string(device).device_type or "CPU"
    found = tf.config.list_physical_devices(kind)
    details = tf.config.experimental.get_device_details(found[0]) if found else {}
    name: str = details.get("device_name", kind)
    return name


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
