"""The directory of one run: config, log, checkpoints, sheets, generator, segmenter, report.

A run is a pure function of its config, so a directory keeps its config: the same config resumes the
run, another one is refused with the fields that differ.
"""

import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from layered_segmentation import config as configs
from layered_segmentation import config_files, files, inventory, records
from layered_segmentation.errors import UserError

# Names that a directory may hold and still become a run.
_NEGLIGIBLE = {"lock", "config.yaml.partial", files.partial_path("config.yaml"), ".DS_Store"}
# What lies next to the preset of a student, after its name: results, and its masks by phase.
STUDENT_RESULTS, STUDENT_MASKS = "_results.json", "_masks.png"
_SECTIONS = ("data", "gan", "schedule", "train")  # of every config.yaml that a run has written
_METRICS = (
    "resolution", "images_per_second", "wasserstein", "gradient_penalty", "coverage",
    "binarisation",
)  # fmt: skip
_RECORD = {
    "images_seen": records.is_count,
    "seconds": records.optional(records.is_duration),
    "restart": records.optional(records.is_count),
    "collapse": records.optional(records.is_text),
    **{name: records.optional(records.is_number) for name in _METRICS},
}
_FINISHED = {
    "images_seen": records.is_count,
    "seconds": records.is_duration,
    "images_per_second": records.is_duration,
}


@dataclasses.dataclass(frozen=True)
class Finished:
    """How a finished run went."""

    images_seen: int  # real images that the discriminator has seen
    seconds: float  # wall time of training in all sessions
    images_per_second: float  # mean over that time


def is_run(path: str) -> bool:
    """Returns whether a directory is that of a run, begun or finished."""
    names = ("lock", "log.jsonl", "checkpoints", "generator", "segmenter", "finished.json")
    return os.path.isfile(os.path.join(path, "config.yaml")) and any(
        os.path.exists(os.path.join(path, name)) for name in names
    )


