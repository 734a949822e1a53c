"""Training steps on one or two logical CPU devices, across two stages; writes all weights.

usage: replica_steps.py REPLICAS whole|unscaled|alone|lazy|simultaneous|float16 OUT.npz

`lazy` leaves out what it can: penalties, updates of the average, a second pass of the generator.
`simultaneous` also shares the pass through the discriminator.

`float16` takes steps of one stage in mixed precision, one of which overflows on the last replica
alone, and writes loss scales and weights of every replica after each step.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from tiny_networks import random_student, tiny_run_config  # noqa: E402

from layered_segmentation.gan import strategy  # noqa: E402
from layered_segmentation.gan.layered_gan import LayeredGAN  # noqa: E402

BATCH = 8
STEPS = 3  # of each stage
LAZY = ["gan.penalty_every=2", "gan.average_every=3", "gan.shared_pass=true"]


class Unscaled(LayeredGAN):
    """Forgets that Keras sums gradients over replicas."""

    def _scale(self, loss, optimizer):
        return loss / self._replicas, loss


class Alone(LayeredGAN):
    """Takes the minibatch standard deviation over each replica's own images."""

    def _mean_of_replicas(self, value):
        return value


def main(replicas: int, how: str, path: str) -> None:
    config = tiny_run_config(
        "gan.contrast_jitter=0.3",
        "gan.augment=0.5",
        "gan.background_swap=0.5",
        "gan.independence=0.5",
        "gan.scale=1.25",
        "gan.background_student_weight=0.1",
        "gan.average_decay=0.5",
        f"schedule.batch={{8: {BATCH}, 16: {BATCH}}}",
        f"schedule.images_per_stage={STEPS * BATCH}",
        "train.strategy=mirrored",
        *(["train.precision=mixed_float16"] if how == "float16" else []),
        *(LAZY if how in ("lazy", "simultaneous") else []),
        *(["gan.simultaneous=true"] if how == "simultaneous" else []),
    )
    engine = strategy.open_strategy(config, ["CPU:0", "CPU:1"][:replicas])
    assert engine.num_replicas_in_sync == replicas
    with engine.scope():
        kind = {"unscaled": Unscaled, "alone": Alone}.get(how, LayeredGAN)
        gan = kind.from_run_config(config, student=random_student())
        # Adam forgives a wrong scale of the gradient, SGD does not.
        gan.compile(keras.optimizers.SGD(0.02), keras.optimizers.SGD(0.02))
    if how == "float16":
        np.savez(path, **steps_in_float16(engine, gan))
        return
    arrays = {}
    for stage in gan.stages:
        gan.set_stage(stage)
        side = stage.resolution
        real = np.random.default_rng(side).uniform(-1, 1, (STEPS * BATCH, side, side, 3))
        shares = tf.data.Dataset.from_tensor_slices(real.astype(np.float32))
        iterator = iter(strategy.distribute(engine, shares.batch(BATCH // replicas)))
        for step in range(STEPS):
            logs = gan.make_train_function()(iterator)
            arrays |= {f"log_{side}_{step}_{name}": np.array(v) for name, v in logs.items()}
    for name in ("generator", "discriminator", "average"):
        for index, weight in enumerate(getattr(gan, name).get_weights()):
            arrays[f"{name}_{index}"] = weight
    arrays["images_seen"] = np.array(gan.images_seen.value)
    np.savez(path, **arrays)


def steps_in_float16(engine, gan):
    """Takes eight steps at 8 px; the last image of the seventh batch overflows in float16."""
    real = np.random.default_rng(0).uniform(-1, 1, (8, BATCH, 8, 8, 3)).astype(np.float32)
    real[6, -1] = 1e6
    shares = tf.data.Dataset.from_tensor_slices(real).unbatch()
    replicas = engine.num_replicas_in_sync
    iterator = iter(strategy.distribute(engine, shares.batch(BATCH // replicas)))
    arrays = {}
    for step in range(len(real)):
        gan.make_train_function()(iterator)
        scale = gan.discriminator_optimizer.dynamic_scale
        for name, variables in (("scale", [scale]), ("weight", gan.discriminator.variables)):
            for index, variable in enumerate(variables):
                values = engine.experimental_local_results(variable.value)
                arrays[f"{name}_{step}_{index}"] = np.stack([np.array(value) for value in values])
    return arrays


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
