"""Tables in Markdown, for the generated pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def head(columns: tuple[str, ...]) -> str:
    """Return the names of the columns, and the line below."""
    return line(columns) + f"|{' --- |' * len(columns)}\n"


def line(cells: Sequence[object]) -> str:
    """Return a row."""
    return f"| {' | '.join(map(str, cells))} |\n"


def table(columns: tuple[str, ...], rows: Iterable[Sequence[object]]) -> str:
    """Return a whole table."""
    return head(columns) + "".join(map(line, rows))
