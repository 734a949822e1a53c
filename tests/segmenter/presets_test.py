import json
import os
import re
import shutil
import zipfile

import cv2
import h5py
import keras_hub
import numpy as np
import pytest
from keras_hub.src.utils import preset_utils
from PIL import Image

from layered_segmentation.errors import UserError
from layered_segmentation.segmenter import preset_files, presets
from layered_segmentation.segmenter.segmenter import LayeredSegmenter, create_segmenter

FLOWERS = "layered_unet_flowers_64"
SECTIONS = ("Data", "Settings", "Scores", "Protocol", "Limits", "Licence")


def flower(height=150, width=200, centre=(90, 70), radius=38):
    """A drawn flower with five petals in front of mottled green, and its mask."""
    noise = np.random.default_rng(0).integers(0, 60, (height // 10 + 1, width // 10 + 1, 3))
    background = cv2.resize(noise.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    image = (background + np.array([20, 60, 15])).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for turn in np.arange(5) * 2 * np.pi / 5:
        x, y = centre[0] + 0.6 * radius * np.cos(turn), centre[1] + 0.6 * radius * np.sin(turn)
        cv2.circle(image, (round(x), round(y)), radius // 2, (220, 60, 140), -1, cv2.LINE_AA)
        cv2.circle(mask, (round(x), round(y)), radius // 2, 1, -1)
    cv2.circle(image, centre, radius // 3, (240, 200, 60), -1, cv2.LINE_AA)
    cv2.circle(mask, centre, radius // 3, 1, -1)
    return image, mask > 0


def iou(prediction, target):
    return (prediction & target).sum() / (prediction | target).sum()


@pytest.mark.parametrize(
    "load",
    [
        presets.load,
        LayeredSegmenter.from_preset,
        keras_hub.models.ImageSegmenter.from_preset,
    ],
    ids=["presets.load", "class", "KerasHub"],
)
def test_a_packaged_preset_segments(load):
    segmenter = load(FLOWERS)
    assert isinstance(segmenter, LayeredSegmenter) and segmenter.resolution == 64
    image, truth = flower()
    assert iou(segmenter.predict_masks([image])[0] >= 0.5, truth) > 0.8


def test_a_preset_with_older_module_paths_is_loaded(tmp_path):
    # Once the classes were in `layered_segmentation.models`; KerasHub finds them by their
    # registered names.
    directory = tmp_path / "preset"
    shutil.copytree(preset_files.packaged(FLOWERS), directory)
    for name in ("config.json", "task.json", "preprocessor.json", "image_converter.json"):
        text = (directory / name).read_text()
        older = re.sub(r'"layered_segmentation\.segmenter\.', '"layered_segmentation.models.', text)
        assert older != text
        (directory / name).write_text(older)
    preset_files.write_checksums(str(directory))
    image, _ = flower()
    expected = presets.load(FLOWERS).predict_masks([image])[0]
    np.testing.assert_array_equal(presets.load(str(directory)).predict_masks([image])[0], expected)


def test_kerashub_lists_them():
    assert FLOWERS in preset_files.names()
    listed = LayeredSegmenter.presets[FLOWERS]
    assert "flowers" in listed["metadata"]["description"]
    segmenter = LayeredSegmenter.from_preset(FLOWERS)
    assert listed["metadata"]["params"] == segmenter.backbone.count_params()


@pytest.mark.parametrize("name", preset_files.names())
def test_each_has_a_card_checksums_and_is_small(name):
    directory = preset_files.packaged(name)
    files = os.listdir(directory)
    assert {preset_files.CARD, preset_files.CHECKSUMS, "task.json", "model.weights.h5"} <= set(
        files
    )
    sizes = {file: os.path.getsize(os.path.join(directory, file)) for file in files}
    assert 0 < sizes.pop(preset_files.TFLITE) < 3_000_000  # the weights a second time
    assert sum(sizes.values()) < 3_000_000
    with open(os.path.join(directory, preset_files.CARD), encoding="utf-8") as file:
        card = file.read()
    assert tuple(re.findall(r"^## (.+)$", card, re.M)) == SECTIONS
    assert f"--segmenter={name}" in card


@pytest.mark.parametrize("name", preset_files.names())
def test_each_tflite_file_says_what_it_knows(name):
    # `build.mjs` names the page after it.
    with zipfile.ZipFile(os.path.join(preset_files.packaged(name), preset_files.TFLITE)) as archive:
        label = archive.read("labels.txt").decode()
    plural = label.strip().replace("fly", "flie") + "s"
    assert name == f"layered_unet_{plural}_64"


def test_segment_works_without_any_training(layerseg, tmp_path):
    image, truth = flower()
    Image.fromarray(image).save(tmp_path / "photo.png")
    done = layerseg(
        "segment",
        f"--segmenter={FLOWERS}",
        f"--input={tmp_path / 'photo.png'}",
        f"--out={tmp_path / 'out'}",
        "--refine=grabcut",
    )
    assert done.status == 0, done.stderr
    mask = np.asarray(Image.open(tmp_path / "out" / "photo.mask.png")) > 0
    assert iou(mask, truth) > 0.9


def test_a_directory_takes_precedence_over_a_packaged_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    presets.save(create_segmenter(8, 16), FLOWERS)
    assert presets.load(FLOWERS).resolution == 16


def test_an_unknown_name_lists_the_known_ones(tmp_path, monkeypatch, layerseg):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no such preset in the package .*{FLOWERS}"):
        presets.load("layered_unet_flowres_64")
    flags = [f"--segmenter={FLOWERS}", "--images=none", "--masks=none"]
    done = layerseg("evaluate", *flags)
    assert done.status == 2 and "so --out is needed" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fault", ["changed", "missing", "unknown", "no checksums"])
def test_a_damaged_preset_is_refused(tmp_path, monkeypatch, fault):
    shutil.copytree(preset_files.packaged(FLOWERS), tmp_path / FLOWERS)
    monkeypatch.setattr(preset_files, "_PACKAGED", str(tmp_path))
    assert presets.load(FLOWERS).resolution == 64
    if fault == "changed":
        with open(tmp_path / FLOWERS / "model.weights.h5", "ab") as file:
            file.write(b"x")
    elif fault == "missing":
        os.remove(tmp_path / FLOWERS / "preprocessor.json")
    elif fault == "unknown":
        (tmp_path / FLOWERS / "more.json").write_text("{}")
    else:
        os.remove(tmp_path / FLOWERS / preset_files.CHECKSUMS)
    with pytest.raises(UserError, match="the installed package is damaged; install it again"):
        presets.load(FLOWERS)


@pytest.mark.slow
def test_saved_presets_have_checksums(tmp_path):
    mine = str(tmp_path / "mine")
    presets.save(create_segmenter(8, 16), mine)
    preset_files.verify(mine, "write it")
    (tmp_path / "mine" / "notes.txt").write_text("one's own files are no damage")
    presets.load(mine).save_to_preset(mine)  # as Keras's users do; the sums go with it
    assert presets.load(mine).resolution == 16
    with open(os.path.join(mine, "model.weights.h5"), "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"model\.weights\.h5: its SHA-256 is .* copy it again"):
        presets.load(mine)
    os.remove(os.path.join(mine, preset_files.CHECKSUMS))
    with pytest.raises(UserError, match=r"checksums\.json: cannot be read"):
        preset_files.verify(mine, "write it")


def edit(preset, name, change):
    """Changes a JSON file of a preset and drops the checksums, as a stranger's preset has none."""
    path = preset / name
    config = json.loads(path.read_text())
    change(config["config"])
    path.write_text(json.dumps(config))
    (preset / preset_files.CHECKSUMS).unlink(missing_ok=True)


@pytest.mark.parametrize("width", [1e8, 100_000_000, 400, 0, -8])
def test_sizes_are_checked_before_the_network_is_built(tmp_path, monkeypatch, width):
    presets.save(create_segmenter(8, 16), str(tmp_path / "mine"))
    edit(tmp_path / "mine", "config.json", lambda config: config.update(width=width))
    monkeypatch.setattr(keras_hub.models.ImageSegmenter, "from_preset", None)
    with pytest.raises(UserError, match=r"width is|has more than .* parameters, and model\.wei"):
        presets.load(str(tmp_path / "mine"))


def test_a_nested_size_is_checked(tmp_path):
    presets.save(create_segmenter(8, 16), str(tmp_path / "mine"))
    edit(tmp_path / "mine", "image_converter.json", lambda c: c.update(image_size=[16, 10**9]))
    with pytest.raises(UserError, match=r"image_size is 1e\+09; it must be in \[1, 4,096\]"):
        presets.load(str(tmp_path / "mine"))


@pytest.mark.parametrize("fault", ["nan", "infinite", "link", "external", "bomb", "cut"])
def test_weights_are_checked_before_the_network_is_built(tmp_path, monkeypatch, fault):
    mine = tmp_path / "mine"
    presets.save(create_segmenter(8, 16), str(mine))
    (mine / preset_files.CHECKSUMS).unlink()
    path = mine / "model.weights.h5"
    with h5py.File(path, "r+") as file:
        found = []
        file.visititems(lambda _, item: found.append(item) if hasattr(item, "shape") else None)
        first = next(item for item in found if item.ndim == 4)
        if fault in ("nan", "infinite"):
            first[0, 0, 0, 0] = float("nan" if fault == "nan" else "inf")
        elif fault == "link":
            file["more"] = h5py.ExternalLink("other.h5", "/")
        elif fault == "external":
            file.create_dataset("more", (2,), "f4", external=[("/etc/passwd", 0, 8)])
        elif fault == "bomb":
            file.create_dataset("more", (10**6, 10**6), "f4", chunks=(1000, 1000))
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    monkeypatch.setattr(keras_hub.models.ImageSegmenter, "from_preset", None)
    words = "not finite|is a link|in another file|more than the file|cannot be read as HDF5"
    with pytest.raises(UserError, match=rf"model\.weights\.h5: .*({words})"):
        presets.load(str(mine))


def test_a_preset_without_checksums_is_loaded_with_a_warning(tmp_path, capsys):
    presets.save(create_segmenter(8, 16), str(tmp_path / "mine"))
    presets.load(str(tmp_path / "mine"))
    assert "warning" not in capsys.readouterr().err
    (tmp_path / "mine" / preset_files.CHECKSUMS).unlink()
    assert presets.load(str(tmp_path / "mine")).resolution == 16
    assert f"mine: it has no {preset_files.CHECKSUMS}" in capsys.readouterr().err


def test_a_preset_of_a_hub_is_checked_too(tmp_path, monkeypatch, capsys):
    hub = tmp_path / "hub"
    presets.save(create_segmenter(8, 16), str(hub))

    def download(repo_id, filename):
        assert repo_id == "somebody/flowers"
        if not (hub / filename).exists():
            raise preset_utils.EntryNotFoundError(filename)
        return str(hub / filename)

    monkeypatch.setattr(preset_utils.huggingface_hub, "hf_hub_download", download)
    assert presets.load("hf://somebody/flowers").resolution == 16
    assert "warning" not in capsys.readouterr().err
    with open(hub / "model.weights.h5", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"model\.weights\.h5 does not match checksums\.json"):
        presets.load("hf://somebody/flowers")
    edit(hub, "config.json", lambda config: config.update(width=10**8))
    with pytest.raises(UserError, match=r"hf://somebody/flowers: config\.json: width is 1e\+08"):
        presets.load("hf://somebody/flowers")
    assert "hf://somebody/flowers: it has no checksums.json" in capsys.readouterr().err


def test_an_edited_card_is_kept_when_its_segmenter_is_replaced(tmp_path):
    mine = tmp_path / "mine"
    presets.save(create_segmenter(8, 16), str(mine), card="first draft")
    presets.save(create_segmenter(8, 16), str(mine), overwrite=True, card="second draft")
    assert (mine / preset_files.CARD).read_text() == "second draft"
    assert not (mine / "README.old.md").exists()  # nobody had worked on the first
    (mine / preset_files.CARD).write_text("my own words")
    presets.save(create_segmenter(8, 16), str(mine), overwrite=True, card="third draft")
    assert (mine / preset_files.CARD).read_text() == "third draft"
    assert (mine / "README.old.md").read_text() == "my own words"
    presets.load(str(mine))


FROM_PRESET = [LayeredSegmenter.from_preset, keras_hub.models.ImageSegmenter.from_preset]


@pytest.mark.parametrize("load", FROM_PRESET, ids=["class", "KerasHub"])
@pytest.mark.parametrize("name", ["model.weights.h5", "task.weights.h5"])
def test_from_preset_itself_notices_a_changed_file(tmp_path, load, name):
    presets.save(create_segmenter(8, 16), str(tmp_path / "mine"))
    content = bytearray((tmp_path / "mine" / name).read_bytes())
    content[-9] ^= 4
    (tmp_path / "mine" / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: its SHA-256 is"):
        load(str(tmp_path / "mine"))


@pytest.mark.parametrize("load", FROM_PRESET, ids=["class", "KerasHub"])
def test_from_preset_itself_builds_no_absurd_network(tmp_path, load):
    mine = tmp_path / "mine"
    presets.save(create_segmenter(8, 16), str(mine))
    task = json.loads((mine / "task.json").read_text())
    task["config"]["backbone"]["config"]["width"] = 10**8
    (mine / "task.json").write_text(json.dumps(task))
    (mine / preset_files.CHECKSUMS).unlink()
    with pytest.raises(UserError, match=r"width is 1e\+08; it must be in \[1, 512\]"):
        load(str(mine))


@pytest.mark.parametrize("load", FROM_PRESET, ids=["class", "KerasHub"])
def test_from_preset_itself_refuses_weights_that_are_not_finite(tmp_path, load):
    mine = tmp_path / "mine"
    segmenter = create_segmenter(8, 16)
    segmenter.backbone.weights[0].assign(segmenter.backbone.weights[0] * np.nan)
    segmenter.save_to_preset(str(mine))
    with pytest.raises(UserError, match="not finite"):
        load(str(mine))


def test_empty_checksums_vouch_for_nothing(tmp_path):
    presets.save(create_segmenter(8, 16), str(tmp_path / "mine"))
    (tmp_path / "mine" / preset_files.CHECKSUMS).write_text("{}")
    with pytest.raises(UserError, match=r"config\.json: is not in checksums\.json"):
        presets.load(str(tmp_path / "mine"))
    (tmp_path / "mine" / preset_files.CHECKSUMS).write_text("null")
    with pytest.raises(UserError, match=r"checksums\.json: cannot be read"):
        presets.load(str(tmp_path / "mine"))
