import json
import os

import pytest

from layered_segmentation import config as configs
from layered_segmentation.cli import chain as chains
from layered_segmentation.cli import tries
from layered_segmentation.run_directory import RunDirectory


@pytest.fixture
def chain(tmp_path):
    config = configs.load("quickstart", ["train.seed=5"])
    return chains.Chain(str(tmp_path / "out"), config, chains.TestSet())


@pytest.fixture
def trained(monkeypatch):
    """Replaces training; the seeds that were trained, in order. Seed 6 is the best."""
    seeds = []

    def score(run, config, devices):
        seed = config.train.seed
        run.create_or_resume(config)
        seeds.append(seed)
        return 0.7 if seed == 6 else 0.4

    monkeypatch.setattr(tries, "_score", score)
    return seeds


def choose(chain, count):
    return tries.choose(chain.out, chain.run, chain.config, count)


def seed_of(directory):
    return RunDirectory(directory).config().train.seed


def test_the_best_run_becomes_the_run_of_the_quickstart(chain, trained):
    chosen = choose(chain, 3)
    assert trained == [5, 6, 7]
    assert chosen.train.seed == 6 == seed_of(chain.path("run"))
    assert sorted(os.listdir(chain.path("tries"))) == ["0", "2", "choice.json"]
    with open(chain.path("tries", "choice.json")) as file:
        assert json.load(file) == {"chosen": 1, "scores": [0.4, 0.7, 0.4]}
    assert chain.run.create_or_resume(chosen) is False
    assert choose(chain, 3) == chosen
    assert trained == [5, 6, 7]  # nothing was trained again


def test_a_choice_that_was_stopped_before_the_move_is_completed(chain, trained, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tries.files, "move", stop)
        with pytest.raises(KeyboardInterrupt):
            choose(chain, 2)
    assert tries.is_begun(chain.out) and not os.path.exists(chain.path("run"))
    assert choose(chain, 2).train.seed == 6 == seed_of(chain.path("run"))
    assert trained == [5, 6]


def test_other_directories_are_none_of_a_quickstart(tmp_path):
    assert not tries.is_begun(str(tmp_path))
    (tmp_path / "tries").mkdir()
    assert not tries.is_begun(str(tmp_path))
