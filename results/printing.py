"""Tables and lines in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

MAX_WIDTH: Final = 10_000


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[str],
    spare: Sequence[str],
    title: str | None = None,
) -> None:
    """Print a table: at full width to a file or pipe, fitted to the width of a terminal.

    Ids and folders are meant to be copied, so they are never wrapped: a narrow terminal drops columns of `spare`, the
    last one first. The columns in `left` are left-aligned.
    """
    out, wide = Console(), Console(width=MAX_WIDTH)
    names = list(headings)
    while True:
        table = _table([headings.index(name) for name in names], headings, rows, left, title)
        width = wide.measure(table).maximum
        unneeded = [name for name in spare if name in names]
        if not out.is_terminal or width <= out.width or not unneeded:
            break
        names.remove(unneeded[-1])
    (out if out.is_terminal else Console(width=width)).print(table)
    if len(names) < len(headings):
        absent = ", ".join(name for name in headings if name not in names)
        say(f"A wider terminal, or a pipe, shows {absent}, too.")


def _table(
    places: Sequence[int],
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[str],
    title: str | None,
) -> Table:
    table = Table(title=title, title_justify="left")
    for place in places:
        whole = headings[place] in left  # ids and folders are copied, so they are not wrapped; headings are
        table.add_column(headings[place], justify="left" if whole else "right", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(Text(row[place]) for place in places))
    return table


def say(text: str) -> None:
    """Print one line as it is: no markup, no colours, no wrapping."""
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
