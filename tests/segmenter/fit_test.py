import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.errors import UserError
from layered_segmentation.gan import precision
from layered_segmentation.gan.composite import Layers
from layered_segmentation.segmenter import fit, unet
from layered_segmentation.segmenter.segmenter import create_segmenter


def mean_iou(segmenter, images, masks):
    predicted = np.stack(segmenter.predict_masks(images)) > 0.5
    truth = masks > 0
    return np.mean((predicted & truth).sum((1, 2)) / (predicted | truth).sum((1, 2)))


def test_a_student_learns_to_segment_images_it_has_not_seen():
    images, masks = Scenes(0, 1000).load_pairs(16)
    unseen, truth = Scenes(0, 100, "test").load_pairs(16)
    settings = configs.StudentConfig(width=16, steps=150, batch=32, learning_rate=0.005)
    segmenter = create_segmenter(settings.width, 16)
    before = mean_iou(segmenter, unseen, truth)
    pool = fit.Pool.from_pairs(images, masks)
    summary = fit.fit(segmenter, pool, settings, seed=0)
    after = mean_iou(segmenter, unseen, truth)
    assert after > 0.6 and after > before + 0.2
    assert summary.steps == 150 and summary.pairs == 1000
    assert 0.5 < summary.agreement < 1 and summary.images_per_second > 0
    assert summary.coverage == pytest.approx(masks.mean(), abs=1e-6)


def test_pairs_are_shifted_composites():
    generator = np.random.default_rng(0)
    background = np.zeros((1, 16, 16, 3), np.uint8)
    foreground = np.full((1, 16, 16, 3), 255, np.uint8)
    mask = np.zeros((1, 16, 16, 1), np.uint8)
    mask[:, 6:10, 6:10] = 255
    layers = Layers(background, foreground, mask)
    settings = configs.StudentConfig(batch=64, augment=0.0)
    for shift, moves in ((0.0, False), (0.125, True)):
        pool = fit.Pool(layers, shift=shift)
        seed, step = int(generator.integers(100)), tf.constant(0)
        tensors = Layers(*map(tf.constant, layers))
        images, masks, _ = fit._pairs(pool, tensors, None, settings, seed, step)
        # Image and mask move together, by at most 2 pixels, and not always by the same.
        np.testing.assert_allclose(images, np.repeat(2 * masks - 1, 3, axis=-1), atol=1e-5)
        corners = {tuple(np.argwhere(m[..., 0] > 0.5)[0]) for m in np.asarray(masks)}
        assert (len(corners) > 10) == moves
        assert all(abs(x - 6) <= 2 and abs(y - 6) <= 2 for x, y in corners)


def test_pairs_have_the_backgrounds_of_other_scenes_where_that_is_set():
    levels = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1) * 30
    images = np.tile(levels, (1, 8, 8, 3))
    mask = np.zeros((8, 8, 8, 1), np.uint8)
    mask[:, :, 4:] = 255
    layers = Layers(images, images, mask)
    settings = configs.StudentConfig(batch=64, augment=0.0)
    for swap, least, most in ((0.0, 0, 0), (0.5, 15, 45), (1.0, 48, 64)):
        pool = fit.Pool(layers, background_swap=swap)
        tensors = Layers(*map(tf.constant, layers))
        pairs, masks, _ = fit._pairs(pool, tensors, None, settings, 0, tf.constant(0))
        differ = np.abs(np.asarray(pairs)[:, 0, 0, 0] - np.asarray(pairs)[:, 0, 7, 0]) > 1e-3
        assert least <= differ.sum() <= most  # some neighbours are the same scene
        np.testing.assert_array_equal(masks, np.repeat(mask[:1] / 255.0, 64, axis=0))


