"""The framework of all verbs: flags, help, exit statuses and readable errors.

A verb is a module `cli/<verb>.py`. The first line of its docstring says what it does, and the
docstring ends with an `Example:`. The module defines absl flags at import, has `main(argv)`,
imports heavy modules inside `main`, and ends with `if __name__ == "__main__": app.run(main)`. It
may set `RESUME`, which tells how to continue after an interruption or a full disk, and
`ARGUMENTS`, the positional arguments that the help shows.

Exit statuses: 0 success; 1 the machine failed (no disk space, no permission); 2 the user can fix it
(flags, settings, input); 130 interrupted by Ctrl-C, 143 by SIGTERM; 141 the reader of the
output is gone.
"""

import contextlib
import difflib
import errno
import inspect
import io
import os
import platform
import re
import select
import shlex
import sys
import textwrap
import types
from collections.abc import Callable, Sequence
from typing import Any

from absl import app as absl_app
from absl import flags, logging

from layered_segmentation import paths, stopping
from layered_segmentation.errors import UserError

flags.disclaim_key_flags()  # flags that are defined here belong to the verb that calls

CHOSEN: list[str] = []  # environment variables that `run` has set, not the user

_HELP = ("--help", "-help", "--helpshort", "-helpshort", "--h", "-h", "-?", "--?")
_HELPFULL = ("--helpfull", "-helpfull")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (PermissionError, NotADirectoryError, IsADirectoryError)
_HOME = re.compile(r"(?P<name>[\w.-]+=|)(?P<path>~.*)", re.DOTALL)  # ~/photos, data.path=~/photos
_WIDTH = 96


