import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from layered_segmentation.gan import keras_settings
from layered_segmentation.gan.generator import LayeredGenerator

SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "odd_keras.py"
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def restored():
    config = keras.config
    before = config.floatx(), config.dtype_policy(), config.image_data_format()
    yield
    config.set_floatx(before[0])
    config.set_dtype_policy(before[1])
    config.set_image_data_format(before[2])


@pytest.mark.parametrize("name", ["float16", "float64", "bfloat16"])
def test_a_general_float_type_does_not_apply(restored, name):
    keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)
    assert keras_settings.policy() == "float32"
    assert keras_settings.policy(keras.config.dtype_policy()) == "float32"  # as KerasHub passes it
    assert keras_settings.policy("mixed_float16") == "mixed_float16"
    generator = LayeredGenerator(resolution=8, latent_dim=4, mapping_layers=1, max_channels=4)
    assert {variable.dtype for variable in generator.variables} == {"float32"}


def test_a_general_policy_of_mixed_precision_applies(restored):
    keras.config.set_dtype_policy("mixed_bfloat16")
    generator = LayeredGenerator(resolution=8, latent_dim=4, mapping_layers=1, max_channels=4)
    assert generator.syntheses[0].compute_dtype == "bfloat16"
    assert {variable.dtype for variable in generator.variables} == {"float32"}


def test_standard_settings_end_with_the_block(restored):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.config.set_image_data_format("channels_first")

    def settings():
        config = keras.config
        return config.floatx(), config.dtype_policy().name, config.image_data_format()

    with pytest.raises(KeyError), keras_settings.standard():
        assert settings() == ("float32", "float32", "channels_last")
        raise KeyError
    assert settings() == ("float64", "float64", "channels_first")


@pytest.mark.slow
def test_networks_do_not_depend_on_the_users_keras_settings(tmp_path):
    paths = os.pathsep.join([str(ROOT), str(SCRIPT.parent)])
    outputs = {}
    for settings in (
        ("float32", "channels_last"),
        ("float16", "channels_first"),
        ("float64", "channels_last"),
    ):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(tmp_path), *settings],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "_".join(settings) / "outputs.npz") as file:
            outputs[settings] = dict(file)
    first, *others = outputs.values()
    assert len(first) > 12
    for other in others:
        assert set(other) == set(first)
        assert {name: value.dtype for name, value in other.items()} == {
            name: value.dtype for name, value in first.items()
        }
        assert [name for name in first if not np.array_equal(other[name], first[name])] == []
    # And what was saved there is loaded here.
    from layered_segmentation.segmenter import presets

    photo = np.zeros((9, 12, 3), np.uint8)
    masks = [
        presets.load(str(tmp_path / "_".join(settings) / "student")).predict_masks(photo)
        for settings in outputs
    ]
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])
