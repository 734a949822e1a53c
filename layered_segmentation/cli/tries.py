"""Several runs of the quickstart that differ in their seed; the best one becomes its run.

Which is best is decided without true masks, by `quality.Quality.score`, with a student that learns
from generated pairs alone. All runs stay in OUT/tries.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from layered_segmentation import files
from layered_segmentation.run_directory import RunDirectory

if TYPE_CHECKING:
    from layered_segmentation.cli.chain import Chain

STEPS = 200  # of the student that judges a run
_CHOICE = "choice.json"


def choose(chain: "Chain", count: int, devices: Sequence[str] = ()) -> "Chain":
    """Trains the runs that are left to train and moves the best one to OUT/run.

    It resumes where it was stopped, and does nothing once a run is chosen.

    Args:
        chain: The chain; its seed is that of the first run.
        count: Number of runs, at least 2.
        devices: Devices to train on.

    Returns:
        The chain with the config of the chosen run.

    Raises:
        UserError: A run fails.
    """
    choice = files.read_json(chain.path("tries", _CHOICE))
    if choice is None:
        scores = [_score(_with_seed(chain, number), number, devices) for number in range(count)]
        best = max(range(count), key=scores.__getitem__)
        choice = {"chosen": best, "scores": scores}
        files.write_json(chain.path("tries", _CHOICE), choice)
        print(f"run {best + 1} of {count} is the best and becomes {chain.run.path}", flush=True)
    best = choice["chosen"]
    files.move(chain.path("tries", str(best)), chain.run.path)
    return _with_seed(chain, best)


def is_begun(out: str) -> bool:
    """Returns whether a directory is that of a quickstart with several runs."""
    names = (os.path.join("0", "config.yaml"), _CHOICE)
    return any(os.path.exists(os.path.join(out, "tries", name)) for name in names)


def _with_seed(chain: "Chain", number: int) -> "Chain":
    train = chain.config.train
    train = dataclasses.replace(train, seed=(train.seed + number) % 2**31)
    return dataclasses.replace(chain, config=dataclasses.replace(chain.config, train=train))


def _score(chain: "Chain", number: int, devices: Sequence[str]) -> float:
    from layered_segmentation.evaluation import quality
    from layered_segmentation.gan import networks, trainer
    from layered_segmentation.segmenter import distill

    run = RunDirectory(chain.path("tries", str(number)))
    print(f"run {number + 1}, train.seed={chain.config.train.seed}", flush=True)
    trainer.train(chain.config, run, devices)
    measured = quality.read(run)
    if measured is None:
        steps = min(STEPS, chain.config.student.steps)
        student = dataclasses.replace(chain.config.student, steps=steps, self_training=0)
        config = dataclasses.replace(chain.config, student=student)
        segmenter, _ = distill.distill(networks.load_generator(run), config, devices=devices)
        measured = quality.measure_run(run, config, segmenter)
    print(f"  score {measured.score:.3f}", flush=True)
    return measured.score
