import contextlib
import fcntl
import os
import struct
import termios

import pytest

from layered_segmentation.progress import Bar

pytestmark = pytest.mark.linux("a pseudoterminal whose width can be set")


def drawn_at(columns, monkeypatch):
    """The bars that a terminal of a width has shown, one after the other."""
    ours, other = os.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(other, "w") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        with Bar(40, "refining masks", "photo") as bar:
            for _ in range(40):
                bar.update(note="loss 0.123, agreement 0.987")
    text = ""
    with contextlib.suppress(OSError):  # where the terminal was closed
        while part := os.read(ours, 4096):
            text += part.decode()
    os.close(ours)
    return [line for line in text.replace("\n", "\r").split("\r") if line.strip()]


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_a_bar_fits_its_terminal_and_shows_the_time_left(columns, monkeypatch):
    bars = drawn_at(columns, monkeypatch)
    assert max(map(len, bars)) <= columns
    assert bars[-1].startswith("refining masks: 100%")
    times = "left" if columns < 80 else "<"
    assert all(times in bar for bar in bars)
