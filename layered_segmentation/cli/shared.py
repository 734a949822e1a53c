"""Flags that several verbs share, and how they write results."""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from layered_segmentation import files
from layered_segmentation.choices import RECOMMENDED_REFINEMENT, Instances, Refinement
from layered_segmentation.cli import app
from layered_segmentation.config import Config
from layered_segmentation.config_files import is_power_of_two
from layered_segmentation.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from layered_segmentation.evaluation.detectors import Detector
    from layered_segmentation.evaluation.scoring import Scores
    from layered_segmentation.run_directory import RunDirectory

flags.disclaim_key_flags()  # flags that are defined here belong to the verb that calls

RESULTS, TABLE, SHEET = "results.json", "per_image.csv", "sheet.png"


class DetectorFlags:
    """The flags that choose a detector, defined for the calling verb."""

    def __init__(self, required: bool):
        self._detector = flags.DEFINE_string(
            "detector",
            None if required else "",
            "Detector whose masks count as true: a directory of masks (0 where nothing is found), "
            "a TensorFlow detection SavedModel with masks, or a run or preset of this package.",
            required=required,
        )
        self._class = flags.DEFINE_integer(
            "detector_class", 3, "SavedModel: class number of the object; 3 is COCO's car.", 0
        )
        self._score = flags.DEFINE_float(
            "detector_score", 0.5, "SavedModel: minimum score of a detection.", 0.0, 1.0
        )
        self._instances = flags.DEFINE_enum(
            "detector_instances",
            Instances.union,
            list(Instances),
            "SavedModel: which instances to use if there are several.",
        )
        self._trust = define_trust_flag("--detector")
        self._values = define_value_flag("detector_value", "--detector")
        self._options = (self._class, self._score, self._instances, self._trust, self._values)
        for option in self._options:
            app.goes_with(option, self._detector)

    @property
    def path(self) -> str:
        """The value of `--detector`."""
        return self._detector.value or ""

    def check(self) -> None:
        """Refuses flags that the kind of detector does not have."""
        given = [flag.name for flag in self._options if flags.FLAGS[flag.name].present]
        if given:
            from layered_segmentation.evaluation import detectors

            kind = detectors.kind_of(self.path)
            for flag in given:
                wanted = detectors.MASKS if flag == self._values.name else detectors.SAVED_MODEL
                if kind != wanted:
                    raise UserError(
                        f"--{flag}: it goes with {wanted}, and --detector={self.path} is {kind}; "
                        "leave it out"
                    )

    def open(self) -> "Detector":
        """Opens the detector."""
        from layered_segmentation.evaluation import detectors

        return detectors.open_detector(
            self.path,
            class_id=self._class.value,
            score=self._score.value,
            instances=self._instances.value,
            trust=self._trust.value,
            values=self._values.value,
        )


def define_trust_flag(graph: str) -> "flags.FlagHolder[bool]":
    """Defines `--trust` for the calling verb and returns it; `graph` is the flag of the graph."""
    return flags.DEFINE_bool(
        "trust",
        False,
        f"Let a graph of {graph} run operators that reach files, the network or other programs.",
    )


def define_detector_size_flag() -> "flags.FlagHolder[int]":
    """Defines `--detector_size` for the calling verb and returns it."""
    return flags.DEFINE_integer(
        "detector_size",
        0,
        "Side that composites and masks are resized to for the detector, pixels; the generator's "
        "resolution if 0. The paper enlarges 64 px to 128.",
        0,
        4096,
    )


def define_stage_flag() -> "flags.FlagHolder[int]":
    """Defines `--stage` for the calling verb and returns it."""
    return flags.DEFINE_integer(
        "stage",
        0,
        "Resolution of an earlier stage: use what the run kept at its end, RUN/stages/STAGE, and "
        "write there; 0 is the final stage.",
        0,
    )


def open_run(path: str, stage: int) -> "RunDirectory":
    """Opens a run, or what it kept of a stage if that is not 0."""
    from layered_segmentation.run_directory import RunDirectory

    return RunDirectory.open(path).at_stage(stage)


def segmenter_at(path: str, stage: int) -> str:
    """Returns the path of a segmenter, or that of a stage of its run if that is not 0."""
    return open_run(path, stage).path if stage else path


