"""Checkpoints of the authors' release as run directories, and the verb `convert`."""

import os
import sys

import golden_states
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from layered_segmentation.errors import UserError
from layered_segmentation.gan import networks
from layered_segmentation.port import checkpoint as release_checkpoint
from layered_segmentation.port.weights import (
    discriminator_from_state_dict,
    generator_from_state_dict,
)
from layered_segmentation.run_directory import RunDirectory


@pytest.fixture(scope="module")
def states():
    return golden_states.read()


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
    generator = generator_from_state_dict(states["two_generators"], 8)
    discriminator = discriminator_from_state_dict(states["discriminator"], 8)
    config = release_checkpoint.run_config(generator, discriminator, ["data.path=photos"])
    out = str(tmp_path_factory.mktemp("converted") / "run")
    return release_checkpoint.write_run(out, config, generator, discriminator)


class TestCheckpoint:
    """The contents of a checkpoint, without PyTorch's file format."""

    @staticmethod
    def parts(checkpoint):
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

    @pytest.mark.parametrize(
        ("step", "resolution"), [(1, 8), (np.array(4), 64), (8, 1024), (None, None)]
    )
    def test_stages(self, checkpoint, step, resolution):
        found = self.parts({**checkpoint, "step": step})
        assert found.resolution == resolution

    @pytest.mark.parametrize(
        ("step", "shown"),
        [
            (60000, "is 60000;"),
            (9, "is 9;"),
            (0, "is 0;"),
            (-1, "is -1;"),
            ("three", "is 'three';"),
            (4.5, "is 4.5;"),
            ([4, 5], "is [4, 5];"),
            pytest.param(10**5000, "thousands of digits", id="huge"),
        ],
    )
    def test_an_invalid_stage(self, checkpoint, step, shown):
        odd = {**checkpoint, "step": step}
        with pytest.raises(UserError) as error:
            release_checkpoint.find_parts(odd)
        for words in (shown, "from 1 (8 px) to 8 (1024 px)", "--resolution"):
            assert words in str(error.value)
        assert release_checkpoint.find_parts(odd, needs_stage=False).resolution is None

    @pytest.mark.parametrize(
        ("alpha", "weight"), [(0.25, 0.25), (-1, 1.0), ("half", 1.0), (np.nan, 1.0), (None, 1.0)]
    )
    def test_fading_weights(self, checkpoint, alpha, weight):
        assert self.parts({**checkpoint, "alpha": alpha}).alpha == weight

    def test_the_run_is_complete(self, run):
        assert os.listdir(os.path.dirname(run.path)) == ["run"]
        assert os.stat(run.path).st_mode == os.stat(run.generator).st_mode  # as mkdir makes them
        config = run.config()
        assert (config.gan.resolution, config.gan.latent_dim) == (8, 16)
        assert config.data.path == os.path.abspath("photos")
        assert run.finished_as(config).images_seen == 0
        generator = networks.load_generator(run)
        assert all(np.abs(to_numpy(m.mean_style)).max() > 0 for m in generator.mappings)
        file = np.load(golden_states.FILE)
        images = file["discriminator/case0/x"].transpose(0, 2, 3, 1)
        score = networks.load_discriminator(run)(images)  # the case is faded in
        np.testing.assert_allclose(to_numpy(score), file["discriminator/case0/score"], rtol=1e-3)

    def test_sample_draws_from_it(self, layerseg, run, tmp_path):
        result = layerseg("sample", f"--run_dir={run.path}", f"--out={tmp_path / 'sheet.png'}")
        assert result.status == 0, result.stderr
        assert (tmp_path / "sheet.png").stat().st_size > 1000

    def test_train_has_nothing_to_do(self, layerseg, run):
        result = layerseg("train", f"--config={run.config_path}", f"--run_dir={run.path}")
        assert result.status == 0, result.stderr
        assert "is finished" in result.stdout

    def test_distill_explains_how_to_train_without_photos(self, layerseg, run):
        result = layerseg("distill", f"--run_dir={run.path}")
        assert result.status == 2
        assert "--set=student.self_training=0" in result.stderr

    def test_other_files_stay_as_they_are(self, states, tmp_path, monkeypatch):
        (tmp_path / "run.partial").mkdir()
        (tmp_path / "run.partial" / "thesis.txt").write_text("mine")
        generator = generator_from_state_dict(states["two_generators"], 8)
        config = release_checkpoint.run_config(generator, None, ["data.path=photos"])
        with monkeypatch.context() as patch:
            patch.setattr(RunDirectory, "finish", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                release_checkpoint.write_run(str(tmp_path / "run"), config, generator, None)
        assert os.listdir(tmp_path) == ["run.partial"]
        release_checkpoint.write_run(str(tmp_path / "run"), config, generator, None)
        assert sorted(os.listdir(tmp_path)) == ["run", "run.partial"]
        assert (tmp_path / "run.partial" / "thesis.txt").read_text() == "mine"

    def test_settings_that_contradict_the_checkpoint(self, states):
        generator = generator_from_state_dict(states["two_generators"], 8)
        with pytest.raises(UserError, match=r"--set=gan\.latent_dim=32: the checkpoint has 16"):
            release_checkpoint.run_config(generator, None, ["gan.latent_dim=32"])
        with pytest.raises(UserError, match=r"the checkpoint has 8; --resolution chooses"):
            release_checkpoint.run_config(generator, None, ["gan.resolution=16"])


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

    @pytest.fixture
    def convert(self, layerseg, tmp_path, monkeypatch):
        """Converts what PyTorch would read from the file."""

        def run(content, *flags):
            monkeypatch.setattr(release_checkpoint, "read", lambda path: content)
            (tmp_path / "x.model").write_bytes(b"")
            out = tmp_path / "run"
            return layerseg(
                "convert", f"--checkpoint={tmp_path / 'x.model'}", f"--out={out}", *flags
            )

        return run

    def test_a_warning_about_untrained_layers(self, convert, checkpoint):
        result = convert(checkpoint, "--resolution=16")
        assert result.status == 0 and "16 px" in result.stdout
        (line,) = result.stderr.splitlines()
        assert line.startswith("warning: the stage of 8 px was training (step 1)")
        assert "16 px" in line

    @pytest.mark.parametrize(
        ("step", "flags"), [(2, ["--resolution=8"]), ("three", ["--resolution=8"]), (1, [])]
    )
    def test_no_warning(self, convert, checkpoint, step, flags):
        result = convert({**checkpoint, "step": step}, *flags)
        assert (result.status, result.stderr) == (0, "")

    def test_a_warning_about_a_stage_that_is_not_stated(self, convert, states):
        result = convert({"generator_running": states["one_generator"]})
        assert result.status == 0 and "128 px" in result.stdout
        (line,) = result.stderr.splitlines()
        assert "no `step`" in line and "128 px" in line and "--resolution" in line

    def test_an_invalid_stage_is_an_error(self, convert, checkpoint, tmp_path):
        result = convert({**checkpoint, "step": 60000})
        assert result.status == 2
        assert f"--checkpoint={tmp_path / 'x.model'}: its `step`" in result.stderr
        assert os.listdir(tmp_path) == ["x.model"]

    def test_autoencode_needs_a_file_with_a_discriminator(
        self, convert, layerseg, states, tmp_path
    ):
        result = convert({"generator_running": states["two_generators"]}, "--resolution=8")
        assert result.status == 0 and "the file has no discriminator" in result.stdout
        result = layerseg("autoencode", f"--run_dir={tmp_path / 'run'}")
        assert result.status == 2
        for words in ("no discriminator in it: it was converted", "layerseg convert --checkpoint="):
            assert words in result.stderr
        assert "layerseg train" not in result.stderr

    def test_without_pytorch_the_error_explains_how_to_install_it(
        self, layerseg, tmp_path, monkeypatch
    ):
        monkeypatch.setitem(sys.modules, "torch", None)  # what `import` then finds
        path = tmp_path / "x.model"
        path.write_bytes(b"")
        result = layerseg("convert", f"--checkpoint={path}", f"--out={tmp_path / 'run'}")
        assert result.status == 2
        assert "pip install torch" in result.stderr

    def test_a_file_that_is_not_a_checkpoint(self, layerseg, tmp_path):
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
            (["--checkpoint=none.model", "--out={tmp}"], "it exists; name a new directory"),
            (["--checkpoint=none.model", "--out={tmp}/a/run"], "there is no directory"),
            (["--out={tmp}/run"], "--checkpoint is needed"),
        ],
    )
    def test_bad_flags(self, layerseg, tmp_path, flags, words):
        result = layerseg("convert", *(flag.format(tmp=tmp_path) for flag in flags))
        assert result.status == 2
        assert words in result.stderr
        assert os.listdir(tmp_path) == []
