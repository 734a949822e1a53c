"""The photos that a run trains on, one line each: name, bytes and hash, with tabs between."""

from collections.abc import Sequence


def changes(before: Sequence[str], now: Sequence[str]) -> str:
    """Returns how lines of photos differ, for messages."""
    changes = [
        f"{len(lines)} {kind}, such as {lines[0]}"
        for kind, lines in (
            ("gone", sorted({*before} - {*now})),
            ("new", sorted({*now} - {*before})),
        )
        if lines
    ]
    described = ", ".join(changes).expandtabs(1) or "another order"
    return f"{len(before):,} then, {len(now):,} now; {described}"


def comparable(photos: Sequence[str], before: Sequence[str]) -> list[str]:
    """Returns lines of photos as a run recorded them: version 0.1.0 without a hash."""
    is_old = any(line.count("\t") == 1 for line in before)
    return [
        line.rpartition("\t")[0] if is_old and line.count("\t") == 2 else line for line in photos
    ]
