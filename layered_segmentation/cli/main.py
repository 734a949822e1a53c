"""The `layerseg` command: finds the verb and imports only its module."""

import ast
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import layered_segmentation
from layered_segmentation.cli import app

GROUPS = {
    "Use a segmenter": ("quickstart", "segment", "evaluate", "export", "client"),
    "Train one": ("prepare", "extract", "train", "sample", "distill", "quality"),
    "Reproduce the paper": (
        "autoencode", "autoencode_chunks", "evaluate_generated", "fid", "table", "grey_detector",
        "convert",
    ),
    "Maintain": ("publish", "ladder", "benchmark", "benchmark_data", "benchmark_memory"),
}  # fmt: skip
VERBS = tuple(verb for verbs in GROUPS.values() for verb in verbs)

# Flags of the last release that chose a mode, with the verb that the mode is now.
_MODES = {
    "evaluate": {
        "measure=segmentation": "evaluate",
        "measure=generated": "evaluate_generated",
        "measure=fid": "fid",
    },
    "autoencode": {"mode=dataset": "autoencode", "mode=chunks": "autoencode_chunks"},
    "benchmark": {"data": "benchmark_data", "data=true": "benchmark_data", "nodata": "benchmark"},
}

_EXAMPLES = """\
Examples:
  layerseg quickstart --out=quickstart                    built-in scenes, end to end
  layerseg quickstart --images=PHOTOS --out=OUT           the same on your own photos
  layerseg VERB --help                                    a verb's flags, with an example"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `layerseg VERB --flags`; exits with the verb's status."""
    app.show_any_text()
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
    verb, rest = _without_mode(verb, rest)
    module = importlib.import_module(f"layered_segmentation.cli.{verb}")
    # absl names the program by the first element.
    app.run(module.main, argv=[f"layerseg {verb}", *rest])


def usage() -> str:
    """Returns the list of verbs by group."""
    width = max(map(len, VERBS))
    lines = [
        "layerseg learns from unlabelled photos of one kind of object to cut that object out.",
        "",
        "Usage: layerseg VERB --flag=value …",
        "",
    ]
    for title, verbs in GROUPS.items():
        described = [f"  {verb:<{width}}  {_description(verb)}" for verb in verbs]
        lines += [f"{title}:", *described, ""]
    return "\n".join([*lines, _EXAMPLES])


def _description(verb: str) -> str:
    """Returns the first line of a verb's docstring, without importing the verb."""
    name = f"layered_segmentation.cli.{verb}"
    spec: Any = importlib.util.find_spec(name)
    return str(ast.get_docstring(ast.parse(spec.loader.get_source(name)))).partition("\n")[0]


def _without_mode(verb: str, arguments: list[str]) -> tuple[str, list[str]]:
    """Replaces the last release's spelling of a mode by the verb that it is now."""
    if verb not in _MODES:
        return verb, arguments
    chosen, rest, remaining = verb, [], iter(arguments)
    for argument in remaining:
        if argument in ("--measure", "--mode"):  # the value is the next argument
            argument = f"{argument}={next(remaining, '')}"
        mode = argument.removeprefix("-").removeprefix("-")
        if argument.startswith("-") and mode in _MODES[verb]:
            chosen = _MODES[verb][mode]
            note = f"`layerseg {verb} --{mode}` is now `layerseg {chosen}`"
            print(f"layerseg: note: {note}; the old spelling will be removed", file=sys.stderr)
        else:
            rest.append(argument)
    return chosen, rest


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