def note_few_photos(config: Config) -> None:
    """Prints a warning if a config names few photos."""
    from layered_segmentation.data.source import note_few, open_source

    with contextlib.suppress(UserError):  # what needs the photos names the reason
        note_few(open_source(config.data, config.train.seed))


def note_changed_photos(run: "RunDirectory") -> None:
    """Prints a note if the photos of a run are not those that it was trained on."""
    from layered_segmentation.data.source import open_source

    config = run.config()
    try:
        photos = open_source(config.data, config.train.seed).inventory()
    except UserError:  # what needs them names the reason
        return
    run.note_changed_photos(photos)


def define_refine_flag(default: Refinement = Refinement.none) -> "flags.FlagHolder[str]":
    """Defines `--refine` for the calling verb and returns it."""
    return flags.DEFINE_enum(
        "refine",
        default,
        list(Refinement),
        "How to fit the mask to the photo's edges at the photo's own size; "
        f"{RECOMMENDED_REFINEMENT} is recommended.",
    )


def define_looks_flag() -> "flags.FlagHolder[int]":
    """Defines `--looks` for the calling verb and returns it."""
    return flags.DEFINE_integer(
        "looks", 1, "2: segment each object again, from a crop around it.", 1, 2
    )


def define_max_pixels_flag() -> None:
    """Defines `--max_pixels` for the calling verb; the command line passes it on to `images`."""
    flags.DEFINE_integer(
        "max_pixels",
        0,
        "Photos with more pixels are not read, since a small file can hold more than fit into "
        "memory; 0 is Pillow's limit, 89,478,485.",
        0,
    )


def define_value_flag(name: str, flag: str) -> "flags.FlagHolder[list[int]]":
    """Defines a flag for the values of the object in masks that are label maps.

    Args:
        name: Of the flag.
        flag: The flag that names the masks.
    """
    return flags.DEFINE_multi_integer(
        name,
        [],
        f"Value of the object in {flag}, if these are label maps; may be repeated. 255 is then not "
        "scored.",
        0,
    )


def require_free(out: str, names: Sequence[str], overwrite: bool) -> None:
    """Raises a UserError if `--out` is a file, or has one of these files and no `--overwrite`."""
    files.require_directory(out)
    taken = [name for name in names if os.path.exists(os.path.join(out, name))]
    if taken and not overwrite:
        exist = "already exists" if len(taken) == 1 else "already exist"
        raise UserError(
            f"--out={out}: {', '.join(taken)} {exist}; name another --out or add --overwrite"
        )


def write_results(
    out: str,
    results: Mapping[str, Any],
    scores: "Scores | None" = None,
    pictures: "Mapping[str, np.ndarray] | None" = None,
) -> None:
    """Writes a measurement's scores per image, PNG files by name, and results.json, the last."""
    from layered_segmentation import sheets

    os.makedirs(out, exist_ok=True)
    names = [TABLE, *(pictures or {}), RESULTS]
    with files.undoing(*(os.path.join(out, name) for name in names)):
        if scores is not None:
            scores.write_csv(os.path.join(out, TABLE))
        for name, picture in (pictures or {}).items():
            sheets.save_png(picture, os.path.join(out, name))
        files.write_json(os.path.join(out, RESULTS), results, ensure_ascii=False)


def print_skipped(messages: Sequence[str], why: str = " that cannot be read") -> int:
    """Prints a message for each photo that was skipped; returns the exit status."""
    if messages:
        print(f"skipped {len(messages):,}{why}:", file=sys.stderr)
        print("\n".join(f"  {message}" for message in messages), file=sys.stderr)
    return 1 if messages else 0


def parse_resolutions(texts: Sequence[str]) -> list[int]:
    """Parses the values of `--resolutions`; raises a UserError if one cannot be a resolution."""
    for text in texts:
        if not (text.isdigit() and is_power_of_two(int(text))):
            raise UserError(f"--resolutions={text}: a resolution is a power of two from 8")
    return [int(text) for text in texts]


def require_new_file(out: str, overwrite: bool) -> None:
    """Raises a UserError if the file `--out` exists and may not be overwritten."""
    if out and os.path.exists(out) and not overwrite:
        raise UserError(f"--out={out}: it exists; name another file or add --overwrite")
