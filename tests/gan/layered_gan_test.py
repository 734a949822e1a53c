"""`LayeredGAN` as a Keras user holds it."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from layered_segmentation import LayeredGAN, UserError, compose
from layered_segmentation import config as configs
from layered_segmentation.gan.draws import Purpose

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZES = {"latent_dim": 8, "mapping_layers": 1, "max_channels": 4, "contrast_jitter": 0.3}
LOSSES = {
    "d_loss",
    "g_loss",
    "wasserstein",
    "gradient_penalty",
    "coverage",
    "binarisation",
}


def photos(count=12, side=8):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def as_floats(images):
    return (images / np.float32(127.5) - 1).astype(np.float32)


def create(resolution=8, **changes):
    gan = LayeredGAN(resolution, **{**SIZES, **changes})
    gan.compile()
    return gan


def state(gan):
    parts = (gan, gan.generator_optimizer, gan.discriminator_optimizer)
    return [np.asarray(variable.value) for part in parts for variable in part.variables]


def assert_same(one, other):
    for here, there in zip(state(one), state(other), strict=True):
        np.testing.assert_array_equal(here, there)


@pytest.fixture
def draws(monkeypatch):
    """Notes the place and the purpose of each step's draws."""
    noted, step_draws = [], LayeredGAN._draws

    def noting(gan, place, purpose, batch):
        noted.append((int(place), purpose.name, batch))
        return step_draws(gan, place, purpose, batch)

    monkeypatch.setattr(LayeredGAN, "_draws", noting)
    return noted


@pytest.fixture
def trained(eagerly):
    gan = create()
    gan.fit(photos(), batch_size=8, epochs=2, verbose=0, shuffle=False)
    return gan


@pytest.mark.slow
def test_the_readmes_example_runs(tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        if "LayeredGAN" in block
    ]
    assert len(example.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    names = {"images": photos(40, 16)}
    exec(example, names)
    assert names["layers"].mask.shape == (8, 16, 16, 1)
    loaded = keras.models.load_model("gan.keras")
    assert int(loaded.images_seen.numpy()) == 80


def test_every_step_of_every_epoch_draws_anew(draws, eagerly):
    gan = create()
    gan.fit(photos(), batch_size=8, epochs=2, verbose=0)
    assert draws == [
        (place, purpose, batch)
        for place, batch in ((0, 8), (8, 4), (12, 8), (20, 4))
        for purpose in ("DISCRIMINATOR", "GENERATOR")
    ]
    assert int(gan.images_seen.numpy()) == 24


def test_arrays_and_datasets_of_integers_and_floats_train_alike(trained):
    images = photos()
    labelled = tf.data.Dataset.from_tensor_slices((as_floats(images), range(12))).batch(8)
    floats = create()
    floats.fit(labelled, epochs=2, verbose=0)
    assert_same(trained, floats)


def test_the_losses_are_means_over_the_epoch(eagerly):
    steps = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: steps.append({k: float(v) for k, v in logs.items()})
    )
    history = create().fit(photos(), batch_size=4, verbose=0, callbacks=[note]).history
    assert set(history) == {*LOSSES, "alpha"}
    assert len(steps) == 3
    for name, (value,) in history.items():
        assert value == pytest.approx(np.mean([step[name] for step in steps]), rel=1e-5)


def test_a_saved_gan_goes_on_as_if_it_had_not_been_saved(trained, tmp_path):
    path = tmp_path / "gan.keras"
    trained.save(path)
    loaded = keras.models.load_model(path)
    assert int(loaded.images_seen.numpy()) == 24
    assert_same(trained, loaded)
    assert loaded.get_config() == trained.get_config()
    twin = keras.models.load_model(path)
    for gan in (loaded, twin):
        gan.fit(photos(), batch_size=8, verbose=0, shuffle=False)
    assert_same(loaded, twin)
    uninterrupted = create()
    uninterrupted.fit(photos(), batch_size=8, epochs=3, verbose=0, shuffle=False)
    assert_same(uninterrupted, loaded)


