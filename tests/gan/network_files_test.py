"""The generators that come with the package."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from layered_segmentation import LayeredGenerator
from layered_segmentation.errors import UserError
from layered_segmentation.gan import network_files
from layered_segmentation.run_directory import RunDirectory

NAMES = ["layered_generator_butterflies_16", "layered_generator_flowers_16"]
SECTIONS = ("Data", "Settings", "Scores", "Protocol", "Limits", "Licence")


def test_they_are_known_by_name():
    assert network_files.names() == NAMES
    with pytest.raises(UserError, match="layered_generator_flowers_16"):
        LayeredGenerator.from_preset("layered_generator_unicorns_16")


@pytest.mark.parametrize("name", NAMES)
def test_each_draws_objects_in_front_of_a_background(name):
    generator = LayeredGenerator.from_preset(name)
    draws = np.random.default_rng(0)
    latents = draws.normal(size=(64, generator.latent_dim)).astype(np.float32)
    background, foreground, mask = map(np.asarray, generator(latents))
    assert background.shape == foreground.shape == (64, 16, 16, 3) and mask.shape == (64, 16, 16, 1)
    assert 0.2 < mask.mean() < 0.45
    assert np.abs(mask - 0.5).mean() > 0.4  # object or background, hardly anything between
    edge = np.concatenate([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]])
    assert edge.mean() < 0.1
    inside = (np.abs(foreground - background) * mask).sum(axis=(1, 2, 3)) / mask.sum(axis=(1, 2, 3))
    assert np.median(inside) > 0.5  # the foreground is not the background again


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_card_and_names_no_path(name):
    directory = network_files.packaged(name)
    with open(os.path.join(directory, "README.md"), encoding="utf-8") as file:
        card = file.read()
    assert f"# {name}\n" in card and all(f"\n## {section}\n" in card for section in SECTIONS)
    assert RunDirectory.open(directory).config().data.path == ""


@pytest.mark.parametrize("fault", ["changed", "deleted", "no checksums", "empty checksums"])
def test_a_damaged_one_is_refused(tmp_path, monkeypatch, fault):
    directory = tmp_path / NAMES[0]
    shutil.copytree(network_files.packaged(NAMES[0]), directory)
    monkeypatch.setattr(network_files, "_PRESETS", str(tmp_path))
    network_files.packaged(NAMES[0])
    if fault == "changed":
        (directory / "config.yaml").write_text((directory / "config.yaml").read_text() + " ")
    elif fault == "deleted":
        (directory / "finished.json").unlink()
    elif fault == "no checksums":
        (directory / "checksums.json").unlink()
    else:
        (directory / "checksums.json").write_text("{}")
    with pytest.raises(UserError, match="install it again"):
        network_files.packaged(NAMES[0])


def test_sample_draws_them_without_a_run(layerseg, tmp_path):
    sheet, grid = tmp_path / "sheet.png", tmp_path / "grid.png"
    for flags in ((f"--out={sheet}", "--count=3"), (f"--out={grid}", "--grid=shift")):
        result = layerseg("sample", f"--preset={NAMES[1]}", *flags)
        assert result.status == 0 and f"scenes of {NAMES[1]}, seed 0" in result.stdout
    assert (
        np.ptp(np.asarray(Image.open(sheet))) > 200 and np.ptp(np.asarray(Image.open(grid))) > 200
    )
    assert layerseg("sample", f"--out={tmp_path / 'none.png'}").status != 0  # no run, no preset
