import dataclasses
import json
import os
import types

import numpy as np
import pytest
from PIL import Image
from tiny_networks import tiny_config, tiny_networks

from layered_segmentation.data.scenes import Scenes
from layered_segmentation.errors import UserError
from layered_segmentation.files import write_json
from layered_segmentation.gan import losses, networks, sampling
from layered_segmentation.gan.composite import compose
from layered_segmentation.gan.generator import LayeredGenerator
from layered_segmentation.run_directory import RunDirectory
from layered_segmentation.segmenter import chunks, encode, presets
from layered_segmentation.sheets import to_uint8

STEPS = 120


pytestmark = pytest.mark.usefixtures("shallow_resnet")


def ious(actual, expected):
    actual, expected = actual > 0.5, expected > 0.5
    return (actual & expected).sum((1, 2, 3)) / np.maximum((actual | expected).sum((1, 2, 3)), 1)


def mean_difference(actual, expected):
    """Over all values: Adam takes a whole step also where a gradient is nothing but rounding."""
    pairs = zip(actual, expected, strict=True)
    return np.mean(np.abs(np.concatenate([np.ravel(a - b) for a, b in pairs])))


class Trained:
    """One encoder, trained on scenes that its own generator draws, so that the truth is known."""

    def __init__(self):
        self.config = config = tiny_config(iterations=STEPS)
        self.generator, self.discriminator = tiny_networks(config)
        self.truth = sampling.sample_layers(self.generator, 5, 24, batch=24)
        self.photos = to_uint8(compose(self.truth))
        self.networks = self.generator, self.discriminator
        self.weights = [network.get_weights() for network in self.networks]
        self.trainer = encode.EncoderTrainer(self.generator, self.discriminator, config)
        self.frozen = self.trainer.segmenter.backbone.generator
        self.first = self.trainer.segmenter.predict_layers(self.photos)
        self.notes = []
        self.summary = self.trainer.train(self.photos, tick=self.notes.append)
        self.last = self.trainer.segmenter.predict_layers(self.photos)
        self.images = self.photos / np.float32(127.5) - np.float32(1)
        self.encoder = self.trainer.segmenter.backbone.encoder

    def set(self, **changes):
        """Returns the trainer with other settings, and with the graphs that are there."""
        self.trainer._settings = dataclasses.replace(self.config.encoder, **changes)
        return self.trainer

    def train(self, **changes):
        """Trains once more."""
        return self.set(**changes).train(self.photos)

    def masks(self, training):
        """Puts an encoder into the segmenter; returns its summary and masks of its photos."""
        summary = self.trainer.finish(training)
        return summary, self.trainer.segmenter.predict_layers(training.photos).mask


@pytest.fixture(scope="module")
def trained(shallow_resnet):
    return Trained()


def test_the_loss_falls_and_masks_of_generated_scenes_are_recovered(trained):
    summary = trained.summary
    assert summary.loss < 0.5 * summary.first_loss
    first, last = (
        ious(trained.first.mask, trained.truth.mask),
        ious(trained.last.mask, trained.truth.mask),
    )
    assert last.mean() > first.mean() + 0.05 and (last > first).mean() > 0.6
    assert (summary.photos, summary.iterations, summary.batch) == (24, STEPS, 8)
    assert summary.images_per_second > 0 and summary.seconds > 0
    assert len(trained.notes) == STEPS and trained.notes[-1].startswith("loss ")


def test_the_summary_states_eq_7_of_the_segmenter_as_it_is_saved(trained):
    drawn = compose(trained.last)
    features = [trained.discriminator.features(x, side=8) for x in (drawn, trained.images)]
    assert features[0].shape == (24, 8, 8, 8)
    loss = float(losses.encoder(drawn, trained.images, *features))
    assert trained.summary.loss == pytest.approx(loss, rel=1e-3)
    assert trained.summary.pixel_loss == pytest.approx(
        np.abs(drawn - trained.images).mean(), rel=1e-3
    )


