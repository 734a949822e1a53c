"""One training step on one or two logical CPU devices; writes all weights to a file.

usage: replica_step.py REPLICAS scaled|unscaled OUT.npz
"""

import sys

import keras
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from layered_segmentation import config as configs  # noqa: E402
from layered_segmentation.gan import strategy  # noqa: E402
from layered_segmentation.gan.layered_gan import LayeredGAN  # noqa: E402

BATCH = 8


class Unscaled(LayeredGAN):
    """Forgets that Keras sums gradients over replicas."""

    def _scale(self, loss, optimizer):
        return loss / self._replicas, loss


def main(replicas: int, scaled: bool, path: str) -> None:
    config = configs.load(
        "",
        [
            "gan.resolution=16",
            "gan.latent_dim=8",
            "gan.mapping_layers=2",
            "gan.max_channels=8",
            "gan.contrast_jitter=0.3",
            "gan.minibatch_std=false",
            "gan.average_decay=0.5",
            f"schedule.batch={{8: {BATCH}, 16: {BATCH}}}",
            "schedule.images_per_stage=16",
            "train.strategy=mirrored",
        ],
    )
    engine = strategy.open_strategy(config, ["CPU:0", "CPU:1"][:replicas])
    assert engine.num_replicas_in_sync == replicas
    with engine.scope():
        gan = (LayeredGAN if scaled else Unscaled).from_run_config(config)
        # Adam forgives a wrong scale of the gradient, SGD does not.
        gan.compile(keras.optimizers.SGD(0.05), keras.optimizers.SGD(0.05))
    stage = gan.stages[1]
    gan.set_stage(stage)
    gan.images_seen.assign(stage.first_image + BATCH)  # halfway through the fade
    real = np.random.default_rng(0).uniform(-1, 1, (BATCH, 16, 16, 3)).astype(np.float32)
    share = BATCH // replicas
    data = tf.data.Dataset.from_tensor_slices(real).batch(share)
    logs = gan.make_train_function()(iter(strategy.distribute(engine, data)))
    arrays = {f"log_{name}": np.array(value) for name, value in logs.items()}
    for name in ("generator", "discriminator", "average"):
        for index, weight in enumerate(getattr(gan, name).get_weights()):
            arrays[f"{name}_{index}"] = weight
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "scaled", sys.argv[3])
