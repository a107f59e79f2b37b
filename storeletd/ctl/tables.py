"""Rows in columns: on a terminal that is too narrow folded, by rich; plain aligned text elsewhere.

What people copy is never folded: the terminal wraps it, and knows that it is one.

Plain text is for awk: columns stand apart by two spaces or more (`awk -F'  +'`), a cell holds
never more than one space in a row, an empty one is `-`, nothing is cut or wrapped, no colours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
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
    fold: bool = False  # may be broken over lines where the terminal is narrow
    copied: bool = False  # the last one: people copy it, so it is never broken, nor is its row
    words: bool = False  # holds states and outcomes, which have colours


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print the rows under the columns' titles; the cells may hold any text."""
    cells = [[_clean(cell) for cell in row] for row in rows]
    if console.is_terminal() and columns[-1].copied:
        _print_coloured(columns, cells)
    elif console.is_terminal():
        _print_rich_table(columns, cells)
    else:
        for line in align_rows(columns, cells):
            console.print_line(line)


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


def _print_coloured(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    titles, *others = align_cells(columns, [[column.title for column in columns], *rows])
    console.print_line(console.bold(_GAP.join(titles).rstrip()))
    console.print_all(
        _GAP.join(
            console.colour(cell, cell.strip()) if column.words else cell
            for cell, column in zip(row, columns, strict=True)
        ).rstrip()
        for row in others
    )


def _print_rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=not column.fold,
        )
    for row in rows:
        # Text and not str: no `[markup]` out of names
        table.add_row(
            *(
                Text(cell, style=console.colour_of(cell) or "" if column.words else "")
                for cell, column in zip(row, columns, strict=True)
            )
        )
    console.open_terminal().print(table)
