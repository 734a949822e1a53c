"""The chain of the quickstart: train the layered GAN, distill, score, export, report.

A complete phase is recorded in OUT/phases.json together with its inputs. A chain that was stopped
resumes with the first phase that is not recorded.
"""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from layered_segmentation import choices, files, records, sheets, versions
from layered_segmentation import config as configs
from layered_segmentation.cli import chain_page, tries
from layered_segmentation.data import folder, tfds
from layered_segmentation.data.source import Pair, note_few, open_source
from layered_segmentation.errors import UserError
from layered_segmentation.evaluation import examples, report, scoring, test_sets
from layered_segmentation.progress import Bar
from layered_segmentation.run_directory import RunDirectory

# Photos are larger than the student's masks, so they are scored with refinement too.
REFINE = choices.RECOMMENDED_REFINEMENT
EXAMPLES = 6  # photos in a band of a sheet
COMPARED = 3  # photos with a slider in the report, where there is no score

PHASES = {
    "train": "training the layered GAN",
    "distill": "training the student",
    "score": "scoring",
    "export": "exporting",
}

# Of results.json and phases.json, what is read again.
_SCORES = {
    "miou": records.is_number,
    "miou_std": records.is_number,
    "images": records.is_count,
    "references": records.table(records.is_number),
    "protocol": records.optional(records.is_text),
    "verdict": records.optional([records.is_text]),
    "refined": records.optional(
        {"refine": records.is_text, "miou": records.is_number, "miou_std": records.is_number}
    ),
}
_EXPORT = {
    "path": records.is_text,
    "images": records.is_count,
    **{name: records.is_number for name in ("megabytes", "milliseconds", "difference")},
}
_OUTCOMES: dict[str, dict[str, records.Shape]] = {
    "train": {"images_seen": records.is_count, "images_per_second": records.is_duration},
    "distill": {
        "parameters": records.is_count,
        "images_per_second": records.is_duration,
        **{name: records.is_number for name in ("loss", "agreement", "coverage")},
    },
    "score": {"scores": records.nullable(_SCORES)},
    "export": {"saved_model": _EXPORT, "tflite": _EXPORT},
}
_OF_ALL = {"inputs": records.is_anything, "seconds": records.is_duration}
_RESULTS = {
    "seconds": records.is_duration,
    "images_per_second": {"train": records.is_duration},
    "miou": records.nullable(records.is_number),
}


@dataclasses.dataclass(frozen=True)
class TestSet:
    """The photos that the student is tested on; masks are only ever used for scoring."""

    # Directory of photos. If empty, a chain on procedural scenes is scored on the held-out ones,
    # and one on photos shows some of its training photos.
    images: str = ""
    masks: str = ""  # directory of their true masks; without masks there is no score
    ignore: str = ""  # directory of masks of the pixels to leave out; may be empty
    values: tuple[int, ...] = ()  # of the object in `masks`, if these are label maps

    def described(self) -> dict[str, Any]:
        """Returns JSON values, as earlier versions recorded them if there are no `values`."""
        described = {**dataclasses.asdict(self), "values": list(self.values)}
        return {name: value for name, value in described.items() if name != "values" or value}


@dataclasses.dataclass(frozen=True)
class Chain:
    """A chain and its directory."""

    out: str
    config: configs.Config
    test: TestSet

    @property
    def run(self) -> RunDirectory:
        """The run directory inside `out`."""
        return RunDirectory(self.path("run"))

    @property
    def is_scored_on_scenes(self) -> bool:
        """Whether it is scored on procedural scenes, not on photos."""
        return self.config.data.name == choices.SourceName.shapes and not self.test.images

    def path(self, *names: str) -> str:
        """Returns a path inside `out`."""
        return os.path.join(self.out, *names)


def run(chain: Chain, devices: Sequence[str] = (), count: int = 1) -> dict[str, Any]:
    """Runs the remaining phases of a chain and writes results.json and report.html.

    Args:
        chain: The chain.
        devices: Devices to train on; see `strategy.open_strategy`.
        count: Number of runs to train, of which the best is kept; see `tries.choose`.

    Returns:
        The contents of results.json, and `already_finished`.

    Raises:
        UserError: The directory is taken, there are no usable photos, settings or test photos do
            not fit, or an export differs from the model.
    """
    if chain.config.train.strategy == choices.Strategy.multi_worker:
        raise UserError(
            "train.strategy=multi_worker: quickstart runs on one machine; use layerseg train on "
            "each worker, then layerseg distill"
        )
    if not tries.is_begun(chain.out):
        files.require_empty_or(chain.out, chain.run.config_path, "not a quickstart's")
    note_few(open_source(chain.config.data, chain.config.train.seed))
    pairs = test_pairs(chain)
    if count > 1:
        config = tries.choose(chain.out, chain.run, chain.config, count, devices)
        chain = dataclasses.replace(chain, config=config)
    directory = chain.run
    directory.create_or_resume(chain.config)
    with directory.lock():
        done = _read_phases(chain)
        left = [name for name in PHASES if not _is_done(chain, done, name)]
        finished = _finished_results(chain)
        if not left and finished is not None:
            return {**finished, "already_finished": True}
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "train": lambda: _train(chain, directory, devices),
            "distill": lambda: _distill(chain, directory, devices),
            "score": lambda: _score(chain, directory, pairs),
            "export": lambda: _export(chain, directory),
        }
        for number, name in enumerate(PHASES, start=1):
            if name not in left:
                continue
            print(f"[{number}/{len(PHASES)}] {PHASES[name]}", flush=True)
            start = time.perf_counter()
            outcome = steps[name]()
            outcome.setdefault("seconds", time.perf_counter() - start)
            done[name] = {**outcome, "inputs": _inputs(chain, name)}
            files.write_json(chain.path("phases.json"), done)
        results = _results(chain, directory, done)
        report.write_run_report(directory)
        page = chain_page.page(
            chain.out, directory, results, chain_page.read_examples(chain.path("examples"))
        )
        files.write_text(chain.path("report.html"), report.render(page))
        files.write_json(chain.path("results.json"), results)
    return {**results, "already_finished": False}


