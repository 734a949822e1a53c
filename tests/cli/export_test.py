import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from tiny_networks import random_student

from layered_segmentation.segmenter import domain, presets

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("preset") / "preset")
    presets.save(random_student(), path)
    return path


def test_a_saved_model(layerseg, preset, tmp_path):
    out = tmp_path / "models"
    result = layerseg("export", "--format=saved_model", f"--segmenter={preset}", f"--out={out}")
    assert result.status == 0, result.stderr
    assert (out / "1" / "saved_model.pb").is_file()
    assert f"{out / '1'}: " in result.stdout
    assert "masks differ from Keras by at most" in result.stdout
    for row in ("signatures", "operators", "warm-up"):
        assert f"\n  {row}" in result.stdout


def test_a_tflite_file(layerseg, preset, tmp_path):
    out = tmp_path / "segmenter.tflite"
    preset = shutil.copytree(preset, tmp_path / "preset")
    domain.Domain(np.zeros(24), np.eye(24)).save(str(preset))
    command = ["export", "--format=tflite", f"--segmenter={preset}", f"--out={out}"]
    result = layerseg(*command, "--quantize=float16", "--label=flower", "--input_size=32")
    assert result.status == 0, result.stderr
    with zipfile.ZipFile(out) as archive:
        assert archive.read("labels.txt") == b"flower\n"
        assert archive.read("domain.json") == (preset / "domain.json").read_bytes()
    for row in ("size", "operators", "1 thread", "2 threads", "difference", "mIoU with Keras"):
        assert f"\n  {row}" in f"\n{result.stdout}"
    assert "MB, float16" in result.stdout
    result = layerseg(*command)
    assert result.status == 2 and "already exists" in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--format=saved_model", "--quantize=int8"],
            "--quantize=int8: it goes with --format=tflite",
        ),
        (
            ["--format=saved_model", "--overwrite"],
            "--overwrite: it goes with --format=tflite or onnx; add that",
        ),
        (["--format=tflite", "--masks=x"], "--masks=x: name their photos with --images too"),
        (
            ["--format=onnx", "--quantize=int8"],
            "--quantize=int8: it goes with --format=tflite; add that",
        ),
        (["--format=x"], "--format=x: value should be one of <saved_model|tflite|onnx>"),
        ([], "--format is needed"),
    ],
)
def test_bad_flags(layerseg, preset, tmp_path, flags, message):
    result = layerseg("export", *flags, f"--segmenter={preset}", f"--out={tmp_path / 'out'}")
    assert result.status == 2 and message in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_missing_segmenter(layerseg, tmp_path):
    flags = [f"--segmenter={tmp_path / 'none'}", f"--out={tmp_path / 'a.tflite'}"]
    result = layerseg("export", "--format=tflite", *flags)
    assert result.status == 2 and "there is no such directory" in result.stderr
    assert "Traceback" not in result.stderr and os.listdir(tmp_path) == []


def test_a_value_of_masks_needs_masks(layerseg, preset, tmp_path):
    flags = [f"--segmenter={preset}", f"--out={tmp_path / 'a.tflite'}", "--mask_value=3"]
    result = layerseg("export", "--format=tflite", *flags)
    assert result.status == 2 and "--mask_value: name the true masks with --masks" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script", "module"])
@pytest.mark.parametrize(
    ("name", "out"), [("saved_model", "models/1/saved_model.pb"), ("tflite", "segmenter.tflite")]
)
def test_scripts_of_a_checkout_and_modules_are_the_same_program(preset, tmp_path, way, name, out):
    ways = {
        "script": [os.path.join(ROOT, "export", f"{name}.py")],
        "module": ["-m", f"layered_segmentation.export.{name}"],
    }
    command = [sys.executable, *ways[way]]
    options = {"capture_output": True, "text": True, "cwd": tmp_path if way == "script" else None}
    done = subprocess.run([*command, "--help"], **options)
    assert done.returncode == 0 and "layerseg export: Exports a segmenter" in done.stdout
    flags = [f"--segmenter={preset}", f"--out={tmp_path / out.partition('/')[0]}"]
    done = subprocess.run([*command, *flags], **options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / out).is_file()
    flags[0] = f"--segmenter={tmp_path / 'none'}"
    done = subprocess.run([*command, *flags, "--out=x"], **options)
    assert done.returncode == 2 and "there is no such directory" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        [os.path.join(ROOT, "export", "serving", "client.py")],
        ["-m", "layered_segmentation.export.client"],
    ],
)
def test_the_client_too(program):
    done = subprocess.run([sys.executable, *program, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "layerseg client: Segments photos on a model" in done.stdout
