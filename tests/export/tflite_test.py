import os

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from tiny_networks import encoder_segmenter, random_student

from layered_segmentation import images as photos
from layered_segmentation import masks
from layered_segmentation.data import folder
from layered_segmentation.errors import UserError
from layered_segmentation.export import compare, tflite
from layered_segmentation.segmenter import preset_files, presets

FLOWERS = "layered_unet_flowers_64"


@pytest.fixture(scope="module")
def segmenter():
    return random_student()


@pytest.fixture(scope="module")
def flowers():
    assert FLOWERS in preset_files.names()
    return presets.load(FLOWERS)


def signature(path):
    return Interpreter(model_path=path, num_threads=1).get_signature_runner("serving_default")


@pytest.mark.parametrize(
    "mode",
    ["none", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("float16", "dynamic"))],
)
def test_float_files_keep_within_their_limits(flowers, album, tmp_path, mode):
    """A trained network of the default size; random weights would say nothing of quantization."""
    assert (flowers.backbone.width, flowers.resolution) == (24, 64)
    assert flowers.count_params() < 1_000_000
    path = str(tmp_path / "file.tflite")
    done = tflite.export_tflite(
        flowers,
        path,
        quantize=mode,
        images=str(album / "photos"),
        masks=str(album / "masks"),
    )
    if mode in compare.MAX_DIFFERENCE:
        assert done.difference <= compare.MAX_DIFFERENCE[mode]
    assert done.file_miou >= done.keras_miou - compare.MAX_MIOU_LOSS
    assert done.quantize == mode and done.megabytes == os.path.getsize(path) / 1e6
    assert done.megabytes < {"none": 2.5, "float16": 1.3, "dynamic": 0.7}[mode]
    run = signature(path)
    assert run.get_input_details()["images"]["dtype"] == np.float32
    image = photos.to_square(photos.read(str(album / "photos" / "0.png")), 64)
    mask = run(images=image[None].astype(np.float32))["masks"]
    expected = flowers.predict(image[None])
    assert np.abs(mask - expected).mean() <= max(1e-2, done.mean_difference)


@pytest.mark.slow
def test_int8_has_uint8_input_and_output(flowers, album, tmp_path):
    path = str(tmp_path / "file.tflite")
    done = tflite.export_tflite(
        flowers,
        path,
        quantize="int8",
        representative_data=str(album / "photos"),
        images=str(album / "photos"),
        masks=str(album / "masks"),
    )
    assert done.file_miou >= done.keras_miou - compare.MAX_MIOU_LOSS
    assert done.megabytes < 1.0 and {"1", "2"} == set(done.latency)
    run = signature(path)
    images, masks = run.get_input_details()["images"], run.get_output_details()["masks"]
    assert images["dtype"] == np.uint8 and images["quantization"] == pytest.approx((1.0, 0))
    assert masks["dtype"] == np.uint8 and masks["quantization"] == pytest.approx((1 / 256, 0))
    image = photos.to_square(photos.read(str(album / "photos" / "0.png")), 64)
    masks = run(images=image[None])["masks"] >= 128
    expected = flowers.predict(image[None]) >= 0.5
    assert np.mean(masks == expected) > 0.95


