"""Paths as texts: expanded, printed, and cut to their last parts in what is shared.

A path tells the user's name, employer and projects to everyone who gets a file: cards, protocols
and pages name a folder, not where it is.
"""

import os
import re

from layered_segmentation.errors import UserError

# An absolute path, also of Windows or with ~. A slash after a letter, a digit, a dot, another slash
# or a `<` is none: images/s, 1/2, hf://owner/name, </p>.
_PATH = re.compile(
    r"(?<![\w:/.<\\])(?:~[\w.-]*|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:()<>`]+[/\\])*([^\s/\\'\",;:()<>`]+)"
)


def expand(path: str) -> str:
    """Returns a path as a shell expands it: a leading `~` becomes the home directory.

    Names of presets, URLs and empty text are returned as they are.

    Raises:
        UserError: The path begins with the name of a user who does not exist.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        user = expanded[1:].partition(os.sep)[0]
        problem = f"there is no user {user!r}" if user else "there is no home directory"
        raise UserError(f"{path}: {problem}; for a name that begins with ~ write ./{path}")
    return expanded


def absolute(path: str) -> str:
    """Returns a path that means the same from any directory; URLs and empty text stay."""
    return os.path.abspath(expand(path)) if path and "://" not in path else path


def absolute_unless_name(path: str) -> str:
    """Returns `absolute` of a path; a preset's name stays, unless something has that name here."""
    is_name = not {"~", "/", os.sep}.intersection(path) and not os.path.lexists(path)
    return path if is_name else absolute(path)


def is_utf8(path: str) -> bool:
    """Returns whether a path's bytes are UTF-8; Python holds other bytes as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in path)


def printable(path: str) -> str:
    """Returns a path for messages: control characters and what is not UTF-8 as escapes."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in path
    )


def name_of(path: str) -> str:
    """Returns the last part of a path; the name of a preset and a URL stay as they are."""
    if not path or "://" in path:
        return path
    return os.path.basename(os.path.abspath(path))


def without_folders(text: str) -> str:
    """Returns a text with the absolute paths in it cut to their last parts."""
    return _PATH.sub(lambda match: match[1], text)


def require_no_paths(text: str, place: str) -> None:
    """Refuses a text that is about to be published and names the user's home or working directory.

    Args:
        text: The text.
        place: Its file, for the message.

    Raises:
        UserError: A line names one of them.
    """
    private = {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~")), os.getcwd()}
    for number, line in enumerate(text.splitlines(), 1):
        for path in sorted(private - {os.sep, "~"}):
            if re.search(re.escape(path) + r"(?![\w.-])", line):
                raise UserError(
                    f"{place}: line {number} contains {path}, a path of this machine; remove it "
                    "before everyone can read it"
                )
