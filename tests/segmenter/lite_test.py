"""TFLite files of presets: the masks of the Keras model, without TensorFlow."""

import json
import os
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image
from tiny_networks import random_student

from layered_segmentation.errors import UserError
from layered_segmentation.export import metadata
from layered_segmentation.segmenter import lite, lite_file, preset_files, presets
from layered_segmentation.segmenter.segmenter import create_segmenter

TOLERANCE = 1e-4
SHAPES = ((30, 20), (16, 16), (61, 90), (9, 200), (240, 180))


def photo(height, width, seed=0):
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(image + draws.normal(0, 30, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def student():
    return random_student()


@pytest.fixture(scope="module")
def preset(student, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("lite") / "preset")
    student.save_to_preset(path)
    return path


def test_a_saved_student_has_a_file_of_the_same_masks(student, preset):
    file = lite.find(preset)
    assert file == os.path.join(preset, "segmenter.tflite")
    segmenter = lite.load(file)
    assert segmenter.resolution == 16
    photos = [photo(*shape) for shape in SHAPES]
    expected = student.predict_masks(photos)
    assert max(np.ptp(mask) for mask in expected) > 0.1
    for mask, other in zip(segmenter.predict_masks(photos), expected, strict=True):
        assert mask.dtype == np.float32 and mask.shape == other.shape
        np.testing.assert_allclose(mask, other, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", preset_files.names())
def test_a_packaged_preset_has_a_file_of_the_same_masks(name):
    photos = [photo(*shape) for shape in SHAPES]
    expected = presets.load(name).predict_masks(photos)
    pairs = zip(lite.load(lite.find(name)).predict_masks(photos), expected, strict=True)
    differences = [np.abs(mask - other) for mask, other in pairs]
    if is_stored_as_float16(preset_files.packaged(name)):
        assert max(part.mean() for part in differences) < 0.01
    else:
        assert max(part.max() for part in differences) < TOLERANCE


def is_stored_as_float16(preset):
    with h5py.File(os.path.join(preset, "model.weights.h5")) as file:
        types = set()
        file.visititems(lambda _, item: types.add(getattr(item, "dtype", None)))
    return np.dtype(np.float16) in types


def test_a_preset_of_16_bits_is_smaller_and_has_the_same_masks(student, tmp_path):
    sizes = {}
    for float16 in (False, True):
        copy = random_student()
        copy.set_weights(student.get_weights())
        path = tmp_path / str(float16)
        copy.save_to_preset(str(path), float16=float16)
        assert is_stored_as_float16(path) is float16
        names = (*preset_files.WEIGHTS, preset_files.TFLITE)
        sizes[float16] = {name: (path / name).stat().st_size for name in names}
    for name, size in sizes[False].items():  # of a tiny network, whose names weigh most
        assert sizes[True][name] < 0.9 * size or name == "task.weights.h5"
    photos = [photo(*shape) for shape in SHAPES]
    expected, loaded = student.predict_masks(photos), presets.load(str(path))
    for mask, other in zip(loaded.predict_masks(photos), copy.predict_masks(photos), strict=True):
        np.testing.assert_allclose(mask, other, rtol=0, atol=1e-6)  # what was saved
    for segmenter in (loaded, lite.load(lite.find(str(path)))):
        for mask, other in zip(segmenter.predict_masks(photos), expected, strict=True):
            assert 0 < np.abs(mask - other).mean() < 0.01


def test_a_weight_beyond_16_bits_is_refused(tmp_path):
    student = random_student()
    student.set_weights([np.full(w.shape, 1e6, np.float32) for w in student.get_weights()])
    with pytest.raises(ValueError, match="too large for float16"):
        student.save_to_preset(str(tmp_path / "preset"), float16=True)


@pytest.mark.slow
@pytest.mark.parametrize("aspect", ["pad", "centre_crop"])
def test_photos_are_padded_where_training_kept_their_aspect_ratio(aspect, tmp_path):
    student = random_student()
    student.preprocessor.image_converter.aspect = aspect
    student.save_to_preset(str(tmp_path / "pad"))
    photos = [photo(*shape) for shape in SHAPES]
    masks = lite.load(lite.find(str(tmp_path / "pad"))).predict_masks(photos)
    for mask, other in zip(masks, student.predict_masks(photos), strict=True):
        np.testing.assert_allclose(mask, other, rtol=0, atol=TOLERANCE)
    # So does the file that `layerseg export` describes for other programs.
    content = metadata.attach(lite_file.convert(student, 16), "object", False, aspect)
    np.testing.assert_allclose(lite.LiteSegmenter(content).predict_masks(photos[:1])[0], masks[0])


@pytest.mark.slow
def test_a_file_of_other_weights_is_never_left(student, tmp_path, capfd, monkeypatch):
    path = str(tmp_path / "preset")
    student.save_to_preset(path)
    other = random_student(seed=5)
    monkeypatch.setattr(lite_file, "TOLERANCE", -1.0)
    other.save_to_preset(path)
    assert "no segmenter.tflite was written (its masks differ by" in capfd.readouterr().err
    assert lite.find(path) == "" and presets.load(path).resolution == 16
    monkeypatch.undo()
    other.save_to_preset(path)
    (mask,) = lite.load(lite.find(path)).predict_masks([photo(30, 20)])
    np.testing.assert_allclose(mask, other.predict_masks(photo(30, 20)), atol=TOLERANCE)
    other.save_to_preset(path, tflite=False)
    assert lite.find(path) == ""


def test_a_converter_that_fails_leaves_a_whole_preset(student, tmp_path, capfd, monkeypatch):
    def fails(*_):
        raise RuntimeError("no such operator\nmore")

    monkeypatch.setattr(lite_file, "convert", fails)
    student.save_to_preset(str(tmp_path / "preset"))
    assert "no segmenter.tflite was written (no such operator)" in capfd.readouterr().err
    assert presets.load(str(tmp_path / "preset")).resolution == 16


def test_a_damaged_or_unknown_file_is_not_run(student, preset, tmp_path):
    student.save_to_preset(str(tmp_path / "changed"))
    with open(tmp_path / "changed" / "segmenter.tflite", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"segmenter.tflite: its SHA-256 is .*"):
        lite.find(str(tmp_path / "changed"))
    presets.save(create_segmenter(8, 16), str(tmp_path / "added"))
    with open(os.path.join(preset, "segmenter.tflite"), "rb") as file:
        (tmp_path / "added" / "segmenter.tflite").write_bytes(file.read())
    assert lite.find(str(tmp_path / "added")) == ""  # it has no checksum there


@pytest.mark.parametrize("content", [b"", b"no model", b"\x1c\0\0\0TFL3" + bytes(100)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.tflite"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"other\.tflite: is not a TFLite file of a segmenter"):
        lite.load(lite.find(str(path)))
    with pytest.raises(UserError, match=r"none\.tflite: there is no such file"):
        lite.find(str(tmp_path / "none.tflite"))


@pytest.fixture(scope="module")
def flower(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(photo(48, 64)).save(path)
    return path


PROGRAM = """
import json, sys, time
sys.argv = ["layerseg", *{arguments!r}]
from layered_segmentation.cli import main
try:
    main.main()
finally:
    heavy = ("tensorflow", "keras", "keras_hub", "jax", "matplotlib", "scipy")
    print(json.dumps([name for name in heavy if name in sys.modules]), time.process_time())
"""


def in_a_process(*arguments):
    """Runs `layerseg`; returns its exit status, what heavy it imported and its seconds."""
    command = [sys.executable, "-c", PROGRAM.format(arguments=[*map(str, arguments)])]
    done = subprocess.run(command, capture_output=True, text=True)
    names, _, seconds = done.stdout.rstrip().splitlines()[-1].rpartition(" ")
    return done, json.loads(names), float(seconds)


@pytest.mark.parametrize("kind", ["preset", "file", "packaged"])
def test_segment_imports_neither_tensorflow_nor_keras(kind, preset, flower, tmp_path):
    segmenter = {"preset": preset, "file": f"{preset}/segmenter.tflite",
                 "packaged": preset_files.DEFAULT}[kind]  # fmt: skip
    done, heavy, seconds = in_a_process(
        "segment", flower, f"--segmenter={segmenter}", f"--out={tmp_path}", "--looks=2"
    )
    assert done.returncode == 0, done.stderr
    # Only packaged presets have statistics here, and a drawn flower is unlike their photos.
    warning = (
        "warning: This photo looks unlike the photos that this segmenter learnt from. Its masks "
        "may be wrong.\n"
    )
    assert heavy == [] and done.stderr == (warning if kind == "packaged" else "")
    assert (tmp_path / "photo.cutout.png").exists()
    assert seconds < 3.0  # 0.4 on an idle machine; TensorFlow's import alone takes 4


def test_the_runtime_can_be_chosen(preset, student, flower, tmp_path, layerseg):
    soft = ("segment", flower, "--only=mask", "--mask_format=soft", "--refine=none")
    for runtime in ("keras", "litert", "auto"):
        done = layerseg(*soft, f"--segmenter={preset}", f"--runtime={runtime}",
                        f"--out={tmp_path / runtime}")  # fmt: skip
        assert done.status == 0, done.stderr
    masks = [
        np.asarray(Image.open(tmp_path / runtime / "photo.mask.png"), np.float32)
        for runtime in ("keras", "litert", "auto")
    ]
    assert np.abs(masks[0] - masks[1]).max() <= 1  # a level, where 1e-5 changes the rounding
    np.testing.assert_array_equal(masks[1], masks[2])


def test_auto_uses_keras_where_there_is_no_file(flower, tmp_path, layerseg):
    presets.save(create_segmenter(8, 16), str(tmp_path / "old"))
    arguments = ["segment", flower, f"--segmenter={tmp_path / 'old'}", f"--out={tmp_path}"]
    assert layerseg(*arguments).status == 0
    done = layerseg(*arguments, "--overwrite", "--runtime=litert")
    assert done.status == 2 and "has no segmenter.tflite; save it again" in done.stderr


def test_keras_does_not_run_a_tflite_file(preset, flower, tmp_path, layerseg):
    done = layerseg("segment", flower, f"--segmenter={preset}/segmenter.tflite",
                    f"--out={tmp_path}", "--runtime=keras")  # fmt: skip
    assert done.status == 2 and "--runtime=keras takes presets" in done.stderr
