"""`layerseg extract`, from datasets that `layerseg prepare` and other builders made."""

import errno
import json
import os
import pathlib

import cub_files
import filelock
import lmdb_files
import numpy as np
import other_photos
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from layered_segmentation import files, images
from layered_segmentation.data import folder
from layered_segmentation.data.prepare import extract as extraction

COUNT = 12


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A directory of the datasets `other_photos/CONFIG`."""
    directory = tmp_path_factory.mktemp("others")
    for config in other_photos.OtherPhotos.BUILDER_CONFIGS:
        builder = other_photos.OtherPhotos(data_dir=str(directory), config=config.name)
        shards = 4 if config.name == "numbers" else 1
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=shards)
        )
    return directory


@pytest.fixture
def data_dir(prepare, tmp_path):
    """A directory of `lsun_objects/car`."""
    lmdb_files.write(tmp_path / "source" / "car", lmdb_files.photos(COUNT))
    result = prepare("lsun_objects/car", tmp_path / "source")
    assert result.status == 0, result.stderr
    return tmp_path / "data"


@pytest.fixture
def birds(prepare, tmp_path):
    """A directory of `cub200_segmentation`."""
    cub_files.write(tmp_path / "cub")
    result = prepare("cub200_segmentation", tmp_path / "cub", data_dir=tmp_path / "birds")
    assert result.status == 0, result.stderr
    return tmp_path / "birds"


@pytest.fixture
def extract(layerseg, tmp_path):
    """Extracts to `tmp_path / "out"`."""

    def run(dataset, data_dir, *arguments, out=tmp_path / "out"):
        return layerseg(
            "extract", f"--dataset={dataset}", f"--data_dir={data_dir}", f"--out={out}", *arguments
        )

    return run


def tree(directory):
    """Files by their paths, without the stamp."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in (extraction.STAMP, ".extract.lock")
    }


def cars():
    """What `lsun_objects/car` must become."""
    ordered = sorted(lmdb_files.photos(COUNT).items())
    return {f"{n:06}_{key}.webp": value for n, (key, value) in enumerate(ordered)}


def test_photos_keep_bytes_and_order(extract, data_dir, tmp_path):
    out = tmp_path / "out"
    result = extract("lsun_objects/car", data_dir)
    assert (result.status, result.stderr) == (0, "")
    assert tree(out) == cars()
    assert images.search(str(out)).images == list(cars())  # as verbs will read them
    assert result.stdout == (
        f"{COUNT} photos in {out}\n"
        f"next: layerseg evaluate --segmenter=RUN --images={out} "
        "--detector=MASK_RCNN_SAVED_MODEL\n"
        f"  or: layerseg segment --segmenter=RUN --input={out} --out=OUT\n"
    )


def test_a_slice_has_the_names_of_the_whole_dataset(extract, data_dir, others, tmp_path):
    assert extract("lsun_objects/car[3:9]", data_dir, "--limit=4").status == 0
    assert tree(tmp_path / "out") == dict(list(cars().items())[3:7])
    # From the second shard of four, without a key.
    assert extract("other_photos/numbers[22:31]", others, out=tmp_path / "numbers").status == 0
    numbers = tree(tmp_path / "numbers")
    assert numbers == {f"{n:06}.png": other_photos.labelled(n)[0] for n in range(22, 31)}
    assert extract("other_photos/numbers[-2:]", others, out=tmp_path / "last").status == 0
    assert list(tree(tmp_path / "last")) == ["000058.png", "000059.png"]


def test_each_of_several_datasets_gets_a_directory(extract, data_dir, tmp_path):
    result = extract("lsun_objects/car[:6] + lsun_objects/car:1.0.0[5:8]", data_dir, "--limit=6")
    assert result.status == 0, result.stderr
    expected = list(cars().items())
    found = tree(tmp_path / "out")
    assert found == {
        **{f"0_lsun_objects_car/{name}": file for name, file in expected[:4]},
        **{f"1_lsun_objects_car_1.0.0/{name}": file for name, file in expected[5:7]},
    }
    assert images.search(str(tmp_path / "out")).images == list(found)


