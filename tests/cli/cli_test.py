import errno
import importlib
import os
import subprocess
import sys

import pytest

from layered_segmentation.cli import app, main
from layered_segmentation.errors import UserError

PROBE = """
import atexit, sys, time
sys.argv = ["layerseg", *{arguments!r}]
def heavy():
    names = ("tensorflow", "keras", "keras_hub", "cv2", "matplotlib", "jax")
    print("HEAVY", [name for name in names if name in sys.modules], file=sys.stderr)
    print(time.process_time(), file=sys.stderr)
atexit.register(heavy)
from layered_segmentation.cli import main
main.main()
"""


def probe(*arguments):
    """Runs the command in a fresh process; its stderr ends with what heavy was imported.

    Returns the processor's seconds too: unlike the clock's, they are the command's own.
    """
    command = [sys.executable, "-c", PROBE.format(arguments=arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    done.stderr, _, seconds = done.stderr.rstrip().rpartition("\n")
    return done, float(seconds)


def test_help_lists_the_verbs_at_once():
    done, seconds = probe("--help")
    assert done.returncode == 0
    for group, verbs in main.GROUPS.items():
        section = done.stdout.partition(f"\n{group}:\n")[2].partition("\n\n")[0]
        lines = [line.split(maxsplit=1) for line in section.splitlines()]
        assert lines == [[verb, first_line(verb)] for verb in verbs]
    assert "layerseg quickstart --out=quickstart" in done.stdout
    assert done.stderr.strip() == "HEAVY []"
    assert seconds < 1.0


@pytest.mark.parametrize("verb", main.VERBS)
def test_a_verbs_help_shows_its_flags_and_an_example(verb):
    done, seconds = probe(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"layerseg {verb}: ")
    assert f"layerseg {verb} --" in done.stdout.partition("Example")[2]
    assert "--pdb" not in done.stdout  # absl's own flags are not the verb's
    assert done.stderr.strip() == "HEAVY []"
    assert seconds < 5.0


def source_of(verb):
    name = f"layered_segmentation.cli.{verb}"
    return importlib.util.find_spec(name).loader.get_source(name)


def first_line(verb):
    return source_of(verb).split('"""')[1].splitlines()[0]


@pytest.mark.parametrize("verb", main.VERBS)
def test_a_verbs_first_line_is_its_description(verb):
    source = source_of(verb)
    assert source.startswith(('"""', 'r"""'))
    assert first_line(verb).endswith(".") and len(first_line(verb)) <= 80
    assert 'if __name__ == "__main__":\n    app.run(main)' in source


def test_verbs_run_as_modules_too():
    command = [sys.executable, "-m", "layered_segmentation.cli.train"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--run_dir=" in done.stdout
    done = subprocess.run([*command, "--run_dri=x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "layerseg train: error: unknown flag --run_dri; did you mean --run_dir?" in done.stderr


@pytest.mark.parametrize(
    ("old", "verb", "rest"),
    [
        (["evaluate", "--measure=generated", "--count=3"], "evaluate_generated", ["--count=3"]),
        (["evaluate", "--count=3", "--measure", "fid"], "fid", ["--count=3"]),
        (["evaluate", "-measure=segmentation"], "evaluate", []),
        (["autoencode", "--mode=chunks", "--out=x"], "autoencode_chunks", ["--out=x"]),
        (["autoencode", "--mode=dataset"], "autoencode", []),
        (["benchmark", "--data", "--rounds=3"], "benchmark_data", ["--rounds=3"]),
        (["benchmark", "--nodata"], "benchmark", []),
    ],
)
def test_old_spellings_of_modes_still_work_and_print_a_note(monkeypatch, capsys, old, verb, rest):
    ran = []
    monkeypatch.setattr(main.app, "run", lambda function, argv: ran.append((function, argv)))
    monkeypatch.setattr(main.importlib, "import_module", lambda name: Verb(name))
    main.main(old)
    assert ran == [(f"layered_segmentation.cli.{verb}", [f"layerseg {verb}", *rest])]
    (note,) = capsys.readouterr().err.splitlines()
    assert f"is now `layerseg {verb}`" in note and "old spelling" in note


class Verb:
    def __init__(self, main):
        self.main = main


def test_other_arguments_are_passed_on_unchanged(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(main.app, "run", lambda function, argv: ran.append(argv[1:]))
    monkeypatch.setattr(main.importlib, "import_module", lambda name: Verb(name))
    arguments = ["--measure=x", "--out=data", "data", "--", "--data_dir=x"]
    for verb in ("evaluate", "benchmark", "segment"):
        main.main([verb, *arguments])
    assert ran == [arguments] * 3 and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian", "--run_dir=x"], ("unknown verb 'trian'", "did you mean 'train'", "quickstart")),
        (["zzz"], ("unknown verb 'zzz'", "verbs: quickstart")),
        (["--run_dir=x"], ("the first argument is a verb, not a flag", "--run_dir=x")),
    ],
)
def test_an_unknown_verb_is_refused_with_a_suggestion(arguments, words):
    done, _ = probe(*arguments)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_no_verb_shows_the_help_and_fails():
    done, _ = probe()
    assert done.returncode == 2
    assert "Usage: layerseg VERB" in done.stderr


def test_version():
    done, _ = probe("--version")
    assert done.stdout.startswith("layered_segmentation 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ("--run_dir is needed",)),
        (["--run_dir=x", "--confg=y"], ("unknown flag --confg", "did you mean --config?")),
        (["--run_dir=x", "more"], ("unexpected argument 'more'",)),
        (["--run_dir=x", "--config=quikstart"], ("quikstart", "did you mean 'quickstart'")),
        (["--run_dir=x", "--set=gan.shfit=0"], ("gan.shfit", "did you mean 'gan.shift'")),
        (["--run_dir=x", "--set=gan.resolution=33"], ("gan.resolution=33", "power of two")),
        (["--run_dir=x", "--set=gan.mask_size=1.5"], ("gan.mask_size=1.5", "(0, 1)")),
        (["--run_dir=x", "--set=gan.shift=1"], ("gan.shift=1", "as large as the image")),
        (["--run_dir=x", "--config=folder_typo.yaml"], ("folder_typo.yaml",)),
    ],
)
def test_bad_flags_are_one_clear_line(layerseg, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = layerseg("train", *arguments)
    assert result.status == 2
    assert result.stderr.startswith("layerseg train: error: ")
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr
    assert os.listdir(tmp_path) == []


def raising(error):
    def verb(argv):
        raise error

    return verb


def status_of(function):
    from absl import app as absl_app
    from absl import flags

    absl_app._register_and_parse_flags_with_usage.done = False
    try:
        with pytest.raises(SystemExit) as stopped:
            app.run(function, argv=["layerseg train"])
    finally:
        flags.FLAGS.unparse_flags()
    return stopped.value.code


def test_a_user_error_has_no_traceback(capsys):
    assert status_of(raising(UserError("photos: none in x"))) == 2
    assert capsys.readouterr().err == "python -m tests.cli.cli_test: error: photos: none in x\n"


def test_a_bug_keeps_its_traceback():
    from absl import app as absl_app

    absl_app._register_and_parse_flags_with_usage.done = False
    with pytest.raises(KeyError):
        app.run(raising(KeyError("x")), argv=["layerseg train"])


def test_an_interrupt_tells_how_to_resume(capsys, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "RESUME", "start it again", raising=False)
    assert status_of(raising(KeyboardInterrupt())) == 130
    assert "interrupted; start it again" in capsys.readouterr().err


class Unknown(Exception):
    """Stands for tf.errors.ResourceExhaustedError, which carries the sentence only."""


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/disk/run/x.png"), "/disk/run/x.png"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/disk/run/x.png"), "/disk/run/x.png"),
        (
            Unknown("{{node /job:localhost}} /disk/run/ckpt.data; No space left on device"),
            "/disk/run/ckpt.data",
        ),
    ],
)
def test_no_disk_space_names_the_place(capsys, error, place):
    assert status_of(raising(error)) == 1
    text = capsys.readouterr().err
    assert f"no space left on the disk that holds {place}; free some" in text
    assert len(text.splitlines()) == 1


