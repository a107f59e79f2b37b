"""The previous archive at a destination, which a new one copies members from.

1. it is the newest archive of the same backup; its catalogue is read by ranged reads of its tail,
   so no local state is needed, and another machine can go on. One that is marked as bad is copied
   from no more than what is older: what is bad in it may have come from there;
2. a member whose entry has not changed is live;
3. of the live ones, `reuse` chooses what is copied; the rest is wanted anew.

Whatever is wrong with the archive makes the backup cost more and is never an error.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

from storelet.catalogue import (
    READ_AT_FIRST,
    DamagedError,
    Header,
    find_catalogue,
    read_headers,
    read_range,
    read_record,
    set_record,
    split,
)
from storelet.deflate import squeeze, unsqueeze
from storelet.destination.contract import Destination, Stored
from storelet.errors import CredentialsError, DestinationMissingError, StoreletError
from storelet.reuse import Span
from storelet.zipformat import PRIVATE_VERSION, ArchiveRecord

__all__ = ["Members", "NotReusableError", "PreviousArchive", "read_previous"]


class NotReusableError(Exception):
    """There is nothing to copy from; the message is the reason."""

    def __init__(self, reason: str, *, is_first: bool = False) -> None:
        super().__init__(reason)
        self.is_first = is_first  # there is no archive before, so nothing is wrong


class Members:
    """The members of an archive, counted from 0: where each is, and its central header."""

    def __init__(self, pieces: Iterable[bytes], end: int) -> None:
        self.offsets = array("Q")  # of the members, and behind them `end`
        self.read_at = array("q")  # when the bytes were read, seconds since the epoch
        self.has_plain = False  # whether one of them, no directory, is not encrypted
        self.shortest: int | None = None  # of those that are encrypted
        self._end = end  # bytes: where the members end and the catalogue begins
        self._pieces = [squeeze(piece) for piece in pieces]  # of the catalogue
        self._at_hand: tuple[int, bytes] | None = None
        self._firsts = array("Q")  # member that a piece begins with
        self._starts = array("I")  # where the header of each member stands in its piece

    def find_live(self, is_live: Callable[[Header], bool]) -> bytearray:
        """Return a 1 for each member that `is_live`, 0 for others. Called once.

        Raises DamagedError.
        """
        live, lengths = bytearray(), array("Q")
        for piece in self._pieces:
            self._firsts.append(len(live))
            for header in read_headers(unsqueeze(piece)):
                self._starts.append(header.start)
                self.offsets.append(header.offset)
                self.read_at.append(header.read_at)
                lengths.append(header.length)
                if header.encrypted:
                    if self.shortest is None or header.length < lengths[self.shortest]:
                        self.shortest = len(live)
                elif not header.name.endswith("/"):
                    self.has_plain = True
                live.append(is_live(header) and header.version == PRIVATE_VERSION)
        self.offsets.append(self._end)
        if any(a >= b for a, b in pairwise(self.offsets)):
            raise DamagedError("its members overlap")
        for member, length in enumerate(lengths):
            if self.offsets[member] + length != self.offsets[member + 1]:
                live[member] = 0  # there is something else behind it
        return live

    def headers(self, span: Span) -> Iterator[bytes]:
        """Yield the central headers of a span's members, without the archive's own record."""
        begin = bisect_right(self._firsts, span.first) - 1
        for number, first in enumerate(self._firsts[begin:], begin):
            if first >= span.stop:
                return
            stop = self._firsts[number + 1] if number + 1 < len(self._firsts) else len(self.read_at)
            piece = self._unsqueeze(number)
            start = self._starts[max(first, span.first)]
            end = self._starts[span.stop] if span.stop < stop else len(piece)
            headers = piece[start:end]
            yield set_record(headers, None) if span.first == first == 0 else headers

    def _unsqueeze(self, number: int) -> bytes:
        """Return a piece, which is at hand still where the next span is in it too."""
        if self._at_hand is None or self._at_hand[0] != number:
            self._at_hand = number, unsqueeze(self._pieces[number])
        return self._at_hand[1]

    def header(self, member: int) -> Header:
        """Return the central header of one member."""
        (headers,) = self.headers(Span(member, member + 1, 0, 0))
        return next(read_headers(headers))


@dataclass(frozen=True, slots=True)
class PreviousArchive:
    """An archive to copy from."""

    stored: Stored
    record: ArchiveRecord
    members: Members


def read_previous(destination: Destination, backup: str) -> PreviousArchive:
    """Find the newest archive of a backup and read its catalogue.

    Raises NotReusableError, and StoreletError where the destination is not to be had at all.
    """
    try:
        archives = destination.list_archives(backup)
        if not archives:
            raise NotReusableError("it has no archive of this backup yet", is_first=True)
        if archives[-1].is_bad:
            name = archives[-1].name
            raise NotReusableError(f"{name} is marked as bad, and older archives may be too")
        return _read(destination, archives[-1], backup)
    except (CredentialsError, DestinationMissingError):
        raise
    except StoreletError as error:
        raise NotReusableError(str(error)) from error
    except DamagedError as error:
        raise NotReusableError(f"{archives[-1].name}: {error}") from error


def _read(destination: Destination, stored: Stored, backup: str) -> PreviousArchive:
    read = partial(destination.read, stored)
    tail_start = max(stored.size - READ_AT_FIRST, 0)
    tail = read(tail_start, stored.size - tail_start)
    found = find_catalogue(tail)
    if found is None or sum(found) > stored.size - 22:
        raise NotReusableError(f"{stored.name} is not one that Storelet has made")
    end, size = found
    if size == 0:
        raise NotReusableError(f"{stored.name} is empty")
    pieces = split(read_range(read, end, size, tail_start, tail))
    first = next(pieces)
    record = read_record(first)
    if record is None or record.job != backup:
        raise NotReusableError(f"{stored.name} is not one that this Storelet understands")
    return PreviousArchive(stored, record, Members(chain([first], pieces), end))
