"""What of an archive is read, and when: neighbouring members together, and ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from storelet.restore.content import find_data
from storelet.restore.listing import Read, StoredMember

__all__ = ["Span", "Wanted", "fetch_ahead", "is_small", "read_data", "spans"]

_SPAN_BYTES = 2 << 20  # of stored members together; what they are then given out in has 4 MiB
_SPAN_MEMBERS = 512
_SPAN_NAMES = 256 << 10  # characters
_GAP_BYTES = 64 << 10  # between wanted ones that costs less than another request
_CHUNK_BYTES = 4 << 20  # of a larger member
_READS_AT_ONCE = 8
_LARGEST_SMALL = 1 << 20

Key = TypeVar("Key")


class Wanted(NamedTuple):
    """A member to be unpacked, and what is to become of it."""

    number: int  # in the catalogue
    path: str  # in the target
    member: StoredMember


class Span(NamedTuple):
    """Neighbouring small members."""

    offset: int
    size: int
    wanted: list[Wanted]


def is_small(member: StoredMember) -> bool:
    """Tell whether a member is read and unpacked together with its neighbours."""
    return max(member.size, member.stored_size) <= _LARGEST_SMALL


def spans(wanted: Iterable[Wanted], end: int) -> Iterator[Span]:
    """Gather small members; those behind one another that lie so, too. `end`: of all members."""
    start = stop = names = 0
    some: list[Wanted] = []
    for each in wanted:
        member = each.member
        first = member.offset
        last = min(first + member.head_bytes + member.stored_size, end)
        if some and (
            not start <= first <= stop + _GAP_BYTES
            or last - start > _SPAN_BYTES
            or len(some) >= _SPAN_MEMBERS
            or names >= _SPAN_NAMES
        ):
            yield Span(start, stop - start, some)
            some = []
        if not some:
            start, stop, names = first, last, 0
        some.append(each)
        stop = max(stop, last)
        names += len(each.path) + len(member.name)
    if some:
        yield Span(start, stop - start, some)


def fetch_ahead(read: Read, gathered: Iterable[Span]) -> Iterator[tuple[Span, bytes]]:
    """Yield spans with their bytes, in order; several are read at once. Raises StoreletError."""
    tasks = ((span, (span.offset, span.size)) for span in gathered)
    yield from _ahead(read, tasks)


def read_data(read: Read, member: StoredMember) -> Iterator[bytes]:
    """Yield the data of a member: the first with its local header, the next being read meanwhile.

    Raises DamagedError where it is not there, and StoreletError.
    """
    data = read(member.offset, min(member.head_bytes + member.stored_size, _CHUNK_BYTES))
    start = find_data(data, member)
    data = data[start : start + member.stored_size]
    start += member.offset
    stop = start + member.stored_size
    starts = range(start + len(data), stop, _CHUNK_BYTES)
    if data:
        yield data
    tasks = ((None, (at, min(_CHUNK_BYTES, stop - at))) for at in starts)
    for _, data in _ahead(read, tasks, at_once=2):
        yield data


def _ahead(
    read: Read, tasks: Iterable[tuple[Key, tuple[int, int]]], at_once: int = _READS_AT_ONCE
) -> Iterator[tuple[Key, bytes]]:
    waiting: deque[tuple[Key, Future[bytes]]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="storelet-read") as pool:
        try:
            for key, where in tasks:
                waiting.append((key, pool.submit(read, *where)))
                if len(waiting) > at_once:
                    key, read_one = waiting.popleft()
                    yield key, read_one.result()
            while waiting:
                key, read_one = waiting.popleft()
                yield key, read_one.result()
        finally:
            for _, unread in waiting:
                unread.cancel()
