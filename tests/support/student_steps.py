"""Training steps of a student on one or two logical CPU devices; writes its weights and masks.

usage: student_steps.py REPLICAS OUT.npz
"""

import dataclasses
import sys

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from layered_segmentation.config import StudentConfig  # noqa: E402
from layered_segmentation.data.scenes import Scenes  # noqa: E402
from layered_segmentation.segmenter import fit  # noqa: E402
from layered_segmentation.segmenter.segmenter import create_segmenter  # noqa: E402


def main(replicas: int, path: str) -> None:
    engine = (
        tf.distribute.get_strategy()
        if replicas == 1
        else tf.distribute.MirroredStrategy(
            ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
        )
    )
    pool = fit.Pool.from_pairs(*Scenes(1, 16).load_pairs(16))
    pool = dataclasses.replace(pool, background_swap=0.5, scale=1.25)
    with engine.scope():
        segmenter = create_segmenter(4, 16)
        fit.initialise(segmenter, 0)
        settings = StudentConfig(width=4, steps=6, batch=8, learning_rate=1e-3)
        summary = fit.fit(segmenter, pool, settings, 0)
    arrays = {str(index): weight for index, weight in enumerate(segmenter.get_weights())}
    arrays |= {"loss": summary.loss, "agreement": summary.agreement}
    arrays["masks"] = segmenter.predict_masks(Scenes(2, 24).load_pairs(3)[0])
    segmenter.save_to_preset(path.removesuffix(".npz"))
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
