"""A progress bar with the time left; without a terminal, one line per minute."""

import sys
import time

from tqdm import tqdm

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

    def __init__(
        self,
        total: int,
        description: str,
        unit: str,
        visible: bool = True,
        initial: int = 0,
    ):
        self._total = total
        self._description = description
        self._unit = unit
        self._stream = sys.stderr
        self._visible = visible
        self._initial = self._count = initial
        self._note = ""
        self._start = self._last_line = time.monotonic()
        self._bar: tqdm | None = None
        if visible and self._stream.isatty():
            self._bar = tqdm(
                total=total,
                desc=description,
                unit=unit,
                file=self._stream,
                dynamic_ncols=True,
                initial=initial,
            )

    def __enter__(self) -> "Bar":
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1, note: str = "") -> None:
        """Adds to the count; a note replaces the previous one."""
        self._count += count
        self._note = note or self._note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if self._visible and now - self._last_line >= _INTERVAL:
            self._last_line = now
            print(self._line(now - self._start), file=self._stream, flush=True)

    def _line(self, elapsed: float) -> str:
        line: str = tqdm.format_meter(
            self._count,
            self._total,
            elapsed,
            prefix=self._description,
            unit=self._unit,
            initial=self._initial,
            postfix=self._note,
            bar_format="{desc}: {percentage:.0f}% ({n_fmt}/{total_fmt}), {remaining} left, "
            "{rate_fmt}{postfix}",
        )
        return line
