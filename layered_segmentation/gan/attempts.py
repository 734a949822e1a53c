"""The attempts of a run: what a collapsed one left is kept in RUN/attempts, and another begins.

A run stays a pure function of its config. The config of an attempt follows from the kinds of
collapse before it (`collapse.next_attempt`), and those from the masks.
"""

import json
import os

from layered_segmentation import files, records
from layered_segmentation.config import Config
from layered_segmentation.errors import UserError
from layered_segmentation.gan import collapse
from layered_segmentation.run_directory import RunDirectory

_KEPT = ("checkpoints", "stages", "sheets", "tensorboard", "log.jsonl")
_RECORD = "attempt.json"
_OF_RESTART = {
    "number": records.is_count,
    "restart": records.is_count,
    "kind": records.is_text,
    "images_seen": records.is_count,
    "seconds": records.is_duration,
    "warning": records.is_text,
}


def current(run: RunDirectory, config: Config) -> Config:
    """Returns the config of the attempt that a run is in, after it has completed a begun restart.

    Raises:
        UserError: Files of an earlier attempt have been removed.
    """
    if not config.train.restarts:
        return config
    _complete(run)
    kinds = [record["kind"] for record in _records(run)]
    logged = max((int(record.get("restart") or 0) for record in run.read_log()), default=0)
    if len(kinds) < logged:
        raise UserError(
            f"{run.attempts}: it holds {len(kinds)} of the {logged} attempts before this one, and "
            f"the settings of this one follow from them; bring back their {_RECORD}, or name "
            "another directory for a new run"
        )
    return collapse.next_attempt(config, kinds)


def restarts_left(run: RunDirectory, config: Config) -> int:
    """Returns how often the run may still begin again."""
    return config.train.restarts - len(_records(run)) if config.train.restarts else 0


def set_aside(run: RunDirectory, config: Config, found: collapse.Collapsed) -> str:
    """Moves what a collapsed attempt has left to RUN/attempts/N, so that the next one can begin.

    Args:
        run: The run.
        config: Its config.
        found: How the attempt collapsed.

    Returns:
        What to tell.
    """
    records = _records(run)
    number = 1 + max(_numbers(run), default=0)
    following = collapse.next_attempt(config, [*(one["kind"] for one in records), found.kind])
    seen = max((record["images_seen"] for record in run.read_log()), default=0)
    warning = (
        f"{found.warning}. Training begins again after {seen:,} images, attempt "
        f"{len(records) + 2} of {config.train.restarts + 1}, with gan.mask_size="
        f"{following.gan.mask_size:g}, gan.mask_size_most={following.gan.mask_size_most:g}, "
        f"gan.mask_size_weight={following.gan.mask_size_weight:g}, train.seed="
        f"{following.train.seed}; the logs and sheets of this attempt are kept in "
        f"{os.path.join(run.attempts, str(number))}"
    )
    record = {
        "number": number,
        "restart": len(records) + 1,
        "kind": found.kind,
        "images_seen": seen,
        "seconds": run.logged_seconds(),
        "warning": warning,
    }
    files.write_json(run.restart_path, record)  # from here on a stopped restart is completed
    _complete(run)
    return warning


def _complete(run: RunDirectory) -> None:
    """Completes a restart; each step may have been taken before."""
    record = records.read(run.restart_path, _OF_RESTART)
    if record is None:
        return
    directory = os.path.join(run.attempts, str(record["number"]))
    os.makedirs(directory, exist_ok=True)
    for name in _KEPT:
        files.move(os.path.join(run.path, name), os.path.join(directory, name))
    log = {name: record[name] for name in ("restart", "seconds", "warning")}
    files.write_text(run.log_path, json.dumps({"images_seen": 0, **log}) + "\n")
    files.sync(directory)
    files.move(run.restart_path, os.path.join(directory, _RECORD))


def _numbers(run: RunDirectory) -> list[int]:
    names = os.listdir(run.attempts) if os.path.isdir(run.attempts) else []
    return sorted(int(name) for name in names if name.isdigit())


def _records(run: RunDirectory) -> list[dict[str, str]]:
    paths = (os.path.join(run.attempts, str(number), _RECORD) for number in _numbers(run))
    found = (records.read(path, _OF_RESTART) for path in paths)
    return [record for record in found if record is not None]
