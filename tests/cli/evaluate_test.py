import csv
import json
import os
import shutil

import flowers
import numpy as np
import pytest
from PIL import Image

from layered_segmentation.data.scenes import Scenes


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    from layered_segmentation.segmenter import presets
    from layered_segmentation.segmenter.segmenter import create_segmenter

    run = tmp_path_factory.mktemp("run")
    presets.save(create_segmenter(8, 16), str(run / "segmenter"))
    return run


@pytest.fixture
def test_set(tmp_path):
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for pair in Scenes(0, 6, "test").pairs(40):
        Image.fromarray(pair.image).save(tmp_path / "photos" / f"{pair.name}.png")
        Image.fromarray(pair.mask).save(tmp_path / "masks" / f"{pair.name}.png")
    return tmp_path


def flags(preset, test_set, *more):
    return (f"--segmenter={preset}", f"--images={test_set / 'photos'}",
            f"--masks={test_set / 'masks'}", *more)  # fmt: skip


@pytest.mark.parametrize("refine", ["none", "guided", "grabcut", "consensus", "iem"])
def test_results_table_and_sheet(layerseg, preset, test_set, refine):
    out = test_set / "out"
    result = layerseg("evaluate", *flags(preset, test_set, f"--refine={refine}", f"--out={out}"))
    assert result.status == 0, result.stderr
    results = json.loads((out / "results.json").read_text())
    assert results["images"] == 6 and results["refine"] == refine
    assert set(results["references"]) == {"full_mask", "centre_box", "grabcut"}
    with open(out / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.mean([float(row["iou"]) for row in rows]) == pytest.approx(results["miou"], abs=1e-5)
    assert f"mIoU {results['miou']:.3f}" in result.stdout
    spread = np.std([float(row["grabcut"]) for row in rows])
    assert results["references_std"]["grabcut"] == pytest.approx(spread, abs=1e-5)
    assert f"  grabcut {results['references']['grabcut']:.3f} ± {spread:.3f}\n" in result.stdout
    assert np.asarray(Image.open(out / "sheet.png")).ndim == 3
    assert sorted(os.listdir(out)) == ["per_image.csv", "results.json", "sheet.png"]


def test_the_score_is_that_of_the_segmenters_masks(layerseg, preset, test_set):
    from layered_segmentation.data import folder
    from layered_segmentation.evaluation.scoring import iou
    from layered_segmentation.segmenter import presets

    pairs = folder.PairFolder(str(test_set / "photos"), str(test_set / "masks"))
    masks = presets.load(str(preset)).predict_masks([pair.image for pair in pairs])
    expected = [iou(mask >= 0.5, pair.mask) for mask, pair in zip(masks, pairs, strict=True)]
    out = test_set / "out"
    assert layerseg("evaluate", *flags(preset, test_set, f"--out={out}")).status == 0
    assert json.loads((out / "results.json").read_text())["miou"] == pytest.approx(
        np.mean(expected), abs=1e-3
    )


def test_earlier_results_stay_unless_told(layerseg, preset, test_set):
    out = test_set / "out"
    arguments = flags(preset, test_set, f"--out={out}")
    assert layerseg("evaluate", *arguments, "--limit=2").status == 0
    before = {name: (out / name).read_bytes() for name in os.listdir(out)}
    result = layerseg("evaluate", *arguments)
    assert result.status == 2 and "--overwrite" in result.stderr and str(out) in result.stderr
    assert {name: (out / name).read_bytes() for name in os.listdir(out)} == before
    assert layerseg("evaluate", *arguments, "--overwrite").status == 0
    assert json.loads((out / "results.json").read_text())["images"] == 6


def test_ignored_pixels(layerseg, preset, test_set):
    (test_set / "ignore").mkdir()
    for name in os.listdir(test_set / "masks"):
        Image.new("L", (40, 40), 255).save(test_set / "ignore" / name)
    out = test_set / "out"
    more = (f"--ignore={test_set / 'ignore'}", f"--out={out}")
    assert layerseg("evaluate", *flags(preset, test_set, *more)).status == 0
    assert json.loads((out / "results.json").read_text())["miou"] == 1.0  # nothing is left


def test_results_are_written_to_the_run_by_default(layerseg, test_set, preset):
    result = layerseg("evaluate", *flags(preset, test_set, "--limit=1"))
    assert result.status == 0, result.stderr
    assert (preset / "evaluation" / "results.json").is_file()
    preset_alone = layerseg("evaluate", *flags(preset / "segmenter", test_set))
    assert preset_alone.status == 2 and str(preset / "evaluation") in preset_alone.stderr


@pytest.mark.parametrize(
    "more, reason",
    [
        (["--images=nowhere"], "nowhere"),
        (["--masks=nowhere"], "nowhere"),
        (["--segmenter=nowhere"], "nowhere"),
        (["--segmenter=hf://somebody/something", "--out="], "--out"),
        (["--refine=snakes"], "snakes"),
    ],
)
def test_mistakes(layerseg, preset, test_set, more, reason):
    out = test_set / "out"
    result = layerseg("evaluate", *flags(preset, test_set, f"--out={out}", *more))
    assert result.status == 2 and reason in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists()


def test_a_photo_that_cannot_be_read_is_named(layerseg, preset, test_set):
    (test_set / "photos" / "test_00003.png").write_bytes(b"no image")
    out = test_set / "out"
    result = layerseg("evaluate", *flags(preset, test_set, f"--out={out}"))
    assert result.status == 2 and "test_00003.png" in result.stderr
    assert not out.exists()


@pytest.fixture
def detected(test_set):
    """The truth as a detector's masks, with nothing found in two of six photos."""
    (test_set / "detected").mkdir()
    for index, name in enumerate(sorted(os.listdir(test_set / "masks"))):
        mask = np.asarray(Image.open(test_set / "masks" / name)) & (index % 3 != 1)
        Image.fromarray(mask).save(test_set / "detected" / name)
    return test_set / "detected"


def test_against_a_detector(layerseg, preset, test_set, detected):
    out = test_set / "out"
    given = flags(preset, test_set, "--masks=", f"--detector={detected}", f"--out={out}")
    result = layerseg("evaluate", *given)
    assert result.status == 0, result.stderr
    results = json.loads((out / "results.json").read_text())
    with open(out / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [float(row["iou"]) for row in rows if row["found"] == "True"]
    assert [row["found"] for row in rows] == ["True", "False", "True"] * 2
    assert results["detected"]["images"] == 4 and results["all"]["images"] == 6
    assert results["detected"]["miou"] == pytest.approx(np.mean(found), abs=1e-6)
    assert results["detected"]["references"]["full_mask"] == pytest.approx(
        results["all"]["references"]["full_mask"] * 6 / 4
    )
    assert results["measure"] == "segmentation" and "directory of masks" in results["protocol"]
    assert "4 photos in which something is found" in result.stdout


def test_predictions_of_segment_score_as_the_segmenter_does(layerseg, preset, test_set):
    written = test_set / "written"
    done = layerseg("segment", f"--segmenter={preset}", f"--input={test_set / 'photos'}",
                    f"--out={written}", "--refine=none")  # fmt: skip
    assert done.status == 0, done.stderr
    direct = layerseg("evaluate", *flags(preset, test_set, f"--out={test_set / 'out'}"))
    # What `segment` writes is binary; the score is the same, and lies beside the masks.
    given = flags(preset, test_set, "--segmenter=", f"--predictions={written}")
    read = layerseg("evaluate", *given)
    assert direct.status == read.status == 0, read.stderr
    direct_results, read_results = (
        json.loads((path / "results.json").read_text())
        for path in (test_set / "out", test_set / "evaluation")
    )
    assert read_results["miou"] == pytest.approx(direct_results["miou"], abs=1e-9)
    assert read_results["references"] == direct_results["references"]


def test_a_missing_prediction_is_named(layerseg, preset, test_set):
    (test_set / "masks2").mkdir()
    Image.new("L", (40, 40)).save(test_set / "masks2" / "test_00000.png")
    given = flags(preset, test_set, "--segmenter=", f"--predictions={test_set / 'masks2'}")
    result = layerseg("evaluate", *given)
    assert result.status == 2 and "test_00001.png" in result.stderr
    assert not (test_set / "evaluation").exists()


def test_the_grabcut_reference_can_be_chosen(layerseg, preset, test_set):
    more = ("--grabcut_margin=0.3", "--grabcut_iterations=2", "--grabcut_side=20", "--limit=2")
    given = flags(preset, test_set, *more, f"--out={test_set / 'out'}")
    result = layerseg("evaluate", *given)
    assert result.status == 0, result.stderr
    results = json.loads((test_set / "out" / "results.json").read_text())
    for words in ("30% of each side", "2 iterations", "20 pixels"):
        assert words in results["protocol"] and words in result.stdout
    assert results["settings"]["grabcut_margin"] == 0.3


def test_a_run_on_scenes_is_scored_on_the_held_out_ones(layerseg, tmp_path, monkeypatch):
    import dataclasses

    from layered_segmentation import config as configs
    from layered_segmentation.evaluation import test_sets
    from layered_segmentation.segmenter import presets
    from layered_segmentation.segmenter.segmenter import create_segmenter

    monkeypatch.setattr(test_sets, "HELD_OUT", 5)
    config = configs.Config()
    config.data = dataclasses.replace(config.data, name="shapes")
    config.gan = dataclasses.replace(config.gan, resolution=16)
    configs.save(config, str(tmp_path / "config.yaml"))
    presets.save(create_segmenter(8, 16), str(tmp_path / "segmenter"))
    result = layerseg("evaluate", f"--segmenter={tmp_path}")
    assert result.status == 0, result.stderr
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert results["images"] == 5
    assert results["protocol"].startswith("5 held-out scenes at 16 px. ")
    pairs = list(Scenes(0, 5, "test").pairs(16))
    assert results["references"]["full_mask"] == pytest.approx(
        np.mean([pair.mask.mean() for pair in pairs])
    )
    few = layerseg("evaluate", f"--segmenter={tmp_path}", "--limit=3", f"--out={tmp_path / 'few'}")
    assert few.status == 0, few.stderr
    results = json.loads((tmp_path / "few" / "results.json").read_text())
    assert results["images"] == 3
    assert results["protocol"].startswith("3 of 5 held-out scenes at 16 px. ")
    refused = layerseg(
        "evaluate", f"--segmenter={tmp_path}", "--ignore=nowhere", f"--out={tmp_path / 'out'}"
    )
    assert refused.status == 2 and "--ignore=nowhere: it goes with --masks" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more, reason",
    [
        (["--segmenter="], "either --segmenter or --predictions"),
        (["--predictions={set}/masks"], "either --segmenter or --predictions"),
        (["--masks="], "either --masks or --detector"),
        (["--detector={set}/masks"], "either --masks or --detector"),
        (["--images=", "--masks="], "--images is needed"),
        (["--images="], "--images is needed"),
        (["--masks=", "--detector={set}/masks", "--ignore={set}/masks"], "--ignore"),
        (["--detector_class=3"], "--detector_class=3: it goes with --detector;"),
        (
            ["--detector_instances=largest"],
            "--detector_instances=largest: it goes with --detector;",
        ),
        (
            ["--masks=", "--detector={set}/masks", "--detector_score=0.9"],
            "--detector_score: it goes with a SavedModel, and --detector={set}/masks is a dir",
        ),
        (["--detector_value=7"], "--detector_value=7: it goes with --detector;"),
        (
            ["--masks=", "--detector={preset}", "--detector_value=7"],
            "--detector_value: it goes with a directory of masks, and --detector={preset} is a seg",
        ),
        (
            ["--masks=", "--detector={preset}", "--detector_class=1"],
            "--detector_class: it goes with a SavedModel, and --detector={preset} is a seg",
        ),
        (
            ["--segmenter=", "--predictions={set}/masks", "--looks=2"],
            "--looks=2: it goes with --segmenter",
        ),
        (["--limit=-1"], "--limit"),
        (["--grabcut_margin=0.6"], "grabcut_margin"),
        (["--count=50"], "unknown flag --count"),
        (["--measure=generated"], "layerseg evaluate_generated: error: unknown flag --segmenter"),
    ],
)
def test_flags_that_do_not_go_together(layerseg, preset, test_set, more, reason):
    out = test_set / "out"
    more = [flag.format(set=test_set, preset=preset) for flag in more]
    reason = reason.format(set=test_set, preset=preset)
    result = layerseg("evaluate", *flags(preset, test_set, f"--out={out}", *more))
    assert result.status == 2 and reason in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and not out.exists()


@pytest.mark.parametrize(
    "arguments, missing",
    [
        (["evaluate_generated", "--detector=x"], "--run_dir"),
        (["evaluate_generated", "--run_dir=x"], "--detector"),
        (["evaluate_generated", "--run_dir=x", "--detector="], "--detector"),
        (["fid"], "--run_dir"),
    ],
)
def test_what_a_measure_needs(layerseg, arguments, missing):
    result = layerseg(*arguments)
    assert result.status == 2
    assert result.stderr.startswith(f"layerseg {arguments[0]}: error: {missing} is needed")


def test_a_run_on_photos_is_scored_on_its_test_photos(layerseg, preset, test_set):
    from layered_segmentation import config as configs

    paths = [f"data.test_path={test_set}/photos", f"data.test_masks={test_set}/masks"]
    run = test_set / "run"
    shutil.copytree(preset / "segmenter", run / "segmenter")
    configs.save(configs.load("folder", [*paths, "data.path=x"]), str(run / "config.yaml"))
    result = layerseg("evaluate", f"--segmenter={run}", "--limit=2")
    assert result.status == 0, result.stderr
    results = json.loads((run / "evaluation" / "results.json").read_text())
    assert results["images"] == 2
    assert results["protocol"].startswith(f"The run's test photos, {test_set}/photos. ")


def test_results_of_an_encoder_do_not_replace_those_of_the_student(layerseg, preset, test_set):
    shutil.copytree(preset / "segmenter", test_set / "run" / "encoder")
    given = flags(test_set / "run" / "encoder", test_set, "--limit=1")
    assert layerseg("evaluate", *given).status == 0
    assert os.listdir(test_set / "run" / "evaluation_encoder") and not os.path.exists(
        test_set / "run" / "evaluation"
    )


@pytest.mark.parametrize("role", ["masks", "predictions"])
@pytest.mark.parametrize("form", ["true", *flowers.FORMS])
def test_no_form_of_a_perfect_mask_has_a_low_score(layerseg, tmp_path, role, form):
    flowers.write_masks(tmp_path)
    given = {"masks": "true", "predictions": "true"} | {role: form}
    arguments = [f"--{name}={tmp_path / folder}" for name, folder in given.items()]
    arguments += [f"--images={tmp_path / 'photos'}", f"--out={tmp_path / 'out'}"]
    result = layerseg("evaluate", *arguments)
    if role == "predictions" and form in ("label_map", "palette"):
        assert result.status == 2 and "255 leaves" in result.stderr, result.stderr
        assert layerseg("evaluate", *arguments, "--prediction_value=1").status == 0
        assert json.loads((tmp_path / "out" / "results.json").read_text())["miou"] > 0.8
        return
    assert result.status == 0, result.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["miou"] == 1


def test_label_maps_of_other_classes_need_their_value(layerseg, tmp_path):
    flowers.write_masks(tmp_path)
    for number in range(3):
        truth = flowers.flower(cx=0.35 + 0.05 * number, seed=number)[1]
        labels = flowers.labels(truth, 15)
        Image.fromarray(labels).save(tmp_path / "label_map" / f"{number}.png")
    arguments = [f"--images={tmp_path / 'photos'}", f"--masks={tmp_path / 'label_map'}",
                 f"--predictions={tmp_path / 'true'}", f"--out={tmp_path / 'out'}"]  # fmt: skip
    result = layerseg("evaluate", *arguments)
    assert result.status == 2 and "15 (" in result.stderr and "--mask_value" in result.stderr
    result = layerseg("evaluate", *arguments, "--mask_value=15")
    assert result.status == 0, result.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["miou"] == 1
    result = layerseg("evaluate", f"--segmenter={tmp_path}", "--mask_value=15")
    assert result.status == 2 and "--mask_value=15: it goes with --masks" in result.stderr
