"""The web page: its parts in Node, its build, and the whole page in headless Chromium."""

import json
import os
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from mobile_files import LABEL, MOBILE, SIDE, export, photo_mask, saved_model_input
from PIL import Image

from layered_segmentation.data.scenes import Scenes
from layered_segmentation.images import to_square
from layered_segmentation.segmenter import domain, lite

WEB = os.path.join(MOBILE, "web")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export(tmp_path_factory.mktemp("mobile"))


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
    cv2.imwrite(str(out / "large.jpg"), cv2.resize(rgb[:, :, ::-1], (4000, 3000)))
    (out / "pixels.json").write_text(json.dumps(squashed.ravel().tolist()))
    masks = run(images=squashed[None].astype(images["dtype"]))["masks"][0, :, :, 0]
    if masks.dtype == np.uint8:
        masks = masks.astype(np.float32) / 256
    script = os.path.join(os.path.dirname(__file__), "..", "support", "mobile_page.mjs")
    command = ["node", script, browser, str(out / "site"), photo, str(out), web]
    subprocess.run(command, check=True, timeout=180)
    return json.loads((out / "answers.json").read_text()), out, rgb, masks


@pytest.mark.slow
@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("size", [(150, 97), (40, 200), (7, 16)])
def test_the_pages_resizes_are_the_saved_models(tmp_path, size, pads):
    if not shutil.which("node"):
        pytest.skip("needs node")
    draws = np.random.default_rng(0)
    width, height = size
    rgba = draws.integers(0, 256, (height, width, 4), np.uint8)
    mask = draws.uniform(0, 1, (SIDE, SIDE)).astype(np.float32)
    program = f"""
        import {{ squash, enlarge }} from {json.dumps(os.path.join(WEB, "src", "resize.js"))};
        const [width, height, side, pads] = {json.dumps([width, height, SIDE, pads])};
        const rgba = {rgba.ravel().tolist()};
        const rows = (top, count) => rgba.slice(4 * width * top, 4 * width * (top + count));
        const squashed = Array.from(squash(rows, width, height, side, pads));
        const rowOf = enlarge({mask.ravel().tolist()}, side, width, height, pads);
        const enlarged = Array.from({{ length: height }}, (_, y) => Array.from(rowOf(y)));
        console.log(JSON.stringify([squashed, enlarged]));
    """
    (tmp_path / "program.mjs").write_text(program)
    node = ["node", str(tmp_path / "program.mjs")]
    squashed, enlarged = json.loads(subprocess.run(node, capture_output=True, check=True).stdout)
    expected = saved_model_input(rgba[..., :3], pads)
    assert np.abs(np.reshape(squashed, expected.shape) - expected).max() < 0.011
    np.testing.assert_allclose(enlarged, photo_mask(mask, height, width, pads), atol=1e-5)


