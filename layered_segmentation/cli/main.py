"""The `layerseg` command: picks the verb and imports only that verb's module."""

import difflib
import importlib
import sys
from collections.abc import Sequence

import layered_segmentation
from layered_segmentation.cli import app

VERBS = {
    "quickstart": "Learns to cut out objects, scores it, exports it: the whole chain, one command.",
    "prepare": "Makes a dataset to train on from LSUN's or CUB's archives or a folder of photos.",
    "extract": "Writes a prepared dataset's photos, and its masks, as files.",
    "train": "Trains the layered GAN on unlabelled photos of one kind of thing.",
    "sample": "Draws a sheet of generated layers from a trained run.",
    "distill": "Trains the student segmenter on generated image/mask pairs.",
    "autoencode": "Trains the paper's encoder, which segments through the generator.",
    "segment": "Writes masks and cut-outs for photos.",
    "export": "Exports a segmenter: a SavedModel for model servers or a TFLite file for phones.",
    "client": "Segments photos on a model server and writes masks and cut-outs.",
    "evaluate": "Scores masks against true ones or a detector's, or images by FID.",
    "table": "Puts the paper's table 1, 2 or 3 beside the scores of own runs.",
    "publish": "Uploads a segmenter with its model card to Hugging Face or Kaggle.",
    "convert": "Converts a checkpoint of the authors' PyTorch release to a run directory.",
    "grey_detector": "Trains a detector that sees no colour, to score generated embedded scenes.",
    "ladder": "Compares students of several sizes as TFLite files: mIoU, time, size.",
    "benchmark": "Measures training throughput on this machine.",
}

_EXAMPLES = """\
Examples:
  layerseg quickstart --out=quickstart                    an embedded dataset, end to end
  layerseg quickstart --images=PHOTOS --out=OUT           the same on your own photos
  layerseg VERB --help                                    a verb's flags, with an example"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `layerseg VERB --flags`; exits with the verb's status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(usage(), file=sys.stderr)
        sys.exit(2)
    verb, rest = arguments[0], arguments[1:]
    if verb in ("help", "--help", "-help", "-h", "-?", "--helpfull", "--helpshort"):
        if verb == "help" and rest and rest[0] in VERBS:
            verb, rest = rest[0], ["--help"]
        else:
            app.print_help(usage())
    if verb in ("--version", "version"):
        print(f"layered_segmentation {layered_segmentation.__version__}")
        sys.exit(0)
    if verb not in VERBS:
        sys.exit(_unknown(verb))
    module = importlib.import_module(f"layered_segmentation.cli.{verb}")
    # absl names the program by the first element.
    app.run(module.main, argv=[f"layerseg {verb}", *rest])


def usage() -> str:
    """Returns the list of verbs with what each does."""
    width = max(map(len, VERBS))
    lines = [
        "layerseg learns from unlabelled photos of one kind of thing to cut that thing out.",
        "",
        "Usage: layerseg VERB --flag=value …",
        "",
        "Verbs:",
        *(f"  {verb:<{width}}  {description}" for verb, description in VERBS.items()),
        "",
        _EXAMPLES,
    ]
    return "\n".join(lines)


def _unknown(verb: str) -> int:
    if verb.startswith("-"):
        message = f"the first argument is a verb, not a flag ({verb})"
    else:
        close = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.5)
        message = f"unknown verb {verb!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    print(f"layerseg: error: {message}\nverbs: {', '.join(VERBS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
