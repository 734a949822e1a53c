import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading

import cv2
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from layered_segmentation.data.scenes import Scenes
from layered_segmentation.export import tflite
from layered_segmentation.images import to_square
from layered_segmentation.segmenter.preprocessing import resize_masks
from layered_segmentation.segmenter.segmenter import create_segmenter

MOBILE = os.path.join(os.path.dirname(__file__), "..", "..", "export", "mobile")
WEB = os.path.join(MOBILE, "web")
SIDE = 16


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("mobile") / "segmenter.tflite")
    keras.utils.set_random_seed(0)  # its mask of the scene below is neither empty nor full
    tflite.export_tflite(create_segmenter(8, SIDE), path)
    return path


@pytest.fixture(scope="module")
def readme():
    with open(os.path.join(MOBILE, "README.md"), encoding="utf-8") as file:
        return file.read()


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


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, silently."""

    def log_message(self, format, *args):
        del format, args


def install(out):
    """Returns a directory with the page's sources and packages; a copy if the checkout has none."""
    if os.path.isdir(os.path.join(WEB, "node_modules", "playwright-core")):
        return WEB
    copy = out / "web"
    shutil.copytree(WEB, copy, ignore=shutil.ignore_patterns("node_modules"))
    npm = ["npm", "ci", "--silent", "--no-audit", "--no-fund"]
    done = subprocess.run(npm, cwd=copy, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"`npm ci` has no packages here: {done.stderr.strip()[-200:]}")
    return str(copy)


@pytest.fixture(scope="module")
def page(exported, tmp_path_factory):
    """The built page's answers to a photo in headless Chromium, its folder, the photo, its mask."""
    browser = shutil.which("chromium")
    missing = [name for name in ("node", "npm", "chromium") if not shutil.which(name)]
    if missing:
        pytest.skip(f"the page's test needs {', '.join(missing)}")
    out = tmp_path_factory.mktemp("page")
    web = install(out)
    model = os.environ.get("LAYERSEG_PAGE_MODEL", exported)
    build = ["npm", "run", "--silent", "build", "--", f"--model={model}", f"--out={out / 'site'}"]
    subprocess.run(build, cwd=web, check=True, timeout=120)
    photo = os.environ.get("LAYERSEG_PAGE_PHOTO", str(out / "photo.png"))
    if photo == str(out / "photo.png"):
        scene = Scenes(seed=1, count=1, split="test").load(97)[0]
        cv2.imwrite(photo, cv2.resize(scene[:, :, ::-1], (301, 200)))
    rgb = cv2.imread(photo)[:, :, ::-1]
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.fromarray(rgb).save(out / "turned.jpg", exif=turned)
    run = Interpreter(model_path=model).get_signature_runner("serving_default")
    images = run.get_input_details()["images"]
    side = int(images["shape"][1])
    squashed = to_square(np.ascontiguousarray(rgb), side)
    (out / "pixels.json").write_text(json.dumps(squashed.ravel().tolist()))
    masks = run(images=squashed[None].astype(images["dtype"]))["masks"][0, :, :, 0]
    if masks.dtype == np.uint8:
        masks = masks.astype(np.float32) / 256
    handler = functools.partial(Quiet, directory=str(out / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        script = os.path.join(os.path.dirname(__file__), "..", "support", "mobile_page.mjs")
        profile = str(out / "profile")
        subprocess.run(
            ["node", script, browser, profile, address, photo, str(out), web],
            check=True,
            timeout=180,
        )
        server.shutdown()
    return json.loads((out / "answers.json").read_text()), out, rgb, masks


@pytest.mark.slow
@pytest.mark.parametrize("size", [(150, 97), (40, 200), (7, 16)])
def test_the_pages_resizes_are_pythons(tmp_path, size):
    if not shutil.which("node"):
        pytest.skip("needs node")
    draws = np.random.default_rng(0)
    width, height = size
    rgba = draws.integers(0, 256, (height, width, 4), np.uint8)
    mask = draws.uniform(0, 1, (SIDE, SIDE)).astype(np.float32)
    program = f"""
        import {{ squash, enlarge }} from {json.dumps(os.path.join(WEB, "src", "resize.js"))};
        const squashed = squash({rgba.ravel().tolist()}, {width}, {height}, {SIDE});
        const enlarged = enlarge({mask.ravel().tolist()}, {SIDE}, {width}, {height});
        console.log(JSON.stringify([squashed, enlarged].map((x) => Array.from(x))));
    """
    (tmp_path / "program.mjs").write_text(program)
    node = ["node", str(tmp_path / "program.mjs")]
    squashed, enlarged = json.loads(subprocess.run(node, capture_output=True, check=True).stdout)
    expected = to_square(np.ascontiguousarray(rgba[..., :3]), SIDE).astype(int)
    assert np.abs(np.reshape(squashed, expected.shape) - expected).max() <= 1
    expected = np.asarray(resize_masks(mask[None, ..., None], height, width))[0, ..., 0]
    np.testing.assert_allclose(np.reshape(enlarged, expected.shape), expected, atol=1e-5)


@pytest.mark.slow
def test_the_page_runs_the_model_as_python_does(page):
    answers, _, _, masks = page
    np.testing.assert_allclose(np.reshape(answers["masks"], masks.shape), masks, atol=1e-3)


@pytest.mark.slow
def test_the_pages_downloads_are_pythons_mask(page):
    _, out, rgb, masks = page
    expected = cv2.resize(masks, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR) >= 0.5
    mask = cv2.imread(str(out / "mask.png"), cv2.IMREAD_GRAYSCALE) > 127
    assert mask.shape == expected.shape and expected.any() and not expected.all()
    assert (mask & expected).sum() / (mask | expected).sum() >= 0.98
    cutout = cv2.imread(str(out / "cutout.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(cutout[:, :, 3] > 127, mask)


@pytest.mark.slow
def test_a_dropped_photo_is_turned_upright(page):
    answers, _, rgb, _ = page
    assert answers["isMarked"] and answers["size"] == list(rgb.shape[:2])


@pytest.mark.slow
def test_the_built_site_names_the_licence_of_its_runtime(page):
    site = page[1] / "site"
    assert "@litertjs/core" in (site / "NOTICE.txt").read_text()
    assert "Apache License" in (site / "LICENSE.txt").read_text()


@pytest.mark.slow
def test_a_failed_build_leaves_nothing(exported, tmp_path):
    if not shutil.which("node"):
        pytest.skip("needs node")
    bare = tmp_path / "web"
    shutil.copytree(WEB, bare, ignore=shutil.ignore_patterns("node_modules"))
    esbuild = bare / "node_modules" / "esbuild"  # without it there is nothing to run
    esbuild.mkdir(parents=True)
    (esbuild / "index.js").write_text("exports.build = async () => {};")
    command = ["node", "build.mjs", f"--model={exported}", f"--out={tmp_path / 'site'}"]
    done = subprocess.run(command, cwd=bare, capture_output=True, text=True)
    assert done.returncode == 2 and "nothing was written" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["web"]


@pytest.mark.slow
def test_the_page_reports_errors_and_requests_only_its_own_files(page):
    answers = page[0]
    assert "a.txt" in answers["refusal"] and "cannot be loaded" in answers["broken"]
    assert answers["foreign"] == [] and not answers["overflows"]