@pytest.mark.slow
def test_the_page_describes_photos_as_python_does(tmp_path):
    """Photos become the same bytes at 32 x 32, and masks differ by float32's rounding.

    Except the last one: Pillow 13 resizes very tall photos along the other axis first, which rounds
    some levels differently.
    """
    if not shutil.which("node"):
        pytest.skip("needs node")
    scenes, masks = Scenes(seed=0, count=300, split="train").load_pairs(32)
    trained = domain.Domain.of_training(scenes, masks.astype(np.float32))
    draws = np.random.default_rng(0)
    photos, small = [], []
    for width, height in ((150, 97), (16, 7), (33, 32), (64, 64), (40, 200)):
        level = draws.integers(0, 200, 3)
        noise = draws.integers(0, 56, (height, width, 3))
        photos.append((level + noise).astype(np.uint8))
        top = draws.integers(0, SIDE // 2)
        small.append(np.full((SIDE, SIDE), 0.02, np.float32))
        small[-1][top : top + 5, 2:9] = draws.uniform(0.2, 1, (5, 7))
    masks = [
        photo_mask(mask, *photo.shape[:2], False) for photo, mask in zip(photos, small, strict=True)
    ]
    source = os.path.join(WEB, "src", "domain.js")
    sides = [photo.shape[1::-1] for photo in photos]
    rgba = [np.insert(photo, 3, 255, axis=-1).ravel().tolist() for photo in photos]
    statistics = {"mean": trained.mean.tolist(), "transform": trained.transform.tolist()}
    program = f"""
        import {{ Watch }} from {json.dumps(source)};
        const watch = new Watch({json.dumps(statistics)});
        const masks = {json.dumps([mask.ravel().tolist() for mask in small])};
        const sides = {json.dumps(sides)};
        const answers = {json.dumps(rgba)}.map((rgba, i) => {{
          const [width, height] = sides[i];
          const rows = (top, count) => rgba.slice(4 * width * top, 4 * width * (top + count));
          const words = [1, 2].map(() => watch.add(rows, width, height, masks[i], {SIDE}));
          return [words, watch.distance()];
        }});
        const silent = new Watch(null).add();
        console.log(JSON.stringify([[...watch.seen.values()], answers, silent]));
    """
    (tmp_path / "program.mjs").write_text(program)
    node = ["node", str(tmp_path / "program.mjs")]
    output = subprocess.run(node, capture_output=True, check=True).stdout
    coordinates, answers, silent = json.loads(output)
    differences = np.abs(coordinates - trained.coordinates(photos, masks)).max(axis=1)
    assert differences[:-1].max() < 1e-4 and differences[-1] < 0.1  # of at most 3 either way
    for count, (words, distance) in enumerate(answers, 1):
        watch = domain.Watch(trained)
        watch(photos[:count], masks[:count])
        assert distance == pytest.approx(watch.distance(), abs=0.01)
        expected = watch.warning().replace(
            f"These {count} photos", f"The {count} photos of this visit"
        )
        # The photo counts once, although it is chosen twice.
        assert words == [expected.replace("segmenter", "model")] * 2
    assert silent == ""


@pytest.mark.slow
def test_the_page_runs_the_model_as_python_does(page):
    answers, _, _, masks = page
    np.testing.assert_allclose(np.reshape(answers["masks"], masks.shape), masks, atol=1e-3)


@pytest.mark.slow
def test_the_page_warns_about_photos_unlike_those_of_training(page):
    if "LAYERSEG_PAGE_MODEL" in os.environ:
        pytest.skip("it depends on the model")
    end = "unlike the photos that this model learnt from. Its masks may be wrong."
    assert page[0]["warnings"] == [
        f"This photo looks {end}",
        f"The 2 photos of this visit look {end}",
        f"This photo looks {end}",  # a new visit, without the server
    ]


@pytest.mark.slow
def test_the_page_uses_webgpu_where_there_is_one(page):
    answers, _, _, masks = page
    if not answers["hasCard"]:
        pytest.skip("this Chromium has no WebGPU")
    assert answers["runtime"] == "WebGPU"
    np.testing.assert_allclose(np.reshape(answers["cardMasks"], masks.shape), masks, atol=0.01)


@pytest.mark.slow
def test_the_pages_downloads_are_pythons_mask(page):
    answers, out, rgb, masks = page
    expected = cv2.resize(masks, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR) >= 0.5
    soft = cv2.imread(str(out / "mask.png"), cv2.IMREAD_GRAYSCALE)
    mask = soft > 127
    assert mask.shape == expected.shape and expected.any() and not expected.all()
    assert (mask & expected).sum() / (mask | expected).sum() >= 0.98
    cutout = cv2.imread(str(out / "cutout.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(cutout[:, :, 3], soft)
    stem = os.path.splitext(os.path.basename(os.environ.get("LAYERSEG_PAGE_PHOTO", "photo.png")))[0]
    assert answers["names"] == [f"{stem}.mask.png", f"{stem}.cutout.png"]


@pytest.mark.slow
def test_edges_are_soft_and_thin(page):
    soft = cv2.imread(str(page[1] / "mask.png"), cv2.IMREAD_GRAYSCALE)
    is_soft = (soft > 0) & (soft < 255)
    edge = cv2.morphologyEx((soft > 127).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3)))
    assert is_soft.sum() > 0.2 * edge.sum()
    near = cv2.dilate(edge, np.ones((9, 9))) > 0
    assert (is_soft & near).sum() > 0.9 * is_soft.sum()


@pytest.mark.slow
def test_a_large_photo_keeps_its_size_and_the_page_goes_on(page):
    answers, out, _, _ = page
    assert answers["largeName"] == "large.cutout.png"
    assert Image.open(out / "large.png").size == (4000, 3000)
    assert answers["gap"] < answers["time"] / 2


@pytest.mark.slow
def test_a_dropped_photo_is_turned_upright(page):
    answers, _, rgb, _ = page
    assert answers["isMarked"] and answers["size"] == list(rgb.shape[:2])


@pytest.mark.slow
def test_the_page_says_what_its_model_knows(page):
    answers, out, _, _ = page
    assert f"one kind of object: {LABEL}." in answers["words"]
    manifest = json.loads((out / "site" / "manifest.webmanifest").read_text())
    assert LABEL in manifest["name"] and manifest["display"] == "standalone"
    for icon in manifest["icons"]:
        side = Image.open(out / "site" / icon["src"]).size
        assert icon["sizes"] == "{}x{}".format(*side)


@pytest.mark.slow
def test_the_page_works_without_its_server_after_the_first_visit(page):
    answers = page[0]
    assert "sample.jpg, 640 × 427 pixels" in answers["offline"]


@pytest.mark.slow
def test_a_phone_shows_the_result_without_scrolling(page):
    answers = page[0]
    assert max(answers["bottoms"]) <= 844 and not answers["overflows"]


@pytest.mark.slow
def test_the_built_site_names_the_licences_of_what_it_contains(page):
    site = page[1] / "site"
    assert "@litertjs/core" in (site / "NOTICE.txt").read_text()
    assert "Apache License" in (site / "LICENSE.txt").read_text()
    assert "creativecommons.org/licenses/by/2.0/" in (site / "index.html").read_text()


@pytest.mark.slow
def test_a_model_of_something_else_needs_a_sample_of_its_own(exported, tmp_path):
    """A photo of a flower would give a bird's model nonsense."""
    if not shutil.which("node"):
        pytest.skip("needs node")
    web = install(tmp_path)
    with open(exported, "rb") as file:
        content = file.read()
    content = content[: content.index(b"PK\x03\x04")]
    content = lite.add_aspect(lite.append(content, "labels.txt", "bird\n"), "pad")
    (tmp_path / "bird.tflite").write_bytes(content)
    Image.new("RGB", (9, 9)).save(tmp_path / "heron.PNG")
    build = ["node", "build.mjs", f"--model={tmp_path / 'bird.tflite'}"]
    for flags, has_sample in (
        ([], False),
        ([f"--sample={tmp_path / 'heron.PNG'}", "--credit=A & B, CC0"], True),
    ):
        site = tmp_path / f"site_{has_sample}"
        subprocess.run([*build, f"--out={site}", *flags], cwd=web, check=True, capture_output=True)
        page = (site / "index.html").read_text()
        assert "<strong>bird</strong>" in page and 'data-pads="yes"' in page and "{{" not in page
        assert ("sample.png" in page, "A &amp; B, CC0" in page) == (has_sample, has_sample)
        assert (site / "sample.png").exists() == has_sample


@pytest.mark.slow
@pytest.mark.parametrize("aspect", ["squash", "pad"])
@pytest.mark.parametrize("numbers", [0, 23, 24])
def test_statistics_next_to_the_model(tmp_path, aspect, numbers):
    """They are of squashed photos, so a page that pads photos must not use them."""
    if not shutil.which("node"):
        pytest.skip("needs node")
    content = lite.append(b"\0\0\0\0TFL3", "labels.txt", "bird\n")
    (tmp_path / "bird.tflite").write_bytes(lite.add_aspect(content, aspect))
    if numbers:
        rows = [[0.125] * numbers] * numbers
        statistics = {"mean": [0.12345] * numbers, "transform": rows}
        (tmp_path / "domain.json").write_text(json.dumps(statistics))
    site = tmp_path / "site"
    build = ["node", "build.mjs", f"--model={tmp_path / 'bird.tflite'}", f"--out={site}"]
    done = subprocess.run(build, cwd=install(tmp_path), check=True, capture_output=True, text=True)
    is_used = ".12345" in (site / "wasm" / "worker.js").read_text()
    assert is_used == (numbers == 24 and aspect == "squash")
    assert ("no statistics" in done.stdout) != is_used


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
