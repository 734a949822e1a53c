"""Conversion of the authors' checkpoints; that the networks agree is `port_test.py`'s."""

import os
import sys

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from layered_segmentation.convert import discriminator_from_state_dict, generator_from_state_dict
from layered_segmentation.errors import UserError

GOLDEN = os.path.join(os.path.dirname(__file__), "data", "perturbed_seg_w16.npz")
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="run directories need TensorFlow"
)


@pytest.fixture(scope="module")
def file():
    return np.load(GOLDEN)


def state_of(file, section):
    prefix = f"{section}/state/"
    return {n.removeprefix(prefix): file[n] for n in file.files if n.startswith(prefix)}


@pytest.fixture(scope="module")
def states(file):
    names = ("two_generators", "one_generator", "shared_style", "discriminator")
    return {name: state_of(file, name) for name in names}


@pytest.fixture
def checkpoint(states):
    """As the release's script saves it at the end of its 8 px stage."""
    other = {key: value + 1 for key, value in states["two_generators"].items()}
    moments = {"exp_avg": np.zeros(3, np.float32), "step": 77}
    return {
        "generator": other,
        "discriminator": states["discriminator"],
        "g_optimizer": {"state": {0: moments}, "param_groups": [{"lr": 0.001}]},
        "d_optimizer": {"state": {0: moments}, "param_groups": [{"lr": 0.001}]},
        "generator_running": states["two_generators"],
        "alpha": 1.0,
        "step": 1,
    }


@pytest.fixture(scope="module")
def run(states, tmp_path_factory):
    """A run written from the state dicts."""
    from layered_segmentation.training import release_checkpoint

    generator = generator_from_state_dict(states["two_generators"], 8)
    discriminator = discriminator_from_state_dict(states["discriminator"], 8)
    config = release_checkpoint.run_config(generator, discriminator, ["data.path=photos"])
    out = str(tmp_path_factory.mktemp("converted") / "run")
    return release_checkpoint.write_run(out, config, generator, discriminator)


@pytest.mark.parametrize(
    ("section", "variant"),
    [
        ("two_generators", "two_generators"),
        ("one_generator", "one_generator"),
        ("shared_style", "shared_mapping"),
    ],
)
def test_variant_and_sizes_are_inferred(states, section, variant):
    generator = generator_from_state_dict(states[section], resolution=16)
    assert generator.variant == variant
    assert (generator.resolution, generator.latent_dim) == (16, 16)
    assert (generator.mapping_layers, generator.max_channels) == (8, 16)


def test_all_that_is_stored_is_the_default(states):
    assert generator_from_state_dict(states["one_generator"]).resolution == 1024
    discriminator = discriminator_from_state_dict(states["discriminator"])
    assert (discriminator.resolution, discriminator.max_channels) == (1024, 16)
    assert discriminator.minibatch_std


def test_a_discriminator_without_minibatch_std_is_seen(states):
    state = dict(states["discriminator"])
    key = "progression.8.conv1.0.conv.weight_orig"
    state[key] = state[key][:, :16]
    assert not discriminator_from_state_dict(state, 8).minibatch_std


FUSED = "generator_bg.generator.progression.5.conv1.0"


def test_kernels_are_kept_as_they_are_stored(states):
    # So that a weight's step counts for as much as it does in the authors' training: from 128 px
    # the gain of a quarter is the layer's, not the kernel's.
    generator = generator_from_state_dict(states["two_generators"], 128)
    up = generator.syntheses[0].blocks[5].up
    theirs = states["two_generators"][f"{FUSED}.weight"]
    np.testing.assert_array_equal(to_numpy(up.kernel), theirs.transpose(2, 3, 0, 1)[::-1, ::-1])
    gains = [block.up.scale / np.sqrt(2 / (9 * 16)) for block in generator.syntheses[0].blocks[1:]]
    np.testing.assert_allclose(gains, [1, 1, 1, 1, 0.25], rtol=1e-6)


