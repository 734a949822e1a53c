"""A progress bar with the time left; without a terminal, one line per minute."""

import math
import os
import sys
import time

from tqdm import tqdm

_WIDE = 80  # columns; on narrower terminals text replaces the bar
_INTERVAL = 60.0  # seconds between lines without a terminal


class Bar:
    """Counts towards a total; a context manager.

    Args:
        total: The count at the end.
        description: Name of the work.
        unit: Name of one item.
        visible: Whether to show anything.
        initial: Count that an earlier run reached; it is left out of the speed.
    """

    bar_format: str | None = None  # tqdm's own
    narrow_format = "{desc}: {percentage:.0f}%, {remaining} left{postfix}"
    line_format = (
        "{desc}: {percentage:.0f}% ({n_fmt}/{total_fmt}), {remaining} left, {rate_fmt}{postfix}"
    )
    is_prompt = False  # whether the first line is due at once

    def __init__(
        self,
        total: float,
        description: str,
        unit: str,
        visible: bool = True,
        initial: int = 0,
    ):
        self._stream = sys.stderr
        self._visible = visible
        self._start = time.monotonic()
        self._last_line = -math.inf if self.is_prompt else self._start
        self._meter = {"prefix": description, "unit": unit, "total": total, "initial": initial}
        self._count: float = initial
        self._note = ""
        self._bar: tqdm | None = None
        if visible and self._stream.isatty():
            self._bar = tqdm(
                total=total,
                desc=description,
                unit=unit,
                initial=initial,
                file=self._stream,
                dynamic_ncols=True,
                miniters=0,
                bar_format=self._format(),
            )

    def _format(self) -> str | None:
        """Returns the format that shows the time left at the terminal's present width."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):  # a stream of a notebook or a test
            return self.bar_format
        return self.narrow_format if 0 < columns < _WIDE else self.bar_format

    @property
    def is_drawn(self) -> bool:
        """Whether there is a terminal, on which a bar is drawn."""
        return self._bar is not None

    def __enter__(self) -> "Bar":
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the bar."""
        self.close()

    def close(self) -> None:
        """Ends the bar; it stays on the screen."""
        if self._bar is not None:
            self._bar.close()

    def update(self, count: float = 1, note: str = "") -> None:
        """Adds to the count; a note replaces the previous one."""
        self._count += count
        self._note = note or self._note
        if self._bar is not None:
            self._bar.bar_format = self._format()
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if self._visible and now - self._last_line >= _INTERVAL:
            self._last_line = now
            line = tqdm.format_meter(
                self._count,
                elapsed=now - self._start,
                postfix=self._note,
                bar_format=self.line_format,
                **self._meter,
            )
            print(line, file=self._stream, flush=True)