def test_frozen_networks_do_not_change(trained):
    for network, before in zip(trained.networks, trained.weights, strict=True):
        for actual, expected in zip(network.get_weights(), before, strict=True):
            np.testing.assert_array_equal(actual, expected)
    for actual, expected in zip(trained.frozen.get_weights(), trained.weights[0], strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_the_first_codes_lie_around_the_mean_style(trained):
    mean = np.array(trained.generator.mean_codes())
    trained.encoder.set_weights(trained.trainer._first_weights)
    first = np.array(trained.encoder(trained.images[:8], training=True))
    assert 0 < np.abs(first - mean).mean() < 0.3


@pytest.mark.slow
def test_batch_norms_end_with_the_statistics_of_the_photos(trained):
    trained.train(iterations=2)
    # All of them in one batch: what training mode computes, inference does too.
    actual, expected = (trained.encoder(trained.images, training=mode) for mode in (False, True))
    np.testing.assert_allclose(actual, expected, atol=1e-3)


@pytest.mark.slow
def test_training_is_a_function_of_the_seed_and_starts_anew_each_time(trained):
    masks = []
    for _ in range(2):
        trained.train(iterations=3)
        masks.append(trained.trainer.segmenter.predict_layers(trained.photos).mask)
    np.testing.assert_allclose(masks[0], masks[1], atol=1e-4)
    config = tiny_config()
    config.train = dataclasses.replace(config.train, seed=1)
    other = encode.EncoderTrainer(trained.generator, trained.discriminator, config)
    actual, expected = trained.trainer._first_weights, other._first_weights
    kernels = [index for index, weight in enumerate(actual) if weight.ndim > 1]
    assert all(np.abs(actual[index] - expected[index]).max() > 1e-3 for index in kernels)


@pytest.mark.slow
def test_encoders_that_train_together_are_those_that_train_alone(trained, eagerly):
    trainer = trained.set(iterations=3, learning_rate=1e-4)
    # Sizes differ, and so does the last one's batch.
    albums = trained.photos[:9], trained.photos[9:17], trained.photos[17:]
    alone = [trainer.train_together([photos])[0] for photos in albums]
    together = trainer.train_together(albums)
    assert [training.summary.batch for training in together] == [8, 8, 7]
    assert mean_difference(alone[0].weights, alone[1].weights) > 1e-5
    assert mean_difference(alone[0].weights, trainer._first_weights) > 1e-5
    for actual, expected in zip(together, alone, strict=True):
        assert (actual.summary.together, expected.summary.together) == (3, 1)
        # Batch norms' averages, which are of the encoder's own batches, are among the weights.
        assert mean_difference(actual.weights, expected.weights) < 1e-6
        assert actual.summary.first_loss == pytest.approx(expected.summary.first_loss, rel=1e-5)
    (summary, mask), (alone_summary, alone_mask) = map(trained.masks, (together[2], alone[2]))
    assert mean_difference([mask], [alone_mask]) < 1e-5
    assert summary.loss == pytest.approx(alone_summary.loss, rel=1e-4)
    assert (summary.photos, summary.batch, summary.together) == (7, 7, 3)


def test_speed_counts_the_photos_of_all_encoders(trained, eagerly, monkeypatch):
    clock = iter(range(3))
    monkeypatch.setattr(encode, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    first, second = trained.set(iterations=3, learning_rate=1e-4).train_together(
        [trained.photos[:8]] * 2
    )
    # Begun at 0, compiled at 1, done at 2: two steps of two batches of 8 in a second.
    assert first.summary.images_per_second == second.summary.images_per_second == 2 * 2 * 8
    assert first.summary.seconds == second.summary.seconds == 1  # half of two seconds each
    # The same photos make the same encoders, also in one graph.
    assert mean_difference(first.weights, second.weights) < 1e-6


def test_a_loss_that_is_not_finite_stops_with_advice(trained):
    with pytest.raises(UserError, match=r"not finite at step \d+; lower encoder.learning_rate"):
        trained.train(iterations=20, learning_rate=1e30)


def test_of_several_encoders_the_failed_one_is_named(trained, monkeypatch):
    trainer = trained.set(iterations=2, learning_rate=1e-4)
    losses = [np.array([0.5, np.nan, 0.5])]
    monkeypatch.setattr(trainer, "_step", lambda batches: losses[0])
    with pytest.raises(UserError, match="loss of chunk 8 is not finite at step 0"):
        trainer.train_together([trained.photos[:8]] * 3, names=["chunk 7", "chunk 8", "chunk 9"])


@pytest.fixture(scope="module")
def trained_run(shared_trainers, tmp_path_factory):
    config = tiny_config()
    run = RunDirectory(str(tmp_path_factory.mktemp("runs") / "run"))
    run.create_or_resume(config)
    generator, discriminator = tiny_networks(config)
    networks.save_generator(run, generator)
    networks.save_discriminator(run, discriminator)
    return run


def files(directory):
    return sorted(
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(directory)
        for name in names
    )


@pytest.mark.slow
def test_a_dataset_gets_one_encoder_that_other_verbs_take(trained_run, layerseg, eagerly, tmp_path):
    arguments = [f"--run_dir={trained_run.path}", "--set=encoder.iterations=2"]
    done = layerseg("autoencode", *arguments)
    assert done.status == 0, done.stderr
    assert "images/s" in done.stdout and f"--segmenter={trained_run.encoder}" in done.stdout
    results = json.load(open(os.path.join(trained_run.path, "encoder_results.json")))
    assert results["mode"] == "dataset" and results["photos"] == 12
    assert results["encoder"]["iterations"] == results["iterations"] == 2
    assert results["together"] == 1
    assert os.path.exists(os.path.join(trained_run.path, "encoder_reconstructions.png"))
    again = layerseg("autoencode", *arguments)
    assert again.status == 2 and "--overwrite" in again.stderr

    Image.fromarray(Scenes(0, 1, "test").load(40)[0][:30]).save(tmp_path / "photo.png")
    done = layerseg(
        "segment",
        f"--segmenter={trained_run.encoder}",
        f"--input={tmp_path / 'photo.png'}",
        f"--out={tmp_path / 'out'}",
    )
    assert done.status == 0, done.stderr
    assert Image.open(tmp_path / "out" / "photo.mask.png").size == (40, 30)


@pytest.mark.slow
def test_chunks_of_photos_get_masks_at_the_photos_own_size(
    trained_run, layerseg, eagerly, tmp_path
):
    album, out = tmp_path / "album", tmp_path / "out"
    (album / "more").mkdir(parents=True)
    sizes = {"a.png": (16, 16), "b.jpg": (40, 30), "more/c.png": (20, 50), "more/d.png": (17, 19)}
    for index, (name, (width, height)) in enumerate(sizes.items()):
        scene = Image.fromarray(Scenes(index, 1, "test").load(64)[0])
        scene.resize((width, height)).save(album / name)
    (album / "broken.jpg").write_bytes(b"no image")
    arguments = [f"--run_dir={trained_run.path}", f"--images={album}"]
    arguments += [f"--out={out}", "--set=encoder.iterations=2", "--set=encoder.chunk=3"]
    done = layerseg("autoencode_chunks", *arguments, "--save_encoders")
    assert done.status == 1, done.stderr  # one photo cannot be read
    assert "broken.jpg" in done.stderr and "4 masks of 2 chunks" in done.stdout
    assert f"--predictions={out / 'masks'}" in done.stdout
    for name, size in sizes.items():
        mask = Image.open(out / "masks" / f"{os.path.splitext(name)[0]}.png")
        assert mask.size == size and set(np.unique(mask)) <= {0, 255}
    results = json.load(open(out / "results.json"))
    assert results["photos"] == 4 and results["chunks"] == len(results["losses"]) == 2
    assert files(out / "reconstructions") == ["00000.png", "00001.png"]
    # The kept encoder gives the mask that was written, at a size where nothing is resized.
    kept = presets.load(str(out / "encoders" / "00000"))
    photo = np.asarray(Image.open(album / "a.png"))
    written = np.asarray(Image.open(out / "masks" / "a.png")) > 0
    # The chunk was segmented as one batch: a value at the threshold may round to its other side.
    assert (written != (kept.predict_masks([photo])[0] >= 0.5)).mean() < 0.02


@pytest.mark.slow
def test_finished_chunks_of_held_out_scenes_are_not_trained_twice(
    trained_run, layerseg, eagerly, tmp_path
):
    out = tmp_path / "out"
    arguments = [f"--run_dir={trained_run.path}", f"--out={out}", "--limit=9"]
    arguments += ["--set=encoder.iterations=2", "--set=encoder.chunk=3"]
    done = layerseg("autoencode_chunks", *arguments, "--set=encoder.together=2")
    assert done.status == 0, done.stderr
    names = [f"test_{index:05d}.png" for index in range(9)]
    for part in ("images", "true_masks", "masks"):
        assert files(out / part) == names
    image, mask = next(iter(Scenes(0, 9, "test").pairs(16)))[1:3]
    np.testing.assert_array_equal(Image.open(out / "images" / names[0]), image)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "true_masks" / names[0])) > 0, mask)

    records = [out / "chunks" / f"0000{number}.json" for number in range(3)]
    earlier = [json.loads(record.read_text()) for record in records]
    assert [record["together"] for record in earlier] == [2, 2, 1]
    kept, lost = records[0].stat().st_mtime_ns, records[1]
    lost.unlink()  # as if stopped while the second chunk was written
    # How many train together changes no result, so the chunks that are there stay.
    done = layerseg("autoencode_chunks", *arguments, "--set=encoder.together=3")
    assert done.status == 0 and records[0].stat().st_mtime_ns == kept
    record = json.loads(lost.read_text())
    assert record["names"] == names[3:6] and record["together"] == 1
    assert record["loss"] == pytest.approx(earlier[1]["loss"], rel=1e-3)

    other = layerseg("autoencode_chunks", *arguments, "--set=encoder.iterations=3")
    assert other.status == 2 and "made with other encoder" in other.stderr
    assert records[0].stat().st_mtime_ns == kept


