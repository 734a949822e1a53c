"""Trains several runs of the quickstart with different seeds and keeps the best as its run.

Which is best is decided without true masks, by `quality.Quality.score`, with a student that learns
from generated pairs alone. The other runs stay in OUT/tries.
"""

import dataclasses
import os
from collections.abc import Sequence

from layered_segmentation import files, records
from layered_segmentation.config import Config
from layered_segmentation.run_directory import RunDirectory

_CHOICE = "choice.json"


def choose(
    out: str, run: RunDirectory, config: Config, count: int, devices: Sequence[str] = ()
) -> Config:
    """Trains the runs that are left to train and moves the best one to its place.

    It resumes where it was stopped, and does nothing once a run is chosen.

    Args:
        out: The quickstart's directory.
        run: Where the best one is moved.
        config: Its seed is that of the first run.
        count: Number of runs, at least 2.
        devices: Devices to train on.

    Returns:
        The config of the chosen run.

    Raises:
        UserError: A run fails.
    """
    tries = os.path.join(out, "tries")
    choice = records.read(os.path.join(tries, _CHOICE), {"chosen": lambda n: n in range(count)})
    if choice is None:
        runs = [RunDirectory(os.path.join(tries, str(number))) for number in range(count)]
        scores = [
            _score(one, _with_seed(config, number), devices) for number, one in enumerate(runs)
        ]
        best = max(range(count), key=scores.__getitem__)
        choice = {"chosen": best, "scores": scores}
        files.write_json(os.path.join(tries, _CHOICE), choice)
        print(f"run {best + 1} of {count} is the best and becomes {run.path}", flush=True)
    best = choice["chosen"]
    files.move(os.path.join(tries, str(best)), run.path)
    return _with_seed(config, best)


def is_begun(out: str) -> bool:
    """Returns whether a directory is that of a quickstart with several runs."""
    names = (os.path.join("0", "config.yaml"), _CHOICE)
    return any(os.path.exists(os.path.join(out, "tries", name)) for name in names)


def _with_seed(config: Config, number: int) -> Config:
    train = dataclasses.replace(config.train, seed=(config.train.seed + number) % 2**31)
    return dataclasses.replace(config, train=train)


def _score(run: RunDirectory, config: Config, devices: Sequence[str]) -> float:
    from layered_segmentation.evaluation import quality
    from layered_segmentation.gan import networks, trainer
    from layered_segmentation.segmenter import distill, presets

    print(f"{run.path}: train.seed={config.train.seed}", flush=True)
    trainer.train(config, run, devices, load_student=presets.load_background_student)
    measured = quality.read(run)
    if measured is None:
        config = distill.quick(config)
        segmenter, _ = distill.distill(networks.load_generator(run), config, devices=devices)
        measured = quality.measure_run(run, config, segmenter)
    print(f"{run.path}: score {measured.score:.3f}", flush=True)
    return measured.score