def test_masks_pair_with_their_photos_and_score_1(extract, layerseg, birds, tmp_path):
    out, masks = tmp_path / "out", tmp_path / "truth"
    result = extract("cub200_segmentation@test", birds, f"--masks_out={masks}")
    assert result.status == 0, result.stderr
    assert f"5 photos in {out}\n5 masks in {masks}\nnext: layerseg evaluate " in result.stdout
    assert f"--images={out} --masks={masks}\n" in result.stdout
    numbers = [n for n in range(1, cub_files.COUNT + 1) if n not in cub_files.TRAIN]
    published = tree(tmp_path / "cub" / "CUB_200_2011" / "images")
    assert tree(out) == {cub_files.name(n): published[cub_files.name(n)] for n in numbers}
    pairs = {pair.name: pair.mask for pair in folder.PairFolder(str(out), str(masks))}
    for number in numbers:
        mask = cub_files.levels(number) > 127
        assert np.array_equal(pairs.pop(cub_files.name(number)), mask)
        name = cub_files.name(number).replace(".jpg", ".png")
        with Image.open(masks / name) as image:
            assert np.array_equal(np.asarray(image), mask * np.uint8(255))
    assert not pairs
    scored = layerseg(
        "evaluate", f"--predictions={masks}", f"--images={out}", f"--masks={masks}",
        f"--out={tmp_path / 'scores'}", "--grabcut_iterations=1",
    )  # fmt: skip
    assert scored.status == 0, scored.stderr
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert (results["miou"], results["images"]) == (1.0, 5)


def test_masks_may_be_written_to_masks_in_the_photos_directory(extract, layerseg, birds, tmp_path):
    out = tmp_path / "out"
    result = extract(
        "cub200_segmentation@test+cub200_segmentation", birds, f"--masks_out={out}/masks"
    )
    assert result.status == 0, result.stderr
    assert len(folder.find_photos(str(out), "--images")) == 10
    pairs = folder.PairFolder(str(out), str(out / "masks"))
    assert sum(pair.mask.any() for pair in pairs) == 10
    first = f"0_cub200_segmentation_test/{cub_files.name(1)}"
    assert pairs.files[0] == first
    assert f"1_cub200_segmentation/{cub_files.name(2)}" in pairs.files


@pytest.mark.linux("file names that are not UTF-8")
def test_a_prepared_folder_is_extracted_unchanged(extract, layerseg, tmp_path):
    source = tmp_path / "source"
    for name, format in (("b.JPG", "JPEG"), ("a/c.png", "PNG"), ("a/d e.webp", "WEBP")):
        (source / name).parent.mkdir(exist_ok=True, parents=True)
        (source / name).write_bytes(lmdb_files.photo(len(name), format=format))
    (source / os.fsdecode(b"caf\xe9.tif")).write_bytes(lmdb_files.photo(9, format="TIFF"))
    prepared = layerseg(
        "prepare",
        "--dataset=photo_folder/mine",
        f"--source={source}",
        f"--data_dir={tmp_path / 'data'}",
    )
    assert prepared.status == 0, prepared.stderr
    assert extract("photo_folder/mine", tmp_path / "data").status == 0
    expected = {os.fsencode(name): file for name, file in tree(source).items()}
    expected[rb"caf_udce9.tif"] = expected.pop(b"caf\xe9.tif")
    assert {os.fsencode(name): file for name, file in tree(tmp_path / "out").items()} == expected


def test_paths_of_the_dataset_are_kept_where_they_are_safe(extract, others, tmp_path):
    masks = tmp_path / "truth"
    result = extract("other_photos/paths", others, f"--masks_out={masks}")
    assert result.status == 0, result.stderr
    found = tree(tmp_path / "out")
    assert sorted(found) == sorted(other_photos.PATHS.values())
    for number, ((_, format), path) in enumerate(other_photos.PATHS.items()):
        assert found[path] == other_photos.encode(np.full((4, 6, 3), number), format)
    pairs = list(folder.PairFolder(str(tmp_path / "out"), str(masks)))  # finds all of them
    assert len(pairs) == len(other_photos.PATHS)
    assert all(np.array_equal(pair.mask, np.eye(4, 6)) for pair in pairs)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "truth"}