@pytest.mark.slow
def test_a_stop_loses_only_the_chunks_that_train(trained, eagerly, tmp_path, monkeypatch):
    bars = []

    class WatchedBar(chunks.Bar):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            bars.append(self)

    monkeypatch.setattr(chunks, "Bar", WatchedBar)
    album, names = tmp_path / "album", [f"{letter}.png" for letter in "abcde"]
    album.mkdir()
    for name, photo in zip(names, trained.photos, strict=False):
        Image.fromarray(photo).save(album / name)
    (album / "e.png").write_bytes(b"no image")
    job = chunks.ChunkJob(str(album), names, str(tmp_path), chunk=2, iterations=2, together=2)
    assert [len(part) for part in job.chunks()] == [2, 2, 1]
    trainer = trained.set(iterations=2)
    with pytest.raises(UserError, match="none of chunk 2's 1 photos can be read"):
        chunks.encode(job, lambda: trainer)
    assert files(tmp_path / "chunks") == ["00000.json", "00001.json"]
    before = [os.stat(job.record(number)).st_mtime_ns for number in (0, 1)]

    Image.fromarray(trained.photos[4]).save(album / "e.png")
    records = chunks.encode(job, lambda: trainer)
    assert [os.stat(job.record(number)).st_mtime_ns for number in (0, 1)] == before
    assert [record["names"] for record in records] == [names[:2], names[2:4], names[4:]]
    assert files(tmp_path / "masks") == names
    # Steps of encoders: of two of the three at first, then of the one that was left.
    assert [(bar._count, bar._meter["total"]) for bar in bars] == [(4, 6), (2, 2)]
    assert bars[0]._note.startswith("chunk 0, 1: loss ")


