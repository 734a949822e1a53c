import base64
import html.parser
import io
import math
import os
import platform
import re

import numpy as np
import pytest
from PIL import Image

from layered_segmentation import config as configs
from layered_segmentation import files, sheets, versions
from layered_segmentation.evaluation import report
from layered_segmentation.gan.composite import Layers
from layered_segmentation.images import encode_png
from layered_segmentation.run_directory import RunDirectory


class Reader(html.parser.HTMLParser):
    """Notes what a page refers to and what it says."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.words, self.open = [], [], [], []
        self.stacked = []  # pictures for phones
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "img", "br", "link", "input", "source"):
            self.open.append(tag)
        if tag == "th":
            assert attrs["scope"] in ("col", "row")
        if tag == "input" or attrs.get("class") in ("wide", "scroll"):
            assert attrs["aria-label"]
        if tag == "img":
            assert attrs["alt"]
            self.images.append(attrs["src"])
        if tag == "source":
            assert attrs["media"] == "(max-width: 699.9px)"
            self.stacked.append(attrs["srcset"])
        for name in ("href", "src"):
            if name in attrs and tag != "img":
                self.links.append(attrs[name])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def scenes(count=10, side=16, seed=0):
    """Discs in front of a textured background: layers as a trained generator draws them."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    masks, backgrounds, foregrounds = [], [], []
    for _ in range(count):
        centre, radius = random.uniform(0.3, 0.7, 2), random.uniform(0.2, 0.35)
        distance = np.hypot(x - centre[0], y - centre[1])
        masks.append(1 / (1 + np.exp((distance - radius) * 60)))
        wave = np.sin(x * random.uniform(5, 20) + y * random.uniform(5, 20))[..., None]
        backgrounds.append(random.uniform(-0.6, 0.6, 3) + 0.25 * wave)
        foregrounds.append(random.uniform(-1, 1, 3) + 0.3 * wave.transpose(1, 0, 2))
    return Layers(
        np.stack(backgrounds), np.stack(foregrounds), np.stack(masks)[..., None].astype("float32")
    )


def log(total=240_000):
    random = np.random.default_rng(0)
    records = []
    for seen in range(1000, total + 1, 1000):
        records.append(
            {
                "images_seen": seen,
                "resolution": 8 if seen <= 40_000 else 16,
                "wasserstein": 6 * math.exp(-seen / 60_000) + 1 + 0.15 * random.normal(),
                "gradient_penalty": 0.6 * math.exp(-seen / 20_000) + 0.2,
                "coverage": 0.5 - 0.2 * (1 - math.exp(-seen / 50_000)) + 0.01 * random.normal(),
                "binarisation": 0.3 * math.exp(-seen / 60_000) + 0.02,
                "images_per_second": 620.0 if seen <= 40_000 else 240.0,
                "wait_share": 0.01,
            }
        )
    return records


@pytest.fixture
def run(tmp_path):
    config = configs.load("quickstart")
    run = RunDirectory(tmp_path / "run")
    run.create_or_resume(config)
    os.makedirs(run.sheets)
    for seen in range(20_000, 240_001, 20_000):
        sheets.save_png(sheets.layers_sheet(scenes()), os.path.join(run.sheets, f"{seen:08d}.png"))
    for record in log():
        run.append_log(record)
    run.append_log({"images_seen": 240_000, "warning": "warning: masks <are> empty"})
    run.finish(240_000, 812.0, 295.6)
    return run


def full_page(run):
    """The page of a finished quickstart, with every section."""
    layers = scenes(16, 64, seed=1)
    images = [sheets.to_uint8(image) for image in np.asarray(layers.background)]
    truths = list(layers.mask[..., 0] > 0.5)
    page = report.Page(
        title="Cut out without a label",
        verdict="It cuts objects out of scenes it has never seen with a mean IoU of 0.851.",
        facts=[("mIoU", "0.851"), ("Images", "500"), ("Resolution", "16 px")],
        warnings=report.warnings_of(run),
        examples=[
            report.Picture(
                "best", encode_png(sheets.segmentation_sheet(images, truths, truths, [0.9] * 16))
            )
        ],
        examples_note="Best, middle and worst by score.",
        sheets=report.sheets_of(run),
        scores=[
            report.Score("student", 0.851, 0.11),
            report.Score("GrabCut", 0.54, is_reference=True),
            report.Score("centre box", 0.46, is_reference=True),
            report.Score("full mask", 0.27, is_reference=True),
        ],
        curves=report.draw_curves(run.read_log(), 0.25),
        exports=[{"file": "student.tflite", "greatest difference": "3.1e-07", "size": "0.6 MB"}],
        settings=report.settings_of(run.config()),
        phases={"Training the layered GAN": 812.0, "Training the student": 95.0, "Scoring": 4.2},
        commands=[report.Command("Segment", "layerseg segment --segmenter=RUN --input=x --out=y")],
    )
    return page


