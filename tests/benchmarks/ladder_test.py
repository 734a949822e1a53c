import json

import pytest
from tiny_networks import random_student

from layered_segmentation.benchmarks import ladder
from layered_segmentation.data import folder
from layered_segmentation.export import tflite
from layered_segmentation.segmenter import presets


@pytest.mark.slow
def test_a_ladder_of_sizes(album, tmp_path):
    large, small = presets.load("layered_unet_flowers_64"), random_student(8, 32)
    pairs = list(folder.PairFolder(str(album / "photos"), str(album / "masks")))
    rows = ladder.measure({"a": large, "b": small}, str(album / "photos"), pairs)
    assert [(row.name, row.quantize) for row in rows] == [
        (n, m) for n in "ab" for m in ("none", "int8")
    ]
    float32, int8, _, _ = rows
    exported = tflite.export_tflite(
        large,
        str(tmp_path / "a.tflite"),
        images=str(album / "photos"),
        masks=str(album / "masks"),
    )
    assert float32.miou == pytest.approx(exported.file_miou)
    assert int8.megabytes < 0.7 < 2 < float32.megabytes
    assert all(row.milliseconds > 0 and row.spread >= 0 for row in rows)
    ladder.write(rows, str(tmp_path / "out"))
    lines = (tmp_path / "out" / "ladder.md").read_text().splitlines()
    assert len(lines) == 6 and lines[2].startswith("| a | 64 px |")


@pytest.mark.slow
def test_the_verb(layerseg, album, tmp_path):
    preset, out = tmp_path / "w8_16", tmp_path / "out"
    presets.save(random_student(), str(preset))
    flags = [f"--images={album / 'photos'}", f"--masks={album / 'masks'}", f"--out={out}"]
    flags += [f"--representative_data={album / 'photos'}"]
    result = layerseg("ladder", f"--segmenters={preset}", *flags)
    assert result.status == 0, result.stderr
    assert "| w8_16 | 16 px |" in result.stdout
    assert [row["name"] for row in json.loads((out / "ladder.json").read_text())] == ["w8_16"] * 2
    result = layerseg("ladder", f"--segmenters={preset}", *flags)
    assert result.status == 2 and "ladder.md, ladder.json already exist" in result.stderr
    same = ["--overwrite", f"--segmenters={preset},{preset}/"]
    result = layerseg("ladder", *same, *flags)
    assert result.status == 2 and "two of them have the same name" in result.stderr
