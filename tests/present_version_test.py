"""What version 0.1.0 wrote before the package was restructured still loads and goes on.

`data/present_version/README.md` says how the files were made and how far machines differ.
"""

import json
import os
import shutil
import zipfile

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from layered_segmentation import (
    Discriminator,
    LayeredGenerator,
    LayeredSegmenter,
    Layers,
    RunDirectory,
    compose,
)
from layered_segmentation.gan.sampling import sample_layers

DATA = os.path.join(os.path.dirname(__file__), "data", "present_version")
PARTS = ("generator", "discriminator", "average", "generator_optimizer", "discriminator_optimizer")
LOSSES = ("d_loss", "g_loss", "wasserstein", "gradient_penalty", "coverage", "binarisation")


@pytest.fixture(scope="module")
def expected():
    with np.load(os.path.join(DATA, "expected.npz")) as file:
        return dict(file)


@pytest.fixture
def unpack(tmp_path):
    def unpack(name):
        shutil.unpack_archive(os.path.join(DATA, f"{name}.zip"), tmp_path)
        return tmp_path / name

    return unpack


def flat_weights(path, kind):
    network = keras.models.load_model(path, compile=False)
    assert type(network) is kind
    return np.concatenate([weight.ravel() for weight in network.get_weights()])


@pytest.fixture
def fits(monkeypatch):
    """Notes what each `fit` of the GAN starts from: its steps and a copy of every variable."""
    fits, fit = [], keras.Model.fit

    def noting(gan, *args, **kwargs):
        parts = {part: getattr(gan, part).variables for part in PARTS}
        copies = {part: [v.numpy().copy() for v in variables] for part, variables in parts.items()}
        fits.append((kwargs["steps_per_epoch"], copies))
        return fit(gan, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", noting)
    return fits


def test_a_stopped_run_goes_on_to_the_same_end(
    layerseg, unpack, expected, fits, eagerly, read_events
):
    path = unpack("run")
    checkpoint = tf.train.load_checkpoint(str(path / "checkpoints"))
    names = checkpoint.get_variable_to_shape_map()
    saved = {name: checkpoint.get_tensor(name) for name in names if name[0] != "_"}
    counters = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("images_seen", "save_counter")}
    result = layerseg("train", f"--config={path}/config.yaml", f"--run_dir={path}")
    assert result.status == 0, result.stderr

    # 256 images are left of the 8 px stage, in batches of 128, then comes the 16 px stage.
    assert [steps for steps, _ in fits] == [2, 10]
    restored = {
        f"{part}/{index}/.ATTRIBUTES/VARIABLE_VALUE": value
        for part, values in fits[0][1].items()
        for index, value in enumerate(values)
    }
    assert set(restored) == set(saved) - counters
    for name, value in restored.items():
        np.testing.assert_array_equal(value, saved[name], err_msg=name)

    run = RunDirectory.open(path)
    assert run.finished().images_seen == 2560
    before, resumed, after = run.read_log()
    assert (before["images_seen"], after["images_seen"]) == (1024, 2048)
    assert resumed == {"images_seen": 1024, "resumed": True, "seconds": before["seconds"]}
    assert [step for step, _ in read_events(run.tensorboard)["d_loss"]] == [1024, 2048]
    with zipfile.ZipFile(os.path.join(DATA, "finished.zip")) as finished:
        lines = finished.read("finished/log.jsonl").splitlines()
    assert before == json.loads(lines[0])
    for name in LOSSES:
        # Kernels, threads and eager execution change these by up to 3e-7; Adam's slots restored
        # in another order by 1e-5 to 1e-2.
        np.testing.assert_allclose(after[name], json.loads(lines[-1])[name], rtol=0, atol=5e-6)
    for name, file, kind in (
        ("average", run.generator_file, LayeredGenerator),
        ("discriminator", run.discriminator_file, Discriminator),
    ):
        # Likewise up to 2e-5, where a gradient is 0 but for rounding; slots in another order or a
        # lost average change some weight by more than 1e-3.
        np.testing.assert_allclose(flat_weights(file, kind), expected[name], rtol=0, atol=5e-4)


def test_a_finished_run_is_finished_and_draws_the_same_scenes(layerseg, unpack, expected, tmp_path):
    path = unpack("finished")
    run = RunDirectory.open(path)
    result = layerseg("train", f"--config={path}/config.yaml", f"--run_dir={path}")
    assert result.status == 0, result.stderr
    assert "is finished: 2,560 images seen" in result.stdout
    average = flat_weights(run.generator_file, LayeredGenerator)
    np.testing.assert_array_equal(average, expected["average"])
    discriminator = flat_weights(run.discriminator_file, Discriminator)
    np.testing.assert_array_equal(discriminator, expected["discriminator"])

    layers = Layers(expected["background"], expected["foreground"], expected["mask"])
    generator = keras.models.load_model(run.generator_file, compile=False)
    for value, recorded in zip(sample_layers(generator, seed=3, count=2), layers, strict=True):
        # Kernels change these by up to 2e-6 of their range.
        np.testing.assert_allclose(value, recorded, rtol=0, atol=1e-5 * np.ptp(recorded))
    result = layerseg(
        "sample", f"--run_dir={path}", "--seed=3", "--count=2", f"--images_out={tmp_path}/scenes"
    )
    assert result.status == 0, result.stderr
    levels = np.clip(127.5 * (np.asarray(compose(layers)) + 1), 0, 255)
    for index, image in enumerate(levels):
        with Image.open(tmp_path / "scenes" / "images" / f"{index + 1:06}.png") as file:
            np.testing.assert_allclose(np.asarray(file, np.float32), image, rtol=0, atol=1)
        with Image.open(tmp_path / "scenes" / "masks" / f"{index + 1:06}.png") as file:
            np.testing.assert_array_equal(np.asarray(file) > 0, layers.mask[index, ..., 0] >= 0.5)


@pytest.mark.parametrize("name", ["preset", "encoder_preset"])
def test_a_preset_gives_the_same_masks(layerseg, unpack, expected, tmp_path, name):
    path = unpack(name)
    segmenter = keras_hub.models.ImageSegmenter.from_preset(str(path))
    assert isinstance(segmenter, LayeredSegmenter)
    (mask,) = segmenter.predict_masks([expected["photo"]])
    np.testing.assert_allclose(mask, expected[name], rtol=0, atol=1e-5)
    if name == "preset":  # the command checks the checksums too
        Image.fromarray(expected["photo"]).save(tmp_path / "photo.png")
        flags = (f"--segmenter={path}", f"--input={tmp_path}/photo.png", f"--out={tmp_path}/out")
        result = layerseg("segment", *flags)
        assert result.status == 0, result.stderr
        with Image.open(tmp_path / "out" / "photo.mask.png") as file:
            np.testing.assert_array_equal(np.asarray(file) > 0, mask >= 0.5)
