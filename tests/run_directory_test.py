import dataclasses
import json
import os
import subprocess
import sys

import pytest

from layered_segmentation import config as configs
from layered_segmentation import files
from layered_segmentation.errors import UserError
from layered_segmentation.run_directory import Finished, RunDirectory


def contents(path):
    return {
        os.path.join(folder, name): open(os.path.join(folder, name), "rb").read()
        for folder, _, names in os.walk(path)
        for name in names
        if name != "lock"
    }


@pytest.fixture
def config():
    return configs.load("", ["gan.resolution=16", "schedule.images_at={8: 5}", "data.path=photos"])


def test_a_new_directory_keeps_the_config(tmp_path, config):
    run = RunDirectory(tmp_path / "a" / "run")
    assert run.create_or_resume(config) is False
    assert run.config() == config
    run.append_log({"images_seen": 0})
    assert run.create_or_resume(config) is True
    assert RunDirectory.open(run.path).config() == config


def test_an_empty_directory_becomes_a_run(tmp_path, config):
    (tmp_path / "run").mkdir()
    assert RunDirectory(tmp_path / "run").create_or_resume(config) is False


def test_another_config_is_refused_with_the_differences(tmp_path, config):
    run = RunDirectory(tmp_path)
    run.create_or_resume(config)
    run.append_log({"images_seen": 0})
    before = contents(tmp_path)
    other = dataclasses.replace(config, gan=dataclasses.replace(config.gan, shift=0.25))
    with pytest.raises(UserError) as error:
        run.create_or_resume(other)
    assert "gan.shift: 0.125 != 0.25" in str(error.value)
    assert str(error.value).count("!=") == 2  # the heading and the one field
    assert contents(tmp_path) == before


def test_where_photos_and_which_stages_are_kept_may_change(tmp_path, config):
    run = RunDirectory(tmp_path)
    run.create_or_resume(config)
    run.append_log({"images_seen": 0})
    data = dataclasses.replace(
        config.data, cache_dir="elsewhere", cache_memory=0, test_path="photos"
    )
    assert run.create_or_resume(dataclasses.replace(config, data=data)) is True
    train = dataclasses.replace(config.train, keep_stages=[8])
    assert run.create_or_resume(dataclasses.replace(config, train=train)) is True
    data = dataclasses.replace(data, aspect="pad")
    with pytest.raises(UserError) as error:
        run.create_or_resume(dataclasses.replace(config, data=data))
    assert "data.aspect" in str(error.value) and "cache" not in str(error.value)


def save_config_of_0_1_0(path, config):
    """Writes a config without the fields that 0.1.0 did not have."""
    added = {
        (section.name, field.name)
        for section in dataclasses.fields(configs.Config)
        for field in dataclasses.fields(section.type)
        if "was" in field.metadata
    }
    saved, section = "", ""
    for line in configs.to_yaml(config).splitlines(keepends=True):
        name = line.strip().partition(":")[0]
        section = section if line.startswith(" ") else name
        if (section, name) not in added:
            saved += line
    path.write_text(saved)
    return saved


@pytest.mark.parametrize("name", ["folder", "shapes/d_contrast_jitter"])
def test_a_run_of_version_0_1_0_with_a_measured_config_resumes_with_the_same_command(
    tmp_path, name
):
    config = configs.load(name)
    for field in dataclasses.fields(config.student):  # what a student learns has changed since
        if "was" in field.metadata:
            setattr(config.student, field.name, field.metadata["was"])
    saved = save_config_of_0_1_0(tmp_path / "config.yaml", config)
    run = RunDirectory(tmp_path)
    run.append_log({"images_seen": 0})
    assert run.config().gan == config.gan and run.config().data == config.data
    assert run.create_or_resume(config) is True
    assert (tmp_path / "config.yaml").read_text() == saved


@pytest.mark.parametrize("name", ["quickstart", "quickstart_photos", "photos/flowers"])
def test_a_run_of_version_0_1_0_keeps_its_settings_where_a_recipe_has_new_ones(tmp_path, name):
    saved = save_config_of_0_1_0(tmp_path / "config.yaml", configs.load(name))
    run = RunDirectory(tmp_path)
    run.append_log({"images_seen": 0})
    with pytest.raises(UserError) as error:
        run.create_or_resume(configs.load(name))
    assert "gan.penalty_every: 1 != " in str(error.value)
    assert run.create_or_resume(run.config()) is True
    assert (tmp_path / "config.yaml").read_text() == saved


@pytest.mark.parametrize(
    ("name", "text"),
    [("holiday.jpg", "x"), ("config.yaml", "other: 1\n"), ("config.yaml", "a: [")],
)
def test_a_directory_that_is_not_a_run_is_refused_and_left_alone(tmp_path, config, name, text):
    (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="not a run"):
        RunDirectory(tmp_path).create_or_resume(config)
    assert contents(tmp_path) == before