def test_a_gan_of_a_progressive_run_keeps_its_stage(tmp_path):
    config = configs.load("", ["gan.resolution=16", "schedule.batch={8: 8, 16: 4}"])
    for name, value in SIZES.items():
        setattr(config.gan, name, value)
    gan = LayeredGAN.from_run_config(config)
    gan.set_stage(gan.stages[1])
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert loaded.stages == gan.stages and loaded.stage == gan.stage
    assert loaded.generate(1).mask.shape == (1, 16, 16, 1)


def test_optimizers_given_to_compile_are_used_and_saved(tmp_path, eagerly):
    gan = create()
    gan.compile(keras.optimizers.SGD(0.0), "sgd")
    before = [np.array(v.value) for v in gan.generator.trainable_variables]
    judge = [np.array(v.value) for v in gan.discriminator.trainable_variables]
    gan.fit(photos(), batch_size=8, verbose=0)
    for variable, value in zip(gan.generator.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    moved = zip(gan.discriminator.trainable_variables, judge, strict=True)
    assert max(np.abs(np.asarray(v.value) - value).max() for v, value in moved) > 1e-4
    gan.set_stage(gan.stages[0])
    assert float(gan.generator_optimizer.learning_rate) == 0.0
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert type(loaded.discriminator_optimizer) is keras.optimizers.SGD
    assert float(loaded.generator_optimizer.learning_rate) == 0.0


def test_half_precision_scales_the_losses_of_given_optimizers():
    gan = LayeredGAN(8, dtype="mixed_float16", **SIZES)
    gan.compile(keras.optimizers.SGD(0.1))
    for optimizer in (gan.generator_optimizer, gan.discriminator_optimizer):
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert gan.average(np.zeros((1, 8), "float32")).mask.dtype == "float32"


def test_what_compile_cannot_use_is_refused():
    gan = LayeredGAN(8, **SIZES)
    with pytest.raises(UserError, match=r"compile\(optimizer, loss=...\).*generator_optimizer"):
        gan.compile(optimizer="adam", loss="mse")
    same = keras.optimizers.Adam()
    with pytest.raises(UserError, match="the same object, 'adam"):
        gan.compile(same, same)


def test_wrong_arguments_are_refused():
    with pytest.raises(UserError, match=r"LayeredGAN\(masksize=...\).*mask_size"):
        LayeredGAN(8, masksize=0.2)
    with pytest.raises(UserError, match=r"gan.mask_size=2.0 is not possible"):
        LayeredGAN(8, mask_size=2.0)
    with pytest.raises(UserError, match=r"gan.resolution=12 is not possible"):
        LayeredGAN(12)


@pytest.mark.parametrize(
    "images, message",
    [
        (photos().astype(np.float32), r"values from 0 to 255; pass uint8, or float in \[-1, 1\]"),
        (photos().astype(np.int64), "int64; pass uint8"),
        (photos(side=16), r"shape \[8, 16, 16, 3\].*\[batch, 8, 8, 3\]"),
        (photos()[..., :1], r"shape \[8, 8, 8, 1\]"),
        (np.full((8, 8, 8, 3), np.nan, np.float32), "values from nan to nan"),
    ],
    ids=["levels", "integers", "side", "grey", "nan"],
)
def test_unusable_images_are_refused(images, message):
    gan = create()
    for use in (gan.fit, gan.evaluate):
        with pytest.raises(UserError, match=message):
            use(images, batch_size=8, verbose=0)


def test_evaluate_repeats_itself_and_changes_nothing(trained):
    before = state(trained)
    first, again = (
        trained.evaluate(photos(), batch_size=8, verbose=0, return_dict=True) for _ in range(2)
    )
    assert first == again and set(first) == LOSSES
    assert all(np.isfinite(value) for value in first.values())
    # The counter of evaluated images is the only variable that moves.
    changed = [np.any(a != b) for a, b in zip(before, state(trained), strict=True)]
    assert sum(changed) <= 1
    history = trained.fit(
        photos(), batch_size=8, verbose=0, validation_data=photos(), shuffle=False
    ).history
    assert {f"val_{name}" for name in LOSSES} < set(history)


def test_evaluate_gives_the_losses_that_a_step_starts_from(eagerly, monkeypatch):
    gan = create()
    draws = gan._draws(tf.constant(0, tf.int64), Purpose.DISCRIMINATOR, 8)
    with monkeypatch.context() as patch:
        patch.setattr(gan, "_draws", lambda *place: draws)
        tested = gan.test_step(photos(8))
    trained = gan.train_step(photos(8))
    for name in ("d_loss", "wasserstein", "gradient_penalty"):
        assert float(tested[name]) == pytest.approx(float(trained[name]), rel=1e-5)


def test_generated_scenes_depend_on_their_seed_alone(trained):
    layers = trained.generate(3, seed=5)
    assert compose(layers).shape == (3, 8, 8, 3) and layers.mask.shape == (3, 8, 8, 1)
    for here, there in zip(layers, trained.generate(3, seed=5), strict=True):
        np.testing.assert_array_equal(here, there)
    assert np.abs(layers.background - trained.generate(3, seed=6).background).max() > 1e-3
    centre = trained.generate(3, truncation=0.0)
    np.testing.assert_allclose(centre.mask[0], centre.mask[1], atol=0.1)
    assert np.abs(centre.mask - trained.generate(3).mask).max() > 1e-3


def test_call_and_predict_draw_the_layers_of_latents(trained):
    latents = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    layers = trained(latents)
    assert layers.mask.shape == (3, 8, 8, 1)
    for here, there in zip(trained.predict(latents, verbose=0), layers, strict=True):
        np.testing.assert_allclose(here, there, atol=1e-5)


@pytest.mark.slow
def test_callbacks_work(tmp_path, eagerly):
    gan = create()
    callbacks = [
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", "g_loss", mode="min", save_best_only=True
        ),
        keras.callbacks.EarlyStopping("g_loss", mode="min", patience=0, min_delta=1e9),
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
        keras.callbacks.TensorBoard(str(tmp_path / "board")),
        keras.callbacks.LearningRateScheduler(lambda epoch: 1e-4),
        keras.callbacks.BackupAndRestore(str(tmp_path / "backup")),
    ]
    history = gan.fit(photos(), batch_size=8, epochs=5, verbose=0, callbacks=callbacks)
    assert len(history.epoch) == 2  # stopped early
    assert int(keras.models.load_model(tmp_path / "best.keras").images_seen.numpy()) == 12
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert float(gan.generator_optimizer.learning_rate) == pytest.approx(1e-4)


REPLICAS = """
import sys
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
from layered_segmentation import LayeredGAN
images = np.random.default_rng(0).integers(0, 256, (13, 8, 8, 3), np.uint8)
reduction = tf.distribute.ReductionToOneDevice()
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], reduction).scope():
    gan = LayeredGAN(8, latent_dim=8, mapping_layers=1, max_channels=4)
gan.compile()
history = gan.fit(images, batch_size=4, epochs=2, verbose=0, validation_data=images).history
assert int(gan.images_seen.numpy()) == 24, gan.images_seen  # the 13th image has no partner
assert np.isfinite(history["g_loss"]).all() and np.isfinite(history["val_g_loss"]).all()
gan.save(sys.argv[1])
loaded = keras.models.load_model(sys.argv[1])
for one, other in zip(gan.variables, loaded.variables, strict=True):
    np.testing.assert_array_equal(one, other)
assert gan.generate(2).mask.shape == (2, 8, 8, 1)
"""


@pytest.mark.slow
def test_a_gan_trains_on_two_replicas(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS, str(tmp_path / "gan.keras")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
