"""The content of the quickstart's report.html."""

import glob
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layered_segmentation import paths
from layered_segmentation.choices import SourceName
from layered_segmentation.evaluation import report

if TYPE_CHECKING:
    from layered_segmentation.run_directory import RunDirectory

_REFERENCES = {"full_mask": "full mask", "centre_box": "centre box", "grabcut": "GrabCut"}
_PHASES = {
    "train": "Training the layered GAN",
    "distill": "Training the student",
    "score": "Scoring, including references",
    "export": "Exporting and checking",
}
_EXAMPLES = {
    "best": "The best by score.",
    "median": "The median: half of them score better, half worse.",
    "worst": "The worst by score.",
    "photos": "Photos, predicted masks, cut-outs.",
}
COMPARED = "compared_"  # begins the names of the sheets for sliders


def page(
    out: str, run: "RunDirectory", results: Mapping[str, Any], examples: Sequence[report.Picture]
) -> report.Page:
    """Returns the page of a finished chain in `out`; `results` is its results.json."""
    config = run.config()
    records = run.read_log()
    is_shapes = config.data.name == SourceName.shapes and not results["test"]["images"]
    what = "scenes" if is_shapes else "photos"
    miou = results["miou"]
    facts = [
        ("Resolution", f"{results['resolution']} px"),
        ("Images seen", f"{results['images_seen']:,}"),
        ("Training", f"{results['images_per_second']['train']:,.0f} images/s"),
        ("Total time", report.seconds(results["seconds"])),
        ("Seed", f"{results['seed']}"),
    ]
    facts += report.quality_of(run)
    if miou is not None:
        facts[:0] = [("mIoU", f"{miou:.3f}"), ("Scored on", f"{results['images']:,} {what}")]
    return report.Page(
        title="Objects cut out, learned without labels",
        verdict=verdict(results, is_shapes),
        facts=facts,
        warnings=[*report.warnings_of(run), *_warnings(results)],
        **report.student_of(run),
        comparisons=read_comparisons(os.path.join(out, "examples")),
        examples=examples,
        examples_title=f"Unseen {what}" if _is_unseen(results) else what.capitalize(),
        examples_note=_examples_note(results, is_shapes),
        sheets=report.sheets_of(run),
        scores=_scores(results),
        scores_note=results.get("protocol") or "",
        curves=report.draw_curves(records, config.gan.mask_size),
        exports=[_export_row(out, name, row, what) for name, row in results["exports"].items()],
        exports_note=(
            "Each file was loaded again and compared with the Keras model on "
            f"{'drawn scenes' if is_shapes else 'photos'}."
        ),
        settings=report.settings_of(config),
        phases={_PHASES[name]: value for name, value in results["phases"].items()},
        machine=report.machine_of(run, {**results["machine"], **results["versions"]}),
        commands=_commands(os.path.relpath(run.path, out)),
    )


def verdict(results: Mapping[str, Any], is_shapes: bool) -> str:
    """Returns the outcome in a sentence or two, honestly."""
    what = "scenes" if is_shapes else "photos"
    miou = results["miou"]
    if miou is None:
        return (
            f"A student of {results['student']['parameters']:,} parameters now cuts objects out of "
            f"{what}. No true masks were given, so there is no score; judge by the cut-outs."
        )
    references = sorted(results["references"].items(), key=lambda item: -item[1])
    score = f"On {results['images']:,} unseen {what}, mean IoU is {miou:.3f}"
    better = [_REFERENCES.get(name, name) for name, value in references if value >= miou]
    if better:
        return f"{score}: no better than {_listed(better)}. The sheets show the failures."
    others = [f"{_REFERENCES.get(name, name)} {value:.3f}" for name, value in references]
    return f"{score}. Without learning: {_listed(others)}." if others else f"{score}."


def read_examples(directory: str) -> list[report.Picture]:
    """Returns the sheets of examples in a directory, captioned and in the order of the page."""
    pictures = []
    for name, caption in _EXAMPLES.items():
        path = os.path.join(directory, f"{name}.png")
        if os.path.exists(path):
            with open(path, "rb") as file:
                pictures.append(report.Picture(caption, file.read()))
    return pictures


def read_comparisons(directory: str) -> list[report.Comparison]:
    """Returns the photos with sliders in a directory of examples, in the order of the page."""
    places = list(_EXAMPLES)

    def name(path: str) -> str:
        return os.path.basename(path)[len(COMPARED) :].partition(".")[0].partition("_")[0]

    paths = glob.glob(os.path.join(glob.escape(directory), f"{COMPARED}*.png"))
    found = [path for path in sorted(paths) if name(path) in places]
    found.sort(key=lambda path: places.index(name(path)))
    captions = {**_EXAMPLES, "photos": ""}
    return [report.Comparison.read(path, captions[name(path)]) for path in found]


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _scores(results: Mapping[str, Any]) -> list[report.Score]:
    if results["miou"] is None:
        return []
    references = [
        report.Score(_REFERENCES.get(name, name), value, is_reference=True)
        for name, value in results["references"].items()
    ]
    student = [report.Score("student", results["miou"], results["miou_std"])]
    if refined := results.get("refined"):
        name = f"student, --refine={refined['refine']}"
        student.append(report.Score(name, refined["miou"], refined["miou_std"]))
    return [*student, *sorted(references, key=lambda score: -score.miou)]


def _warnings(results: Mapping[str, Any]) -> list[str]:
    """Returns the warnings in the verdict on the scored masks."""
    lines = [str(line) for line in results.get("verdict") or []]
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


def _is_unseen(results: Mapping[str, Any]) -> bool:
    return results["miou"] is not None or bool(results["test"]["images"])


def _examples_note(results: Mapping[str, Any], is_shapes: bool) -> str:
    name = paths.name_of(results["test"]["images"])
    if is_shapes and not name:
        return "Held-out scenes, which training never saw, with their true masks."
    if results["miou"] is not None:
        return f"Photos of {name} with their true masks."
    if name:
        return f"Photos of {name}."
    return "Some of the training photos. To see unseen ones, name them with --test_images."


def _export_row(out: str, name: str, row: Mapping[str, Any], what: str) -> dict[str, str]:
    return {
        "format": {"saved_model": "SavedModel", "tflite": "TFLite, float32"}[name],
        "file": os.path.relpath(row["path"], out),
        "size": f"{row['megabytes']:.2f} MB",
        "time per image": f"{row['milliseconds']:.1f} ms",
        "largest difference": f"{row['difference']:.1e}",
        "compared on": f"{row['images']} {what}",
    }


def _commands(run: str) -> list[report.Command]:
    """Returns what to do next in the directory of the page; it names no other path."""
    command = report.Command.of
    return [
        command(
            "Cut the object out of your photos, at their own size",
            "segment", segmenter=run, input="PHOTOS", out="CUT_OUTS",
        ),
        command(
            "Score on photos with masks",
            "evaluate", segmenter=run, images="PHOTOS", masks="MASKS",
        ),
        command("Draw more scenes", "sample", run_dir=run, out="sheet.png", seed=1),
        command(
            "The same on your own photos of one kind of object",
            "quickstart", images="PHOTOS", out="OUT",
        ),
    ]  # fmt: skip