def test_a_file_is_refused(tmp_path, config):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a file has this name"):
        RunDirectory(tmp_path / "file").create_or_resume(config)


def test_opening_what_is_not_a_run(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        RunDirectory.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no config\.yaml"):
        RunDirectory.open(tmp_path)


def test_photos_that_were_added_or_removed_are_noticed(tmp_path, config):
    run = RunDirectory(tmp_path)
    run.create_or_resume(config)
    run.keep_inventory(["a.jpg\t10", "b.jpg\t20"])
    run.keep_inventory(["a.jpg\t10"])  # nothing is trained yet
    run.append_log({"images_seen": 0})
    run.keep_inventory(["a.jpg\t10"])
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"1 then, 2 now; 1 new, such as c\.jpg 5\)"):
        run.keep_inventory(["a.jpg\t10", "c.jpg\t5"])
    with pytest.raises(UserError, match=r"1 gone, such as a\.jpg 10, 1 new, such as a\.jpg 11"):
        run.keep_inventory(["a.jpg\t11"])
    assert contents(tmp_path) == before


HOLD = """
import sys
from layered_segmentation.run_directory import RunDirectory
with RunDirectory(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_train_in_one_directory(tmp_path, config):
    run = RunDirectory(tmp_path)
    run.create_or_resume(config)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process is training"), run.lock():
        pass
    with pytest.raises(UserError, match="another process is training"):
        run.create_or_resume(config)
    other.kill()  # a killed process leaves no stale lock
    other.wait()
    with run.lock(), run.lock():
        assert run.create_or_resume(config) is False  # nothing had been trained


def test_settings_may_be_corrected_before_anything_is_trained(tmp_path, config):
    run = RunDirectory(tmp_path)
    run.create_or_resume(config)
    other = dataclasses.replace(config, gan=dataclasses.replace(config.gan, resolution=8))
    assert run.create_or_resume(other) is False
    assert run.config() == other


def test_a_config_that_a_person_wrote_is_not_replaced(tmp_path, config):
    text = "gan: {resolution: 8}  # mine"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="another config"):
        RunDirectory(tmp_path).create_or_resume(config)
    assert (tmp_path / "config.yaml").read_text() == text


def test_the_log_drops_what_came_after_a_checkpoint(tmp_path, config):
    run = RunDirectory(tmp_path)
    run.create_or_resume(config)
    assert run.read_log() == []
    run.truncate_log(0)
    for images_seen in (10, 20, 30):
        run.append_log({"images_seen": images_seen, "d_loss": 0.5})
    with open(run.log_path, "a") as file:
        file.write('{"images_seen": 4')  # killed while it wrote
    assert [record["images_seen"] for record in run.read_log()] == [10, 20, 30]
    run.truncate_log(20)
    run.append_log({"images_seen": 25})
    assert [record["images_seen"] for record in run.read_log()] == [10, 20, 25]
    assert not os.path.exists(files.partial_path(run.log_path))


def test_finished(tmp_path, config):
    run = RunDirectory(tmp_path)
    run.create_or_resume(config)
    assert run.finished() is None
    run.finish(240_000, 600.0, 400.0)
    assert run.finished() == Finished(240_000, 600.0, 400.0)
    assert json.loads(open(run.finished_path).read())["images_seen"] == 240_000


@pytest.fixture
def begun(tmp_path, config):
    """A run that has trained: three records, a checkpoint, photos."""
    run = RunDirectory(tmp_path / "run")
    run.create_or_resume(config)
    os.mkdir(run.checkpoints)
    run.keep_inventory(["a.jpg\t10", "b.jpg\t20", "c.jpg\t30"])
    for images_seen in (10, 20, 30):
        run.append_log({"images_seen": images_seen, "seconds": images_seen / 10})
    return run


def damage(path, change):
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(change(content))


CUTS = {
    "emptied": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_config_that_was_cut_off_is_never_taken_for_another_one(begun, config, cut, capsys):
    with open(begun.config_path, "rb") as file:
        whole = file.read()
    damage(begun.config_path, cut)
    for read in (begun.config, lambda: begun.config_with("student", ["student.steps=1"])):
        with pytest.raises(
            UserError, match=r"config\.yaml: is cut off; repeat the `layerseg train"
        ):
            read()
    assert begun.create_or_resume(config) is True  # the command that started it
    assert "config.yaml: was cut off; written again" in capsys.readouterr().err
    with open(begun.config_path, "rb") as file:
        assert file.read() == whole
    assert begun.config() == config


def test_a_config_that_was_cut_off_between_lines_is_noticed(begun, config):
    damage(begun.config_path, lambda content: content[: content.index(b"schedule:")])
    with pytest.raises(UserError, match="is cut off"):
        begun.config()
    assert begun.create_or_resume(config) is True
    assert begun.config() == config


def test_what_is_left_of_a_config_must_agree(begun, config):
    damage(begun.config_path, CUTS["cut in half"])
    before = contents(begun.path)
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, path="elsewhere"))
    with pytest.raises(UserError, match="the part that is left differs from this config"):
        begun.create_or_resume(other)
    assert contents(begun.path) == before


def test_a_config_of_a_finished_run_is_mended_too(begun, config):
    begun.finish(30, 3.0, 10.0)
    damage(begun.config_path, CUTS["emptied"])
    assert begun.finished_as(config) == Finished(30, 3.0, 10.0)
    assert begun.config() == config


@pytest.mark.parametrize(
    "line", [b"", b"{", b"\0" * 40, b"[]", b"7", b"\xff\xfe", b'{"seconds": 1}']
)
def test_damaged_lines_of_the_log_are_dropped(begun, line, capsys):
    damage(begun.log_path, lambda content: content.replace(b"\n", b"\n" + line + b"\n", 1))
    assert [record["images_seen"] for record in begun.read_log()] == [10, 20, 30]
    assert begun.logged_seconds() == 3.0
    begun.truncate_log(20)
    assert "log.jsonl: dropped 1 damaged lines" in capsys.readouterr().err
    begun.truncate_log(20)
    assert capsys.readouterr().err == ""
    assert [record["images_seen"] for record in begun.read_log()] == [10, 20]


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_damaged_mark_of_the_end_is_written_again(begun, cut):
    begun.finish(30, 3.0, 10.0)
    damage(begun.finished_path, lambda content: cut(content.rstrip()))
    assert begun.finished() is None
    begun.finish(30, 3.0, 10.0)
    assert begun.finished() == Finished(30, 3.0, 10.0)


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"images": 1}'])
def test_a_mark_of_the_end_that_holds_something_else_is_none(begun, content):
    with open(begun.finished_path, "w") as file:
        file.write(content)
    assert begun.finished() is None


def test_photos_of_version_0_1_0_are_compared_without_their_hash(begun, config):
    now = ["a.jpg\t10\taa", "b.jpg\t20\tbb", "c.jpg\t30\tcc"]
    before = contents(begun.path)
    begun.keep_inventory(now)
    assert contents(begun.path) == before
    with pytest.raises(UserError, match="its photos have changed"):
        begun.keep_inventory([*now[:2], "c.jpg\t31\tcc"])
    with open(begun.photos_path, "w") as file:
        file.write("".join(f"{line}\n" for line in now))
    begun.keep_inventory(now)
    words = r"1 gone, such as c\.jpg 30 cc, 1 new, such as c\.jpg 30 dd"
    with pytest.raises(UserError, match=words):
        begun.keep_inventory([*now[:2], "c.jpg\t30\tdd"])


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_list_of_photos_that_was_cut_off_is_written_again(begun, cut, capsys):
    photos = ["a.jpg\t10", "b.jpg\t20", "c.jpg\t30"]
    damage(begun.photos_path, cut)
    begun.keep_inventory(photos)
    assert "photos.txt: was cut off; written again" in capsys.readouterr().err
    begun.keep_inventory(photos)
    damage(begun.photos_path, CUTS["a byte short"])
    with pytest.raises(UserError, match="its photos have changed"):
        begun.keep_inventory(["z.jpg\t10"])


def test_a_process_that_was_killed_over_the_first_config_leaves_a_free_directory(tmp_path, config):
    run = RunDirectory(tmp_path)
    with open(files.partial_path(run.config_path), "w") as file:
        file.write("data:")
    assert run.create_or_resume(config) is False


def test_photos_that_changed_after_training_are_noted(tmp_path, config, capsys):
    run = RunDirectory(tmp_path)
    run.create_or_resume(config)
    run.keep_inventory(["a.jpg\t10\taa", "b.jpg\t20\tbb"])
    run.append_log({"images_seen": 0})
    run.note_changed_photos(["a.jpg\t10\taa", "b.jpg\t20\tbb"])
    (tmp_path / "skipped.txt").write_text("broken.jpg\n")
    run.note_changed_photos(["a.jpg\t10\taa", "b.jpg\t20\tbb", "broken.jpg\t3\tcc"])
    assert not capsys.readouterr().err
    run.note_changed_photos(["a.jpg\t10\taa", "b.jpg\t20\tdd"])
    note = capsys.readouterr().err
    assert "its photos have changed since it was trained (2 then, 2 now; 1 gone, such as b" in note
    (tmp_path / "photos.txt").unlink()  # of procedural scenes, or of an early version
    run.note_changed_photos([])
    assert not capsys.readouterr().err