def test_pairs_are_scaled_where_that_is_set():
    layers = Layers(
        np.zeros((1, 32, 32, 3), np.uint8),
        np.full((1, 32, 32, 3), 255, np.uint8),
        np.pad(np.full((1, 16, 16, 1), 255, np.uint8), ((0, 0), (8, 8), (8, 8), (0, 0))),
    )
    settings = configs.StudentConfig(batch=64, augment=0.0)
    for scale in (1.0, 1.25):
        pool = fit.Pool(layers, scale=scale)
        parts = Layers(*map(tf.constant, layers))
        masks = np.asarray(fit._pairs(pool, parts, None, settings, 0, tf.constant(0))[1])
        coverage = masks.mean((1, 2, 3)) * 4
        assert coverage.min() == pytest.approx(scale**-2, abs=0.02)
        assert coverage.max() == pytest.approx(scale**2, abs=0.05)


def test_mask_loss_on_hand_computed_values():
    masks = np.zeros((1, 2, 2, 1), np.float32)
    masks[0, 0] = 1
    # At logit 0: cross-entropy ln 2; overlap 2 · ½ = 1, total 2 + 2, Dice 1 - (2 + 1) / (4 + 1).
    loss = fit.mask_loss(masks, np.zeros_like(masks))
    assert float(loss) == pytest.approx(np.log(2) + 0.4, abs=1e-6)
    sure = fit.mask_loss(masks, (2 * masks - 1) * 30)
    assert float(sure) == pytest.approx(0, abs=1e-6)
    wrong = fit.mask_loss(masks, (1 - 2 * masks) * 30)
    assert float(wrong) == pytest.approx(30 + 1 - 1 / 5, abs=1e-3)


def test_pixels_of_weight_zero_change_no_loss():
    generator = np.random.default_rng(0)
    masks, other = generator.uniform(size=(2, 3, 4, 4, 1)).astype(np.float32)
    logits, weights = generator.normal(size=(2, 3, 4, 4, 1)).astype(np.float32)
    ones = np.ones_like(masks)
    alike = float(fit.mask_loss(masks, logits))
    assert float(fit.mask_loss(masks, logits, ones)) == pytest.approx(alike, abs=1e-6)
    weights = (weights > 0).astype(np.float32)
    replaced = np.where(weights > 0, masks, other)
    weighted = float(fit.mask_loss(masks, logits, weights))
    assert float(fit.mask_loss(replaced, logits, weights)) == pytest.approx(weighted, abs=1e-6)
    assert weighted != pytest.approx(alike, abs=1e-3)
    assert float(fit.mask_loss(masks, logits, 0 * ones)) == 0


def test_weights_move_with_their_pixels():
    images = np.zeros((1, 16, 16, 3), np.uint8)
    masks = np.zeros((1, 16, 16), np.float32)
    images[:, 2:8, 2:8] = 255
    masks[:, 2:8, 2:8] = 1
    pool = fit.Pool.from_pairs(images, masks, masks)
    settings = configs.StudentConfig(batch=32, augment=1.0)
    tensors = Layers(*map(tf.constant, pool.layers))
    drawn = fit._pairs(pool, tensors, tf.constant(pool.weights), settings, 0, tf.constant(0))
    _, moved, weights = map(np.asarray, drawn)
    assert moved.shape == weights.shape == (32, 16, 16, 1)
    np.testing.assert_array_equal(moved, weights)
    assert len({mask.tobytes() for mask in moved}) > 16
    _, unweighted, none = fit._pairs(pool, tensors, None, settings, 0, tf.constant(0))
    assert none is None
    np.testing.assert_allclose(unweighted, moved, atol=1e-6)


def test_a_student_learns_nothing_from_pixels_of_weight_zero(eagerly):
    images, masks = Scenes(0, 4).load_pairs(16)
    masks = (masks > 0).astype(np.float32)
    weights = np.zeros_like(masks)
    weights[:, :8] = 1
    others = masks.copy()
    others[:, 8:] = 1 - others[:, 8:]
    settings = configs.StudentConfig(width=8, steps=2, batch=4, augment=0.0)
    logits = []
    for labels in (masks, others):
        segmenter = create_segmenter(8, 16)
        fit.initialise(segmenter, 0)
        pool = fit.Pool.from_pairs(images, labels, weights)
        fit.fit(segmenter, pool, settings, seed=0)
        logits.append(np.asarray(segmenter.logits(images / 127.5 - 1.0)))
    np.testing.assert_array_equal(*logits)


