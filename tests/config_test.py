import dataclasses
import os
import zipfile

import pytest
from omegaconf import OmegaConf

from layered_segmentation import choices, config_files
from layered_segmentation import config as configs
from layered_segmentation.errors import UserError


def test_the_defaults_are_the_papers():
    config = configs.load()
    assert config == configs.Config()
    gan = config.gan
    assert (gan.resolution, gan.latent_dim, gan.mapping_layers, gan.max_channels) == (
        128,
        512,
        8,
        512,
    )
    assert (gan.shift, gan.mask_size, gan.mixing, gan.average_decay) == (0.125, 0.25, 0.9, 0.999)
    assert (gan.mask_size_weight, gan.mask_binary_weight) == (2.0, 2.0)
    assert (gan.gradient_penalty, gan.drift) == (10.0, 0.001)
    assert config.schedule.batch == {8: 256, 16: 128, 32: 64, 64: 32, 128: 32}
    assert config.schedule.images_per_stage == 1_200_000
    assert config.schedule.learning_rate == {"default": 0.001, "128": 0.0015}
    assert (config.encoder.chunk, config.encoder.iterations) == (100, 1000)
    assert (gan.mask_losses_on, gan.shared_noise) == ("unshifted", False)
    assert (config.data.mirror, config.encoder.feature_term) == (False, "sum")


@pytest.mark.parametrize("name", config_files.packaged_names())
def test_every_packaged_config_is_valid_and_says_how_to_run_it(name):
    configs.load(name)
    with open(config_files.find(name), encoding="utf-8") as file:
        header = [line for line in file if line.startswith("#")]
    assert any("layerseg " in line for line in header)


def test_packaged_names_reach_into_sub_folders(tmp_path, monkeypatch):
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "b.yaml").write_text("gan: {shift: 0}\n")
    (tmp_path / "a.yaml").write_text("")
    monkeypatch.setattr(config_files, "_packaged_directory", lambda: str(tmp_path))
    assert config_files.packaged_names() == ["a", "ablations/b"]
    assert configs.load("ablations/b").gan.shift == 0
    assert configs.load("a") == configs.Config()  # an empty file changes nothing


