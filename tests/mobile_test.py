import os
import re

import pytest
from ai_edge_litert.interpreter import Interpreter

from layered_segmentation.export import tflite
from layered_segmentation.models import segmenter as segmenters

MOBILE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "export", "mobile")
SIDE = 16


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("mobile") / "segmenter.tflite")
    tflite.export_tflite(segmenters.create(8, SIDE), path)
    return path


@pytest.fixture(scope="module")
def readme():
    with open(os.path.join(MOBILE, "README.md"), encoding="utf-8") as file:
        return file.read()


def tensors(path):
    """What a file has: {name: (type, shape)}, by its signature."""
    runtime = Interpreter(model_path=path)
    run = runtime.get_signature_runner("serving_default")
    details = run.get_input_details() | run.get_output_details()
    return {
        name: (detail["dtype"].__name__, detail["shape"].tolist())
        for name, detail in details.items()
    }


def shape(text):
    return [SIDE if side == "S" else int(side) for side in text.split(", ")]


def test_the_table_has_the_files_tensors(exported, readme):
    rows = re.findall(r"\| (?:input|output) \| `(\w+)` \| (\w+) \| \[([^]]+)\]", readme)
    assert {name: (kind, shape(sides)) for name, kind, sides in rows} == tensors(exported)


@pytest.mark.parametrize("language", ["kotlin", "swift"])
def test_the_code_names_the_files_tensors(exported, readme, language):
    block = re.search(rf"```{language}\n(.*?)```", readme, re.DOTALL).group(1)
    comments = re.findall(r"// (\w+): (\w+) \[([^]]+)\]", block)
    assert {name: (kind, shape(sides)) for name, kind, sides in comments} == tensors(exported)


def test_the_kotlin_code_calls_the_files_signature(exported, readme):
    call = re.search(
        r'runSignature\(mapOf\("(\w+)" to \w+\), mapOf\("(\w+)" to \w+\), "(\w+)"\)', readme
    )
    images, masks, signature = call.groups()
    assert Interpreter(model_path=exported).get_signature_list() == {
        signature: {"inputs": [images], "outputs": [masks]}
    }