def test_a_loss_that_is_not_finite_stops_with_advice(eagerly):
    images, masks = Scenes(0, 32).load_pairs(16)
    settings = configs.StudentConfig(width=8, steps=30, batch=8, learning_rate=1e30)
    segmenter = create_segmenter(8, 16)
    pool = fit.Pool.from_pairs(images, masks)
    with pytest.raises(UserError, match=r"not finite at step \d+; lower student.learning_rate"):
        fit.fit(segmenter, pool, settings, seed=0)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_fused_batch_norm_is_keras_own(dtype):
    generator = np.random.default_rng(0)
    images = tf.constant(generator.normal(1, 2, (3, 4, 5, 8)), tf.float32)
    targets = tf.constant(generator.normal(size=(3, 4, 5, 8)), tf.float32)
    start = [generator.uniform(0.5, 2, 8) for _ in range(4)]
    results = []
    for kind in (unet.BatchNormalization, keras.layers.BatchNormalization):
        norm = kind(momentum=0.9, dtype=dtype)
        norm.build(images.shape)
        norm.set_weights(start)
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = norm(images, training=True)
            loss = tf.reduce_sum(targets * tf.cast(outputs, tf.float32))
        gradients = tape.gradient(loss, [images, norm.gamma.value, norm.beta.value])
        assert outputs.dtype == norm.compute_dtype
        results.append([outputs, *gradients, *norm.get_weights(), norm(images, training=False)])
    assert np.abs(results[0][-2] - start[-1]).max() > 0.1  # the moving variance moves
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    for fused, plain in zip(*results, strict=True):
        fused, plain = (np.asarray(part, np.float32) for part in (fused, plain))
        np.testing.assert_allclose(fused, plain, rtol=tolerance, atol=tolerance)


def pool_and_student(**settings):
    images, masks = Scenes(0, 64).load_pairs(16)
    segmenter = create_segmenter(8, 16)
    fit.initialise(segmenter, 0)
    settings = configs.StudentConfig(width=8, batch=16, **settings)
    return fit.Pool.from_pairs(images, masks, (masks > 0).astype(np.float32)), segmenter, settings


def test_the_parts_of_a_batch_are_normalised_apart(eagerly):
    pool, segmenter, settings = pool_and_student(parts=2)
    layers, weights = Layers(*map(tf.constant, pool.layers)), tf.constant(pool.weights)
    drawn = fit._pairs(pool, layers, weights, settings, 3, tf.constant(0))
    losses, gradients = [], []
    for images, masks, counts in zip(*(tf.split(part, 2) for part in drawn), strict=True):
        with tf.GradientTape() as tape:
            losses.append(fit.mask_loss(masks, segmenter.logits(images, training=True), counts))
        gradients.append(tape.gradient(losses[-1], segmenter.trainable_variables))
    fit.initialise(segmenter, 0)
    steps, applied = fit._Steps(segmenter, pool, settings, 3), []
    apply = steps._optimizer.apply
    steps._optimizer.apply = lambda gradients: applied.extend(gradients) or apply(gradients)
    loss, agreement = steps.take(0)
    assert loss == pytest.approx(float(np.mean(losses)), rel=1e-5) and 0 <= agreement <= 1
    for found, first, second in zip(applied, *gradients, strict=True):
        np.testing.assert_allclose(found, (first + second) / 2, rtol=1e-3, atol=1e-6)
    fit.initialise(segmenter, 0)
    whole = fit._Steps(segmenter, pool, dataclasses.replace(settings, parts=1), 3)
    assert whole.take(0)[0] != pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("settings", [{"precision": "mixed_bfloat16"}, {"parts": 2}])