def test_file_then_overrides_later_ones_win(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("gan: {resolution: 32, shift: 0.2}\nschedule: {learning_rate: {128: 0.002}}\n")
    config = configs.load(str(path), ["gan.shift=0.1", "gan.shift=0", "data.path=a b"])
    assert (config.gan.resolution, config.gan.shift, config.data.path) == (32, 0.0, "a b")
    assert config.schedule.learning_rate == {"default": 0.001, "128": 0.002}


def test_save_and_load_are_inverse(tmp_path):
    config = configs.load("quickstart", ["schedule.images_at={8: 7}", "gan.shift=0.2"])
    path = str(tmp_path / "config.yaml")
    configs.save(config, path)
    assert configs.load(path) == config
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_a_saved_config_of_version_0_1_0_keeps_what_that_version_did(tmp_path):
    archive = os.path.join(os.path.dirname(__file__), "data", "present_version", "run.zip")
    with zipfile.ZipFile(archive) as run:
        text = run.read("run/config.yaml").decode()
    saved = tmp_path / "config.yaml"
    saved.write_text(text)
    config = configs.load(str(saved))
    # Each field that version 0.1.0 did not have says what that version did.
    fields = {
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(configs.Config)
        for field in dataclasses.fields(section.type)
        if "was" in field.metadata
    }
    settings = OmegaConf.to_container(OmegaConf.load(saved))
    known = {f"{section}.{name}" for section, held in settings.items() for name in held}
    assert fields == {
        f"{section}.{name}"
        for section, held in dataclasses.asdict(config).items()
        for name in held
        if f"{section}.{name}" not in known
    }
    assert (config.gan.mask_losses_on, config.gan.shared_noise) == ("shifted", True)
    assert config.encoder.feature_term == "mean" and config.data.mirror
    # What is given counts: in the file of a version between, or by an override.
    saved.write_text(text.replace("gan:\n", "gan:\n  shared_noise: false\n"))
    config = configs.load(str(saved), ["encoder.feature_term=sum"])
    assert (config.gan.mask_losses_on, config.gan.shared_noise) == ("shifted", False)
    assert config.encoder.feature_term == "sum"
    # A file without a field that version 0.1.0 had holds differences only.
    saved.write_text("".join(line for line in text.splitlines(True) if "minibatch_std" not in line))
    assert configs.load(str(saved)).gan.mask_losses_on == "unshifted"


def test_choices_are_saved_and_read_by_their_names(tmp_path):
    config = configs.load("", ["gan.variant=one_generator", "student.self_training_refine=none"])
    assert config.gan.variant is choices.Variant.one_generator
    path = tmp_path / "config.yaml"
    configs.save(config, str(path))
    lines = path.read_text().splitlines()
    for line in (
        "name: folder",
        "aspect: squash",
        "variant: one_generator",
        "self_training_refine: none",
        "precision: float32",
        "strategy: auto",
    ):
        assert f"  {line}" in lines
    assert configs.is_saved(str(path))
    path.write_text("gan:\n  variant: one_generator\n")
    assert not configs.is_saved(str(path))


@pytest.mark.parametrize("choice", config_files.Choice.__subclasses__())
def test_a_choice_has_one_spelling(choice):
    assert [member.name for member in choice] == [member.value for member in choice]


def test_differences_name_the_fields():
    left = configs.load("", ["schedule.images_at={8: 5}"])
    right = dataclasses.replace(configs.load(), gan=configs.GANConfig(shift=0.0))
    assert config_files.differences(left, right) == [
        "gan.shift: 0.125 != 0.0",
        "schedule.images_at.8: 5 != '(absent)'",
    ]
    assert config_files.differences(left, left) == []


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("quikstart", [], ("quikstart", "did you mean 'quickstart'", "packaged configs:")),
        ("no/such.yaml", [], ("no/such.yaml", "neither a file nor a packaged config")),
        ("", ["gan.shfit=0"], ("gan.shfit", "did you mean 'gan.shift'")),
        ("", ["gna.shift=0"], ("gna.shift", "known:")),
        ("", ["gan.shift"], ("--set=gan.shift", "section.field=value")),
        ("", ["=1"], ("--set==1",)),
        ("", ["gan.resolution=big"], ("gan.resolution", "big")),
        ("", ["gan.resolution=24"], ("gan.resolution=24", "power of two")),
        ("", ["gan.resolution=4"], ("gan.resolution=4", "at least 8")),
        ("", ["gan.resolution=16", "gan.initial_resolution=32"], ("initial_resolution=32", "16")),
        ("", ["gan.mask_size=0"], ("gan.mask_size=0", "(0, 1)")),
        ("", ["gan.mask_size=1"], ("gan.mask_size=1", "(0, 1)")),
        ("", ["gan.mask_size_most=0.2"], ("mask_size_most=0.2", "more than gan.mask_size (0.25)")),
        ("", ["gan.shift=nan"], ("gan.shift=nan",)),
        ("", ["gan.shift=${data.nothing}"], ("gan.shift", "data.nothing")),
        ("", ["gan.shift=1"], ("gan.shift=1", "as large as the image")),
        ("", ["gan.shift=-0.1"], ("gan.shift=-0.1",)),
        ("", ["gan.contrast_jitter=1.5"], ("gan.contrast_jitter=1.5",)),
        ("", ["gan.variant=three"], ("'three'", "two_generators")),
        ("", ["data.name=foldr"], ("'foldr'", "folder, shapes")),
        ("", ["data.crop_margin=0.5"], ("data.crop_margin=0.5",)),
        ("", ["data.cache_memory=-1"], ("data.cache_memory=-1", "at least 0")),
        ("", ["schedule.batch={8: 0}"], ("schedule.batch.8=0", "at least 1")),
        ("", ["schedule.learning_rate={default: 0}"], ("learning_rate.default=0",)),
        ("", ["student.resolution=20"], ("student.resolution=20", "multiple of 8")),
        ("", ["student.truncation=0"], ("student.truncation=0",)),
        ("", ["student.parts=3"], ("student.parts=3", "a divisor of 64, the batch")),
        ("", ["student.precision=mixed_float16"], ("mixed_float16", "float32 or mixed_bfloat16")),
        ("", ["train.precision=float64"], ("'float64'", "mixed_bfloat16")),
        ("", ["train.seed=-1"], ("train.seed=-1",)),
        ("", ["train.keep_stages=[24]"], ("train.keep_stages=[24]", "below 128")),
        ("", ["train.keep_stages=[128]"], ("train.keep_stages=[128]", "from 8 to below 128")),
    ],
)
def test_what_cannot_be_is_refused_by_name(name, overrides, words):
    with pytest.raises(UserError) as error:
        configs.load(name, overrides)
    for word in words:
        assert word in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "/photos/cars #1", "007", "no", "~", "null", "1e3", "true", "a: b", "{a: b}", "[1]", "'a'",
        '"a"', "  spaces  ", "", "a=b", "@set", "%x", "café", "/photos/\nnew", "*",
    ],
)  # fmt: skip
def test_texts_are_taken_as_they_are_typed(tmp_path, text):
    config = configs.load("", [f"data.path={text}", f"data.dataset={text}"])
    assert config.data.path == config.data.dataset == text
    configs.save(config, str(tmp_path / "config.yaml"))
    assert configs.load(str(tmp_path / "config.yaml")).data.path == text


