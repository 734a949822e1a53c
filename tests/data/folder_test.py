import os
import re

import flowers
import numpy as np
import pytest
from PIL import Image

from layered_segmentation import images
from layered_segmentation.config import DataConfig
from layered_segmentation.data.batches import PhotoCache
from layered_segmentation.data.folder import Folder, MaskFolder, PairFolder, find_photos
from layered_segmentation.data.source import open_source
from layered_segmentation.errors import UserError


def save(path, colour=(10, 20, 30), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def directory(tmp_path):
    """40 photos in two sub-directories; the red channel tells their place in the order."""
    for index in range(40):
        sub = "a" if index < 25 else "b"
        save(tmp_path / "photos" / sub / f"{index:02d}.png", (index * 5, 0, 0))
    return tmp_path / "photos"


def test_all_photos_in_order(directory):
    save(directory / "masks" / "00.png", (255, 255, 255))
    save(directory / "a" / "masks" / "00.png", (255, 255, 255))
    (directory / "readme.txt").write_text("hello")
    folder = Folder(str(directory))
    images = folder.load(18)
    assert images.shape == (40, 18, 18, 3) and images.dtype == np.uint8
    assert np.array_equal(images[:, 9, 9, 0], np.arange(40) * 5)
    assert folder.skipped == []
    assert len(folder) == 40
    assert np.array_equal(Folder(str(directory), limit=7).load(18), images[:7])


def test_few_unreadable_files_are_left_out_and_named(directory, capsys):
    (directory / "a" / "03.png").write_bytes(b"no image")
    data = (directory / "b" / "30.png").read_bytes()
    (directory / "b" / "30.png").write_bytes(data[:-30])
    folder = Folder(str(directory))
    images = folder.load(18)
    assert folder.skipped == [os.path.join("a", "03.png"), os.path.join("b", "30.png")]
    kept = [index for index in range(40) if index not in (3, 30)]
    assert np.array_equal(images[:, 0, 0, 0], np.array(kept) * 5)
    told = capsys.readouterr().err
    assert "2 of 40" in told and "03.png" in told and "30.png" in told


def test_the_inventory_names_the_photos_in_use(directory):
    (directory / "a" / "03.png").write_bytes(b"no image")
    folder = Folder(str(directory))
    folder.load(18)
    lines = folder.inventory()
    size = os.path.getsize(directory / "a" / "02.png")
    name, listed, digest = lines[2].split("\t")
    assert (name, listed) == (repr(os.path.join("a", "02.png")), str(size))
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert len(lines) == 39 and "04.png" in lines[3]


@pytest.mark.parametrize("size", [900, 70_000, 500_000])
def test_another_photo_of_the_same_name_and_size_is_another_inventory(tmp_path, size):
    numbers = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(numbers.bytes(size))
    before, times = Folder(str(tmp_path)).inventory(), os.stat(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes(numbers.bytes(size))
    os.utime(tmp_path / "b.jpg", ns=(times.st_atime_ns, times.st_mtime_ns))
    after = Folder(str(tmp_path)).inventory()
    assert after[0] == before[0] and after[1] != before[1]


@pytest.mark.posix("links without special rights")
def test_the_identity_changes_whenever_squares_might(directory):
    before = Folder(str(directory)).identity()
    assert Folder(str(directory)).identity() == before and len(before) == 41
    assert Folder(str(directory), limit=39).identity() != before
    assert Folder(str(directory), aspect="pad").identity() != before
    assert Folder(str(directory), crop_margin=1.0).identity() != before
    path = directory / "a" / "03.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert Folder(str(directory)).identity() != before
    path.unlink()
    path.symlink_to("nowhere")
    changed = Folder(str(directory))
    assert changed.identity()[4].endswith("missing")
    changed.load(18)
    assert changed.skipped == [os.path.join("a", "03.png")]


def test_many_unreadable_files_are_an_error(directory):
    for index in (0, 1, 2):
        (directory / "a" / f"{index:02d}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"5% of the 40 .*00\.png, .*01\.png, .*02\.png"):
        Folder(str(directory)).load(18)


def test_too_many_bad_files_stop_decoding_early(tmp_path):
    for index in range(400):
        (tmp_path / f"{index:03d}.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="and 11 more"):
        Folder(str(tmp_path)).load(18)


def test_small_photos(directory):
    save(directory / "a" / "05.png", (25, 0, 0), size=(40, 15))
    folder = Folder(str(directory))
    images = folder.load(18)  # 1.125 × 16
    assert folder.skipped == [os.path.join("a", "05.png")] and len(images) == 39
    with pytest.raises(UserError, match=r"smaller than the resolution \(32 px\).*gan\.resolution"):
        Folder(str(directory)).load(36)
    # Exactly the resolution is enough: the margin may be enlarged.
    save(directory / "a" / "05.png", (25, 0, 0), size=(16, 16))
    assert len(Folder(str(directory)).load(18)) == 40


@pytest.mark.parametrize("resolution", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("margin", [1.0, 1.1, 1.125, 1.3])
def test_photos_of_exactly_the_resolution_are_never_too_small(tmp_path, resolution, margin):
    save(tmp_path / "a.png", size=(resolution, resolution))
    config = DataConfig(name="folder", path=str(tmp_path), crop_margin=margin)
    cache = PhotoCache.open(open_source(config, seed=0), [resolution], margin)
    assert len(cache) == 1


def test_missing_and_empty_directories(tmp_path):
    save(tmp_path / "file.png")
    (tmp_path / "empty").mkdir()
    save(tmp_path / "only" / "masks" / "a.png")
    for path, reason in (
        ("", "not set"),
        (str(tmp_path / "nowhere"), "nowhere.*no such directory"),
        (str(tmp_path / "file.png"), "is a file"),
        (str(tmp_path / "empty"), "empty.*no image"),
        (str(tmp_path / "only"), "only.*no image"),
    ):
        with pytest.raises(UserError, match=reason):
            Folder(path)


def test_resizing_is_antialiased(tmp_path):
    checks = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for name in ("a.png", "a.jpg"):
        (tmp_path / name[-3:]).mkdir()
        Image.fromarray(checks).convert("RGB").save(tmp_path / name[-3:] / name)
        images = Folder(str(tmp_path / name[-3:])).load(18)
        assert np.abs(images.astype(int) - 127).max() < 20


@pytest.fixture
def labelled(tmp_path):
    for index, name in enumerate(("x/one.jpg", "x/two.jpg", "three.png")):
        save(tmp_path / "photos" / name, (index, 0, 0), size=(12, 8))
    mask = np.zeros((8, 12), bool)
    mask[2:6, 3:9] = True
    for name in ("x/one.png", "x/two.png", "three.png"):
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    (tmp_path / "ignore").mkdir()
    Image.fromarray(~mask).save(tmp_path / "ignore" / "two.png")
    return tmp_path, mask


def test_pairs_match_by_name(labelled):
    directory, mask = labelled
    found = PairFolder(*(str(directory / name) for name in ("photos", "masks", "ignore")))
    assert len(found) == 3
    read = list(found)
    assert [pair.name for pair in read] == ["three.png", "x/one.jpg", "x/two.jpg"]
    assert all(np.array_equal(pair.mask, mask) for pair in read)
    assert all(pair.image.shape == (8, 12, 3) for pair in read)
    assert read[0].ignore is None and np.array_equal(read[2].ignore, ~mask)
    assert np.array_equal(found[2].mask, mask) and found[2].name == "x/two.jpg"


def test_flat_masks_of_nested_photos_inside_the_photos_directory(labelled):
    directory, mask = labelled
    for name in ("one", "two", "three"):
        path = directory / "photos" / "truth" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)
    found = PairFolder(str(directory / "photos"), str(directory / "photos" / "truth"))
    assert [pair.name for pair in found] == ["three.png", "x/one.jpg", "x/two.jpg"]


def test_photos_without_a_mask_are_named(labelled):
    directory, _ = labelled
    (directory / "masks" / "x" / "one.png").unlink()
    with pytest.raises(UserError, match=r"1 of 3 photos .*one\.jpg"):
        PairFolder(str(directory / "photos"), str(directory / "masks"))


def test_ambiguous_masks_and_masks_of_another_size_are_refused(labelled):
    directory, _ = labelled
    save(directory / "masks" / "three.jpg", size=(12, 8))
    with pytest.raises(UserError, match="extension: three"):
        PairFolder(str(directory / "photos"), str(directory / "masks"))
    (directory / "masks" / "three.jpg").unlink()
    save(directory / "masks" / "three.png", (255, 255, 255), size=(10, 8))
    with pytest.raises(UserError, match=r"three\.png is 10 × 8 .* 12 × 8"):
        list(PairFolder(str(directory / "photos"), str(directory / "masks")))


def test_missing_mask_directories(labelled):
    directory, _ = labelled
    with pytest.raises(UserError, match=r"masks=.*nowhere"):
        PairFolder(str(directory / "photos"), str(directory / "nowhere"))
    with pytest.raises(UserError, match=r"ignore=.*nowhere"):
        PairFolder(str(directory / "photos"), str(directory / "masks"), str(directory / "nowhere"))


def test_masks_written_by_segment_match_their_photos(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "photos" / "a.jpg")
    Image.new("L", (4, 3), 255).save(tmp_path / "masks" / "a.mask.png")
    Image.new("RGBA", (4, 3)).save(tmp_path / "masks" / "a.cutout.png")
    (pair,) = PairFolder(str(tmp_path / "photos"), str(tmp_path / "masks"))
    assert pair.name == "a.jpg" and pair.mask.all()


def test_a_void_border_is_not_scored(tmp_path):
    flowers.write_masks(tmp_path)
    for form, has_border in (("label_map", True), ("palette", True), ("cutout", False)):
        for pair in PairFolder(str(tmp_path / "photos"), str(tmp_path / form)):
            number = int(pair.name[0])
            truth = flowers.flower(cx=0.35 + 0.05 * number, seed=number)[1]
            border = flowers.border(truth) & has_border
            assert (pair.ignore is not None) == has_border
            assert np.array_equal(pair.mask & ~border, truth & ~border)
            assert not has_border or np.array_equal(pair.ignore, border)
    # Together with what --ignore leaves out.
    (tmp_path / "ignore").mkdir()
    Image.fromarray(np.eye(120, 160, dtype=bool)).save(tmp_path / "ignore" / "0.png")
    names = ("photos", "label_map", "ignore")
    pair = PairFolder(*(str(tmp_path / name) for name in names))[0]
    assert np.array_equal(pair.ignore, border_of(0) | np.eye(120, 160, dtype=bool))


def border_of(number):
    return flowers.border(flowers.flower(cx=0.35 + 0.05 * number, seed=number)[1])


def test_predictions_leave_nothing_open(tmp_path):
    flowers.write_masks(tmp_path, count=1)
    predicted = MaskFolder(str(tmp_path / "label_map"), "--predictions")
    with pytest.raises(UserError, match=r"0\.jpg is a label map .* only true.*--prediction_value"):
        predicted.read("0.jpg")
    named = MaskFolder(str(tmp_path / "label_map"), "--predictions", [1])
    inside = flowers.flower(cx=0.35)[1]
    assert np.array_equal(named.read("0.jpg"), inside & ~border_of(0))


def test_masks_of_photos_that_are_stored_lying_get_a_hint(tmp_path):
    image, mask = flowers.flower()
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    lying = np.ascontiguousarray(np.rot90(image))
    Image.fromarray(lying).save(tmp_path / "photos" / "a.jpg", exif=exif)
    Image.fromarray(np.ascontiguousarray(np.rot90(mask))).save(tmp_path / "masks" / "a.png")
    pairs = PairFolder(str(tmp_path / "photos"), str(tmp_path / "masks"))
    with pytest.raises(UserError, match=r"is 120 × 160 .* 160 × 120.* its EXIF orientation 6; the"):
        pairs[0]
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    assert np.array_equal(pairs[0].mask, mask)


def test_what_is_left_out_is_counted_and_named(directory, capsys):
    save(directory / "masks" / "00.png")
    (directory / "a" / "IMG_1.HEIC").write_bytes(flowers.HEIC)
    (directory / "notes.txt").write_text("hello")
    for name in ("run1", "b/run2"):
        save(directory / name / "sheets" / "00001.png")
        (directory / name / "config.yaml").write_text("")
        (directory / name / "lock").write_text("")
    save(directory / "not_a_run" / "x.png")
    (directory / "not_a_run" / "config.yaml").write_text("")
    images.write(str(directory / "a" / "00.mask.png"), np.zeros((30, 40), np.uint8), mark=True)
    assert len(Folder(str(directory))) == 41
    told = capsys.readouterr().err
    assert told.startswith(f"{directory}: left out ") and told.count("\n") == 1
    for words in (
        "1 for masks: masks", f"2 of a run: run1, b{os.sep}run2",
        f"1 written by layerseg: a{os.sep}00.mask.png",
        f"3 of another kind: notes.txt, a{os.sep}IMG_1.HEIC, not_a_run{os.sep}config.yaml",
    ):  # fmt: skip
        assert words in told, told
    Folder(str(directory))
    assert capsys.readouterr().err == ""  # once is enough


def test_only_results_are_no_photos(tmp_path):
    images.write(str(tmp_path / "a.png"), np.zeros((30, 40), np.uint8), mark=True)
    with pytest.raises(UserError, match=r"no image in it .*; left out: 1 written by layerseg: a"):
        Folder(str(tmp_path))
    mask = MaskFolder(str(tmp_path), "--predictions").read("a.jpg")  # they are masks
    assert not mask.any()


HALF = np.arange(12).reshape(3, 4) < 6


@pytest.fixture
def masks_directory(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png", "c.mask.png"):
        Image.fromarray(np.uint8(HALF) * 255).save(tmp_path / name)
    Image.new("RGBA", (4, 3)).save(tmp_path / "c.cutout.png")
    return tmp_path


@pytest.mark.parametrize("name", ["a.jpg", "a", "sub/b.jpeg", "elsewhere/b.jpg", "c.jpg"])
def test_masks_are_found_by_their_photos_names(masks_directory, name):
    masks = MaskFolder(str(masks_directory), "--predictions")
    masks.require([name])
    assert np.array_equal(masks.read(name), HALF)


def test_photos_without_masks_are_named_in_the_error(masks_directory):
    masks = MaskFolder(str(masks_directory), "--predictions")
    with pytest.raises(UserError) as error:
        masks.require(["a.jpg", "x.jpg", "y.jpg"])
    for words in (f"--predictions={masks_directory}", "2 of 3 photos", "x.jpg, y.jpg", "mask of 0"):
        assert words in str(error.value)
    with pytest.raises(UserError, match=r"x\.jpg"):
        masks.read("x.jpg")
    with pytest.raises(UserError, match=r"--detector=nowhere"):
        MaskFolder("nowhere", "--detector")


def test_a_directory_of_heic_names_the_plug_in(tmp_path):
    if "HEIF" in images.FORMATS:
        pytest.skip("the plug-in is installed")
    (tmp_path / "IMG_0001.HEIC").write_bytes(b"photo")
    with pytest.raises(UserError, match=r"there is no image .*layered-segmentation\[heic\]"):
        find_photos(str(tmp_path), "--input")
