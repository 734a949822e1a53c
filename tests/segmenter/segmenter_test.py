import json
import os
import subprocess
import sys
import textwrap

import keras
import keras_hub
import numpy as np
import pytest

from layered_segmentation.errors import UserError
from layered_segmentation.images import to_square
from layered_segmentation.segmenter import preprocessing, presets
from layered_segmentation.segmenter.segmenter import LayeredSegmenter, create_segmenter
from layered_segmentation.segmenter.unet import UNetBackbone, levels_for


def photos(*sizes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in sizes]


def randomised(width=8, resolution=16, seed=0, aspect="squash"):
    """A segmenter whose weights, norms included, differ from those it starts with."""
    segmenter = create_segmenter(width, resolution, aspect)
    generator = np.random.default_rng(seed)
    for weight in segmenter.weights:
        noise = generator.uniform(0.5, 1.5, weight.shape)
        weight.assign(np.asarray(weight) * noise + 0.01 * noise)
    return segmenter


@pytest.mark.parametrize(
    ("resolution", "levels"), [(8, 2), (16, 3), (24, 3), (32, 4), (40, 4), (64, 5), (128, 5)]
)
def test_depth_adapts_to_the_resolution(resolution, levels):
    assert levels_for(resolution) == levels
    segmenter = create_segmenter(8, resolution)
    assert segmenter.backbone.levels == levels
    assert segmenter(np.zeros((1, resolution, resolution, 3), np.float32)).shape[1] == resolution


def test_the_default_student_has_less_than_a_million_parameters():
    assert 100_000 < create_segmenter(24, 64).count_params() < 1_000_000


def test_the_network_is_fully_convolutional():
    backbone = UNetBackbone(8, levels=3)
    assert backbone.stride == 4
    assert backbone(np.zeros((2, 12, 20, 3), np.float32)).shape == (2, 12, 20, 8)


def test_every_pixel_sees_the_whole_image():
    segmenter = randomised(resolution=64)
    image = photos((64, 64))[0][None]
    changed = image.copy()
    changed[0, :4, :4] = 255 - changed[0, :4, :4]
    far = np.asarray(segmenter.masks(image) - segmenter.masks(changed))[0, 60:, 60:]
    assert np.abs(far).max() > 0


@pytest.mark.parametrize("size", [(10, 37), (16, 16), (128, 48)])
def test_masks_have_the_photos_own_size(size):
    (mask,) = randomised().predict_masks(photos(size))
    assert mask.shape == size and mask.dtype == np.float32
    assert 0 <= mask.min() < mask.max() <= 1


def test_a_list_of_sizes_gives_what_each_photo_gives_alone():
    segmenter = randomised()
    images = photos((20, 30), (16, 16), (50, 11))
    together = segmenter.predict_masks(images)
    for image, mask in zip(images, together, strict=True):
        np.testing.assert_allclose(segmenter.predict_masks([image])[0], mask, atol=1e-5)
        np.testing.assert_allclose(segmenter.masks(image[None])[0, ..., 0], mask, atol=1e-5)
    for mask, actual in zip(segmenter.predict(images), together, strict=True):
        np.testing.assert_array_equal(mask[..., 0], actual)


def test_one_photo_gives_one_mask():
    segmenter = randomised()
    image = photos((20, 30))[0]
    (expected,) = segmenter.predict_masks([image])
    np.testing.assert_array_equal(segmenter.predict_masks(image), expected)
    np.testing.assert_array_equal(segmenter.predict(image), expected[..., None])
    grey = image[..., 0]
    np.testing.assert_array_equal(segmenter.predict_masks(grey), segmenter.predict_masks([grey])[0])
    for wrong, words in ((image / 255, "float64"), (np.stack([grey] * 5), r"\(5, 20, 30\)")):
        with pytest.raises(UserError, match=words):
            segmenter.predict_masks(wrong)


def test_more_photos_than_a_batch_keep_their_order():
    segmenter = randomised()
    images = np.stack(photos(*[(16, 16)] * 70))
    masks = segmenter.predict(images)
    assert masks.shape == (70, 16, 16, 1)
    # Another batch size may take another convolution kernel: equal to rounding, not to the bit.
    alone = segmenter.predict_masks(images[69:])[0]
    np.testing.assert_allclose(masks[69, ..., 0], alone, atol=1e-5)
    assert np.abs(masks[68, ..., 0] - alone).max() > 0.01


