"""The archive writer: planned entries in, the members of one or several archives out.

Each entry is read, deflated and, with a password, encrypted once, and its member goes to every
target that wants it, in the order of the plan. Where there is much to do, batches of small files
are packed by a crew of helpers; their answers are appended in order. It is the same archive.

Nothing here seeks, or knows where the bytes go. What is not guaranteed: that two files were read
at one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import NamedTuple

from storelet.crew import Answer, Crew
from storelet.deflate import Compression, find_engine
from storelet.encryption import Encryption
from storelet.entry import Entry
from storelet.layout import Layout
from storelet.observer import is_followed, report
from storelet.output import Output
from storelet.packing import Outcome, Packing, events_of
from storelet.plan import Batch, Filler

__all__ = ["Piece", "select", "write_members"]

_LITTLE_BYTES = 16 << 20  # up to here helpers are not worth their start


class Piece(NamedTuple):
    """A batch, and the archives that want it."""

    batch: Batch
    layouts: Sequence[Layout]


def select(
    batches: Iterable[Batch], wanted: Sequence[tuple[Layout, bytearray | None]]
) -> Iterator[Piece]:
    """Yield what archives want of a shelf's batches: a 1 for each entry wanted, None for all.

    A batch that some want whole and others not at all is left as it is; others are filled anew
    with neighbours that the same archives want.
    """
    gatherer = _Gatherer()
    for batch in batches:
        stop = batch.first + batch.size
        marks = [None if each is None else each[batch.first : stop] for _, each in wanted]
        if all(mark is None or mark.count(1) in (0, batch.size) for mark in marks):
            layouts = _wanting(wanted, marks, 0)
            if layouts:
                yield from gatherer.close()
                yield Piece(batch, layouts)
            continue
        for index, entry in enumerate(batch.entries):
            layouts = _wanting(wanted, marks, index)
            if layouts:
                yield from gatherer.add(entry, layouts)
    yield from gatherer.close()


def _wanting(
    wanted: Sequence[tuple[Layout, bytearray | None]],
    marks: Sequence[bytearray | None],
    index: int,
) -> list[Layout]:
    """Return the archives that want the entry `index` of a batch, by their marks for it."""
    pairs = zip(wanted, marks, strict=True)
    return [layout for (layout, _), mark in pairs if mark is None or mark[index]]


class _Gatherer:
    """Fills batches with entries that the same archives want."""

    def __init__(self) -> None:
        self._filler = Filler()
        self._layouts: Sequence[Layout] = ()

    def add(self, entry: Entry, layouts: Sequence[Layout]) -> Iterator[Piece]:
        if layouts != self._layouts:
            yield from self.close()
            self._layouts = layouts
        for batch in self._filler.add(entry):
            yield Piece(batch, layouts)

    def close(self) -> Iterator[Piece]:
        for batch in self._filler.close():
            yield Piece(batch, self._layouts)


def write_members(
    pieces: Iterable[Piece],
    compression: Compression,
    encryption: Encryption | None = None,
    is_news: Callable[[Entry], bool] = lambda _entry: True,
    outputs: Mapping[str, Output] | None = None,
) -> None:
    """Read entries, write their members, report what became of each file and symbolic link.

    Much is packed on all cores. What is no news is not reported. `outputs` are those of entries
    that are to come, by their names. Raises what the layouts raise, and SourceError where a command
    fails.
    """
    packing = Packing(find_engine(compression), encryption, outputs or {})
    rest = iter(pieces)
    first, cost = [], 0
    for piece in rest:
        first.append(piece)
        cost += piece.batch.cost
        if cost > _LITTLE_BYTES:
            break
    with ExitStack() as stack:
        answered: Iterable[tuple[Piece, Answer | None]] = ((each, None) for each in first)
        if cost > _LITTLE_BYTES:
            secret = b"" if encryption is None else encryption.secret
            crew = stack.enter_context(Crew("storelet.packer", compression, secret=secret))
            answered = crew.pack((each, _task(each)) for each in chain(first, rest))
        for piece, answer in answered:
            layouts = [each for each in piece.layouts if each.is_open]
            if not layouts:
                continue
            if answer is None:
                outcomes = _pack_here(piece.batch, layouts, packing)
            else:
                outcomes = answer.outcomes
                for layout in layouts:
                    start = layout.offset
                    layout.write(answer.data)
                    layout.add(answer.central, start)
            _report(piece.batch, outcomes, is_news)


def _task(piece: Piece) -> bytes | None:
    """Return what a helper is given; a large file is nothing for one."""
    return None if piece.batch.is_large else piece.batch.marshalled


def _pack_here(batch: Batch, layouts: Sequence[Layout], packing: Packing) -> list[Outcome]:
    outcomes = []
    for entry in batch.entries:
        starts = [layout.offset for layout in layouts]
        header, outcome = packing.pack(entry, 0, partial(_write_to, layouts))
        for layout, start in zip(layouts, starts, strict=True):
            layout.add(header, start)
        outcomes.append(outcome)
    return outcomes


def _write_to(layouts: Sequence[Layout], data: bytes) -> None:
    for layout in layouts:
        layout.write(data)


def _report(batch: Batch, outcomes: Sequence[Outcome], is_news: Callable[[Entry], bool]) -> None:
    """Report outcomes: where nobody wants to hear of every file, only what is not well."""
    if is_followed() or not all(map(_is_well, outcomes)):
        for entry, outcome in zip(batch.entries, outcomes, strict=True):
            if outcome is not None and is_news(entry):
                for event in events_of(entry, outcome):
                    report(event)


def _is_well(outcome: Outcome) -> bool:
    return outcome is None or outcome[2:] == (False, None)
