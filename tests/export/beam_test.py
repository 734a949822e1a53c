import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("apache_beam", reason="needs the extra `beam`")

from layered_segmentation import images
from layered_segmentation.data.scenes import Scenes
from layered_segmentation.errors import UserError
from layered_segmentation.export import beam as program
from layered_segmentation.export import saved_model
from layered_segmentation.segmenter import fit
from layered_segmentation.segmenter.segmenter import create_segmenter

pytestmark = pytest.mark.slow

IN_PROCESS = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]
WORKERS = [
    "--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def segmenter():
    segmenter = create_segmenter(8, 16)
    fit.initialise(segmenter, 0)
    return segmenter


@pytest.fixture(scope="module")
def model(segmenter, tmp_path_factory):
    """An export with one version, and what is no version."""
    path = tmp_path_factory.mktemp("models")
    saved_model.write(segmenter, str(path / "2"))
    (path / "models.config").write_text("")
    return path


@pytest.fixture
def photos(tmp_path):
    """Photos of two sizes, one of them in a sub-directory, and one that is damaged."""
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    for side, name in ((24, "a{}.png"), (40, "more/b{}.png")):
        for index, image in enumerate(Scenes(0, 5, split="test").load(side)):
            images.write(str(root / name.format(index)), image)
    (root / "broken.png").write_bytes((root / "a0.png").read_bytes()[:100])
    return root


def lines(folder, pattern):
    found = [path.read_text().splitlines() for path in sorted(folder.glob(pattern))]
    return [json.loads(line) for part in found for line in part]


def run(model, photos, out, *more):
    program.main(
        [f"--model={model}", f"--input={photos}/**.png", f"--out={out}", "--refine=none", *more]
    )


def test_several_workers_write_the_models_masks_a_manifest_and_what_failed(
    model, segmenter, photos, tmp_path
):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "layered_segmentation.export.beam", f"--model={model}"]
    command += [f"--input={photos}/**.png", f"--out={out}", "--refine=none", *WORKERS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "10 masks in" in done.stdout and "1 photos failed" in done.stdout
    manifest = {line["name"]: line for line in lines(out, "manifest/*.jsonl")}
    names = [f"a{n}.png" for n in range(5)] + [f"more/b{n}.png" for n in range(5)]
    assert sorted(manifest) == names
    for name in names:
        photo = images.read(str(photos / name))
        mask = images.read_values((out / "masks" / f"{name}.mask.png").read_bytes(), name)
        expected = segmenter.predict_masks(photo) >= 0.5
        assert np.mean((mask == 255) != expected) < 0.01
        assert (manifest[name]["height"], manifest[name]["width"]) == photo.shape[:2]
        assert manifest[name]["covered"] == pytest.approx((mask == 255).mean(), abs=1e-4)
    (failed,) = lines(out, "failed*.jsonl")
    assert failed["name"] == "broken.png" and "broken.png" in failed["reason"]


def test_a_second_run_does_what_is_left(model, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(model, photos, out, *IN_PROCESS)
    first = out / "masks" / "a0.png.mask.png"
    manifest = next((out / "manifest").iterdir())
    manifest.write_text(manifest.read_text() + '{"name": "more/b')  # a line that was cut off
    first.write_bytes(b"untouched")
    (photos / "broken.png").write_bytes((photos / "a0.png").read_bytes())  # mended
    run(model, photos, out, *IN_PROCESS)
    assert first.read_bytes() == b"untouched"
    names = [path.read_text().count('"name": "a0.png"') for path in (out / "manifest").iterdir()]
    assert sum(names) == 1
    assert (out / "masks" / "broken.png.mask.png").exists()
    assert lines(out, "failed*.jsonl") == []


def test_records_are_named_by_their_features(model, photos, tmp_path):
    import tensorflow as tf

    def record(**features):
        values = {
            f"image/{name}": tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
            for name, value in features.items()
        }
        return tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString()

    photo = (photos / "a0.png").read_bytes()
    with tf.io.TFRecordWriter(str(tmp_path / "photos.tfrecord")) as writer:
        writer.write(record(encoded=photo, filename=b"x/one.png"))
        writer.write(record(encoded=photo))
        writer.write(record(encoded=photo, filename=b"../outside.png"))
        writer.write(record(filename=b"empty.png"))
    out = tmp_path / "out"
    flags = [f"--model={model}", f"--records={tmp_path}/*.tfrecord", f"--out={out}"]
    program.main([*flags, "--refine=none", *IN_PROCESS])
    names = sorted(line["name"] for line in lines(out, "manifest/*.jsonl"))
    assert len(names) == 2 and names[1] == "x/one.png" and len(names[0]) == 32
    assert (out / "masks" / "x" / "one.png.mask.png").exists()
    failed = {line["name"]: line["reason"] for line in lines(out, "failed*.jsonl")}
    assert "not a relative path" in failed["../outside.png"] and "empty.png" in failed
    assert not (tmp_path / "outside.png.mask.png").exists()


def test_photos_are_batched_by_their_pixels(model, monkeypatch):
    import apache_beam
    from apache_beam.ml.inference.base import RunInference

    seen, before = [], program.SavedModelHandler.run_inference

    def run_inference(self, batch, model, inference_args=None):
        seen.append(sum(photo.image.shape[0] * photo.image.shape[1] for photo in batch))
        yield from before(self, batch, model)

    monkeypatch.setattr(program.SavedModelHandler, "run_inference", run_inference)
    photos = [program.Decoded(str(n), np.zeros((10, 10 + n % 2, 3), np.uint8)) for n in range(12)]
    with apache_beam.Pipeline("DirectRunner", argv=["--direct_running_mode=in_memory"]) as pipeline:
        handler = program.SavedModelHandler(str(model / "2"), 400)
        pipeline | apache_beam.Create(photos) | RunInference(handler)
    assert sum(seen) == 6 * 100 + 6 * 110 and max(seen) <= 400 and len(seen) < 12


def test_the_manifest_grows_before_a_bundle_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "_LINES", 2)
    writer = program._WriteManifest(program.Job("model", str(tmp_path)))
    writer.start_bundle()
    for name in "abc":
        writer.process({"name": name})
    assert sorted(line["name"] for line in lines(tmp_path, "manifest/*.jsonl")) == ["a", "b"]
    writer.finish_bundle()
    assert len(lines(tmp_path, "manifest/*.jsonl")) == 3


def test_what_is_missing_is_named(model, photos, tmp_path):
    with pytest.raises(UserError, match="no file matches"):
        run(model, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match=r"--model=.*no SavedModel"):
        run(tmp_path, photos, tmp_path / "out")
