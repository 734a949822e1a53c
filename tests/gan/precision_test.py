import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import tiny_run_config

from layered_segmentation.gan.layered_gan import LayeredGAN
from layered_segmentation.gan.sampling import sample_layers


@pytest.mark.parametrize(
    "precision",
    [
        "float32",
        *(pytest.param(f"mixed_{low}", marks=pytest.mark.slow) for low in ("bfloat16", "float16")),
    ],
)
def test_a_fading_step_and_truncation_in_every_precision(precision):
    config = tiny_run_config(
        "gan.contrast_jitter=0.3",
        "schedule.batch={8: 4, 16: 4}",
        "schedule.images_per_stage=16",
        f"train.precision={precision}",
    )
    gan = LayeredGAN.from_run_config(config)
    gan.set_stage(gan.stages[1])
    real = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
    before = [np.array(v) for v in gan.generator.trainable_variables]
    gan.images_seen.assign(gan.stage.first_image + 4)
    logs = gan.make_train_function()(iter([tf.constant(real)]))
    assert all(np.isfinite(float(value)) for value in logs.values())
    after = [np.array(v) for v in gan.generator.trainable_variables]
    moved = [float(np.abs(a - b).max()) for a, b in zip(after, before, strict=True)]
    if precision == "mixed_float16":  # the first loss scale may overflow; then a step is skipped
        assert all(np.isfinite(a).all() for a in after)
    else:
        assert sum(m > 0 for m in moved) > len(moved) / 2
    layers = sample_layers(gan.average, 0, 2, truncation=0.7)
    assert layers.mask.dtype == np.float32 and np.isfinite(layers.background).all()