def _finished_results(chain: Chain) -> dict[str, Any] | None:
    """Returns results.json, which is written last, if it is of the same test set."""
    results: dict[str, Any] | None = records.read(chain.path("results.json"), _RESULTS)
    if results is None or results.get("test") != chain.test.described():
        return None
    return results if results["miou"] is None or records.matches(results, _SCORES) else None


def test_pairs(chain: Chain) -> Sequence[Pair] | None:
    """Returns the photos with masks to score on, or None if there are none.

    Raises:
        UserError: Directories are missing, empty, or do not match.
    """
    test = chain.test
    if test.masks and not test.images:
        raise UserError(f"--test_masks={test.masks}: name their photos with --test_images too")
    if test.values and not test.masks:
        raise UserError("--mask_value: it goes with --test_masks")
    if test.ignore and not test.masks:
        raise UserError(f"--test_ignore={test.ignore}: it goes with --test_masks")
    if test.masks:
        return folder.PairFolder(test.images, test.masks, test.ignore, test.values)
    if test.images:
        folder.find_photos(test.images, "--test_images")
        return None
    if chain.config.data.name == choices.SourceName.shapes:
        config = chain.config
        return test_sets.held_out_scenes(config.gan.resolution, objects=config.data.objects)
    return None


def _train(chain: Chain, directory: RunDirectory, devices: Sequence[str]) -> dict[str, Any]:
    from layered_segmentation.gan import trainer
    from layered_segmentation.segmenter import presets

    start = time.perf_counter()
    summary = trainer.train(
        chain.config, directory, devices, load_student=presets.load_background_student
    )
    seconds = time.perf_counter() - start
    print(
        f"trained on {summary.images_seen:,} images, {summary.images_per_second:,.1f} images/s",
        flush=True,
    )
    return {
        "images_seen": summary.images_seen,
        "images_per_second": summary.images_per_second,
        "seconds": max(seconds, summary.seconds),  # the latter includes earlier calls
    }


def _distill(chain: Chain, directory: RunDirectory, devices: Sequence[str]) -> dict[str, Any]:
    from layered_segmentation.evaluation import quality
    from layered_segmentation.gan import networks
    from layered_segmentation.segmenter import distill

    if not networks.are_whole(directory):  # damaged since they were trained
        _train(chain, directory, devices)
    segmenter, summary = distill.distill_run(
        directory, chain.config, directory.segmenter, overwrite=True, devices=devices
    )
    print(
        f"distilled {summary.steps:,} steps, {summary.images_per_second:,.1f} images/s", flush=True
    )
    measured = quality.measure_if_possible(directory, chain.config, segmenter)
    return {
        **dataclasses.asdict(summary),
        "parameters": segmenter.count_params(),
        "quality": dataclasses.asdict(measured) if measured else None,
    }


def _score(chain: Chain, directory: RunDirectory, pairs: Sequence[Pair] | None) -> dict[str, Any]:
    from layered_segmentation.segmenter import presets

    segmenter = presets.load(directory.path)
    shutil.rmtree(chain.path("examples"), ignore_errors=True)
    os.makedirs(chain.path("examples"))
    if pairs is None:
        folder_path = chain.test.images or chain.config.data.path
        if chain.config.data.name == choices.SourceName.tfds and not chain.test.images:
            sheet = _dataset_sheet(chain, segmenter.predict_masks)
        else:
            names = folder.find_photos(folder_path, "--images")
            sheet = examples.photo_sheet(
                segmenter.predict_masks, folder_path, names, 2 * EXAMPLES, columns=EXAMPLES
            )
            for number, image in enumerate(examples.read_spaced(folder_path, names, COMPARED)):
                _compare(chain, f"photos_{number}", segmenter.predict_masks, image)
        sheets.save_png(sheet, chain.path("examples", "photos.png"))
        return {"scores": None}
    with Bar(len(pairs), "scoring", "image") as bar:
        scores = scoring.score(segmenter.predict_masks, pairs, progress=bar.update)
    scores.write_csv(chain.path("scores.csv"))
    label = "scene" if chain.is_scored_on_scenes else "photo"
    for name, indices in examples.ranked(scores, EXAMPLES).items():
        sheet = examples.scored_sheet(
            segmenter.predict_masks, pairs, scores, indices, EXAMPLES, label
        )
        sheets.save_png(sheet, chain.path("examples", f"{name}.png"))
        if label == "photo":
            place = len(indices) // 2 if name == "median" else 0
            _compare(chain, name, segmenter.predict_masks, pairs[indices[place]].image)
    results = scores.to_results()
    if not chain.test.masks:
        side = chain.config.gan.resolution
        results["protocol"] = (
            f"{test_sets.HELD_OUT} held-out scenes at {side} px. {results['protocol']}"
        )
    print(f"mIoU {scores.miou:.3f} ± {scores.miou_std:.3f} on {scores.images} images", flush=True)
    if chain.test.masks:
        results["refined"] = _score_refined(segmenter.predict_masks, pairs)
    return {"scores": results}


