"""The encoder's training as a Keras model, and on several devices."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny_networks import tiny_config, tiny_networks

from layered_segmentation import Autoencoder, Encoder, UserError, compose
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.gan import losses
from layered_segmentation.segmenter.autoencoder import initialise

SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "encoder_steps.py"


@pytest.fixture(scope="module")
def photos():
    return Scenes(1, 12).load(16)


def create():
    generator, discriminator = tiny_networks(tiny_config())
    encoder = Encoder(generator.codes_shape, input_resolution=16, max_channels=64)
    initialise(encoder, generator, seed=0)
    autoencoder = Autoencoder(generator, discriminator, encoder)
    autoencoder.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)
    return autoencoder


@pytest.mark.slow
@pytest.mark.usefixtures("shallow_resnet")
def test_it_trains_and_is_evaluated_saved_and_loaded_as_any_keras_model(photos, tmp_path):
    autoencoder = create()
    frozen = autoencoder.generator, autoencoder.discriminator
    before = [network.get_weights() for network in frozen]
    steps = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: steps.append(logs))
    history = autoencoder.fit(photos, batch_size=4, epochs=3, verbose=0, callbacks=[watch]).history
    assert len(steps) == 9 and set(steps[0]) == {"loss", "pixel_loss"}
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["loss"][0] == pytest.approx(np.mean([logs["loss"] for logs in steps[:3]]))
    for network, weights in zip(frozen, before, strict=True):
        for actual, expected in zip(network.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(actual, expected)

    autoencoder.recompute_norms(photos)
    images = photos / np.float32(127.5) - np.float32(1)
    drawn = compose(autoencoder(photos))
    features = [autoencoder.discriminator.features(batch, side=8) for batch in (drawn, images)]
    losses_of = autoencoder.evaluate(photos, batch_size=4, verbose=0, return_dict=True)
    assert losses_of["loss"] == pytest.approx(
        float(losses.encoder(drawn, images, *features)), rel=1e-4
    )
    assert losses_of["pixel_loss"] == pytest.approx(np.abs(drawn - images).mean(), rel=1e-4)
    np.testing.assert_allclose(
        autoencoder.segmenter().predict_layers(photos).mask, autoencoder(photos).mask, atol=1e-5
    )

    autoencoder.save(tmp_path / "autoencoder.keras")
    loaded = keras.models.load_model(tmp_path / "autoencoder.keras")
    assert loaded.evaluate(images, batch_size=4, verbose=0, return_dict=True) == losses_of
    for model in (autoencoder, loaded):
        model.fit(photos, batch_size=4, shuffle=False, verbose=0)
    for actual, expected in zip(loaded.get_weights(), autoencoder.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.usefixtures("shallow_resnet")
def test_what_has_no_meaning_is_refused():
    autoencoder = create()
    with pytest.raises(UserError, match=r"compile\(loss=...\) is not possible.*takes optimizer, "):
        autoencoder.compile(loss="mse")
    with pytest.raises(UserError, match=r"\[2, 8, 8, 3\].*trains on \[batch, 16, 16, 3\]"):
        autoencoder.fit(np.zeros((2, 8, 8, 3), np.uint8), verbose=0)


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory):
    """Weights of encoders by what they learned from and the number of devices."""
    path = tmp_path_factory.mktemp("devices") / "weights.npz"
    paths = [str(SCRIPT.parent), *filter(None, sys.path)]
    subprocess.run(
        [sys.executable, str(SCRIPT), "sgd", str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        timeout=600,
    )
    return dict(np.load(path))


def weights_of(arrays, name):
    return [arrays[key] for key in arrays if key.startswith(f"{name}_")]


@pytest.mark.slow
def test_two_devices_train_the_encoder_of_a_dataset_as_one_does(on_devices):
    """Mirrored photos and statistics of batch norms over the global batch included."""
    one, two = (weights_of(on_devices, f"whole_{count}") for count in (1, 2))
    chunk = weights_of(on_devices, "chunk0_1")
    assert max(np.abs(a - b).max() for a, b in zip(one, chunk, strict=True)) > 1e-3
    for actual, expected in zip(two, one, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(on_devices["losses_2"], on_devices["losses_1"], rtol=1e-5)


@pytest.mark.slow
def test_chunks_are_spread_over_devices_and_do_not_depend_on_their_number(on_devices):
    assert list(on_devices["devices_1"]) == ["CPU:0"] * 3
    assert list(on_devices["devices_2"]) == ["CPU:0", "CPU:1", "CPU:0"]
    for chunk in ("chunk0", "chunk1", "chunk2"):
        one, two = (weights_of(on_devices, f"{chunk}_{count}") for count in (1, 2))
        for actual, expected in zip(two, one, strict=True):
            np.testing.assert_array_equal(actual, expected)