def test_label_maps_need_a_label(extract, others, tmp_path):
    result = extract("other_photos/labels", others, f"--masks_out={tmp_path / 'm'}")
    assert result.status == 2
    assert "image 000000 holds 1, 2, 3, not 0 and 1 or 0 and 255; if these" in result.stderr
    assert not list(tmp_path.iterdir())
    result = extract(
        "other_photos/labels", others, f"--masks_out={tmp_path / 'm'}", "--mask_label=2"
    )
    assert result.status == 0, result.stderr
    for pair in folder.PairFolder(str(tmp_path / "out"), str(tmp_path / "m")):
        assert np.array_equal(pair.mask, np.arange(24).reshape(4, 6) % 3 == 1)


def test_masks_are_upright_like_their_photos_and_misfits_are_left_out(extract, others, tmp_path):
    result = extract("other_photos/misfits", others, f"--masks_out={tmp_path / 'm'}")
    assert result.status == 0, result.stderr
    assert result.stderr == (
        "left out 2 of 40: other_photos/misfits image 000007 (its mask is 4 × 6, the photo 6 × 4), "
        "other_photos/misfits image 000009 (its mask cannot be read as an image)\n"
    )
    assert f"38 photos in {tmp_path / 'out'}\n38 masks in" in result.stdout
    for pair in folder.PairFolder(str(tmp_path / "out"), str(tmp_path / "m")):
        assert pair.mask.shape == pair.image.shape[:2] == (6, 4)
        assert np.argwhere(pair.mask).tolist() == [[0, 3]]
    result = extract(
        "other_photos/misfits[:10]", others, f"--masks_out={tmp_path / 'n'}", out=tmp_path / "few"
    )
    assert result.status == 2
    assert "--dataset=other_photos/misfits[:10]: more than 5% of the 10 photos" in result.stderr


def test_a_stopped_run_continues_and_a_finished_one_reports_it(
    extract, data_dir, tmp_path, monkeypatch
):
    out, put, calls = tmp_path / "out", extraction._put, []

    def stopping(path, content):
        calls.append(path)
        if len(calls) == 6:  # the stamp, four photos
            raise KeyboardInterrupt
        return put(path, content)

    monkeypatch.setattr(extraction, "_put", stopping)
    result = extract("lsun_objects/car", data_dir)
    assert result.status == 130
    assert "are complete; run the same command again to resume" in result.stderr
    assert tree(out) == dict(list(cars().items())[:4])
    monkeypatch.setattr(extraction, "_put", put)
    partial = pathlib.Path(files.partial_path(str(out / list(cars())[5])))
    partial.write_bytes(b"of one that was killed")
    before = (out / next(iter(cars()))).stat().st_mtime_ns
    result = extract("lsun_objects/car", data_dir)
    assert result.status == 0, result.stderr
    assert f"{COUNT} photos in {out}\n" in result.stdout
    assert "finished" not in result.stdout
    assert tree(out) == cars()
    assert (out / next(iter(cars()))).stat().st_mtime_ns == before
    assert f"{out} is finished; nothing to do.\n" in extract("lsun_objects/car", data_dir).stdout


