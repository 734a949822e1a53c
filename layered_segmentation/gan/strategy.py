"""Which devices train: one, or several that mirror the weights, on one machine or on several."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from layered_segmentation import files
from layered_segmentation.choices import Strategy
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.run_directory import RunDirectory
from layered_segmentation.schedule import stages


def open_strategy(config: Config, devices: Sequence[str] = ()) -> tf.distribute.Strategy:
    """Returns the strategy of a GAN's training, from a config and the --devices flag.

    Args:
        config: The experiment; `train.strategy` decides.
        devices: As for `on_devices`.

    Raises:
        UserError: As of `on_devices`.
    """
    name = config.train.strategy
    if name == Strategy.auto and config.train.jit_compile and len(devices) < 2:
        name = Strategy.one_device  # XLA cannot compile the exchange between replicas
    batches = {f"schedule.batch.{stage.resolution}": stage.batch for stage in stages(config)}
    return on_devices(devices, batches, name)


def on_devices(
    devices: Sequence[str], batches: Mapping[str, int], name: Strategy = Strategy.auto
) -> tf.distribute.Strategy:
    """Returns the strategy of a name.

    Args:
        devices: Names such as `GPU:0`. If empty, all accelerators, or all CPU devices; `auto`
            takes as many accelerators as all batches divide among.
        batches: Global batches by the name of their setting, each of which must divide among the
            replicas.
        name: Which strategy.

    Raises:
        UserError: A missing device, more devices than the strategy takes, or a batch that does not
            divide among the replicas.
    """
    if name == Strategy.multi_worker:  # before TensorFlow starts its devices
        return _open_workers(devices, batches)
    known = _known_devices(devices)
    accelerators = [device for device in known if not device.startswith("CPU")]
    chosen = list(devices)
    if name == Strategy.auto:
        chosen = chosen or _largest_share(accelerators, batches)
        name = Strategy.mirrored if len(chosen) > 1 else Strategy.one_device
    if name == Strategy.one_device:
        if len(chosen) > 1:
            raise UserError(
                f"--devices={','.join(chosen)}: train.strategy=one_device takes one; set "
                "--set=train.strategy=mirrored"
            )
        # On the only device the default strategy does the same with less overhead.
        if not devices and accelerators in ([], ["GPU:0"]):
            return tf.distribute.get_strategy()
        return tf.distribute.OneDeviceStrategy([*chosen, *accelerators][0])
    chosen = chosen or accelerators or known
    # Collectives between CPU devices can block each other on a machine of few cores.
    is_cpu = all(device.upper().startswith("CPU") for device in chosen)
    reduction = tf.distribute.ReductionToOneDevice() if is_cpu else None
    strategy = tf.distribute.MirroredStrategy(chosen, cross_device_ops=reduction)
    _require_divisible(batches, strategy.num_replicas_in_sync)
    return strategy


def devices_to_train_on(devices: Sequence[str]) -> list[str]:
    """Returns the devices for trainings that are independent of each other.

    Args:
        devices: As for `on_devices`. If empty, all accelerators, or the first CPU device.

    Raises:
        UserError: A missing device.
    """
    known = _known_devices(devices)
    accelerators = [device for device in known if not device.startswith("CPU")]
    return list(devices) or accelerators or known[:1]


def distribute(strategy: tf.distribute.Strategy, dataset: tf.data.Dataset) -> tf.data.Dataset | Any:
    """Distributes a dataset of per-replica elements to a strategy's replicas, in order."""
    if strategy.num_replicas_in_sync == 1:
        return dataset
    return strategy.distribute_datasets_from_function(lambda context: dataset)


def local_replicas(engine: tf.distribute.Strategy) -> range:
    """Returns the numbers of the replicas that this process trains."""
    resolver = engine.cluster_resolver
    if resolver is None:
        return range(engine.num_replicas_in_sync)
    count = engine.extended._num_devices_per_worker
    worker = engine.extended._id_in_cluster
    return range(worker * count, (worker + 1) * count)


