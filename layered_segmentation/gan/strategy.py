"""Which devices train: one, or several that mirror the weights."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from layered_segmentation.config import Config, Strategy
from layered_segmentation.errors import UserError
from layered_segmentation.schedule import stages


def open_strategy(config: Config, devices: Sequence[str] = ()) -> tf.distribute.Strategy:
    """Returns the strategy that a config and the --devices flag name.

    Args:
        config: The experiment; `train.strategy` decides.
        devices: Names such as `GPU:0`; all accelerators, or all CPU devices, if empty.

    Raises:
        UserError: A missing device, more devices than the strategy takes, or a batch that does not
            divide among the replicas.
    """
    known = [device.name.split("device:")[-1] for device in tf.config.list_logical_devices()]
    for device in devices:
        if device.upper() not in known:
            raise UserError(
                f"--devices={device}: there is no such device; there are {', '.join(known)}"
            )
    name = config.train.strategy
    if name == Strategy.multi_worker:
        raise UserError(
            "train.strategy=multi_worker is not available in this version; "
            "train.strategy=mirrored uses all devices of one machine"
        )
    if name == Strategy.one_device:
        if len(devices) > 1:
            raise UserError(
                f"--devices={','.join(devices)}: train.strategy=one_device takes one; set "
                "--set=train.strategy=mirrored"
            )
        accelerators = [device for device in known if not device.startswith("CPU")]
        chosen = devices[0] if devices else [*accelerators, "CPU:0"][0]
        # On the only device the default strategy does the same with less overhead.
        is_default = not devices and not accelerators
        if is_default:
            return tf.distribute.get_strategy()
        return tf.distribute.OneDeviceStrategy(chosen)
    gpus = [device for device in known if device.startswith("GPU")]
    chosen = list(devices) or gpus or known
    # Collectives between CPU devices can block each other on a machine of few cores.
    is_cpu = all(device.upper().startswith("CPU") for device in chosen)
    reduction = tf.distribute.ReductionToOneDevice() if is_cpu else None
    strategy = tf.distribute.MirroredStrategy(chosen, cross_device_ops=reduction)
    _require_divisible(config, strategy.num_replicas_in_sync)
    return strategy


def distribute(strategy: tf.distribute.Strategy, dataset: tf.data.Dataset) -> tf.data.Dataset | Any:
    """Distributes a dataset of per-replica elements to a strategy's replicas, in order."""
    if strategy.num_replicas_in_sync == 1:
        return dataset
    return strategy.distribute_datasets_from_function(lambda context: dataset)


def _require_divisible(config: Config, replicas: int) -> None:
    for stage in stages(config):
        if stage.batch % replicas:
            raise UserError(
                f"schedule.batch.{stage.resolution}={stage.batch} is not divisible by the "
                f"{replicas} replicas; choose a multiple of {replicas}"
            )