def run(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """Runs a verb's main under absl and exits with its status; never returns.

    Args:
        main: The verb's entry point; returns an exit status or None for 0.
        argv: Command line, `sys.argv` if None; its first element is ignored.
    """
    show_any_text()
    os.environ["KERAS_BACKEND"] = "tensorflow"  # only the models are backend-neutral
    _choose_kernels()
    module = _module_of(main)
    command = command_of(module)

    def parse(arguments: Sequence[str]) -> list[str]:
        return _parse(module, command, arguments)

    def guarded(arguments: list[str]) -> int:
        return _guarded(main, module, command, arguments)

    with stopping.watched(_interrupted(module, command)):
        absl_app.run(guarded, argv=list(sys.argv if argv is None else argv), flags_parser=parse)


def show_any_text() -> None:
    """Lets all text be printed: as escapes where the terminal or the encoding lacks a letter."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def goes_with(flag: flags.FlagHolder, other: flags.FlagHolder, *values: str) -> None:
    """States that a flag has no effect without another: the help says so, `run` refuses it alone.

    Args:
        flag: The flag.
        other: The flag that it goes with.
        *values: What the other may be; anything if there are none.
    """
    companion = f"--{other.name}={' or '.join(values)}" if values else f"--{other.name}"
    flags.FLAGS[flag.name].goes_with = (other.name, values, companion)


def define_config_flags() -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """Defines `--config` and `--set` for the calling verb and returns them."""
    name = flags.DEFINE_string("config", "", "Name of a packaged config, or path of a YAML file.")
    overrides = flags.DEFINE_multi_string(
        "set", [], "A setting that overrides the config's, section.field=value; may be repeated."
    )
    return name, overrides


def define_device_flags() -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """Defines `--devices` and `--logical_cpus` for the calling verb and returns them."""
    devices = flags.DEFINE_list(
        "devices",
        [],
        "Devices to train on, as in --devices=GPU:0,GPU:1; all accelerators if empty.",
    )
    logical_cpus = flags.DEFINE_integer(
        "logical_cpus",
        1,
        "Number of devices to split the CPU into, to try several devices without accelerators.",
        lower_bound=1,
    )
    return devices, logical_cpus


def command_of(module: types.ModuleType) -> str:
    """Returns the command that runs a verb or a script, also while it runs as `__main__`."""
    spec = getattr(module, "__spec__", None)
    if spec is None:  # a script called by its path
        return f"python {module.__file__}"
    name = spec.name
    if name.startswith("layered_segmentation.cli."):
        return f"layerseg {name.rpartition('.')[2]}"
    return f"python -m {name}"


def verb_help(module: types.ModuleType) -> str:
    """Returns a verb's help: what it does, its own flags, an example."""
    first, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n")
    lines = [f"{command_of(module)}: {first}", "", "Flags:"]
    if arguments := getattr(module, "ARGUMENTS", ""):
        lines[1:2] = ["", f"Usage: {command_of(module)} [--flag=value …] {arguments}", ""]
    wrap = textwrap.TextWrapper(_WIDTH, initial_indent="      ", subsequent_indent="      ")
    for flag in own_flags(module):
        head, meaning = describe_flag(flag)
        lines.extend([f"  {head}", *wrap.wrap(meaning)])
    if rest.strip():
        lines.extend(["", rest.strip()])
    lines.extend(["", "--helpfull lists the flags of the libraries too."])
    return "\n".join(lines)


def own_flags(module: types.ModuleType) -> list[flags.Flag]:
    """Returns the flags that a verb defines, the needed ones first."""
    own = flags.FLAGS.get_key_flags_for_module(module)
    return sorted(own, key=lambda flag: (not _is_required(flag), flag.name))


def describe_flag(flag: flags.Flag) -> tuple[str, str]:
    """Returns how a flag is given, `--name=value`, and what it means, with its default."""
    help_text = " ".join(str(flag.help).split()).partition("; repeat this option")[0]
    if isinstance(flag, flags.EnumFlag):
        help_text = help_text.partition(">: ")[2]
    if isinstance(flag.parser, flags.ListParser):
        help_text = help_text.partition(" (a comma separated list)")[0]
    is_many = isinstance(flag, flags.MultiFlag)
    if flag.boolean:
        head = f"--[no]{flag.name}"
    else:
        value = "|".join(getattr(flag.parser, "enum_values", None) or []) or "…"
        head = f"--{flag.name}={value}" + (" (any number)" if is_many else "")
    if hasattr(flag, "goes_with"):
        help_text += f" With {flag.goes_with[2]}."
    if _is_required(flag):
        help_text += " (needed)"
    elif flag.default not in (None, "", []):
        help_text += f" (default: {flag.default_as_str.strip(chr(39))})"
    return head, help_text


def fail(command: str, message: str, status: int) -> int:
    """Prints `COMMAND: error: message` to stderr and returns the status."""
    lines = map(paths.printable, message.split("\n"))
    print(f"{command}: error: {chr(10).join(lines)}", file=sys.stderr, flush=True)
    return status


def settings(main: Callable[[list[str]], int | None]) -> dict[str, Any]:
    """Returns the values of a verb's flags, without those that only say where to write."""
    own = flags.FLAGS.get_key_flags_for_module(_module_of(main))
    return {flag.name: flag.value for flag in own if flag.name not in ("out", "overwrite")}


def command_line(verb: str, **options: object) -> str:
    """Returns `layerseg VERB --name=value …`, quoted for a shell.

    Args:
        verb: The verb.
        **options: Values by flag; a list repeats the flag.
    """
    several = {name: v if isinstance(v, list) else [v] for name, v in options.items()}
    given = [f"--{name}={value}" for name, values in several.items() for value in values]
    return shlex.join(["layerseg", verb, *given])


def next_step(verb: str, **options: object) -> str:
    """Returns the line that suggests the next command; arguments as for `command_line`."""
    return f"next: {command_line(verb, **options)}"


def _module_of(main: Callable[[list[str]], int | None]) -> types.ModuleType:
    module = inspect.getmodule(main)
    assert module is not None
    return module


def _parse(module: types.ModuleType, command: str, arguments: Sequence[str]) -> list[str]:
    options = list(arguments[1:])
    if "--" in options:
        options = options[: options.index("--")]
    if any(option in _HELP for option in options):
        print_help(verb_help(module))
    if any(option in _HELPFULL for option in options):
        print_help(f"{verb_help(module)}\n\n{flags.FLAGS.get_help()}")
    try:
        rest: list[str] = flags.FLAGS(list(arguments))
        for flag in own_flags(module):
            if _is_required(flag) and flag.value == "":
                raise UserError(f"--{flag.name} is needed ({command} --help)")
            _expand_home(flag)
            _require_companion(flag)
        rest[1:] = map(paths.expand, rest[1:])
        if len(rest) > 1 and not hasattr(module, "ARGUMENTS"):
            message = f"unexpected argument {rest[1]!r}; every input is a flag, as in --name=value"
            raise UserError(f"{message} ({command} --help)")
    except flags.Error as error:
        sys.exit(fail(command, _flag_error(module, command, error), status=2))
    except UserError as error:
        sys.exit(fail(command, str(error), status=2))
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING  # absl's default also shows notes of libraries
    if "max_pixels" in flags.FLAGS and flags.FLAGS.max_pixels:
        from layered_segmentation import images

        images.allow_pixels(flags.FLAGS.max_pixels)
    return rest


def _expand_home(flag: flags.Flag) -> None:
    """Expands `~` in the value of a flag, since shells leave `--out=~/masks` as it is."""

    def expand(item: Any) -> Any:
        match = _HOME.fullmatch(item) if isinstance(item, str) else None
        if match is None:
            return item
        try:
            return match["name"] + paths.expand(match["path"])
        except UserError as error:
            raise UserError(f"--{flag.name}={error}") from None

    is_list = isinstance(flag.value, list)
    flag.value = [expand(item) for item in flag.value] if is_list else expand(flag.value)


def _require_companion(flag: flags.Flag) -> None:
    """Refuses a flag that has no effect without another; see `goes_with`."""
    name, values, companion = getattr(flag, "goes_with", ("", (), ""))
    if name and flag.present and flag.value not in ("", []):
        other = flags.FLAGS[name].value
        if not (other in values if values else other):
            given = " ".join(flag.serialize().split("\n"))
            raise UserError(f"{given}: it goes with {companion}; add that, or leave this out")


def print_help(text: str) -> None:
    """Prints help and exits with 0; never returns."""
    with contextlib.suppress(BrokenPipeError):  # `--help | head`
        print(text, flush=True)
        sys.exit(0)
    _discard_output()
    sys.exit(0)


def _nobody_reads() -> bool:
    """Returns whether the pipe that output goes to is closed; True where that is not known."""
    if not hasattr(select, "poll"):  # on Windows
        return True
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_output() -> None:
    """Lets Python end in peace after a pipe was closed: it writes what is left at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


def _guarded(
    main: Callable[[list[str]], int | None],
    module: types.ModuleType,
    command: str,
    arguments: list[str],
) -> int:
    try:
        done = main(arguments) or 0
        sys.stdout.flush()
        return done
    except BrokenPipeError:  # `| head`
        if not _nobody_reads():
            raise
        _discard_output()
        return 141
    except UserError as error:
        status = fail(command, str(error), status=2)
        stopping.leave(status)
        return status
    except KeyboardInterrupt as error:
        print(f"\n{_interrupted(module, command)}", file=sys.stderr, flush=True)
        status = getattr(error, "status", 130)
        stopping.leave(status)
        return status
    except Exception as error:
        message = _machine_error(error, _resume(module))
        if message is None:
            raise
        return fail(command, message, status=1)


def _resume(module: types.ModuleType) -> str:
    return str(getattr(module, "RESUME", "nothing was written; run it again"))


def _interrupted(module: types.ModuleType, command: str) -> str:
    return f"{command}: interrupted; {_resume(module)}"


def _machine_error(error: BaseException | None, resume: str) -> str | None:
    """Returns a message for an error of the machine, or None for a bug."""
    while error is not None:
        if getattr(error, "errno", None) in _NO_SPACE or _has_no_space_message(error):
            return (
                f"no space left on the disk that holds {_place(error)}; free some. Then: {resume}"
            )
        if isinstance(error, _REFUSED) or getattr(error, "errno", None) == errno.EROFS:
            assert isinstance(error, OSError)
            return f"{error.filename}: {error.strerror}"
        error = error.__cause__ or error.__context__
    return None


def _has_no_space_message(error: BaseException) -> bool:
    # TensorFlow's and HDF5's errors contain the system's message but no errno.
    return "No space left on device" in str(error)


def _place(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename:
        return str(error.filename)
    # TensorFlow: `{{node …}} /path/of/file; No space left on device [Op:SaveV2]`.
    words = str(error).partition("No space left")[0].rstrip(" ;:,").split()
    if words and words[-1].startswith("/"):
        return words[-1]
    for name in ("out", "run_dir", "segmenter"):
        if name in flags.FLAGS and flags.FLAGS[name].value:
            return str(flags.FLAGS[name].value)
    return os.getcwd()


def _choose_kernels() -> None:
    """Sets environment variables that TensorFlow reads at import, unless the user has set them."""
    choices: dict[str, str] = {}
    # On two cores, running two small operations at once is 1.1 to 1.3 times faster at 16 px than
    # splitting each one over both cores.
    affinity = getattr(os, "sched_getaffinity", None)
    if (len(affinity(0)) if affinity else os.cpu_count() or 1) <= 2:
        choices |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "2"}
    # TensorFlow disables oneDNN's convolutions on x86 without AVX-512. There they are 1.2 to 1.6
    # times faster for a batch of at least 32 at 16 px, and no slower for smaller ones.
    if platform.machine() in ("x86_64", "AMD64"):
        choices["TF_ENABLE_ONEDNN_OPTS"] = "1"
    for name, value in choices.items():
        if name not in os.environ:
            os.environ[name] = value
            CHOSEN.append(name)


def _flag_error(module: types.ModuleType, command: str, error: flags.Error) -> str:
    more = f"({command} --help lists the flags)"
    if isinstance(error, flags.UnrecognizedFlagError):
        names = [str(flag.name) for flag in own_flags(module)]
        close = difflib.get_close_matches(error.flagname, names, n=1, cutoff=0.5)
        hint = f"; did you mean --{close[0]}?" if close else ""
        return f"unknown flag --{error.flagname}{hint} {more}"
    missing = re.findall(r"--(\w+) must have a value other than None", str(error))
    if missing:
        return f"--{missing[0]} is needed {more}"
    return f"{' '.join(str(error).split())} {more}"


def _is_required(flag: flags.Flag) -> bool:
    return any(
        getattr(validator, "flag_name", None) == flag.name
        and "other than None" in str(getattr(validator, "message", ""))
        for validator in flag.validators
    )