def test_the_page_is_self_contained_and_complete(run):
    text = report.render(full_page(run))
    page = Reader(text)
    assert page.open == []
    assert page.links == []
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert len(page.images) == 1 + 6 + 3
    for image in page.images:
        kind, _, data = image.partition(";base64,")
        start = base64.b64decode(data)[:5]
        assert (kind, start) in [
            ("data:image/png", b"\x89PNG\r"),
            ("data:image/svg+xml", b"<?xml"),
        ]
    for words in (
        "0.851 ± 0.110", "GrabCut", "gan.mask_size", "3.1e-07", "13 min 32 s", "15 min 11 s",
        "after 240,000 images", "layerseg segment", "masks <are> empty",
    ):  # fmt: skip
        assert words in page.text


def test_phones_get_wide_sheets_in_parts(run):
    page = Reader(report.render(full_page(run)))
    wide = [image for image in page.images if image.startswith("data:image/png")]
    assert len(page.stacked) == len(wide) == 1 + 6
    for image, parts in zip(wide, page.stacked, strict=True):
        kind, _, data = parts.partition(";base64,")
        assert kind == "data:image/webp"
        part = Image.open(io.BytesIO(base64.b64decode(data)))
        whole = Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2])))
        assert part.width < 0.7 * whole.width and part.height % whole.height == 0
    assert "Scroll the sheet" not in page.text


def test_a_sheet_that_cannot_be_cut_has_a_hint_to_scroll(run):
    page = full_page(run)
    page.examples = [report.Picture("one", encode_png(np.zeros((9, 900, 3), np.uint8)))]
    text = Reader(report.render(page)).text
    assert text.count("Scroll the sheet sideways") == 1


def test_a_slider_shows_a_photo_and_its_cut_out(run, tmp_path):
    path = str(tmp_path / "compared_best.png")
    photo = np.full((100, 300, 3), 90, np.uint8)
    sheets.save_png(sheets.before_after(photo, np.ones((100, 300))), path)
    page = full_page(run)
    page.comparisons = [report.Comparison.read(path, "The <best>.")]
    text = report.render(page)
    (pair,) = re.findall(r"--pair: url\('data:image/webp;base64,([^']+)'\)", text)
    assert base64.b64decode(pair)[8:12] == b"WEBP"
    assert "aspect-ratio: 3.0000" in text and 'type="range"' in text
    assert "The <best>." in Reader(text).text and "<best>" not in text


def test_a_page_states_hardware_and_versions(run):
    files.write_json(run.machine_path, {"tensorflow": "2.0", "devices": ["NVIDIA H100", "CPU"]})
    path = report.write_run_report(run)
    text = Reader(open(path, encoding="utf-8").read()).text
    assert "trained on NVIDIA H100, CPU" in text
    for name, value in (versions.machine() | versions.installed()).items():
        assert f"{name} {value}" in text
    assert " core" in versions.machine()["processor"]
    assert platform.node() not in str(versions.machine())


def test_settings_that_differ_come_first():
    settings = report.settings_of(configs.load("", ["gan.shift=0", "data.path=x"]))
    assert [setting.name for setting in settings[:2]] == ["data.path", "gan.shift"]
    assert (settings[1].value, settings[1].default) == (0.0, 0.125)
    assert all(setting.is_default for setting in settings[2:])


def test_a_run_report_shows_sheets_and_curves(run):
    path = report.write_run_report(run)
    assert path == run.report
    page = Reader(open(path, encoding="utf-8").read())
    assert len(page.images) == 6 + 3
    assert "240,000" in page.text
    assert not os.path.exists(files.partial_path(path))