def test_overwriting_removes_chunks(tmp_path):
    job = chunks.ChunkJob("photos", list("abcde"), str(tmp_path), chunk=2, iterations=1)
    assert [len(part) for part in job.chunks()] == [2, 2, 1]
    chunks.begin(job, {"seed": 0})
    os.makedirs(tmp_path / "chunks")
    record = dict.fromkeys(("first_loss", "loss", "pixel_loss", "coverage", "seconds"), 0.5)
    record |= {"photos": 2, "unreadable": [], "images_per_second": 1.0}
    write_json(job.record(0), record)
    chunks.begin(job, {"seed": 0})
    assert job.is_finished(0)
    with pytest.raises(UserError, match="made with other seed"):
        chunks.begin(job, {"seed": 1})
    chunks.begin(job, {"seed": 1}, overwrite=True)
    assert not job.is_finished(0) and files(tmp_path) == ["inputs.json"]


def test_the_command_refuses_what_it_cannot_do(trained_run, layerseg, tmp_path):
    album, twins, taken = tmp_path / "album", tmp_path / "twins", tmp_path / "taken"
    for directory in (album, twins, taken):
        directory.mkdir()
    (taken / "mine.txt").touch()
    for name in ("a.png", "a.webp"):
        Image.new("RGB", (20, 20)).save(twins / name)
    good = {"images": twins, "out": tmp_path / "out"}
    for changed, words in (
        ({"set": "gan.shift=0"}, "only encoder.*"),
        ({"set": "encoder.batch=1"}, "encoder.batch"),
        ({"set": "encoder.together=0"}, "encoder.together"),
        ({"set": "encoder.max_channels=8"}, "encoder.max_channels"),
        ({"set": "encoder.input_resolution=4"}, "encoder.input_resolution"),
        ({"run_dir": tmp_path / "none"}, "no such directory"),
        ({"devices": "GPU:7", "overwrite": True}, "--devices=GPU:7: there is no such device"),
        ({"out": tmp_path / "out", "verb": "autoencode"}, "unknown flag --out"),
        ({**good, "out": ""}, "--out is needed"),
        ({**good, "images": tmp_path / "none"}, "there is no such directory"),
        ({**good, "images": album}, "there is no image in it"),
        ({**good}, "differ only in their extension"),
        ({**good, "out": taken}, "not empty and holds no chunks"),
    ):
        given = {"run_dir": trained_run.path, **changed}
        verb = given.pop("verb", "autoencode_chunks" if "out" in given else "autoencode")
        done = layerseg(verb, *(f"--{flag}={value}" for flag, value in given.items()))
        assert done.status == 2 and words in done.stderr, (changed, done.stderr)
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() and files(taken) == ["mine.txt"]


def test_a_run_without_its_discriminator_or_mask_is_refused(layerseg, tmp_path):
    config = tiny_config()
    run = RunDirectory(str(tmp_path / "run"))
    run.create_or_resume(config)
    generator, discriminator = tiny_networks(config)
    networks.save_generator(run, generator)
    for verb, more in (("autoencode", []), ("autoencode_chunks", [f"--out={tmp_path / 'out'}"])):
        done = layerseg(verb, f"--run_dir={run.path}", *more)
        assert done.status == 2 and "no discriminator in it yet" in done.stderr
    config.gan.variant = "single_output"
    with pytest.raises(UserError, match="draws no mask"):
        encode.EncoderTrainer(LayeredGenerator("single_output", 16, 8, 2, 8), discriminator, config)
    assert not (tmp_path / "out").exists()