def test_the_preprocessor_and_prepare_agree():
    segmenter = randomised()
    image = photos((33, 70))[0][None]
    expected = np.asarray(segmenter.preprocessor(image))
    np.testing.assert_allclose(expected, np.asarray(segmenter.prepare(image)), atol=1e-6)
    assert -1 <= expected.min() < expected.max() <= 1


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (33, 20), (32, 32)])
def test_edges_are_repeated_to_a_square_and_cropped_again(size):
    (image,) = photos(size)
    height, width = size
    side = max(size)
    top, left = (side - height) // 2, (side - width) // 2
    ends = ((top, side - height - top), (left, side - width - left), (0, 0))
    expected = np.pad(image, ends, mode="edge")
    assert np.array_equal(preprocessing.pad_to_square(image), expected)
    squares = np.asarray(preprocessing.pad_to_square(image[None]))
    assert np.array_equal(squares[0], expected) and squares.dtype == np.uint8
    assert np.array_equal(preprocessing.crop_from_square(squares, *size)[0], image)


@pytest.mark.parametrize("aspect", ["pad", "centre_crop"])
def test_photos_are_prepared_as_in_training(aspect):
    segmenter, squashing = randomised(aspect=aspect), randomised()
    squashing.set_weights(segmenter.get_weights())
    wide, tall = (np.kron(p, np.ones((4, 4, 1), np.uint8)) for p in photos((6, 12), (12, 6)))
    for image in (wide, tall):
        expected = np.asarray(segmenter.preprocessor(image[None]))
        trained = to_square(image, 16, "pad") / 127.5 - 1
        assert np.abs(expected[0] - trained).max() < 1 / 127.5
        np.testing.assert_allclose(expected, np.asarray(segmenter.prepare(image[None])), atol=1e-6)
        assert np.abs(np.asarray(squashing.prepare(image[None])) - expected).mean() > 0.1
    for image, mask in zip((wide, tall), segmenter.predict_masks([wide, tall]), strict=True):
        assert mask.shape == image.shape[:2]
        # What the squashing one says of the photo with its edges continued.
        (square,) = squashing.predict_masks([np.asarray(preprocessing.pad_to_square(image))])
        cut = preprocessing.crop_from_square(square[None, ..., None], *image.shape[:2])
        np.testing.assert_allclose(mask, cut[0, ..., 0], atol=1e-5)
        np.testing.assert_allclose(segmenter.masks(image[None])[0, ..., 0], mask, atol=1e-5)


def test_a_preset_keeps_the_aspect_and_an_old_one_squashes(tmp_path):
    presets.save(randomised(aspect="pad"), str(tmp_path / "pad"))
    assert presets.load(str(tmp_path / "pad")).preprocessor.image_converter.aspect == "pad"
    presets.save(randomised(), str(tmp_path / "old"))
    path = tmp_path / "old" / "preprocessor.json"
    saved = path.read_text()
    assert saved.count('"aspect": "squash"') == 1
    config = json.loads(saved)
    del config["config"]["image_converter"]["config"]["aspect"]
    path.write_text(json.dumps(config))
    (tmp_path / "old" / "checksums.json").unlink()  # nor had an old one these
    assert presets.load(str(tmp_path / "old")).preprocessor.image_converter.aspect == "squash"


