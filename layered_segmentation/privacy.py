"""Paths in what is shared: cards, protocols and pages name a folder, not where it is.

A path tells the user's name, employer and projects to everyone who gets the file.
"""

import os
import re

from layered_segmentation.errors import UserError

# An absolute path, also of Windows or with ~. A slash after a letter, a digit, a dot, another slash
# or a `<` is none: images/s, 1/2, hf://owner/name, </p>.
_PATH = re.compile(
    r"(?<![\w:/.<\\])(?:~[\w.-]*|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:()<>`]+[/\\])*([^\s/\\'\",;:()<>`]+)"
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
