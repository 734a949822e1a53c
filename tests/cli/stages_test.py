"""What a run keeps at the end of a stage, and the verbs that use it."""

import dataclasses
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from layered_segmentation import config as configs
from layered_segmentation.evaluation import inception
from layered_segmentation.gan import networks, trainer
from layered_segmentation.gan.sampling import sample_layers
from layered_segmentation.run_directory import RunDirectory

SETTINGS = [
    "data.name=shapes",
    "data.limit=20",
    "gan.resolution=32",
    "gan.max_channels=8",
    "gan.latent_dim=8",
    "gan.mapping_layers=1",
    "gan.average_decay=0.5",
    "schedule.images_per_stage=32",
    "schedule.batch={8: 16, 16: 16, 32: 16}",
    "encoder.input_resolution=16",
    "encoder.max_channels=64",
    "encoder.iterations=2",
    "encoder.chunk=3",
    "student.width=8",
    "student.steps=3",
    "student.batch=4",
    "student.self_training=0",
]


def train(path, *settings):
    tf.config.run_functions_eagerly(True)
    try:
        trainer.train(configs.load("", [*SETTINGS, *settings]), RunDirectory(path))
    finally:
        tf.config.run_functions_eagerly(False)
    return RunDirectory.open(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "run")


def stages(run):
    path = os.path.join(run.path, "stages")
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def weights(network):
    return np.concatenate([np.ravel(weight) for weight in network.get_weights()])


def test_every_stage_but_the_last_is_kept_as_a_run_of_its_resolution(run):
    assert stages(run) == ["16", "8"]
    for side, seen in ((8, 32), (16, 64)):
        stage = run.at_stage(side)
        assert stage.finished().images_seen == seen
        expected = run.config()
        gan = dataclasses.replace(expected.gan, resolution=side)
        assert dataclasses.replace(expected, gan=gan).gan == stage.config().gan
        generator = networks.load_generator(stage)
        assert generator.resolution == networks.load_discriminator(stage).resolution == side
        assert sample_layers(generator, 0, 2).mask.shape == (2, side, side, 1)
        trained = keras.models.load_model(stage.trained_generator_file, compile=False)
        assert trained.resolution == side
        assert np.abs(weights(trained) - weights(generator)).max() > 1e-4  # the other is averaged
        assert np.asarray(generator.mappings[0].mean_style).any()
    assert run.at_stage(0) is run and run.at_stage(32) is run


@pytest.mark.slow
def test_a_stage_is_the_run_that_ends_there(run, tmp_path):
    """Whatever comes after, and at whichever stage the run was resumed."""
    layers = sample_layers(networks.load_generator(run.at_stage(8)), 1, 2)
    longer = train(tmp_path / "longer", "schedule.images_at={16: 16}", "train.keep_stages=[8]")
    assert stages(longer) == ["8"]
    again = sample_layers(networks.load_generator(longer.at_stage(8)), 1, 2)
    for one, other in zip(layers, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_run_that_stopped_at_the_end_of_a_stage_keeps_it_when_it_resumes(
    run, tmp_path, monkeypatch
):
    path = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(networks, "save_stage", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            train(path, "train.checkpoint_every=32")
    stopped = train(path, "train.checkpoint_every=32")
    assert stages(stopped) == ["16", "8"]
    for side in (8, 16):
        one, other = (networks.load_generator(each.at_stage(side)) for each in (run, stopped))
        np.testing.assert_array_equal(weights(one), weights(other))


@pytest.mark.slow
def test_no_stage_is_kept_if_none_is_asked_for(tmp_path):
    assert stages(train(tmp_path / "run", "gan.resolution=16", "train.keep_stages=[]")) == []


def test_sheets_and_scenes_of_a_stage(layerseg, run, tmp_path):
    flags = [f"--run_dir={run.path}", "--stage=8", "--count=3", f"--images_out={tmp_path}/scenes"]
    result = layerseg("sample", *flags)
    assert result.status == 0, result.stderr
    with Image.open(tmp_path / "scenes" / "images" / "000001.png") as image:
        assert image.size == (8, 8)
    for stage in (64, 12):
        result = layerseg("sample", *flags[:1], f"--stage={stage}", f"--out={tmp_path}/sheet.png")
        assert result.status == 2
        assert f"--stage={stage}" in result.stderr and "8, 16, 32 px" in result.stderr
        assert "train.keep_stages" in result.stderr


def test_scores_and_fid_of_a_stage(layerseg, run, tmp_path, monkeypatch):
    detected = tmp_path / "detected"
    detected.mkdir()
    for number in range(1, 5):
        Image.new("L", (8, 8), 255).save(detected / f"{number:06d}.png")
    flags = [f"--run_dir={run.path}", "--stage=8", "--count=4"]
    result = layerseg("evaluate_generated", *flags, f"--detector={detected}")
    assert result.status == 0, result.stderr
    stage = run.at_stage(8).path
    with open(os.path.join(stage, "evaluation_generated", "results.json"), "rb") as file:
        assert json.load(file)["settings"]["stage"] == 8
    monkeypatch.setattr(inception, "SIZE", 3)
    inputs = keras.Input((299, 299, 3))
    network = str(tmp_path / "means.keras")
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)).save(network)
    result = layerseg("fid", *flags, f"--inception={network}")
    assert result.status == 0, result.stderr
    assert sorted(os.listdir(stage))[1:3] == ["evaluation_fid", "evaluation_generated"]
    assert not any(name.startswith("evaluation") for name in os.listdir(run.path))
    # A stage is a run, so its directory serves as well.
    table = [f"--runs=a={stage}", "--table=1", f"--out={tmp_path / 'tables'}"]
    result = layerseg("table", *table)
    assert result.status == 0 and "| (a) default |" in result.stdout


