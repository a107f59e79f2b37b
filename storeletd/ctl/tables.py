"""Rows in columns: on a terminal with colours and as wide as that is; plain aligned text elsewhere.

What people copy is never broken on a terminal. A name that is too wide for its column stands on a
line of its own, with the rest of its row beneath; a last column runs on, and the terminal wraps
it. Where there is no room for all columns those that can be spared are left out.

Plain text is for awk: columns stand apart by two spaces or more (`awk -F'  +'`), a cell holds
never more than one space in a row, an empty one is `-`, nothing is left out, no colours.
"""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from storeletd.ctl import console
from storeletd.ctl.formats import escape

__all__ = ["Column", "align_cells", "align_rows", "print_table", "width_of"]

_GAP = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    title: str
    right: bool = False  # aligned to the right
    words: bool = False  # holds states and outcomes, which have colours
    name: bool = False  # may be too wide; one of a table
    spare: int = 0  # left out on a terminal without room for it, the highest first; 0: never
    usual: int = 0  # width that it is reckoned to need, whatever is in it at the moment


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print the rows under the columns' titles; the cells may hold any text."""
    cells = [[_clean(cell) for cell in row] for row in rows]
    if console.is_terminal():
        _print_on_terminal(columns, cells, shutil.get_terminal_size().columns)
    else:
        console.print_all(align_rows(columns, cells))


def align_rows(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the titles and the rows as lines of plain text."""
    titled = [[column.title for column in columns], *rows]
    return [_GAP.join(cells).rstrip() for cells in align_cells(columns, titled)]


def align_cells(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the rows with every cell filled up to the width of its column."""
    widths = [max(width_of(row[at]) for row in rows) for at in range(len(columns))] if rows else []
    return [
        [
            _fill(cell, width, right=column.right)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        for row in rows
    ]


def _fill(cell: str, width: int, *, right: bool) -> str:
    room = " " * (width - width_of(cell))
    return room + cell if right else cell + room


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: letters of some scripts take two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def _clean(cell: str) -> str:
    return " ".join(escape(cell).split()) or "-"


def _print_on_terminal(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> None:
    titles = [column.title for column in columns]
    widths = [max(map(width_of, cells)) for cells in zip(titles, *rows, strict=True)]
    kept = _choose(columns, widths, room)
    columns = [columns[at] for at in kept]
    rows = [[row[at] for at in kept] for row in rows]
    widths = [widths[at] for at in kept]
    for at, column in enumerate(columns):
        if column.name:
            names = [column.title, *(row[at] for row in rows)]
            widths[at] = _narrow(names, room - _sum(widths) + widths[at])
    titles = [
        _fill(column.title, width, right=column.right)
        for column, width in zip(columns, widths, strict=True)
    ]
    console.print_line(console.bold(_GAP.join(titles).rstrip()))
    console.print_all(line for row in rows for line in _draw(columns, widths, row))


def _choose(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Return which columns there is room for, without those that can be spared."""
    needed = [
        column.usual if column.name else max(column.usual, width)
        for column, width in zip(columns, widths, strict=True)
    ]
    kept = list(range(len(columns)))
    while _sum([needed[at] for at in kept]) > room:
        at = max(kept, key=lambda at: columns[at].spare)
        if not columns[at].spare:
            break
        kept.remove(at)
    return kept


def _sum(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _narrow(names: Sequence[str], room: int) -> int:
    """Return the width of a column of names; those that are wider than `room` do not count."""
    title, *others = map(width_of, names)
    return max([title, *(width for width in others if width <= room)])


def _draw(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> Iterator[str]:
    drawn = list[str]()
    for at, (column, width, cell) in enumerate(zip(columns, widths, row, strict=True)):
        text = _fill(cell, width, right=column.right)
        drawn.append(console.colour(text, cell) if column.words else text)
        if width_of(cell) > width:
            yield _GAP.join(drawn)
            drawn = [" " * each for each in widths[: at + 1]]
    if rest := _GAP.join(drawn).rstrip():
        yield rest
