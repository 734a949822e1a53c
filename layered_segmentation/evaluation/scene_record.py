"""What `layerseg sample` says of the scenes that it wrote, so that nobody scores masks of others.

Scenes are numbered from 000001 whatever their seed and generator, and so are the masks that a
detector writes for them. The record lies beside images/ and is to be copied to the masks.
"""

import hashlib
import json
import os
import sys
from typing import Any

import numpy as np

from layered_segmentation.errors import UserError
from layered_segmentation.evaluation.generated import Generated

FILE = "scenes.json"


def write(directory: str, generated: Generated, count: int, run: str) -> None:
    """Writes the record of scenes 0 … count - 1.

    Args:
        directory: Where images/ and masks/ lie.
        generated: The scenes.
        count: How many were written.
        run: The run's directory.
    """
    from layered_segmentation.run_directory import write_text

    record = {
        "run": os.path.basename(os.path.abspath(run)),
        **_identity(generated),
        "count": count,
    }
    write_text(os.path.join(directory, FILE), json.dumps(record, indent=2) + "\n")


def check(masks: str, generated: Generated) -> None:
    """Refuses masks of other scenes than those to be scored; says so where nobody can know.

    The record is looked for in the directory of masks and beside it.

    Args:
        masks: The directory of masks.
        generated: The scenes that are scored.

    Raises:
        UserError: The masks are of other scenes, or the record is none.
    """
    beside = os.path.dirname(os.path.abspath(masks))
    for path in (os.path.join(masks, FILE), os.path.join(beside, FILE)):
        if os.path.isfile(path):
            _require_same(path, generated, masks)
            return
    print(
        f"--detector={masks}: its masks are taken to be of this run's scenes of "
        f"--seed={generated.seed}; copy the {FILE} of `layerseg sample --images_out` to them to "
        "have that checked",
        file=sys.stderr,
    )


def _require_same(path: str, generated: Generated, masks: str) -> None:
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        theirs = {key: record[key] for key in ("seed", "truncation", "generator")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--detector={masks}: {path} is not what `layerseg sample --images_out` writes "
            f"({type(error).__name__}: {error}); copy it anew, or remove it"
        ) from error
    ours = _identity(generated)
    if theirs["generator"] != ours["generator"]:
        raise UserError(
            f"--detector={masks}: the masks are of scenes of another generator, of the run "
            f"{record.get('run')!r} with weights {theirs['generator']} ({path}); this run's are "
            f"{ours['generator']}: name that --run_dir, or detect on this run's scenes"
        )
    if theirs["seed"] != ours["seed"]:
        raise UserError(
            f"--detector={masks}: the masks are of the scenes of --seed={theirs['seed']} "
            f"({path}), not of --seed={ours['seed']}; give --seed={theirs['seed']}"
        )
    if theirs["truncation"] != ours["truncation"]:
        raise UserError(
            f"--detector={masks}: the masks are of scenes of --truncation={theirs['truncation']} "
            f"({path}), but those of {ours['truncation']} are scored; detect on scenes that "
            "`layerseg sample` draws without --truncation"
        )


def _identity(generated: Generated) -> dict[str, Any]:
    """Returns what decides which scenes there are: seed, truncation and a hash of the weights."""
    digest = hashlib.sha256()
    for weight in generated.generator.get_weights():  # not the file: saved anew, it differs
        digest.update(np.ascontiguousarray(weight).tobytes())
    return {
        "seed": generated.seed,
        "truncation": generated.truncation,
        "generator": digest.hexdigest()[:12],
    }
