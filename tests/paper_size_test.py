"""The configs at the size they are trained at."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation import config_files, schedule
from layered_segmentation.gan.layered_gan import LayeredGAN
from layered_segmentation.gan.sampling import sample_layers
from layered_segmentation.segmenter.segmenter import create_segmenter

STUDENTS = [name for name in config_files.packaged_names() if name.startswith("students/")]
GANS = [name for name in config_files.packaged_names() if name not in STUDENTS]
FAST = ["quickstart", "shapes/h_single_generator", "students/w24_64"]  # one of each kind


def fast_for_one_of_a_kind(names):
    """Each name; those that repeat the networks of `FAST`, or are of full width, are slow."""
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", fast_for_one_of_a_kind(GANS))
def test_the_networks_of_every_config_can_be_built(name):
    config = configs.load(name)
    stages = schedule.stages(config)
    assert stages[-1].resolution == config.gan.resolution
    # At the first stage: later ones repeat its layers, and do not fit into every machine's memory.
    first = dataclasses.replace(config.gan, resolution=config.gan.initial_resolution)
    gan = LayeredGAN.from_run_config(dataclasses.replace(config, gan=first))
    layers = sample_layers(gan.average, 0, 1)
    side = gan.stage.resolution
    assert layers.background.shape == (1, side, side, 3)
    assert gan.generator.has_mask == (layers.mask.std() > 0)
    assert np.isfinite(np.asarray(gan.discriminator(layers.background))).all()


@pytest.mark.parametrize("name", fast_for_one_of_a_kind(STUDENTS))
def test_every_student_can_be_built(name):
    student = configs.load(name).student
    segmenter = create_segmenter(student.width, student.resolution)
    side = student.resolution
    (mask,) = segmenter.predict_masks([np.zeros((side, side, 3), np.uint8)])
    assert mask.shape == (side, side) and segmenter.count_params() < 1e6


@pytest.mark.slow
def test_a_step_on_cars_at_the_papers_width():
    config = configs.load("lsun_car", ["schedule.batch={8: 4}"])  # 256 take minutes on a CPU
    gan = LayeredGAN.from_run_config(config)
    assert [stage.resolution for stage in gan.stages] == [8, 16, 32, 64, 128]
    for synthesis in gan.generator.syntheses:  # blocks of 4 to 128 px
        widths = [block.conv.kernel.shape[-1] for block in synthesis.blocks]
        assert widths == [512, 512, 512, 512, 256, 128]
    judged = [block.conv.kernel.shape[2] for block in gan.discriminator.blocks]  # 8 to 128 px
    assert judged == [512, 512, 512, 256, 128]
    assert [mapping.mean_style.shape for mapping in gan.generator.mappings] == [(512,), (512,)]
    # Trained at 8 px but for the heads of 4 px, which only a stage that fades in uses.
    heads = [synthesis.to_image[0] for synthesis in gan.generator.syntheses]
    heads.append(gan.discriminator.from_image[0])
    unused = {id(variable) for head in heads for variable in head.variables}
    parts = gan.generator, gan.discriminator
    used = {id(variable) for part in parts for variable in part.stage_variables(8)} - unused
    variables = [variable for part in parts for variable in part.trainable_variables]
    before = [np.asarray(variable).copy() for variable in variables]
    average = [np.asarray(variable).copy() for variable in gan.average.variables]
    images = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    logs = gan.train_step(tf.constant(images))
    assert all(np.isfinite(float(value)) for value in logs.values())
    for variable, value in zip(variables, before, strict=True):
        after = np.asarray(variable)
        assert np.isfinite(after).all(), variable.path
        if id(variable) not in used:
            assert np.array_equal(after, value), variable.path
        elif variable.name == "kernel":
            assert not np.array_equal(after, value), variable.path
    now = [np.asarray(variable) for variable in gan.average.variables]
    assert any(not np.array_equal(a, b) for a, b in zip(now, average, strict=True))