def is_chief(engine: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes the run: it is the only one, or the first worker."""
    return local_replicas(engine).start == 0


def first_device(engine: tf.distribute.Strategy) -> str:
    """Returns the name of the first device that this process trains on."""
    return _worker_devices(engine)[0]


def details(device: str) -> dict[str, Any]:
    """Returns what TensorFlow knows of a device, such as `device_name`, by its name."""
    spec = tf.DeviceSpec.from_string(device)
    found = tf.config.list_physical_devices(spec.device_type or "CPU")
    first, *_ = found[spec.device_index or 0 :] or found or [None]
    known: dict[str, Any] = tf.config.experimental.get_device_details(first) if first else {}
    return known


def wait_for_workers(engine: tf.distribute.Strategy) -> None:
    """Returns once all workers have called it."""
    if engine.cluster_resolver is None:
        return

    def count() -> tf.Tensor:
        ones = engine.run(lambda: tf.constant(1.0))
        return engine.reduce(tf.distribute.ReduceOp.SUM, ones, axis=None)

    tf.function(count)()


@contextlib.contextmanager
def reports_lost_workers(config: Config) -> Iterator[None]:
    """Turns the errors that follow the end of another worker into a UserError."""
    try:
        yield
    except (
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,
        tf.errors.InternalError,
        tf.errors.UnavailableError,
        tf.errors.UnknownError,
    ) as error:
        if config.train.strategy != Strategy.multi_worker:
            raise
        reason = re.search("aborted by: .*", str(error)) or [str(error)]
        raise UserError(
            "another worker has ended or cannot be reached, so this one stops too; see that "
            "worker's output, then run the same command on all workers: training resumes from the "
            f"last checkpoint ({reason[0]})"
        ) from error


def note_machine(run: RunDirectory, engine: tf.distribute.Strategy, images_seen: int) -> None:
    """Records the machine of a session in the run, and prints what differs from the last one's.

    Args:
        run: The run.
        engine: The devices in use.
        images_seen: Of the checkpoint that training resumes from.
    """
    before, now = files.read_json(run.machine_path), _machine(engine)
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


def _open_workers(devices: Sequence[str], batches: Mapping[str, int]) -> tf.distribute.Strategy:
    if devices:
        raise UserError(
            f"--devices={','.join(devices)}: train.strategy=multi_worker uses all devices of every "
            "worker; hide some with CUDA_VISIBLE_DEVICES"
        )
    text = os.environ.get("TF_CONFIG", "")
    try:
        described = json.loads(text)
        hosts, task = described["cluster"]["worker"], described["task"]
        is_possible = task["type"] == "worker" and 0 <= int(task["index"]) < len(hosts)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        is_possible = False
    if not is_possible:
        raise UserError(
            f"TF_CONFIG={text!r} does not describe this worker; set it on each worker, as in "
            '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
            '"task": {"type": "worker", "index": 0}}'
        )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    _require_divisible(batches, strategy.num_replicas_in_sync)
    return strategy


def _known_devices(devices: Sequence[str]) -> list[str]:
    """Returns all devices; raises UserError if a named one is not among them."""
    known = [device.name.split("device:")[-1] for device in tf.config.list_logical_devices()]
    for device in devices:
        if device.upper() not in known:
            raise UserError(
                f"--devices={device}: there is no such device; there are {', '.join(known)}"
            )
    return known


def _largest_share(devices: list[str], batches: Mapping[str, int]) -> list[str]:
    """Returns as many of the devices as all batches divide among."""
    counts = range(len(devices), 0, -1)
    fitting = (n for n in counts if all(batch % n == 0 for batch in batches.values()))
    return devices[: next(fitting, 0)]


def _require_divisible(batches: Mapping[str, int], replicas: int) -> None:
    for name, batch in batches.items():
        if batch % replicas:
            raise UserError(
                f"{name}={batch} is not divisible by the {replicas} replicas; choose a multiple "
                f"of {replicas}"
            )


def _machine(engine: tf.distribute.Strategy) -> dict[str, Any]:
    """Returns what the last bits of a run depend on besides its config."""
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
        "devices": [_kind(name) for name in _worker_devices(engine)],
    }


def _worker_devices(engine: tf.distribute.Strategy) -> Sequence[str]:
    try:
        names: Sequence[str] = engine.extended.worker_devices
    except RuntimeError:  # the default strategy, of a machine with at most one accelerator
        has_gpu = bool(tf.config.list_logical_devices("GPU"))
        names = ["/device:GPU:0" if has_gpu else "/device:CPU:0"]
    return names


def _kind(device: str) -> str:
    """Returns a device's name: that of the GPU's model, or CPU."""
    kind = tf.DeviceSpec.from_string(device).device_type or "CPU"
    name: str = details(device).get("device_name", kind)
    return name


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
