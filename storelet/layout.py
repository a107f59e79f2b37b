"""The layout of an archive: where its members stand, while it grows at one place.

Its bytes go to a sink, in order and never back; its catalogue is kept here, deflated where it is
long, until it is written behind the members.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from storelet.catalogue import relocate, set_record
from storelet.deflate import squeeze, unsqueeze
from storelet.zipformat import ArchiveRecord, end_records

__all__ = ["Layout", "Sink"]

_PIECE_BYTES = 1 << 20  # of the catalogue, before it is squeezed


class Sink(Protocol):
    """Takes the archive's bytes in order, all of each call or an exception."""

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""


class Layout:
    """One archive in the making."""

    def __init__(self, sink: Sink, record: ArchiveRecord) -> None:
        self.offset = 0  # bytes of the archive so far
        self.is_open = True  # whether anything more is to be written
        self._sink = sink
        self._record = record
        self._count = 0
        self._squeezed: list[bytes] = []
        self._headers = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`. Raises what the sink raises; then the archive is lost."""
        self._sink.write(data)
        self.offset += len(data)

    def add(self, headers: bytes | memoryview, start: int) -> None:
        """Add the central headers of members that were written at `start`, their offset 0."""
        if not headers:
            return
        moved, count = relocate(headers, start)
        if not self._count:
            moved = set_record(moved, self._record)
        self._count += count
        self._headers += moved
        if len(self._headers) >= _PIECE_BYTES:
            self._squeezed.append(squeeze(bytes(self._headers)))
            self._headers.clear()

    def skip(self, size: int) -> None:
        """Take note that the sink has `size` bytes more of the archive already."""
        self.offset += size

    def headers(self) -> Iterator[bytes]:
        """Yield the central headers of the members so far, in pieces of whole ones."""
        for squeezed in self._squeezed:
            yield unsqueeze(squeezed)
        if self._headers:
            yield bytes(self._headers)

    def catalogue(self) -> Iterator[bytes]:
        """Yield what completes the archive behind the members so far; they may become more."""
        size = 0
        for piece in self.headers():
            size += len(piece)
            yield piece
        yield end_records(self._count, size, self.offset)
