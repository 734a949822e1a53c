import importlib.util
import os

import numpy as np
import pytest
from tiny_networks import encoder_segmenter, random_student

from layered_segmentation import images as photos
from layered_segmentation import versions
from layered_segmentation.errors import UserError
from layered_segmentation.export import compare, onnx
from layered_segmentation.segmenter import presets
from layered_segmentation.segmenter.segmenter import create_segmenter

FLOWERS = "layered_unet_flowers_64"
needs_extra = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, onnx._PACKAGES)), reason="needs the extra onnx"
)


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def described(values):
    return {value.name: (value.type, value.shape) for value in values}


@pytest.mark.slow
@needs_extra
def test_the_file_gives_the_keras_models_masks(album, tmp_path):
    flowers = presets.load(FLOWERS)
    path = str(tmp_path / "out" / "segmenter.onnx")
    done = onnx.export_onnx(flowers, path, images=str(album / "photos"), label=" flower ")
    assert done.difference <= compare.TOLERANCE and done.agreement > 0.999
    assert done.megabytes == os.path.getsize(path) / 1e6 < 2.5 and "Conv" in done.operators
    for words in (path, "MB, opset 18", "mIoU with Keras"):
        assert words in done.summary()
    run = session(path)
    assert described(run.get_inputs()) == {"images": ("tensor(float)", ["N", 64, 64, 3])}
    assert described(run.get_outputs()) == {"masks": ("tensor(float)", ["N", 64, 64, 1])}
    squares = np.stack(
        [
            photos.to_square(photos.read(str(album / "photos" / name)), 64)
            for name in sorted(os.listdir(album / "photos"))[:3]
        ]
    )
    (masks,) = run.run(None, {"images": squares.astype(np.float32)})
    expected = flowers.predict(squares)
    np.testing.assert_allclose(masks, expected, atol=compare.TOLERANCE)
    assert expected.std() > 0.1
    properties = run.get_modelmeta().custom_metadata_map
    assert properties["label"] == "flower" and properties["aspect"] == "squash"
    assert properties["version"] == versions.of("layered-segmentation")
    assert "squashed to the input's size" in properties["preprocessing"]
    with pytest.raises(UserError, match="already exists"):
        onnx.export_onnx(flowers, path)


@pytest.mark.slow
@needs_extra
def test_several_masks_padding_and_another_size(tmp_path):
    segmenter = create_segmenter(8, 16, "pad", num_masks=2)
    segmenter.set_weights(random_student(num_masks=2).get_weights())
    path = str(tmp_path / "segmenter.onnx")
    done = onnx.export_onnx(segmenter, path, input_size=32)
    assert done.difference <= compare.TOLERANCE
    run = session(path)
    assert described(run.get_outputs()) == {
        "masks": ("tensor(float)", ["N", 32, 32, 1]),
        "object_masks": ("tensor(float)", ["N", 32, 32, 2]),
    }
    properties = run.get_modelmeta().custom_metadata_map
    assert properties["aspect"] == "pad" and "padded to a square" in properties["preprocessing"]


@pytest.mark.slow
@needs_extra
def test_an_encoder(shallow_resnet, tmp_path):
    path = str(tmp_path / "segmenter.onnx")
    assert onnx.export_onnx(encoder_segmenter(), path).difference <= compare.TOLERANCE


@pytest.mark.slow
@needs_extra
def test_a_file_over_its_limit_is_not_written(tmp_path, monkeypatch):
    other, convert = random_student(seed=5), onnx.convert
    monkeypatch.setattr(onnx, "convert", lambda _, side: convert(other, side))
    with pytest.raises(UserError, match=r"differ .* \(at most 0.0001 is allowed\); nothing was"):
        onnx.export_onnx(random_student(), str(tmp_path / "a.onnx"))
    assert os.listdir(tmp_path) == []


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "_PACKAGES", ("numpy", "tf2onnx_missing", "onnx_missing"))
    message = (
        r"--format=onnx needs tf2onnx_missing, onnx_missing: pip install "
        r"'layered-segmentation\[onnx\]'"
    )
    with pytest.raises(UserError, match=message):
        onnx.export_onnx(random_student(), str(tmp_path / "a.onnx"))
    assert os.listdir(tmp_path) == []
