"""Checkpoints that are cut, flipped, emptied, deleted, or of version 0.1.0."""

import os
import random
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from layered_segmentation import config as configs
from layered_segmentation import stopping
from layered_segmentation.errors import UserError
from layered_segmentation.gan.checkpoint import CheckpointKeeper
from layered_segmentation.gan.run_progress import RunProgress
from layered_segmentation.run_directory import RunDirectory

FLIPS = 120


def network():
    made = keras.Sequential([keras.Input([8]), keras.layers.Dense(64)])
    made.set_weights([np.zeros_like(weight) for weight in made.get_weights()])
    return made


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create_or_resume(configs.load("quickstart"))
    return directory


@pytest.fixture
def session(run):
    """Returns a function that makes the keeper of a new session."""

    def make(**settings):
        config = configs.load("quickstart", [f"train.{k}={v}" for k, v in settings.items()])
        gan = types.SimpleNamespace(
            images_seen=keras.Variable(0, dtype="int64", trainable=False),
            generator=network(),
            discriminator=network(),
            average=network(),
            generator_optimizer=keras.optimizers.Adam(),
            discriminator_optimizer=keras.optimizers.Adam(),
        )
        gan.generator_optimizer.build(gan.generator.trainable_variables)
        gan.discriminator_optimizer.build(gan.discriminator.trainable_variables)
        keeper = CheckpointKeeper(run, RunProgress(total_images=1_000), gan, config)
        keeper.kernel, keeper.images_seen = gan.generator.layers[0].kernel, gan.images_seen
        return keeper

    return make


def train(keeper, *images_seen):
    """Trains to each of these numbers, with a checkpoint; a weight is the number."""
    for number in images_seen:
        keeper.progress.images_seen = number
        keeper.images_seen.assign(number)
        keeper.kernel.assign(np.full([8, 64], number, np.float32))
        keeper.save()


def restored(keeper):
    keeper.restore()
    np.testing.assert_array_equal(keeper.kernel.numpy(), keeper.progress.images_seen)
    return keeper.progress.images_seen


@pytest.fixture
def three(run, session):
    """A run with checkpoints at 100, 200 and 300 images seen, and a log that goes on to 340."""
    keeper = session()
    keeper.restore()
    train(keeper, 100, 200, 300)
    for images_seen in range(20, 360, 20):
        run.append_log({"images_seen": images_seen})
    return run


def path(run, number, suffix):
    return os.path.join(run.checkpoints, f"ckpt-{number}.{suffix}")


DATA, INDEX = "data-00000-of-00001", "index"


def damage(path, change):
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(change(content))


def test_a_run_has_a_checkpoint_before_its_first_step(run, session):
    assert restored(session()) == 0
    assert os.path.exists(path(run, 0, INDEX))
    assert restored(session()) == 0


def test_the_last_checkpoints_are_kept_each_with_its_sums(three, session):
    found = sorted(os.listdir(three.checkpoints))
    assert found == ["checkpoint"] + [
        f"ckpt-{number}.{suffix}" for number in (100, 200, 300) for suffix in (DATA, INDEX, "json")
    ]
    assert tf.train.latest_checkpoint(three.checkpoints) == path(three, 300, "")[:-1]
    keeper = session(keep_checkpoints=1)  # another number than the run began with
    assert restored(keeper) == 300
    train(keeper, 400)
    assert [name for name in os.listdir(three.checkpoints) if name.endswith(INDEX)] == [
        "ckpt-400.index"
    ]