class RunDirectory:
    """Paths and files of one run.

    Args:
        path: The directory; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self.config_path = self._inside("config.yaml")  # the effective config
        self.log_path = self._inside("log.jsonl")  # one JSON record per line
        self.checkpoints = self._inside("checkpoints")  # directory of the last ones
        self.sheets = self._inside("sheets")  # directory of PNG files, named by images seen
        self.tensorboard = self._inside("tensorboard")  # directory of event files
        # The averaged generator, and the discriminator, whose features the encoder's loss uses.
        self.generator = self._inside("generator")
        self.generator_file = self._inside("generator", "generator.keras")
        self.discriminator_file = self._inside("generator", "discriminator.keras")
        # The generator itself, not its average; only of a stage that was kept.
        self.trained_generator_file = self._inside("generator", "trained_generator.keras")
        self.encoder = self._inside("encoder")  # KerasHub preset: encoder and generator
        self.segmenter = self._inside("segmenter")  # KerasHub preset of the student
        self.report = self._inside("report.html")
        self.photos_path = self._inside("photos.txt")  # the photos it trains on, one per line
        self.machine_path = self._inside("machine.json")  # versions, threads, last devices
        self.precision_path = self._inside("precision.json")  # the choice of train.precision=auto
        # SHA-256 of the weights of gan.background_student
        self.student_path = self._inside("background_student.json")
        self.attempts = self._inside("attempts")  # what collapsed attempts have left, by number
        self.restart_path = self._inside("restart.json")  # only while one is moved there
        self.finished_path = self._inside("finished.json")  # written when training has finished
        self._lock = files.Lock(
            self._inside("lock"),
            f"{self.path}: another process is training in it; wait for it, stop it, or name "
            "another directory",
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunDirectory":
        """Opens an existing run.

        Raises:
            UserError: `path` is not the directory of a run.
        """
        run = cls(path)
        if not os.path.isdir(run.path):
            raise UserError(f"{run.path}: there is no such directory")
        if not os.path.isfile(run.config_path):
            raise UserError(
                f"{run.path}: not a run, it holds no config.yaml; "
                "`layerseg train --run_dir=…` makes one"
            )
        return run

    def at_stage(self, resolution: int) -> "RunDirectory":
        """Opens what was kept at the end of a stage: a run of that resolution.

        Args:
            resolution: The stage's; 0 or the final resolution for the run itself.

        Raises:
            UserError: Nothing was kept of that stage.
        """
        final = self.config().gan.resolution
        if resolution in (0, final):
            return self
        stage = RunDirectory(self.stage_path(resolution))
        if stage.finished() is None:
            stages = os.path.dirname(stage.path)
            names = os.listdir(stages) if os.path.isdir(stages) else []
            kept = sorted(int(name) for name in names if name.isdigit())
            raise UserError(
                f"--stage={resolution}: {self.path} kept no networks of that stage; it has those "
                f"of {', '.join(map(str, [*kept, final]))} px. A run keeps the stages of "
                "train.keep_stages, each at its end"
            )
        return stage

    def _inside(self, *names: str) -> str:
        return os.path.join(self.path, *names)

    def stage_path(self, resolution: int) -> str:
        """Directory of what was kept at the end of a stage."""
        return self._inside("stages", str(resolution))

    def create_or_resume(self, config: configs.Config) -> bool:
        """Makes the directory a run of `config`, or checks that it already is.

        Args:
            config: The effective config.

        Returns:
            Whether the run had begun before.

        Raises:
            UserError: The path is a file, holds something that is not a run, holds a run of
                another config, or another process is training in it. Nothing is changed.
        """
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise UserError(f"{self.path}: a file has this name; name a directory")
        if os.path.isdir(self.path):
            others = sorted(set(os.listdir(self.path)) - _NEGLIGIBLE)
            if others and "config.yaml" not in others:
                raise UserError(
                    f"{self.path}: the directory is not empty and not a run (it holds "
                    f"{others[0]!r}); name an empty or a new one"
                )
        if os.path.exists(self.config_path):
            self.require_same(config)  # before the lock, which leaves a file
        os.makedirs(self.path, exist_ok=True)
        with self.lock():
            if os.path.exists(self.config_path):
                self.require_same(config)
                if self.has_begun():
                    self._mend_config(config)
                    return True
            configs.save(config, self.config_path)
            return False

    def keep_inventory(self, photos: Sequence[str]) -> None:
        """Records which photos a run trains on, or checks that they are the same as before.

        Args:
            photos: One line per photo, in order; empty if the config determines the images.

        Raises:
            UserError: The run has begun with other photos. Nothing is changed.
        """
        if os.path.exists(self.photos_path) and self.has_begun():
            text = _read(self.photos_path)
            before = text.split("\n")[:-1]
            photos = inventory.comparable(photos, before)
            if before == list(photos):
                return
            if not text.endswith("\n") and list(photos[: len(before)]) == before:
                print(f"{self.photos_path}: was cut off; written again", file=sys.stderr)
                files.write_text(self.photos_path, "".join(f"{line}\n" for line in photos))
                return
            raise UserError(
                f"{self.path}: its photos have changed ({inventory.changes(before, photos)}). A "
                f"run trains on the same photos to its end: bring back those that "
                f"{self.photos_path} lists, name and bytes, and move new ones away, also those of "
                "kinds that an earlier version did not read; or name another directory for a new "
                "run"
            )
        if photos:
            files.write_text(self.photos_path, "".join(f"{line}\n" for line in photos))

    def note_changed_photos(self, photos: Sequence[str]) -> None:
        """Prints a note if a finished run's photos are not those that it was trained on.

        Args:
            photos: As for `keep_inventory`, but those that cannot be read may be among them.
        """
        if not os.path.exists(self.photos_path):
            return
        before = _read(self.photos_path).split("\n")[:-1]
        photos = inventory.comparable(photos, before)
        skipped = self._inside("skipped.txt")
        unread = len(_read(skipped).split("\n")) if os.path.exists(skipped) else 0
        if not {*before} - {*photos} and len(photos) <= len(before) + unread:
            return
        print(
            f"note: {self.path}: its photos have changed since it was trained "
            f"({inventory.changes(before, photos)}); this step uses those that are there now",
            file=sys.stderr,
            flush=True,
        )

    def config(self, overrides: Sequence[str] = ()) -> configs.Config:
        """Returns the run's effective config, perhaps with other settings; see `config_with`.

        Raises:
            UserError: Its file is damaged.
        """
        if self._config_is_cut_off():
            raise UserError(
                f"{self.config_path}: is cut off; repeat the `layerseg train` command that "
                "started the run: it writes the file again"
            )
        return configs.load(self.config_path, overrides)

    def config_with(self, section: str, overrides: Sequence[str]) -> configs.Config:
        """Returns the run's config with other settings in one section, for steps after training.

        Args:
            section: The only section that may differ.
            overrides: `section.field=value` strings.

        Raises:
            UserError: An override is of another section, or not possible.
        """
        for override in overrides:
            if not override.startswith(f"{section}."):
                raise UserError(
                    f"--set={override}: only {section}.* can be set here; the rest belongs to the "
                    f"trained run ({self.config_path})"
                )
        return self.config(overrides)

    def lock(self) -> files.Lock:
        """Returns the lock that keeps other processes from training in this directory.

        The same object may enter it several times. It is an error if another process holds it.
        """
        return self._lock

    def append_log(self, record: Mapping[str, Any]) -> None:
        """Appends one record; a number that is not finite becomes null.

        Args:
            record: JSON values, with `images_seen`.
        """
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        with open(self.log_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """Returns the records, oldest first; damaged lines are left out."""
        found = (records.parse(line, _RECORD) for line in self._log_lines())
        return [record for record in found if record is not None]

    def logged_seconds(self) -> float:
        """Returns the training time of all sessions, as far as it is logged."""
        return max((record.get("seconds") or 0.0 for record in self.read_log()), default=0.0)

    def truncate_log(self, images_seen: int) -> None:
        """Drops records after a checkpoint, so that a resumed run logs nothing twice.

        Damaged lines are dropped too.

        Args:
            images_seen: Images seen at the checkpoint that training resumes from.
        """
        if not os.path.exists(self.log_path):
            return
        whole = self.read_log()
        if damaged := len(self._log_lines()) - len(whole):
            print(f"{self.log_path}: dropped {damaged} damaged lines", file=sys.stderr)
        kept = [record for record in whole if record["images_seen"] <= images_seen]
        files.write_text(self.log_path, "".join(json.dumps(record) + "\n" for record in kept))

    def finish(self, images_seen: int, seconds: float, images_per_second: float) -> None:
        """Marks training as finished; call it last."""
        finished = Finished(images_seen, seconds, images_per_second)
        files.write_json(self.finished_path, dataclasses.asdict(finished))

    def finished(self) -> Finished | None:
        """Returns how training went, or None if it is not finished.

        Also None if the record is damaged: training then writes it again from the last checkpoint.
        """
        found = records.read(self.finished_path, _FINISHED)
        return None if found is None else Finished(**{name: found[name] for name in _FINISHED})

    def finished_as(self, config: configs.Config) -> Finished | None:
        """Returns how training of this config went, or None if it is not finished.

        Raises:
            UserError: The finished run has another config.
        """
        finished = self.finished()
        if finished is not None:
            self.require_same(config)
            self._mend_config(config)
        return finished

    def drawn_sheets(self) -> dict[int, str]:
        """Returns the paths of the sheets by images seen, in order."""
        names = os.listdir(self.sheets) if os.path.isdir(self.sheets) else []
        numbers = {int(name[:-4]): name for name in names if re.fullmatch(r"\d+\.png", name)}
        return {seen: os.path.join(self.sheets, numbers[seen]) for seen in sorted(numbers)}

    def traces(self) -> list[str]:
        """Returns what shows that the run has trained: its log, event files, sheets."""
        seen = max((record["images_seen"] for record in self.read_log()), default=0)
        traces = [f"{self.log_path} reaches {seen:,} images seen"] if seen else []
        for directory in (self.tensorboard, self.sheets):
            if os.path.isdir(directory) and os.listdir(directory):
                traces.append(f"there are files in {directory}")
        return traces

    def has_begun(self) -> bool:
        """Returns whether a change of the config would lose anything."""
        traces = (self.checkpoints, self.log_path, self.finished_path, self.attempts)
        return any(map(os.path.exists, traces))

    def _config_is_cut_off(self) -> bool:
        """Returns whether part of the config of a run that has begun is missing."""
        text = "\n" + _read(self.config_path)
        is_whole = text.endswith("\n") and all(f"\n{section}:" in text for section in _SECTIONS)
        return self.has_begun() and not is_whole

    def _mend_config(self, config: configs.Config) -> None:
        """Writes a config that is cut off again, after `require_same` checked what is left."""
        if self._config_is_cut_off():
            print(f"{self.config_path}: was cut off; written again", file=sys.stderr)
            configs.save(config, self.config_path)

    def _log_lines(self) -> list[str]:
        return _read(self.log_path).split("\n")[:-1] if os.path.exists(self.log_path) else []

    def require_same(self, config: configs.Config) -> None:
        """Raises UserError if the directory holds a run of another config."""
        if self._config_is_cut_off():
            if configs.to_yaml(config).startswith(_read(self.config_path)):
                return
            raise UserError(
                f"{self.config_path}: is cut off, and the part that is left differs from this "
                "config; use the settings that started the run, or name another directory"
            )
        try:
            saved = self.config()
        except UserError as error:
            raise UserError(
                f"{self.path}: the config.yaml in it is not a run's ({error}); "
                "name another directory"
            ) from error
        lines = [
            line
            for line in config_files.differences(saved, config)
            if not line.startswith(configs.NOT_TRAINED)
        ]
        # Settings may be corrected before the first step, for instance after unusable photos.
        if lines and (self.has_begun() or not configs.is_saved(self.config_path)):
            raise UserError(
                f"{self.path}: it holds a run of another config; name another directory, or "
                f"use the same settings ({self.config_path}). The run's != yours:\n  "
                + "\n  ".join(lines)
            )


def _read(path: str) -> str:
    """Returns the text of a file, damaged or not."""
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return file.read()