def test_a_large_photo_is_smoothed_before_it_is_shrunk():
    stripes = np.zeros((1, 256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    prepared = np.asarray(create_segmenter(8, 16).prepare(stripes))
    np.testing.assert_allclose(prepared, 0, atol=0.05)


def test_grey_and_alpha_are_converted():
    segmenter = randomised()
    grey = photos((12, 12))[0][..., 0]
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    rgba = np.dstack([rgb, np.zeros_like(grey)])
    masks = segmenter.predict_masks([rgb, grey, grey[..., None], rgba])
    for mask in masks[1:]:  # a photo's place in the batch may cost a rounding
        np.testing.assert_allclose(mask, masks[0], atol=1e-6)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (
            np.zeros((8, 8, 3), np.float32),
            r"float32.*np\.rint\(255 \* image\)\.astype\(np\.uint8\)",
        ),
        (np.full((8, 8, 3), 0.5), r"float64, from 0.5 to 0.5; .*np\.rint\(255 \* image\)"),
        (np.linspace(0, 255, 192).reshape(8, 8, 3), r"to 255; .*`np\.rint\(image\)\.astype"),
        (np.linspace(-1, 1, 192).reshape(8, 8, 3), r"from -1 to 1; .*rint\(127.5 \* \(image \+ 1"),
        (np.zeros((8, 8, 2), np.uint8), r"\(8, 8, 2\)"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
    ],
)
def test_images_that_are_not_uint8_photos_are_refused(image, words):
    with pytest.raises(UserError, match=words):
        create_segmenter(8, 16).predict_masks([image])


def test_a_preset_round_trips_through_kerashub(tmp_path):
    segmenter = randomised()
    segmenter.save_to_preset(str(tmp_path / "preset"))
    back = keras_hub.models.ImageSegmenter.from_preset(str(tmp_path / "preset"))
    assert type(back) is LayeredSegmenter
    assert back.resolution == 16 and back.backbone.get_config()["width"] == 8
    images = photos((20, 30), (16, 16))
    for actual, expected in zip(
        segmenter.predict_masks(images), back.predict_masks(images), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


def test_a_keras_file_round_trips(tmp_path):
    segmenter = randomised()
    segmenter.save(tmp_path / "segmenter.keras")
    back = keras.models.load_model(tmp_path / "segmenter.keras", compile=False)
    image = photos((20, 30))
    np.testing.assert_array_equal(segmenter.predict_masks(image), back.predict_masks(image))


@pytest.mark.slow
def test_importing_the_class_is_enough_for_kerashub_on_another_backend(tmp_path):
    segmenter = randomised()
    presets.save(segmenter, str(tmp_path / "preset"))
    image = photos((20, 30))[0]
    np.save(tmp_path / "image.npy", image)
    code = f"""
        import layered_segmentation
        import sys
        assert "keras" not in sys.modules, "importing the package must stay quick"
        from layered_segmentation import LayeredSegmenter
        import keras_hub
        import numpy as np
        segmenter = keras_hub.models.ImageSegmenter.from_preset({str(tmp_path / "preset")!r})
        assert type(segmenter) is LayeredSegmenter
        image = np.load({str(tmp_path / "image.npy")!r})
        np.save({str(tmp_path / "mask.npy")!r}, segmenter.predict_masks([image])[0])
        segmenter.compile()
        segmenter.fit(image[None], np.ones((1, *image.shape[:2], 1), np.float32), verbose=0)
    """
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = np.load(tmp_path / "mask.npy")
    np.testing.assert_allclose(expected, segmenter.predict_masks([image])[0], atol=1e-4)


def test_it_can_be_fine_tuned_on_masks(eagerly):
    segmenter = randomised()
    images = np.stack(photos(*[(30, 20)] * 8))
    masks = np.ones((8, 16, 16, 1), np.float32)
    segmenter.compile(optimizer=keras.optimizers.Adam(1e-2))
    losses = segmenter.fit(images, masks, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_load_takes_a_run_or_a_preset(tmp_path):
    (tmp_path / "config.yaml").touch()
    presets.save(randomised(), str(tmp_path / "segmenter"))
    for path in (tmp_path, tmp_path / "segmenter"):
        assert isinstance(presets.load(str(path)), LayeredSegmenter)


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="there is no such directory"):
        presets.load(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="neither a run directory"):
        presets.load(str(tmp_path))
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match=r"no segmenter in .* yet: run `layerseg distill --run_dir"):
        presets.load(str(tmp_path))


def test_load_refuses_a_damaged_preset(tmp_path):
    preset = tmp_path / "preset"
    presets.save(randomised(), str(preset))
    (preset / "model.weights.h5").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"model\.weights\.h5: its SHA-256 is .*save it again"):
        presets.load(str(preset))
    (preset / "checksums.json").unlink()  # as presets of other programs are
    with pytest.raises(UserError, match=r"parameters, and model\.weights\.h5 has 9 bytes"):
        presets.load(str(preset))
    (preset / "config.json").unlink()
    with pytest.raises(UserError, match=r"model\.weights\.h5: cannot be read as HDF5"):
        presets.load(str(preset))


def test_save_replaces_nothing_silently(tmp_path):
    preset = str(tmp_path / "preset")
    first, second = randomised(seed=1), randomised(seed=2)
    image = photos((16, 16))
    presets.save(first, preset)
    with pytest.raises(UserError, match="already exists"):
        presets.save(second, preset)
    kept = presets.load(preset).predict_masks(image)
    np.testing.assert_array_equal(kept, first.predict_masks(image))
    presets.save(second, preset, overwrite=True)
    replaced = presets.load(preset).predict_masks(image)
    np.testing.assert_array_equal(replaced, second.predict_masks(image))
    assert os.listdir(tmp_path) == ["preset"]


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    preset = str(tmp_path / "preset")
    first, second = randomised(seed=1), randomised(seed=2)
    presets.save(first, preset)

    def no_space(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(second.backbone, "save_to_preset", no_space)
    with pytest.raises(OSError, match="No space"):
        presets.save(second, preset, overwrite=True)
    image = photos((16, 16))
    kept = presets.load(preset).predict_masks(image)
    np.testing.assert_array_equal(kept, first.predict_masks(image))
    assert os.listdir(tmp_path) == ["preset"]
    # As a process leaves it that was killed after the old one was set aside.
    os.rename(preset, tmp_path / f".{os.path.basename(preset)}.replaced")
    with pytest.raises(OSError, match="No space"):
        presets.save(second, preset, overwrite=True)
    assert os.listdir(tmp_path) == ["preset"]