@pytest.mark.parametrize("state", [None, b"", b'model_checkpoint_path: "ckpt-1', b"\xff\0{", "cut"])
def test_the_state_file_is_not_needed(three, session, state):
    file = os.path.join(three.checkpoints, "checkpoint")
    if state is None:
        os.remove(file)
    else:
        damage(file, lambda old: old[: len(old) // 2] if state == "cut" else state)
    keeper = session()
    assert restored(keeper) == 300
    train(keeper, 400)
    assert tf.train.latest_checkpoint(three.checkpoints).endswith("ckpt-400")
    assert not os.path.exists(path(three, 100, INDEX))  # still counted among the last three


CHANGES = {
    "cut in half": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
    "emptied": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("sums", ["with sums", "without sums"])
@pytest.mark.parametrize("suffix", [DATA, INDEX])
@pytest.mark.parametrize("change", [*CHANGES, "deleted"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    three, session, change, suffix, sums, capsys
):
    file = path(three, 300, suffix)
    if change == "deleted":
        os.remove(file)
    else:
        damage(file, CHANGES[change])
    if sums == "without sums":
        for number in (100, 200, 300):
            os.remove(path(three, number, "json"))
    keeper = session()
    assert restored(keeper) == 200
    message = capsys.readouterr().err
    assert "ckpt-300" in message and "this checkpoint is dropped" in message
    assert "from the one at 200 images seen and repeats 100 images" in message
    train(keeper, 260)
    assert not os.path.exists(path(three, 300, "json"))  # the damaged one
    assert restored(session()) == 260


@pytest.mark.slow
@pytest.mark.parametrize("sums", ["with sums", "without sums"])
def test_no_flipped_bit_is_loaded(three, session, sums):
    chance = random.Random(0)
    if sums == "without sums":
        for number in (100, 200, 300):
            os.remove(path(three, number, "json"))
    dropped = 0
    for _ in range(FLIPS):
        file = path(three, 300, chance.choice([DATA, INDEX]))
        place, bit = chance.randrange(os.path.getsize(file)), 1 << chance.randrange(8)

        def flip(content, place=place, bit=bit):
            return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]

        damage(file, flip)
        keeper = session()
        dropped += restored(keeper) == 200  # checks the weights too
        damage(file, flip)
    # TensorFlow's sums leave out the padding of the index.
    assert dropped == FLIPS if sums == "with sums" else dropped > 0.9 * FLIPS
    assert restored(session()) == 300


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_damaged_sums_do_not_cost_a_whole_checkpoint(three, session, content):
    damage(path(three, 300, "json"), lambda _: content)
    assert restored(session()) == 300


def test_a_checkpoint_of_an_earlier_version_has_no_sums(three, session):
    for number in (100, 200, 300):
        os.remove(path(three, number, "json"))
    assert restored(session()) == 300


def test_training_does_not_start_again_over_a_run_that_has_trained(three, session):
    for number in (100, 200, 300):
        damage(path(three, number, DATA), CHANGES["cut in half"])
    before = sorted(os.listdir(three.checkpoints))
    keeper = session()
    with pytest.raises(UserError, match=r"holds no whole checkpoint .* from a backup"):
        keeper.restore()
    assert sorted(os.listdir(three.checkpoints)) == before
    for name in before:
        os.remove(os.path.join(three.checkpoints, name))
    with pytest.raises(UserError, match=r"log\.jsonl reaches 340 images seen"):
        session().restore()
    os.remove(three.log_path)
    os.makedirs(three.sheets)
    open(os.path.join(three.sheets, "00000100.png"), "w").close()
    with pytest.raises(UserError, match=r"there are files in .*sheets"):
        session().restore()
    assert os.listdir(three.checkpoints) == []
    os.remove(os.path.join(three.sheets, "00000100.png"))
    session().restore()


def test_what_a_killed_writer_leaves_is_removed(three, session):
    for name in ("ckpt-360_temp", "ckpt-360.data-00000-of-00001.tempstate17", "ckpt-360.index"):
        open(os.path.join(three.checkpoints, name), "w").close()
    keeper = session()
    assert restored(keeper) == 300
    train(keeper, 340)
    assert not [name for name in os.listdir(three.checkpoints) if name.startswith("ckpt-360")]


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(three, session, monkeypatch):
    keeper = session()
    keeper.restore()

    def full(prefix):
        open(f"{prefix}.index", "w").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeper._checkpoint, "write", full)
    with pytest.raises(OSError):
        train(keeper, 400)
    assert restored(session()) == 300
    assert not os.path.exists(path(three, 400, INDEX))


def test_checkpoints_by_time(run, session, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    keeper = session(checkpoint_minutes=2)
    keeper.restore()
    for images_seen, seconds, expected in ((10, 60, 0), (20, 119, 0), (30, 121, 30), (40, 200, 30)):
        now[0] = seconds
        keeper.progress.images_seen = images_seen
        keeper.on_train_batch_end(0)
        assert keeper._saved_at == expected
    keeper.on_train_begin()  # the next stage
    assert keeper._saved_at == 40


def test_a_signal_saves_after_the_step(run, session, monkeypatch):
    keeper = session()
    keeper.restore()
    keeper.progress.images_seen = 10
    keeper.on_train_batch_end(0)
    assert keeper._saved_at == 0
    monkeypatch.setattr(stopping._State, "received", 15)
    with pytest.raises(stopping.Stopped) as stopped:
        keeper.on_train_batch_end(1)
    assert keeper._saved_at == 10 and stopped.value.status == 143