@pytest.mark.slow
def test_a_student_of_a_stage_is_exported(layerseg, run, eagerly, tmp_path, monkeypatch):
    flags = [f"--run_dir={run.path}", "--stage=8"]
    result = layerseg("distill", *flags)
    assert result.status == 0, result.stderr
    stage = run.at_stage(8)
    assert os.path.isdir(stage.segmenter) and not os.path.exists(run.segmenter)
    assert f"--segmenter={stage.path}" in result.stdout

    result = layerseg("evaluate", f"--segmenter={run.path}", "--stage=8", "--limit=2")
    assert result.status == 0, result.stderr
    with open(os.path.join(stage.path, "evaluation", "results.json"), "rb") as file:
        assert json.load(file)["settings"]["stage"] == 8

    from layered_segmentation.segmenter import presets

    loaded = []
    monkeypatch.setattr(presets, "load", lambda path: loaded.append(path) or pytest.fail("far"))
    export = ["--format=tflite", f"--out={tmp_path / 'x.tflite'}", f"--segmenter={run.path}"]
    with pytest.raises(pytest.fail.Exception, match="far"):
        layerseg("export", *export, "--stage=8")
    assert loaded == [stage.path]


@pytest.mark.slow
@pytest.mark.usefixtures("shallow_resnet")
def test_encoders_of_a_stage(layerseg, run, eagerly, tmp_path):
    flags = [f"--run_dir={run.path}", "--stage=8"]
    result = layerseg("autoencode", *flags)
    assert result.status == 0, result.stderr
    stage = run.at_stage(8)
    with open(os.path.join(stage.path, "encoder_results.json"), "rb") as file:
        assert json.load(file)["resolution"] == 8
    assert os.path.isdir(stage.encoder) and not os.path.exists(run.encoder)
    result = layerseg("autoencode_chunks", *flags, "--limit=3", f"--out={tmp_path / 'chunks'}")
    assert result.status == 0, result.stderr
    with Image.open(tmp_path / "chunks" / "masks" / "test_00000.png") as mask:
        assert mask.size == (8, 8)


def test_at_64_px_the_encoder_has_the_papers_20_codes():
    from layered_segmentation.gan.generator import LayeredGenerator
    from layered_segmentation.segmenter.encoder import EncoderGeneratorBackbone

    generator = LayeredGenerator(resolution=128, latent_dim=4, mapping_layers=1, max_channels=4)
    backbone = EncoderGeneratorBackbone.around(generator.at_resolution(64), 64, 64)
    assert backbone.encoder.codes_shape == (2, 5, 2, 4)
    assert backbone.encoder.input_resolution == 64
