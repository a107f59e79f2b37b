r"""A line of a file with a caret under the place that is meant, as compilers show it.

Pure. The line is cut around the caret where it is too wide; tabs are spaces, and what could steer
a terminal is written as `\x1b`.
"""

from __future__ import annotations

from itertools import accumulate

from storeletd.ctl.formats import escape
from storeletd.ctl.tables import width_of

__all__ = ["draw_excerpt"]

_TAB = 8
_CUT = "…"


def draw_excerpt(number: int, line: str, at: int, *, width: int) -> list[str]:
    """Return the line with its number before it, and beneath it a caret under character `at`."""
    margin = f"{number:>5} | "
    cells, caret = _cut(_draw_characters(line), at, max(width - len(margin), _TAB))
    return [(margin + cells).rstrip(), f"{'| ':>{len(margin)}}{' ' * caret}^"]


def _draw_characters(line: str) -> list[str]:
    """Return each character as it is shown, which may take none or several columns."""
    cells, width = list[str](), 0
    for character in line:
        cells.append(" " * (_TAB - width % _TAB) if character == "\t" else escape(character))
        width += width_of(cells[-1])
    return cells


def _cut(cells: list[str], at: int, room: int) -> tuple[str, int]:
    """Return as much as fits around cell `at`, and the column of that."""
    ends = list(accumulate(map(width_of, cells), initial=0))  # the column where each begins
    if ends[-1] < room:  # a caret may stand after the last one
        return "".join(cells), ends[at]
    first = last = at
    while first > 0 and ends[at] - ends[first - 1] <= room * 2 // 3:  # more is said before it
        first -= 1
    while last < len(cells) and ends[last + 1] - ends[first] <= room - 2:
        last += 1
    before, after = _CUT * (first > 0), _CUT * (last < len(cells))
    return f"{before}{''.join(cells[first:last])}{after}", len(before) + ends[at] - ends[first]