@pytest.mark.slow
def test_a_file_over_its_limit_is_not_written(segmenter, album, tmp_path, monkeypatch):
    other, convert = random_student(seed=5), tflite.convert
    monkeypatch.setattr(tflite, "convert", lambda _, *rest: convert(other, *rest))
    for mode, message in (
        ("float16", r"differ .* \(at most 0.01 is allowed for --quantize=float16\)"),
        ("dynamic", r"--quantize=dynamic loses .* against the Keras model's masks"),
    ):
        with pytest.raises(UserError, match=f"{message}.*nothing was written"):
            tflite.export_tflite(
                segmenter, str(tmp_path / "a.tflite"), quantize=mode, images=str(album / "photos")
            )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int4"}, "--quantize=int4: one of none, float16, dynamic, int8"),
        ({"quantize": "int8"}, "--representative_data is needed with --quantize=int8"),
        (
            {"quantize": "int8", "representative_data": "NONE"},
            "--representative_data=.*none: there is no such directory",
        ),
        (
            {"quantize": "int8", "representative_data": "EMPTY"},
            "--representative_data=.*empty: holds no readable image",
        ),
        (
            {"quantize": "int8", "representative_data": "FILE"},
            "--representative_data=.*: is a file; name a directory",
        ),
        ({"representative_data": "EMPTY"}, "it goes with --quantize=int8"),
        ({"masks": "EMPTY"}, "name their photos with --images too"),
    ],
)
def test_invalid_input_writes_nothing(segmenter, tmp_path, options, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    places = {"NONE": "none", "EMPTY": "empty", "FILE": os.path.join("empty", "cut.jpg")}
    options = {
        key: str(tmp_path / places[value]) if value in places else value
        for key, value in options.items()
    }
    with pytest.raises(UserError, match=message):
        tflite.export_tflite(segmenter, str(tmp_path / "a.tflite"), **options)
    assert os.listdir(tmp_path) == ["empty"]


@pytest.mark.slow
def test_pixels_to_ignore_are_not_scored(flowers, album, tmp_path):
    everywhere = album / "ignore"
    everywhere.mkdir(exist_ok=True)
    for name in os.listdir(album / "masks"):
        truth = masks.read(str(album / "masks" / name)).inside
        photos.write(str(everywhere / name), np.where(truth, 0, 255).astype(np.uint8))
    path = tmp_path / "a.tflite"
    given = [str(album / "photos"), str(album / "masks")]
    done = tflite.export_tflite(
        flowers, str(path), images=given[0], masks=given[1], ignore=str(everywhere)
    )
    run = tflite.interpreter(path.read_bytes(), threads=1)
    # Only the object is scored, and its mask can only miss pixels of it.
    assert done.file_miou > compare.score(run, folder.PairFolder(*given), 64)
    with pytest.raises(UserError, match="name the true masks with --masks too"):
        tflite.export_tflite(flowers, str(tmp_path / "b.tflite"), ignore=str(everywhere))


@pytest.mark.slow
def test_the_limits_apply_to_an_encoder(shallow_resnet, album, tmp_path):
    """Untrained, it is within the limits of float16 but not of int8."""
    segmenter = encoder_segmenter()
    flags = {"images": str(album / "photos"), "representative_data": ""}
    for mode in ("none", "float16"):
        path = str(tmp_path / f"{mode}.tflite")
        done = tflite.export_tflite(segmenter, path, quantize=mode, **flags)
        assert done.difference <= compare.MAX_DIFFERENCE[mode] and done.file_miou is None
        image = photos.to_square(photos.read(str(album / "photos" / "0.png")), 16)[None]
        mask = signature(path)(images=image.astype(np.float32))["masks"]
        np.testing.assert_allclose(mask, segmenter.predict(image), atol=done.difference + 1e-6)
    flags["representative_data"] = str(album / "photos")
    with pytest.raises(UserError, match=r"--quantize=int8 loses 0\.0.* nothing was written"):
        tflite.export_tflite(segmenter, str(tmp_path / "int8.tflite"), quantize="int8", **flags)
    with pytest.raises(UserError, match="this network takes 16 px only"):
        tflite.export_tflite(segmenter, str(tmp_path / "large.tflite"), input_size=32)
    assert sorted(os.listdir(tmp_path)) == ["float16.tflite", "none.tflite"]


def test_grey_and_transparent_photos_are_converted(tmp_path):
    from PIL import Image

    Image.new("L", (30, 20), 90).save(tmp_path / "grey.png")
    Image.new("RGBA", (30, 20), (10, 200, 30, 0)).save(tmp_path / "alpha.png")
    samples = tflite.representative_samples(str(tmp_path), 16)
    assert [sample.shape for sample in samples] == [(16, 16, 3)] * 2
    assert {float(sample.mean()) for sample in samples} == {90.0, 255.0}  # clear becomes white


def test_the_loss_by_hand():
    measured = compare.Comparison(3, 0.4, 0.1, agreement=0.995)
    assert measured.miou_loss == pytest.approx(0.005)
    compare.require_limits(measured, "int8")
    worse = compare.Comparison(3, 0.4, 0.1, 0.999, keras_miou=0.9, file_miou=0.88)
    assert worse.miou_loss == pytest.approx(0.02)
    with pytest.raises(UserError, match=r"loses 0\.0200 of the mIoU against true masks"):
        compare.require_limits(worse, "int8")
    with pytest.raises(UserError, match="nothing was written"):
        compare.require_limits(compare.Comparison(3, float("inf"), 0.1, 1.0), "dynamic")