def _compare(chain: Chain, name: str, predict: scoring.Predict, image: np.ndarray) -> None:
    """Writes a photo and its cut-out, for the report's slider."""
    sheet = sheets.before_after(image, predict([image])[0])
    sheets.save_png(sheet, chain.path("examples", f"{chain_page.COMPARED}{name}.png"))


def _score_refined(predict: scoring.Predict, pairs: Sequence[Pair]) -> dict[str, Any]:
    with Bar(len(pairs), "scoring, refined", "image") as bar:
        scores = scoring.score(predict, pairs, refine=REFINE, references=False, progress=bar.update)
    print(f"refined by {REFINE}: mIoU {scores.miou:.3f} ± {scores.miou_std:.3f}", flush=True)
    return {"refine": REFINE, "miou": scores.miou, "miou_std": scores.miou_std}


def _dataset_sheet(chain: Chain, predict: scoring.Predict) -> np.ndarray:
    """Shows the first photos of a prepared dataset."""
    data = chain.config.data
    images = tfds.TFDSSource(data.dataset, data.data_dir).first(2 * EXAMPLES)
    return sheets.segmentation_sheet(images, None, predict(images), columns=EXAMPLES)


def _export(chain: Chain, directory: RunDirectory) -> dict[str, Any]:
    from layered_segmentation.export import saved_model, tflite
    from layered_segmentation.segmenter import domain, presets

    segmenter = presets.load(directory.path)
    statistics = domain.of_segmenter(directory.path)
    shutil.rmtree(chain.path("export"), ignore_errors=True)  # left by a chain that was stopped
    images = chain.test.images or chain.config.data.path
    return {
        "saved_model": dataclasses.asdict(
            saved_model.export_saved_model(segmenter, chain.path("export", "saved_model"), images)
        ),
        "tflite": dataclasses.asdict(
            tflite.export_tflite(
                segmenter,
                chain.path("export", "segmenter.tflite"),
                images=images,
                statistics=statistics,
            )
        ),
    }


def _inputs(chain: Chain, phase: str) -> dict[str, Any] | None:
    """Returns the inputs of a phase besides the config, which never changes in a directory."""
    return chain.test.described() if phase == "score" else None


def _is_done(chain: Chain, done: dict[str, Any], phase: str) -> bool:
    return phase in done and done[phase]["inputs"] == _inputs(chain, phase)


def _read_phases(chain: Chain) -> dict[str, Any]:
    """Returns the records of complete phases; those with a damaged record run again."""
    phases = records.read(chain.path("phases.json"), {}) or {}
    return {
        name: phases[name]
        for name, shape in _OUTCOMES.items()
        if records.matches(phases.get(name), {**_OF_ALL, **shape})
    }


def _results(chain: Chain, directory: RunDirectory, done: dict[str, Any]) -> dict[str, Any]:
    config = chain.config
    phases = {name: round(done[name]["seconds"], 3) for name in PHASES}
    return {
        **(done["score"]["scores"] or {"miou": None}),
        "seconds": round(sum(phases.values()), 3),
        "phases": phases,
        "images_seen": done["train"]["images_seen"],
        "images_per_second": {
            "train": done["train"]["images_per_second"],
            "distill": done["distill"]["images_per_second"],
        },
        "student": {
            key: done["distill"][key] for key in ("parameters", "loss", "agreement", "coverage")
        },
        "quality": done["distill"].get("quality"),
        "exports": {name: done["export"][name] for name in ("saved_model", "tflite")},
        "resolution": config.gan.resolution,
        "seed": config.train.seed,
        "settings": {
            one.name: one.value for one in report.settings_of(config) if not one.is_default
        },
        "settings_hash": settings_hash(config),
        "test": chain.test.described(),
        "run_dir": directory.path,
        "versions": versions.installed(),
        "machine": versions.machine(),
    }


def settings_hash(config: configs.Config) -> str:
    """Returns twelve hexadecimal digits that identify a config."""
    text = json.dumps(dataclasses.asdict(config), sort_keys=True)
    return files.digest(text)[:12]