def test_a_failed_write_leaves_no_partial_file(extract, data_dir, tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if str(target).endswith(".webp"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(extraction.os, "replace", full)
    result = extract("lsun_objects/car", data_dir)
    assert result.status == 1
    place = tmp_path / "out" / next(iter(cars()))
    assert f"no space left on the disk that holds {place}; free some" in result.stderr
    assert tree(tmp_path / "out") == {}


def test_existing_files_are_never_replaced(extract, data_dir, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    result = extract("lsun_objects/car", data_dir)
    assert result.status == 2
    assert (
        f"--out={out}: the directory is not empty (it holds 'mine.txt'), and not" in result.stderr
    )
    assert tree(out) == {"mine.txt": b"mine"}
    (out / "mine.txt").unlink()
    assert extract("lsun_objects/car[:5]", data_dir).status == 0
    for dataset, arguments, words in (
        ("lsun_objects/car[:6]", (), "(dataset: 'lsun_objects/car[:5]', now 'lsun_objects/car[:6]"),
        ("lsun_objects/car[:5]", ("--limit=3",), "(limit: 0, now 3); name an empty or a new one"),
    ):
        result = extract(dataset, data_dir, *arguments)
        assert result.status == 2
        assert words in result.stderr
    first = out / next(iter(cars()))
    first.write_bytes(b"drawn over")
    result = extract("lsun_objects/car[:5]", data_dir)
    assert result.status == 2
    assert f"{first}: is not the file that the dataset holds; move it away" in result.stderr
    assert first.read_bytes() == b"drawn over"
    first.unlink()  # lost, not changed
    assert extract("lsun_objects/car[:5]", data_dir).status == 0
    assert tree(out) == dict(list(cars().items())[:5])


def test_directories_of_other_commands_are_refused(extract, others, tmp_path):
    assert extract("other_photos/labels", others).status == 0
    stamp = tmp_path / "out" / extraction.STAMP
    content = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({**content, "prepared as": ["earlier"]}))
    result = extract("other_photos/labels", others)
    assert result.status == 2
    assert "another command extracted (prepared as: ['earlier'], now ['other_pho" in result.stderr
    result = extract(
        "other_photos/labels", others, f"--masks_out={tmp_path / 'm'}", "--mask_label=1"
    )
    assert "(with masks: False, now True)" in result.stderr
    assert not (tmp_path / "m").exists()
    stamp.write_text("{")
    assert "not of a stopped extraction" in extract("other_photos/labels", others).stderr


def test_two_at_a_time_are_refused(extract, others, tmp_path):
    (tmp_path / "out").mkdir()
    with filelock.FileLock(tmp_path / "out" / ".extract.lock"):
        result = extract("other_photos/labels", others)
    assert result.status == 2
    assert f"--out={tmp_path / 'out'}: another process extracts to it; wait" in result.stderr
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("dataset", "arguments", "words"),
    [
        ("other_photos/labels", ("--mask_label=1",), "--mask_label=1: it goes with --masks_out"),
        ("other_photos/numbers", ("--masks_out=m",), "numbers/1.0.0 has no masks (a feature 'mask' "
         "or 'segmentation_mask' that is an image of one channel), only image; leave"),
        ("other_photos/paths", ("--masks_out=out",), "would be mixed up; name a directory next"),
        ("other_photos/paths", ("--masks_out=out/truth",), "or out/masks"),
        ("other_photos/paths", ("--masks_out=.",), "--masks_out=.: its masks and the photos of"),
        ("other_photos/paths", ("--masks_out=file",), "--masks_out=file: a file has this name"),
        ("other_photos/labels", ("--limit=-1",), "--limit"),
        ("other_photos/labels", ("--out=file",), "--out=file: a file has this name"),
        ("other_photos/labels[:4]", (), "--dataset=other_photos/labels[:4]: the split 'train' of "
         "other_photos/labels holds 3 images, and [:4] reaches beyond it"),
        ("other_photos/labels@x", (), "has no split 'x'; it has train (write NAME@SPLIT)"),
        ("other_photos/labels[", (), "--dataset=other_photos/labels[: 'other_photos/labels[' is"),
        ("", (), "--dataset is needed (layerseg extract --help)"),
        ("lsun_objects/car", (), "layerseg prepare --dataset=lsun_objects/car --source=… "),
        ("other_photo", (), "check its spelling and --data_dir"),
    ],
)  # fmt: skip
def test_bad_flags_are_one_clear_line(
    extract, others, tmp_path, monkeypatch, dataset, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    result = extract(dataset, others, *arguments, out="out")
    assert result.status == 2
    assert result.stderr.startswith("layerseg extract: error: ")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "data." not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_damaged_dataset_is_an_error(extract, data_dir):
    (record,) = data_dir.rglob("*.tfrecord*")
    os.truncate(record, record.stat().st_size // 2)
    result = extract("lsun_objects/car", data_dir)
    assert result.status == 2
    assert "--dataset=lsun_objects/car: lsun_objects/car is damaged after image" in result.stderr
    assert len(result.stderr.splitlines()) == 1
