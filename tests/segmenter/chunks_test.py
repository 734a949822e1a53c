"""`layerseg autoencode_chunks` called again: on other photos, fewer, finished ones; its limits."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_networks import tiny_config, tiny_networks

from layered_segmentation.data.scenes import Scenes
from layered_segmentation.errors import UserError
from layered_segmentation.gan import networks
from layered_segmentation.run_directory import RunDirectory
from layered_segmentation.segmenter import chunks, encode

pytestmark = pytest.mark.usefixtures("shared_trainers", "eagerly")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = RunDirectory(str(tmp_path_factory.mktemp("runs") / "run"))
    run.create_or_resume(tiny_config())
    generator, discriminator = tiny_networks(tiny_config())
    networks.save_generator(run, generator)
    networks.save_discriminator(run, discriminator)
    return run


@pytest.fixture
def album(tmp_path):
    return write_album(tmp_path / "album", seed=0)


def write_album(path, seed, count=4):
    path.mkdir()
    for index, image in enumerate(Scenes(seed, count, "test").load(20)):
        Image.fromarray(image).save(path / f"{index}.png")
    return path


def flags(run, out, *more):
    fields = ("iterations=1", "chunk=2", "together=3")
    settings = (f"--set=encoder.{field}" for field in fields)
    return (f"--run_dir={run.path}", f"--out={out}", *settings, *more)


def contents(directory):
    return {
        os.path.relpath(os.path.join(folder, name), directory): open(
            os.path.join(folder, name), "rb"
        ).read()
        for folder, _, names in os.walk(directory)
        for name in names
    }


@pytest.mark.slow
@pytest.mark.posix("links without special rights")
def test_other_photos_of_the_same_names_are_refused(layerseg, run, album, tmp_path):
    out = tmp_path / "out"
    first = layerseg("autoencode_chunks", *flags(run, out, f"--images={album}"))
    assert first.status == 0 and "4 masks of 2 chunks, trained in" in first.stdout, first.stderr
    before = contents(out)

    other = write_album(tmp_path / "other", seed=1)
    refused = layerseg("autoencode_chunks", *flags(run, out, f"--images={other}"))
    assert refused.status == 2 and "made with other images, photos" in refused.stderr
    # The same bytes elsewhere, under the same names and times, are of another directory.
    shutil.copytree(album, tmp_path / "copy")
    refused = layerseg("autoencode_chunks", *flags(run, out, f"--images={tmp_path / 'copy'}"))
    assert refused.status == 2 and "made with other images (" in refused.stderr
    assert contents(out) == before

    # A link to the directory is the directory.
    (tmp_path / "link").symlink_to(album)
    again = layerseg("autoencode_chunks", *flags(run, out, f"--images={tmp_path / 'link'}"))
    assert again.status == 0, again.stderr
    assert "4 masks of 2 chunks, 2 chunks were finished before; loss" in again.stdout
    assert "trained" not in again.stdout
    results = json.loads((out / "results.json").read_text())
    assert results["chunks_finished_before"] == 2


@pytest.mark.slow
def test_a_photo_that_was_replaced_is_refused_and_none_is_removed(layerseg, run, album, tmp_path):
    out = tmp_path / "out"
    given = flags(run, out, f"--images={album}")
    assert layerseg("autoencode_chunks", *given).status == 0
    photo = album / "1.png"
    Image.fromarray(255 - np.asarray(Image.open(photo))).save(photo)
    refused = layerseg("autoencode_chunks", *given)
    assert refused.status == 2 and "made with other photos (" in refused.stderr
    (out / "images").mkdir()  # not this tool's: photos were given
    (out / "images" / "0.png").write_bytes(b"mine")
    assert layerseg("autoencode_chunks", *given, "--limit=2", "--overwrite").status == 0
    assert (out / "images" / "0.png").read_bytes() == b"mine"
    assert len(os.listdir(album)) == 4 and sorted(os.listdir(out / "masks")) == ["0.png", "1.png"]


def test_chunks_finished_before_do_not_count_as_trained(layerseg, run, album, tmp_path):
    out = tmp_path / "out"
    given = flags(run, out, f"--images={album}")
    assert layerseg("autoencode_chunks", *given).status == 0
    record = json.loads((out / "chunks" / "00000.json").read_text())
    (out / "chunks" / "00000.json").write_text(json.dumps({**record, "seconds": 5000.0}))
    (out / "chunks" / "00001.json").unlink()  # as if stopped while it was written
    again = layerseg("autoencode_chunks", *given)
    assert again.status == 0, again.stderr
    assert "2 chunks, 1 chunks were finished before, 1 trained in" in again.stdout
    assert "5,00" not in again.stdout


@pytest.mark.slow
def test_overwriting_leaves_nothing_of_an_earlier_call(layerseg, run, tmp_path):
    out = tmp_path / "out"
    assert (
        layerseg("autoencode_chunks", *flags(run, out, "--limit=5", "--save_encoders")).status == 0
    )
    (out / "images" / "mine.png").write_bytes(b"mine")
    (out / "masks" / "mine").mkdir()
    (out / "masks" / "mine" / "note.txt").write_text("mine")
    again = layerseg("autoencode_chunks", *flags(run, out, "--limit=3", "--overwrite"))
    assert again.status == 0, again.stderr
    names = [f"test_{index:05d}.png" for index in range(3)]
    assert sorted(os.listdir(out / "images")) == ["mine.png", *names]
    assert sorted(os.listdir(out / "true_masks")) == names
    assert sorted(os.listdir(out / "masks")) == ["mine", *names]
    assert sorted(os.listdir(out / "chunks")) == ["00000.json", "00001.json"]
    assert not (out / "encoders").exists()

    (out / "images" / "mine.png").unlink()
    scored = layerseg("evaluate", *again.stdout.partition("layerseg evaluate ")[2].split())
    assert scored.status == 0 and "over 3 photos" in scored.stdout, scored.stderr


@pytest.mark.parametrize("text", ["{", "[]"])
def test_inputs_that_cannot_be_read_are_refused_and_can_be_replaced(tmp_path, text):
    (tmp_path / "inputs.json").write_text(text)
    job = chunks.ChunkJob("photos", ["a.png"], str(tmp_path), chunk=2, iterations=1)
    with pytest.raises(UserError, match=r"inputs\.json: cannot be read .* --overwrite"):
        chunks.begin(job, {"seed": 0})
    assert (tmp_path / "inputs.json").read_text() == text
    chunks.begin(job, {"seed": 0}, overwrite=True)
    chunks.begin(job, {"seed": 0})


def test_photos_are_capped_with_a_note_unless_a_limit_is_given(monkeypatch, album, capsys):
    monkeypatch.setattr(encode, "PHOTOS", 3)
    config = tiny_config()
    assert len(encode.dataset_photos(config, 16, str(album))) == 3
    said = capsys.readouterr().err
    assert said == "using 3 of 4 photos; --limit=4 uses all\n"
    photos = encode.dataset_photos(config, 16, str(album), limit=4)
    assert len(photos) == 4
    np.testing.assert_array_equal(
        encode.dataset_photos(config, 16, str(album), limit=2), photos[:2]
    )
    # Of the run's own, 12 scenes, and no more than these.
    assert len(encode.dataset_photos(config, 16, limit=10)) == 10
    assert len(encode.dataset_photos(config, 16, limit=50)) == 12
    assert capsys.readouterr().err == ""
    assert len(encode.dataset_photos(config, 16)) == 3
    assert "--limit=12 uses all" in capsys.readouterr().err


def test_photos_that_do_not_fit_into_memory_are_refused(monkeypatch, album):
    def fail(self, side):
        raise MemoryError

    monkeypatch.setattr("layered_segmentation.data.folder.Folder.load", fail)
    with pytest.raises(UserError, match=r"4 photos at 1000 px take 12 MB.* use fewer with --limit"):
        encode.dataset_photos(tiny_config(), 1000, str(album))