def test_no_disk_space_below_another_error(capsys):
    outer = RuntimeError("could not save")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/disk/a")
    assert status_of(raising(outer)) == 1
    assert "/disk/a" in capsys.readouterr().err


def test_no_permission_is_one_line(capsys):
    assert status_of(raising(PermissionError(errno.EACCES, "Permission denied", "/root/x"))) == 1
    assert capsys.readouterr().err.endswith("error: /root/x: Permission denied\n")


@pytest.mark.slow
def test_tensorflow_starts_silently():
    program = (
        "from layered_segmentation import quiet; quiet.import_tensorflow(); "
        "import tensorflow as tf; tf.constant(1); "
        "import os; os.write(2, b'own line\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == "own line\n"


def test_every_flag_expands_the_home_directory(layerseg, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for verb, arguments, words in (
        (
            "sample",
            ["--run_dir=~/run", "--out=a.png"],
            f"{tmp_path}/home/run: there is no such dir",
        ),
        ("table", ["--table=1", "--runs=a=~/run", "--out=out"], f"{tmp_path}/home/run"),
        (
            "train",
            ["--run_dir=run", "--set=data.path=~/photos"],
            f"data.path={tmp_path}/home/photos",
        ),
        ("segment", ["--segmenter=a", "--input=~", "--out=b"], f"--input={tmp_path}/home: "),
        (
            "sample",
            ["--run_dir=~nobody-1/run", "--out=a.png"],
            "--run_dir=~nobody-1/run: there is no user 'nobody-1'; for a name that begins with ~ "
            "write ./~nobody-1/run",
        ),
    ):
        result = layerseg(verb, *arguments)
        assert result.status == 2
        assert words in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_name_that_begins_with_a_tilde_can_be_written_with_its_directory(layerseg, tmp_path):
    result = layerseg("sample", "--run_dir=./~run", "--out=a.png")
    assert (result.status, "./~run: there is no such directory" in result.stderr) == (2, True)


TALK = """
import sys
from layered_segmentation.cli import app
def main(argv):
    for number in range({lines}):
        print("line", number, "×", file=sys.{stream})
app.run(main, ["talk"])
"""


def talk(tmp_path, script):
    """Returns the command that runs a script which imports the package as this process does."""
    path = tmp_path / "talk.py"
    path.write_text(script, "utf-8")
    return [sys.executable, "-c", f"import runpy; runpy.run_path({str(path)!r}, None, '__main__')"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("lines", [1, 100_000])  # less than is written at once, and more
def test_a_closed_pipe_is_no_error(tmp_path, stream, lines):
    command = talk(tmp_path, TALK.format(lines=lines, stream=stream))
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: writing}
    with subprocess.Popen(command, **streams) as process:
        os.close(writing)
        told = process.communicate()
    assert process.returncode == 141
    assert not any(told), told


def test_a_broken_pipe_elsewhere_is_a_bug(tmp_path):
    script = TALK.format(lines=1, stream="stdout").replace("print(", "raise BrokenPipeError #")
    done = subprocess.run(talk(tmp_path, script), capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["segment", "--out=é"]])
def test_a_terminal_that_knows_ascii_only_gets_escapes(arguments):
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "layered_segmentation.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, env=env)
    assert done.returncode == (0 if "--help" in arguments else 2)
    assert b"Traceback" not in done.stderr and (done.stdout or done.stderr).isascii()


def test_control_characters_in_messages_are_shown_as_escapes(layerseg):
    result = layerseg("segment", "--input=\x1b[31mred", "--out=out", "--segmenter=none")
    assert result.status == 2 and "--input=\\x1b[31mred" in result.stderr
