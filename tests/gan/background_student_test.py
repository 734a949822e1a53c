"""A frozen segmenter that must find nothing in drawn backgrounds."""

import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import random_student, tiny_run_config

from layered_segmentation import files
from layered_segmentation.errors import UserError
from layered_segmentation.gan import losses, networks, trainer
from layered_segmentation.gan.draws import Purpose
from layered_segmentation.gan.layered_gan import LayeredGAN
from layered_segmentation.run_directory import RunDirectory
from layered_segmentation.segmenter import presets
from layered_segmentation.segmenter.preprocessing import union

SETTINGS = ("gan.resolution=8", "gan.max_channels=4", "schedule.batch={8: 4}")


def created(student, *settings):
    return LayeredGAN.from_run_config(tiny_run_config(*SETTINGS, *settings), student=student)


def draws_of(gan):
    return gan._draws(tf.constant(0, tf.int64), Purpose.GENERATOR, 4)


def found_by(student, gan):
    """What a student finds in the backgrounds of `draws_of`, by its own resize of photos."""
    backgrounds = np.array(gan._draw_layers(draws_of(gan), 1.0).background, np.float32)
    photos = 127.5 * (np.clip(backgrounds, -1, 1) + 1)
    return np.array(union(student(student.prepare(photos), training=False)))


def test_what_it_finds_adds_to_the_generators_loss(eagerly):
    gan = created(None, "gan.background_student_weight=3")
    plain, logs = gan._generator_loss(draws_of(gan), 1.0)
    assert "background_found" not in logs
    for count in (1, 2):
        gan.student = random_student(num_masks=count)
        probability = found_by(gan.student, gan)
        loss, logs = gan._generator_loss(draws_of(gan), 1.0)
        assert float(logs["background_found"]) == pytest.approx(probability.mean(), rel=1e-3)
        term = 3 * float(losses.background_objects(probability))
        assert term > 0.1
        assert float(loss - plain) == pytest.approx(term, rel=1e-3)
    gan.student = lambda images, training: tf.zeros_like(images[..., :1])
    gan.student.resolution = 16
    assert float(gan._generator_loss(draws_of(gan), 1.0)[0] - plain) == pytest.approx(0, abs=1e-4)


def test_steps_of_the_generator_leave_less_to_find(eagerly):
    student = random_student()
    before = student.get_weights()
    gan = created(student, "gan.background_student_weight=10")
    gan.compile(keras.optimizers.SGD(0.01), "sgd")
    logged = [gan.generator_step(draws_of(gan), 1.0)["background_found"] for _ in range(4)]
    assert logged == sorted(logged, reverse=True) and logged[-1] < logged[0] - 0.01
    # It is frozen, and its batch norms see no statistics.
    assert not student.trainable_variables
    for one, other in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "settings",
    [
        ("gan.shared_pass=true", "train.precision=mixed_bfloat16"),
        ("gan.simultaneous=true", "gan.background_swap=0.5"),
    ],
)
def test_it_goes_with_every_kind_of_step(settings, eagerly):
    student = random_student()
    gan = created(student, *settings)
    assert student(np.zeros((1, 16, 16, 3), np.float32)).dtype == "float32"
    expected = found_by(student, gan).mean()
    logs = gan.train_step(tf.zeros([4, 8, 8, 3]))
    assert float(logs["background_found"]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_it_is_saved_with_the_gan(tmp_path, eagerly):
    gan = created(random_student())
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    for one, other in zip(gan.student.get_weights(), loaded.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not loaded.student.trainable_variables
    real = np.zeros((4, 8, 8, 3), np.float32)
    losses_of = [one.evaluate(real, verbose=0, return_dict=True) for one in (gan, loaded)]
    assert losses_of[0] == losses_of[1] and "background_found" in losses_of[0]


def test_a_path_alone_and_a_generator_without_layers_are_refused():
    with pytest.raises(UserError, match=r"gan\.background_student=a: pass the segmenter itself"):
        LayeredGAN(8, background_student="a")
    with pytest.raises(UserError, match="student: pass none with variant=single_output"):
        LayeredGAN(8, variant="single_output", student=random_student())
    with pytest.raises(UserError, match=r"student=.layered_unet_birds_64.: pass a segmenter"):
        LayeredGAN(8, student="layered_unet_birds_64")


def run_config(student):
    return tiny_run_config(
        "data.name=shapes", "data.limit=12", "gan.resolution=8", "gan.max_channels=4",
        "schedule.batch={8: 4}", "schedule.images_per_stage=16", "train.checkpoint_every=8",
        f"gan.background_student={student}",
    )  # fmt: skip


def train(config, run):
    trainer.train(config, run, load_student=presets.load_background_student)
    return networks.load_generator(run).get_weights()


@pytest.fixture
def student(tmp_path):
    presets.save(random_student(), str(tmp_path / "student"))
    return str(tmp_path / "student")


@pytest.mark.slow
def test_a_run_resumes_with_the_student_that_it_began_with(student, tmp_path, monkeypatch):
    config = run_config(student)
    whole, stopped = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "stopped")
    expected = train(config, whole)

    def stop(self, batch, logs=None):
        if self.progress.images_seen == 12:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.callbacks.FiniteLoss, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, stopped)
    assert os.path.exists(os.path.join(stopped.checkpoints, "ckpt-8.index"))
    shutil.move(student, f"{student}_moved")
    with pytest.raises(UserError, match=r"background_student=.*no such directory.*bring it back"):
        train(config, stopped)
    presets.save(random_student(seed=1), student)
    with pytest.raises(UserError, match="has changed since the run began"):
        train(config, stopped)
    shutil.rmtree(student)
    shutil.move(f"{student}_moved", student)
    for one, other in zip(train(config, stopped), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    shutil.rmtree(student)
    train(config, whole)  # finished: it needs no student
    assert files.read_json(whole.student_path)["weights"]


def test_a_path_that_is_no_segmenter_is_refused_before_anything_is_written(layerseg, tmp_path):
    place = tmp_path / "photos"
    place.mkdir()
    result = layerseg(
        "train",
        "--config=quickstart",
        f"--set=gan.background_student={place}",
        f"--run_dir={tmp_path / 'run'}",
    )
    assert result.status == 2 and not (tmp_path / "run").exists()
    assert f"gan.background_student={place}: neither a run directory" in result.stderr
    assert "Name a run with a student" in result.stderr