def test_a_page_names_no_folder_of_the_machine(run, tmp_path):
    secret = str(tmp_path)
    page = full_page(run)
    page.verdict = page.examples_note = page.scores_note = f"Photos of {secret}/my/cars, in 9 s."
    page.warnings = [f"warning: {secret}/cars is 1/2 of the 7 images/s"]
    config = configs.load("", [f"data.path={secret}/cars", f"data.cache_dir={secret}/cache"])
    page.settings = report.settings_of(config)
    text = report.render(page)
    assert secret not in text and "Photos of cars, in 9 s." in text
    assert "cars is 1/2 of the 7 images/s" in text and "<code>cache</code>" in text
    with open(report.write_run_report(run), encoding="utf-8") as file:
        text = file.read()
    assert secret not in text and "layerseg distill --run_dir=." in text


def student_results(rounds):
    phase = {"pairs": 900, "steps": 60, "loss": 0.5, "agreement": 0.8, "seconds": 9.0}
    phase["curve"] = [[20, 0.9, 0.5], [60, 0.5, 0.8]]
    judged = {"judged": 0.712, "kept": 0.65, "weight": 0.9}
    return {**phase, "rounds": [{**phase, **judged} for _ in range(rounds)]}


def test_a_report_shows_the_students_phases_with_rounds_numbered(run):
    assert "Agreed before" not in report.render(full_page(run))
    files.write_json(run.segmenter + "_results.json", student_results(rounds=2))
    sheets.save_png(np.zeros((8, 8, 3), np.uint8), run.segmenter + "_masks.png")
    page = Reader(open(report.write_run_report(run), encoding="utf-8").read())
    assert len(page.images) == 6 + 3 + 3
    assert "generated pairs 900 60 0.500 0.800" in page.text
    for words in ("round 1 900", "round 2 900", "0.712 65% 0.90", "Masks of some images"):
        assert words in page.text
    assert "round 3" not in page.text and "ends after" not in page.text
    results = student_results(rounds=2)
    results["rounds"][-1]["end"] = "self-training ends after round 2"
    files.write_json(run.segmenter + "_results.json", results)
    page = Reader(open(report.write_run_report(run), encoding="utf-8").read())
    assert "ends after round 2" in page.text
    files.write_json(run.segmenter + "_results.json", {"pairs": 900})  # of an earlier version
    assert report.student_of(run) == {}


def test_a_report_has_what_the_sanity_checks_found(run):
    look = {"images_seen": 240_000, "look": "background", "mask_undecided": 0.01}
    run.append_log(look)
    files.write_json(os.path.join(run.path, "quality.json"), {"warnings": ["one mask for all"]})
    warnings = report.warnings_of(run)
    assert warnings[0] == "masks <are> empty" and warnings[2] == "one mask for all"
    assert warnings[1].startswith("at 240,000 images masks cover the background")


def test_a_run_without_a_log_has_a_page_too(tmp_path):
    run = RunDirectory(tmp_path)
    run.create_or_resume(configs.load("quickstart"))
    page = Reader(open(report.write_run_report(run), encoding="utf-8").read())
    assert page.images == []
    assert "0 images so far" in page.text


def test_sheets_are_evenly_spaced_with_first_and_last(run, monkeypatch):
    monkeypatch.setattr(report, "_MOST_SHEETS", 3)
    captions = [picture.caption for picture in report.sheets_of(run)]
    assert captions == ["after 240,000 images", "after 140,000 images", "after 20,000 images"]


def test_curves_leave_out_values_that_are_not_finite():
    records = [{"images_seen": 1, "d_loss": 1.0, "wasserstein": None}, {"images_seen": 2}]
    assert report.draw_curves(records, 0.25) == []
    records.append({"images_seen": 3, "wasserstein": 2.0, "coverage": 0.2})
    assert [curve.caption for curve in report.draw_curves(records, 0.25)] == ["Losses", "Masks"]


@pytest.mark.parametrize(("value", "text"), [(3.21, "3.2 s"), (48.0, "48 s"), (485, "8 min 05 s")])
def test_seconds(value, text):
    assert report.seconds(value) == text