def test_a_student_learns_alike_in_parts_and_in_half_precision(settings):
    pool, plain, given = pool_and_student(steps=40, augment=0.0)
    _, other, chosen = pool_and_student(steps=40, augment=0.0, **settings)
    expected = fit.fit(plain, pool, given, seed=0)
    found = fit.fit(other, pool, chosen, seed=0)
    assert expected.agreement > 0.5 and found.agreement == pytest.approx(
        expected.agreement, abs=0.1
    )
    assert other.backbone.dtype_policy.name == "float32"
    assert {weight.dtype for weight in other.get_weights()} == {np.dtype("float32")}
    masks = (np.stack(part.predict_masks(pool.layers.background)) > 0.5 for part in (plain, other))
    assert np.mean(next(masks) == next(masks)) > 0.85
    assert any(
        np.any(a != b) for a, b in zip(plain.get_weights(), other.get_weights(), strict=True)
    )


@pytest.mark.parametrize(("gain", "expected"), [(1.1, "float32"), (1.2, "mixed_bfloat16")])
def test_auto_takes_half_precision_where_it_is_clearly_faster(
    gain, expected, eagerly, monkeypatch, capsys
):
    def compare(timers):
        assert all(timer.run(1).images_per_second > 0 for timer in timers)
        policies = [timer._steps._segmenter.backbone.dtype_policy.name for timer in timers]
        assert policies == ["float32", "mixed_bfloat16"]
        return gain, 100.0, 100.0 * gain

    monkeypatch.setattr(precision, "compare", compare)
    pool, segmenter, settings = pool_and_student(precision="auto")
    before = [np.array(weight) for weight in segmenter.get_weights()]
    chosen = fit.with_precision(segmenter, pool, settings)
    assert chosen == dataclasses.replace(settings, precision=expected)
    for new, old in zip(segmenter.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    line = capsys.readouterr().out
    assert line.startswith(f"student.precision=auto: {expected}, since the student learns 100.0 ")
    assert fit.with_precision(segmenter, pool, chosen) is chosen and not capsys.readouterr().out


def test_auto_is_float32_where_no_half_precision_is_known_to_be_fast(monkeypatch, capsys):
    monkeypatch.setattr(precision, "mixed_precision", lambda device: None)
    pool, segmenter, settings = pool_and_student(precision="auto")
    assert fit.with_precision(segmenter, pool, settings).precision == "float32"
    assert "not known to have fast bfloat16" in capsys.readouterr().out
    with pytest.raises(ValueError, match="with_precision"):
        fit.fit(segmenter, pool, settings, seed=0)


@pytest.mark.parametrize("general", ["mixed_bfloat16", "float32"])
def test_a_general_policy_does_not_change_the_precision(general, eagerly):
    pool, plain, settings = pool_and_student(steps=2)
    fit.fit(plain, pool, settings, seed=0)
    keras.config.set_dtype_policy(general)
    try:
        _, other, _ = pool_and_student(steps=2)
        assert other.backbone.dtype_policy.name == general
    finally:
        keras.config.set_dtype_policy("float32")
    fit.fit(other, pool, settings, seed=0)
    for one, two in zip(plain.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_frozen_layers_stay_as_they_are_in_half_precision(eagerly):
    pool, segmenter, settings = pool_and_student(steps=3, precision="mixed_bfloat16")
    names = "level0_in", "level0_in_norm"
    frozen = [segmenter.backbone.get_layer(name) for name in names]
    for layer in frozen:
        layer.trainable = False
    before = [np.array(weight) for layer in frozen for weight in layer.get_weights()]
    others = [np.array(weight) for weight in segmenter.get_weights()]
    fit.fit(segmenter, pool, settings, seed=0)
    after = [weight for layer in frozen for weight in layer.get_weights()]
    for new, old in zip(after, before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert any(np.any(a != b) for a, b in zip(segmenter.get_weights(), others, strict=True))


def test_a_model_of_the_backbones_layers_can_be_saved(tmp_path):
    backbone = create_segmenter(8, 16).backbone
    model = keras.Model(backbone.input, keras.layers.Conv2D(3, 1)(backbone.output))
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)
