"""The code for phones, Kotlin and Swift, and what it says about the TFLite file."""

import glob
import importlib.util
import math
import os
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from mobile_files import MOBILE, SIDE, export, photo_mask, saved_model_input

from layered_segmentation.data.scenes import Scenes
from layered_segmentation.export import tflite
from layered_segmentation.segmenter.segmenter import create_segmenter

KOTLIN = os.path.join(os.path.dirname(__file__), "..", "support", "kotlin")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export(tmp_path_factory.mktemp("mobile"))


def read(name):
    """Returns the text of a file for phones."""
    with open(os.path.join(MOBILE, name), encoding="utf-8") as file:
        return file.read()


@pytest.fixture(scope="module")
def readme():
    return read("README.md")


def tensors(path):
    """Returns a file's inputs and outputs: {name: (type, shape)}."""
    runtime = Interpreter(model_path=path)
    run = runtime.get_signature_runner("serving_default")
    details = run.get_input_details() | run.get_output_details()
    return {
        name: (detail["dtype"].__name__, detail["shape"].tolist())
        for name, detail in details.items()
    }


def shape(text):
    return [SIDE if side == "S" else int(side) for side in text.split(", ")]


def test_the_table_lists_the_files_tensors(exported, readme):
    rows = re.findall(r"\| (?:input|output) \| `(\w+)` \| (\w+) \| \[([^]]+)\]", readme)
    assert {name: (kind, shape(sides)) for name, kind, sides in rows} == tensors(exported)


def test_the_readme_explains_int8(readme, tmp_path):
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for index, scene in enumerate(Scenes(seed=1, count=4, split="test").load(SIDE)):
        cv2.imwrite(str(scenes / f"{index}.png"), scene)
    samples = tflite.representative_samples(str(scenes), SIDE)
    content = tflite.convert(create_segmenter(8, SIDE), SIDE, "int8", samples)
    run = Interpreter(model_content=content).get_signature_runner("serving_default")
    (scale, zero), (divisor,) = (
        re.search(r"\(scale (\d+), zero point (\d+)\)", readme).groups(),
        re.search(r"`masks` divided by (\d+)", readme).groups(),
    )
    images, masks = run.get_input_details()["images"], run.get_output_details()["masks"]
    assert images["dtype"] == masks["dtype"] == np.uint8
    assert images["quantization"] == pytest.approx((float(scale), int(zero)))
    assert masks["quantization"] == pytest.approx((1 / int(divisor), 0))


@pytest.mark.parametrize("name", ["Segmenter.kt", "Segmenter.swift"])
def test_the_code_names_the_files_tensors(exported, name):
    comments = re.findall(r"// (\w+): (\w+) \[([^]]+)\]", read(name))
    assert {name: (kind, shape(sides)) for name, kind, sides in comments} == tensors(exported)


def test_the_kotlin_code_calls_the_files_signature(exported):
    code = read("Segmenter.kt")
    call = re.search(
        r'run\(mapOf\("(\w+)" to images\), mapOf\("(\w+)" to masks\), SIGNATURE\)', code
    )
    images, masks = call.groups()
    (signature,) = re.findall(r'SIGNATURE = "(\w+)"', code)
    assert Interpreter(model_path=exported).get_signature_list() == {
        signature: {"inputs": [images], "outputs": [masks]}
    }


def test_the_swift_code_can_be_parsed():
    parser = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_swift")
    parse = parser.Parser(parser.Language(grammar.language())).parse
    code = read("Segmenter.swift")
    assert not parse(code.encode()).root_node.has_error
    assert parse(code.replace("{", "", 1).encode()).root_node.has_error


def kotlin_compiler():
    """Returns the command of a compiler and its standard library; skips if there is none.

    The wheel of `kotlin-jupyter-kernel` contains both.
    """
    found = importlib.util.find_spec("run_kotlin_kernel")
    if not shutil.which("java") or found is None:
        pytest.skip("needs java and kotlin-jupyter-kernel")
    jars = glob.glob(os.path.join(os.path.dirname(found.origin), "jars", "*.jar"))
    (library,) = (jar for jar in jars if os.path.basename(jar).startswith("kotlin-stdlib-"))
    compiler = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
    return ["java", "-cp", os.pathsep.join(jars), compiler, "-no-stdlib", "-no-reflect"], library


@pytest.mark.slow
def test_the_kotlin_code_prepares_photos_as_the_saved_model_does(tmp_path):
    compiler, library = kotlin_compiler()
    sources = [os.path.join(MOBILE, "Segmenter.kt"), *glob.glob(os.path.join(KOTLIN, "*.kt"))]
    jar = str(tmp_path / "segmenter.jar")
    subprocess.run([*compiler, "-cp", library, "-d", jar, *sources], check=True, timeout=300)
    draws = np.random.default_rng(0)
    photos = [
        (draws.integers(0, 256, (height, width, 3), np.uint8), pads)
        for width, height in ((150, 97), (40, 200), (7, 16))
        for pads in (False, True)
    ]
    with open(tmp_path / "in", "wb") as file:
        for photo, pads in photos:
            rgb = photo.astype(np.int64) @ (1 << 16, 1 << 8, 1)
            file.write(np.array([*photo.shape[1::-1], pads], ">i4").tobytes())
            file.write((rgb | 255 << 24).astype(">u4").tobytes())
    main = ["java", "-cp", os.pathsep.join([jar, library]), "MainKt"]
    subprocess.run([*main, *(str(tmp_path / name) for name in ("in", "out"))], check=True)
    with open(tmp_path / "out", "rb") as file:

        def values(*shape, dtype=">f4"):
            return np.frombuffer(file.read(4 * math.prod(shape)), dtype).reshape(shape)

        for photo, pads in photos:
            height, width = photo.shape[:2]
            expected = saved_model_input(photo, pads)
            assert np.abs(values(SIDE, SIDE, 3) - expected).max() < 0.011
            mask = expected.mean(axis=-1) / 255  # of the stub's model
            np.testing.assert_allclose(values(SIDE, SIDE), mask, atol=5e-5)
            enlarged = photo_mask(mask, height, width, pads)
            np.testing.assert_allclose(values(height, width), enlarged, atol=1e-4)
            opaque = values(height, width, dtype=">u4") >> 24 == 255
            assert (opaque == (enlarged >= 0.5))[np.abs(enlarged - 0.5) > 1e-4].all()
            assert 0 < opaque.mean() < 1
            # int8: levels are rounded to bytes and means down to steps of 1/256.
            np.testing.assert_allclose(values(SIDE, SIDE), mask * 255 / 256, atol=1.6 / 256)
        assert not file.read()
