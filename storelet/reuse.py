"""Which bytes of the previous archive a new one copies; pure.

The members of an archive lie one behind the other, without a gap. Those that are live, that is,
unchanged and still wanted, form spans; `choose` keeps those that the destination can copy, and
`cut` makes the ranges of them that are copied one by one. Everything else is written anew behind
them, so that no byte of the new archive is dead.

Limits of S3: Amazon S3 User Guide, "Amazon S3 multipart upload limits".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

__all__ = ["CopyLimits", "Span", "choose", "cut", "expire", "find_spans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyLimits:
    """What a destination can copy; `usual` is at least twice `smallest`."""

    smallest: int  # bytes of one copy
    usual: int  # bytes: larger spans are cut, so that copies go on side by side
    largest: int
    most: int  # copies for one archive


class Span(NamedTuple):
    """Neighbouring live members of the previous archive."""

    first: int  # member, counted from 0
    stop: int  # member behind the last one
    offset: int  # bytes, in the previous archive
    size: int


def find_spans(offsets: Sequence[int], live: bytearray) -> list[Span]:
    """Return the spans of members that are marked 1 in `live`, in order.

    `offsets` are those of the members, and behind them that of the catalogue.
    """
    spans = []
    stop = 0
    while (first := live.find(1, stop)) >= 0:
        stop = live.find(0, first)
        if stop < 0:
            stop = len(live)
        spans.append(Span(first, stop, offsets[first], offsets[stop] - offsets[first]))
    return spans


def choose(spans: Sequence[Span], limits: CopyLimits) -> list[Span]:
    """Return the spans that are worth a copy and can be: the largest, where they are too many."""
    kept = [span for span in spans if span.size >= limits.smallest]
    by_size = sorted(kept, key=lambda span: span.size)
    while (excess := len(cut(by_size, limits)) - limits.most) > 0:
        del by_size[: -(-excess // 2)]
    chosen = set(by_size)
    return [span for span in kept if span in chosen]


def cut(spans: Sequence[Span], limits: CopyLimits) -> list[tuple[int, int]]:
    """Return the offset and size of each copy, in the order of the spans.

    A span is cut evenly, so that no piece is too small.
    """
    total = sum(span.size for span in spans)
    spare = max(limits.most - len(spans), 1)
    size = min(max(limits.usual, -(-total // spare)), limits.largest)
    return [piece for span in spans for piece in _cut_evenly(span, size)]


def expire(
    spans: Sequence[Span],
    offsets: Sequence[int],
    read_at: Sequence[int],
    *,
    before: int,
    budget: int,
) -> list[int]:
    """Return the members to read anew, because their bytes were read before `before`.

    The oldest span goes first, from its first such member on, until `budget` bytes are reached:
    in one piece, so that spans stay long.
    """
    chosen: list[int] = []
    for _, span in sorted((min(read_at[span.first : span.stop]), span) for span in spans):
        old = (each for each in range(span.first, span.stop) if read_at[each] < before)
        first = next(old, None)
        if first is None:
            break
        for member in range(first, span.stop):
            if budget <= 0:
                return chosen
            chosen.append(member)
            budget -= offsets[member + 1] - offsets[member]
    return chosen


def _cut_evenly(span: Span, size: int) -> list[tuple[int, int]]:
    count = -(-span.size // size)
    edges = [span.offset + span.size * index // count for index in range(count + 1)]
    return [(start, stop - start) for start, stop in pairwise(edges)]
