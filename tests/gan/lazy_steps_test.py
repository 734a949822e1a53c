"""What a step leaves out: penalties, passes of the networks, updates of the average, its start."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_networks import tiny_run_config

from layered_segmentation import LayeredGAN, stopping
from layered_segmentation.errors import UserError
from layered_segmentation.gan import distributed_model
from layered_segmentation.gan.draws import Purpose
from layered_segmentation.gan.layered_gan import LayeredGAN as GAN

SIZES = {"latent_dim": 8, "mapping_layers": 1, "max_channels": 4, "contrast_jitter": 0.3}
RATE = 0.01


def create(**settings):
    gan = LayeredGAN(8, **SIZES, **settings)
    gan.compile(keras.optimizers.SGD(RATE), keras.optimizers.SGD(RATE))
    return gan


def photos(count=8):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


def real(count=4):
    return tf.constant(photos(count) / np.float32(127.5) - 1)


def draws_of(gan, purpose=Purpose.GENERATOR, seen=0):
    return gan._draws(tf.constant(seen, tf.int64), purpose, 4)


def weights(network):
    return network.get_weights()


def assert_same(one, other):
    for here, there in zip(one, other, strict=True):
        np.testing.assert_array_equal(here, there)


def test_what_a_step_does_depends_on_the_images_seen_alone():
    gan = GAN.from_run_config(
        tiny_run_config(
            "gan.penalty_every=3",
            "gan.average_every=2",
            "schedule.batch={8: 8, 16: 4}",
            "schedule.images_per_stage=40",
        )
    )
    found = []
    for stage, steps in zip(gan.stages, (5, 10), strict=True):
        gan.set_stage(stage)
        for step in reversed(range(steps)):
            gan.images_seen.assign(stage.first_image + step * stage.batch)
            found.append((step, gan.step_options(stage.batch)))
            found.append((step + 1, gan.step_options(stage.batch, ahead=stage.batch)))
    for step, options in found:
        assert options == {"penalise": step % 3 == 0, "average": step % 2 == 0}
    assert len(found) == 30
    assert create().step_options(8) == {}
    assert create(average_every=2).step_options(8) == {"average": True}


def test_penalties_have_an_update_of_their_own_with_the_weight_of_all_steps(eagerly):
    plain, lazy = (create(penalty_every=3, r1=0.5) for _ in range(2))
    draws = draws_of(plain)
    alone = plain.discriminator_step(real(), draws, 1.0, penalise=False)
    both = lazy.discriminator_step(real(), draws, 1.0, penalise=True)
    assert float(both["d_loss"]) == float(alone["d_loss"])
    assert "gradient_penalty" not in alone
    fake, _ = plain.composite(draws, 1.0)
    variables = [v.value for v in plain.discriminator.trainable_variables]
    with tf.GradientTape() as tape:
        penalty, r1, _ = plain._penalties(real(), fake, draws.zeta, 1.0)
        loss = 3 * (10 * penalty + r1)
    assert float(both["gradient_penalty"]) == pytest.approx(float(10 * penalty), rel=1e-5)
    gradients = tape.gradient(loss, variables)
    moved = 0.0
    for variable, gradient, after in zip(
        variables, gradients, weights(lazy.discriminator), strict=True
    ):
        step = 0.0 if gradient is None else RATE * gradient
        np.testing.assert_allclose(variable - step, after, atol=1e-6)
        moved += float(np.abs(step).max())
    assert moved > 1e-3


def test_adam_takes_the_updates_of_penalties_into_account():
    config = tiny_run_config(
        "gan.penalty_every=4", "schedule.batch={8: 8, 16: 4}", "schedule.images_per_stage=80"
    )
    gan = GAN.from_run_config(config)
    for stage in gan.stages:
        gan.set_stage(stage)
        assert float(gan.generator_optimizer.learning_rate) == pytest.approx(0.001)
        assert float(gan.discriminator_optimizer.learning_rate) == pytest.approx(0.0008)
    assert gan.generator_optimizer.beta_2 == 0.99
    assert gan.discriminator_optimizer.beta_2 == pytest.approx(0.99**0.8)
    # Ten steps at 8 px, of which the first, the fifth and the ninth have penalties.
    assert set(gan.discriminator_optimizer._first_steps) == {0, 13}
    assert set(gan.generator_optimizer._first_steps) == {0, 10}
    plain = GAN.from_run_config(tiny_run_config())
    assert plain.discriminator_optimizer.beta_2 == 0.99
    first = plain.stages[1].first_step
    assert set(plain.discriminator_optimizer._first_steps) == {0, first}


def test_a_shared_pass_is_both_steps_on_the_same_scenes(eagerly, monkeypatch):
    shared, apart = create(shared_pass=True, augment=0.5), create(augment=0.5)
    place = tf.constant(0, tf.int64), Purpose.GENERATOR, 4
    draws, augmentations = apart._draws(*place), apart._augmentations(*place)
    expected = apart.discriminator_step(real(), draws, 1.0, augmentations)
    expected |= apart.generator_step(draws, 1.0, augmentations)
    passes, call = [], type(shared.generator).call

    def noting(*arguments, **options):
        passes.append(1)
        return call(*arguments, **options)

    monkeypatch.setattr(type(shared.generator), "call", noting)
    logs = shared.train_step(real())
    assert len(passes) == 1
    for name, value in expected.items():
        assert float(logs[name]) == pytest.approx(float(value), rel=1e-6), name
    for network in ("generator", "discriminator"):
        assert_same(weights(getattr(shared, network)), weights(getattr(apart, network)))
    assert any(
        (a != b).any()
        for a, b in zip(weights(shared.generator), weights(create().generator), strict=True)
    )


@pytest.mark.parametrize("settings", [{}, {"penalty_every": 2}, {"augment": 0.5}])
@pytest.mark.parametrize("is_scaled", [False, True])
def test_simultaneous_steps_follow_the_scores_before_the_update(eagerly, settings, is_scaled):
    """Both networks change as in a step of their own from the same weights."""
    both, apart, start = (create(simultaneous=one, **settings) for one in (True, False, False))
    if is_scaled:
        both.compile(
            *(
                keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), scale)
                for scale in (2.0**10, 2.0**5)
            )
        )
    place = tf.constant(0, tf.int64), Purpose.GENERATOR, 4
    draws, augmentations = apart._draws(*place), apart._augmentations(*place)
    expected = apart.generator_step(draws, 1.0, augmentations)
    apart.generator.set_weights(changed := weights(apart.generator))
    judged = create(**settings)
    expected |= judged.discriminator_step(real(), draws, 1.0, augmentations)
    logs = both.train_step(real())
    for name, value in expected.items():
        assert float(logs[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    pairs = (both.generator, changed), (both.discriminator, weights(judged.discriminator))
    for network, after in pairs:
        for here, there in zip(weights(network), after, strict=True):
            np.testing.assert_allclose(here, there, atol=2e-6)
    for name in ("generator", "discriminator"):
        before = weights(getattr(start, name))
        moved = zip(weights(getattr(both, name)), before, strict=True)
        assert max(float(np.abs(after - one).max()) for after, one in moved) > 1e-3


def test_simultaneous_steps_pass_once_through_the_discriminator(eagerly, monkeypatch):
    gan = create(simultaneous=True, penalty_every=2)
    passes, call = [], type(gan.discriminator).call

    def noting(*arguments, **options):
        passes.append(1)
        return call(*arguments, **options)

    monkeypatch.setattr(type(gan.discriminator), "call", noting)
    gan.train_step(real(), penalise=False)
    assert len(passes) == 1


def test_several_steps_per_execution_are_the_same_steps():
    """To the last bit, also where the last batch is smaller and kinds of steps alternate."""
    runs, ends = [], []

    class Noting(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ends[-1].append(batch)

    for steps in (1, 4):
        gan = create(penalty_every=2, simultaneous=True)
        gan.compile("sgd", keras.optimizers.SGD(RATE), steps_per_execution=steps)
        ends.append([])
        history = gan.fit(photos(22), batch_size=4, verbose=0, shuffle=False, callbacks=[Noting()])
        runs.append((gan, history.history))
    (plain, means), (gan, others) = runs
    assert int(gan.images_seen.numpy()) == int(plain.images_seen.numpy()) == 22
    assert_same(gan.get_weights(), plain.get_weights())
    assert list(means) == list(others) and "gradient_penalty" in means
    for name, values in means.items():
        assert others[name] == pytest.approx(values, rel=1e-5), name
    assert [len(part) for part in ends] == [6, 2]
    assert gan.get_compile_config()["steps_per_execution"] == 4


def test_compile_refuses_wrong_numbers_of_steps_per_execution():
    gan = LayeredGAN(8, **SIZES)
    for wrong in (0, -1, 2.5, "auto", None):
        with pytest.raises(UserError, match=r"steps_per_execution=.*pass an integer, at least 1"):
            gan.compile(steps_per_execution=wrong)


class Cheap(GAN):
    """Its steps only count images."""

    def train_step(self, data):
        self.images_seen.assign_add(data.shape[0])
        return {"d_loss": tf.reduce_mean(tf.cast(data, tf.float32))}

    def test_step(self, data):
        return {"d_loss": tf.reduce_mean(tf.cast(data, tf.float32))}


def cheap(steps_per_execution):
    gan = Cheap(8, **SIZES)
    gan.compile("sgd", "sgd", steps_per_execution=steps_per_execution)
    return gan


def test_epochs_end_after_the_steps_asked_for():
    """Not only after whole executions; in training, validation and evaluation."""
    data = tf.data.Dataset.from_tensor_slices(photos(40)).batch(4).repeat()
    found = []
    for gan in (cheap(1), cheap(4)):
        options = {"validation_data": data, "validation_steps": 3, "verbose": 0}
        history = gan.fit(data, steps_per_epoch=5, epochs=2, **options).history
        evaluated = gan.evaluate(data, steps=2, verbose=0)
        assert int(gan.images_seen.numpy()) == 40
        found.append([*history["d_loss"], *history["val_d_loss"], *np.ravel(evaluated)])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_any_labels_are_ignored():
    images = tf.data.Dataset.from_tensor_slices(photos(8)).batch(4)
    datasets = images.map(lambda x: (x, None)), images.map(lambda x: (x, tf.sparse.eye(4)))
    for gan in (cheap(1), cheap(2)):
        for data in datasets:
            gan.fit(data, verbose=0)
        assert int(gan.images_seen.numpy()) == 16


def test_single_batches_can_be_trained_and_tested_on():
    gan = cheap(1)
    gan.train_on_batch(photos(4))
    gan.test_on_batch(photos(4))
    assert int(gan.images_seen.numpy()) == 4


def test_a_loop_is_traced_once_for_all_numbers_of_steps(monkeypatch):
    traced, step = [], Cheap.train_step

    def noting(gan, data):
        traced.append(tuple(data.shape))
        return step(gan, data)

    monkeypatch.setattr(Cheap, "train_step", noting)
    cheap(4).fit(photos(28), batch_size=4, verbose=0)  # executions of 4 and of 3 steps
    assert traced == [(4, 8, 8, 3)]


def test_a_signal_ends_an_execution_between_slow_steps(monkeypatch):
    monkeypatch.setattr(distributed_model, "_MOST_SECONDS", 1e-9)
    gan = create()
    gan.compile("sgd", keras.optimizers.SGD(RATE), steps_per_execution=4)
    monkeypatch.setattr(stopping, "is_requested", lambda: int(gan.images_seen.numpy()) >= 8)
    gan.fit(photos(16), batch_size=4, verbose=0, shuffle=False)
    assert int(gan.images_seen.numpy()) == 8


def test_the_average_moves_by_all_steps_since_its_last_update(eagerly):
    gan = create(average_every=3, average_decay=0.9)
    before = weights(gan.average)
    gan.train_step(real(), average=False)
    assert_same(weights(gan.average), before)
    gan.train_step(real())
    for average, start, weight in zip(
        weights(gan.average), before, weights(gan.generator), strict=True
    ):
        np.testing.assert_allclose(average, 0.9**3 * start + (1 - 0.9**3) * weight, atol=1e-6)


def test_fit_does_each_when_it_is_due_also_in_a_gan_that_was_saved(eagerly, tmp_path, monkeypatch):
    steps, train_step = [], GAN.train_step

    def noting(gan, data, **options):
        logs = train_step(gan, data, **options)
        steps.append((int(gan.images_seen.numpy()), options, logs.get("gradient_penalty")))
        return logs

    monkeypatch.setattr(GAN, "train_step", noting)
    settings = {"penalty_every": 2, "average_every": 4, "shared_pass": True}
    gan = create(**settings)
    gan.fit(photos(), batch_size=4, epochs=1, verbose=0, shuffle=False)
    gan.fit(photos(4), batch_size=4, verbose=0, shuffle=False)
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert loaded.settings == gan.settings
    history = loaded.fit(photos(), batch_size=4, verbose=0, shuffle=False).history
    assert [(seen, options) for seen, options, _ in steps] == [
        (4, {"penalise": True, "average": True}),
        (8, {"penalise": False, "average": False}),
        (12, {"penalise": True, "average": False}),
        (16, {"penalise": False, "average": False}),
        (20, {"penalise": True, "average": True}),
    ]
    # The mean is over the steps that have a penalty, here one of two.
    assert [penalty is None for _, _, penalty in steps] == [False, True, False, True, False]
    assert history["gradient_penalty"] == [pytest.approx(float(steps[-1][2]), rel=1e-6)]
    assert history["d_loss"] != [0.0]