def test_a_model_without_fused_convolutions_is_the_same_model(states):
    fused = states["two_generators"]
    plain = {}
    for key, value in fused.items():
        net, _, rest = key.partition(".progression.5.conv1.")
        name = f"{net}.progression.5.conv1.1.conv."
        if rest == "0.weight":  # IOHW, flipped, the mean of four -> OIHW, the sum
            plain[f"{name}weight_orig"] = value.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1] / 4
        elif rest == "0.bias":
            plain[f"{name}bias"] = value
        elif rest not in ("1.weight", "1.weight_flip"):
            plain[key] = value
    ours, theirs = (generator_from_state_dict(state, 128).get_weights() for state in (plain, fused))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_missing_and_unexpected_keys_are_listed(states):
    state = dict(states["two_generators"])
    del state["generator_objects.generator.progression.1.noise2.weight_orig"]
    state["generator_bg.extra"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as error:
        generator_from_state_dict(state, 8)
    assert "missing generator_objects.generator.progression.1.noise2.weight_orig;" in str(
        error.value
    )
    assert "unexpected generator_bg.extra" in str(error.value)


def test_the_same_of_the_discriminator(states):
    state = {
        ("renamed" if k == "linear.linear.bias" else k): v
        for k, v in states["discriminator"].items()
    }
    with pytest.raises(UserError, match=r"missing linear\.linear\.bias; unexpected renamed"):
        discriminator_from_state_dict(state, 8)


def test_what_is_above_the_resolution_may_be_missing(states):
    state = {k: v for k, v in states["two_generators"].items() if "progression.5" not in k}
    assert generator_from_state_dict(state, 64).resolution == 64
    with pytest.raises(UserError, match=r"missing generator_bg\.generator\.progression\.5"):
        generator_from_state_dict(state, 128)


def test_another_networks_state_dict_is_refused():
    with pytest.raises(UserError, match=r"not the authors' generator: it holds conv\.weight"):
        generator_from_state_dict({"conv.weight": np.zeros((3, 3))})
    with pytest.raises(UserError, match="not the authors' discriminator: it holds none"):
        discriminator_from_state_dict({})


def test_widths_that_are_not_ours_are_refused(states):
    state = dict(states["two_generators"])
    key = "generator_bg.generator.progression.1.conv2.conv.weight_orig"
    state[key] = state[key][:12]
    with pytest.raises(UserError, match=r"channels at 4, 8 px are 16, 12;.* that is 16, 16"):
        generator_from_state_dict(state, 8)


@pytest.mark.parametrize("shape", [(16,), (2, 4, 4, 4)])
def test_a_wrong_shape_is_named(states, shape):
    key = "generator_objects.generator.progression.0.conv1.input"
    state = {**states["two_generators"], key: np.zeros(shape, np.float32)}
    with pytest.raises(UserError) as error:
        generator_from_state_dict(state, 8)
    assert f"{key}: its shape is {list(shape)}" in str(error.value)
    assert "[1, 4, 4, 16]" in str(error.value)


@pytest.mark.parametrize("resolution", [4, 24, 2048])
def test_impossible_resolutions(states, resolution):
    with pytest.raises(UserError, match=f"resolution={resolution}: .* from 8 to 1024"):
        generator_from_state_dict(states["two_generators"], resolution)


@needs_tensorflow
class TestCheckpoint:
    """The whole file, but for PyTorch's own format."""

    @staticmethod
    def parts(checkpoint):
        from layered_segmentation.training import release_checkpoint

        return release_checkpoint.find_parts(checkpoint)

    def test_the_releases_own_names(self, checkpoint, states):
        found = self.parts(checkpoint)
        assert (found.generator_name, found.is_average) == ("generator_running", True)
        assert (found.resolution, found.alpha) == (8, 1.0)
        assert found.generator.keys() == states["two_generators"].keys()
        assert found.discriminator.keys() == states["discriminator"].keys()

    @pytest.mark.parametrize("section", ["two_generators", "one_generator", "shared_style"])
    def test_any_nesting_and_prefix(self, states, section):
        generator = {f"module.{key}": value for key, value in states[section].items()}
        nested = {"models": {"G": {"ema": generator}, "D": states["discriminator"]}, "step": 3}
        found = self.parts(nested)
        assert (found.generator_name, found.is_average) == ("models.G.ema.module", True)
        assert found.generator.keys() == states[section].keys()
        assert found.discriminator.keys() == states["discriminator"].keys()
        assert found.resolution == 32

    def test_a_bare_state_dict(self, states):
        found = self.parts(states["one_generator"])
        assert (found.generator_name, found.is_average) == ("the file itself", False)
        assert (found.discriminator, found.resolution) == ({}, None)

    def test_errors_say_what_was_found(self, states):
        with pytest.raises(UserError, match=r"it holds weights \(1 entries\), epoch"):
            self.parts({"weights": {"conv.weight": np.zeros(3)}, "epoch": 7})
        two = {"a": states["two_generators"], "b": states["two_generators"]}
        with pytest.raises(UserError, match=r"several generators in it \(a, b\)"):
            self.parts(two)

    def test_the_run_is_whole(self, run, file):
        assert not os.path.exists(f"{run.path}.partial")
        config = run.config()
        assert (config.gan.resolution, config.gan.latent_dim) == (8, 16)
        assert config.data.path == os.path.abspath("photos")
        assert run.finished_as(config).images_seen == 0
        generator = run.load_generator()
        assert all(np.abs(to_numpy(m.mean_style)).max() > 0 for m in generator.mappings)
        images = file["discriminator/case0/x"].transpose(0, 2, 3, 1)
        score = run.load_discriminator()(images)  # the case is faded in
        np.testing.assert_allclose(to_numpy(score), file["discriminator/case0/score"], rtol=1e-3)

    def test_sample_draws_from_it(self, layerseg, run, tmp_path):
        result = layerseg("sample", f"--run_dir={run.path}", f"--out={tmp_path / 'sheet.png'}")
        assert result.status == 0, result.stderr
        assert (tmp_path / "sheet.png").stat().st_size > 1000

    def test_train_has_nothing_to_do(self, layerseg, run):
        result = layerseg("train", f"--config={run.config_path}", f"--run_dir={run.path}")
        assert result.status == 0, result.stderr
        assert "is finished" in result.stdout

    def test_distill_says_how_to_do_without_photos(self, layerseg, run):
        result = layerseg("distill", f"--run_dir={run.path}")
        assert result.status == 2
        assert "--set=student.self_training=0" in result.stderr

    def test_sizes_are_the_checkpoints(self, states):
        from layered_segmentation.training import release_checkpoint

        generator = generator_from_state_dict(states["two_generators"], 8)
        with pytest.raises(UserError, match=r"--set=gan\.latent_dim=32: the checkpoint has 16"):
            release_checkpoint.run_config(generator, None, ["gan.latent_dim=32"])
        with pytest.raises(UserError, match=r"the checkpoint has 8; --resolution chooses"):
            release_checkpoint.run_config(generator, None, ["gan.resolution=16"])


@needs_tensorflow
class TestVerb:
    def test_from_pytorchs_own_format(self, layerseg, checkpoint, tmp_path):
        torch = pytest.importorskip("torch")

        def tensors(tree):
            if isinstance(tree, dict):
                return {key: tensors(value) for key, value in tree.items()}
            return torch.from_numpy(tree) if isinstance(tree, np.ndarray) else tree

        path, out = tmp_path / "train_step-2.model", tmp_path / "run"
        torch.save(tensors(checkpoint), path)
        result = layerseg("convert", f"--checkpoint={path}", f"--out={out}")
        assert result.status == 0, result.stderr
        assert (
            "two_generators, 8 px, latent 16, 16 channels, from generator_running" in result.stdout
        )
        assert f"layerseg sample --run_dir={out}" in result.stdout
        assert sorted(os.listdir(out / "generator")) == ["discriminator.keras", "generator.keras"]

    def test_without_pytorch_it_says_how_to_get_it(self, layerseg, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)  # what `import` then finds
        path = tmp_path / "x.model"
        path.write_bytes(b"")
        result = layerseg("convert", f"--checkpoint={path}", f"--out={tmp_path / 'run'}")
        assert result.status == 2
        assert "pip install torch" in result.stderr

    def test_what_is_no_checkpoint(self, layerseg, tmp_path):
        pytest.importorskip("torch")
        path = tmp_path / "x.model"
        path.write_bytes(b"not a checkpoint")
        result = layerseg("convert", f"--checkpoint={path}", f"--out={tmp_path / 'run'}")
        assert result.status == 2
        assert f"--checkpoint={path}: PyTorch cannot read it as weights" in result.stderr

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (
                ["--checkpoint=none.model", "--out={tmp}/run"],
                "--checkpoint=none.model: there is no",
            ),
            (["--checkpoint=none.model", "--out={tmp}"], "there is one already"),
            (["--checkpoint=none.model", "--out={tmp}/a/run"], "there is no directory"),
            (["--out={tmp}/run"], "--checkpoint is needed"),
        ],
    )
    def test_bad_flags(self, layerseg, tmp_path, flags, words):
        result = layerseg("convert", *(flag.format(tmp=tmp_path) for flag in flags))
        assert result.status == 2
        assert words in result.stderr
        assert os.listdir(tmp_path) == []