def test_paths_that_are_not_utf8_are_refused():
    with pytest.raises(UserError, match=r"data\.path=/caf\\udce9: it has bytes that are not UTF-8"):
        configs.load("", ["data.path=/caf\udce9"])


def test_what_is_not_text_is_yaml():
    overrides = ["gan.shift=1e-1", "data.mirror=no", "data.name=tfds", "schedule.batch={8: 4}"]
    config = configs.load("", overrides)
    assert config.gan.shift == 0.1 and config.data.mirror is False
    assert config.data.name == "tfds" and config.schedule.batch[8] == 4


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("gan: [1", "not valid YAML"),
        ("gan: {shift: [1]}", "gan.shift"),
        ("- 1\n- 2\n", "mapping"),
        ("just words\n", "just words"),
        ("gan: {shift: 0.1, colour: 3}", "gan.colour"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, word):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        configs.load(str(path))
    assert str(path) in str(error.value)
    assert word in str(error.value)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match=r"mine\.yaml"):
        configs.load(str(path))


def test_paths_of_photos_and_caches_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    overrides = ["data.path=photos", "data.data_dir=~/sets", "data.test_path=tests"]
    data = configs.with_absolute_paths(configs.load("", overrides)).data
    assert (data.path, data.data_dir) == (str(tmp_path / "photos"), "/home/me/sets")
    assert (data.cache_dir, data.test_path) == ("", str(tmp_path / "tests"))
    (tmp_path / "student").mkdir()
    for student, expected in [
        ("", ""),
        ("layered_unet_birds_64", "layered_unet_birds_64"),
        ("hf://me/birds", "hf://me/birds"),
        ("student", str(tmp_path / "student")),
        ("runs/birds", str(tmp_path / "runs" / "birds")),
        ("~/birds", "/home/me/birds"),
    ]:
        config = configs.load("", [f"gan.background_student={student}"])
        assert configs.with_absolute_paths(config).gan.background_student == expected
    remote = configs.load("", ["data.data_dir=gs://bucket/sets"])
    assert configs.with_absolute_paths(remote) == remote


def test_a_config_for_each_size_of_student():
    sizes = {
        tuple(configs.section_overrides(name, "student"))
        for name in config_files.packaged_names()
        if name.startswith("students/")
    }
    assert sizes == {
        (f"student.width={width}", f"student.resolution={side}")
        for width in (8, 16, 24)
        for side in (32, 64, 128)
    }


def test_a_number_that_no_float_holds():
    with pytest.raises(UserError, match=r"--set=student\.learning_rate=1000.*: .* far too large"):
        configs.load("", [f"student.learning_rate=1{'0' * 400}"])


def test_keys_that_only_omegaconf_refuses(tmp_path):
    (tmp_path / "a.yaml").write_text("schedule: {batch: {8: 16, '8': 4}}")
    with pytest.raises(UserError, match=r"a\.yaml: not valid YAML: Conflicting integer and string"):
        configs.load(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["gan.layers=2", "gan.variant=one_generator"], "gan.layers=2.*1 with gan.variant=one_gen"),
        (
            ["gan.layers=2", "gan.variant=shared_mapping"],
            "gan.layers=2.*1 with gan.variant=shared_mapping",
        ),
        (["gan.layers=2", "gan.independence=1"], "gan.independence=1.0.*0 with gan.layers=2"),
        (
            ["gan.background_student=a", "gan.variant=single_output"],
            "gan.background_student='a'.*empty with gan.variant=single_output, which has no",
        ),
        (
            ["gan.background_student_weight=-1"],
            r"gan.background_student_weight=-1.0 is not possible; it must be in \[0, inf\)",
        ),
        (["gan.background_student_weight=.inf"], "gan.background_student_weight=inf"),
        (["gan.background_student_weight=.nan"], "gan.background_student_weight=nan"),
        (["gan.layers=0"], r"gan.layers=0 is not possible; it must be in \[1, 4\]"),
        (["data.objects=2"], "data.objects=2.*1 with data.name=folder"),
        (["data.name=shapes", "data.objects=0"], "data.objects=0"),
        (
            ["student.masks=each", "student.self_training_refine=grabcut"],
            "student.self_training_refine='grabcut'.*none with student.masks=each",
        ),
    ],
)
def test_impossible_layers_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        configs.load("", overrides)
