"""Training of encoders on one and on two logical CPU devices; writes their weights.

usage: encoder_steps.py sgd|adam OUT.npz
"""

import sys

import keras
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from tiny_networks import tiny_config, tiny_networks  # noqa: E402

from layered_segmentation.data.scenes import Scenes  # noqa: E402
from layered_segmentation.segmenter import encoder  # noqa: E402
from layered_segmentation.segmenter.autoencoder import Autoencoder  # noqa: E402
from layered_segmentation.segmenter.encode import EncoderTrainer  # noqa: E402

encoder._BLOCKS = (1, 1, 1, 1)  # half as deep, as in the fixture `shallow_resnet`


def main(optimizer: str, path: str) -> None:
    rate = {"adam": 1e-3, "sgd": 0.005}[optimizer]
    if optimizer == "sgd":  # Adam forgives a wrong scale of the gradient, SGD does not
        Autoencoder.default_optimizers = lambda self: (keras.optimizers.SGD(),)
    config = tiny_config(iterations=5, learning_rate=rate)
    networks = tiny_networks(config)
    photos = Scenes(1, 24).load(16)
    chunks = photos[:9], photos[9:17], photos[17:]  # the last one has 7, and so has its batch
    arrays = {}
    for count in (1, 2):
        trainer = EncoderTrainer(*networks, config, ["CPU:0", "CPU:1"][:count])
        summary = trainer.train(photos, mirror=True)
        arrays[f"losses_{count}"] = np.array([summary.first_loss, summary.loss])
        weights = {"whole": trainer.segmenter.backbone.encoder.get_weights()}
        trainings = trainer.train_together(chunks)
        weights |= {f"chunk{place}": one.weights for place, one in enumerate(trainings)}
        for name, values in weights.items():
            arrays |= {f"{name}_{count}_{index}": value for index, value in enumerate(values)}
        kernels = [learner.encoder.dense.kernel.value for learner in trainer._learners]
        arrays[f"devices_{count}"] = np.array([kernel.device[-5:] for kernel in kernels])
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
