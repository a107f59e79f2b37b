"""A look at an archive that was put together from copies: whether it is what it should be.

The catalogue is read back and compared. Of each copied piece the beginning and the end are compared
with the archive before, where a range that was ignored or moved shows. Of the copied members a
sample is inflated and its CRC compared, at the ends of spans and between them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from storelet.catalogue import Header
from storelet.destination.contract import Destination, Stored
from storelet.errors import DestinationError
from storelet.layout import Layout
from storelet.previous import PreviousArchive
from storelet.reuse import Span
from storelet.zipformat import DEFLATED

__all__ = ["Inspection"]

_SPANS = 8  # of more, these are chosen evenly
_PIECES = 32  # likewise
_EDGE_BYTES = 4 << 10
_SAMPLE_BYTES = 1 << 20  # of a larger member only the header is looked at
_LOCAL_BYTES = 30 + 2 * 0x10000  # local header, APPNOTE 4.3.7: name and extra field
_READS_AT_ONCE = 8
_COMPARED_BYTES = 4 << 20


class Inspection:
    """An archive under inspection; it begins with copies from `previous`."""

    def __init__(
        self, destination: Destination, archive: Stored, previous: PreviousArchive
    ) -> None:
        self._destination = destination
        self._archive = archive
        self._previous = previous

    def look(
        self, layout: Layout, spans: Sequence[Span], pieces: Sequence[tuple[int, int]]
    ) -> None:
        """Raise DestinationError where the archive is not what `layout` says.

        It has the spans of the archive before; `pieces` are compared with that one.
        """
        looks = [*self._samples(spans), *self._edges(pieces), *self._catalogue(layout)]
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            for look in [pool.submit(each) for each in looks]:
                look.result()

    def _catalogue(self, layout: Layout) -> Iterator[Callable[[], None]]:
        at = layout.offset
        for piece in layout.catalogue():
            for start in range(0, len(piece), _COMPARED_BYTES):
                part = piece[start : start + _COMPARED_BYTES]
                yield partial(self._require, at, part, "its catalogue is not what was written")
                at += len(part)

    def _edges(self, pieces: Sequence[tuple[int, int]]) -> Iterator[Callable[[], None]]:
        """Yield looks at pieces (offset and size in the archive before) that were copied."""
        at = 0
        every = -(-len(pieces) // _PIECES)
        for number, (offset, size) in enumerate(pieces):
            if number % every == 0 or number == len(pieces) - 1:
                edge = min(_EDGE_BYTES, size)
                for shift in (0, size - edge):
                    yield partial(self._compare, at + shift, offset + shift, edge)
            at += size

    def _samples(self, spans: Sequence[Span]) -> Iterator[Callable[[], None]]:
        members, base = self._previous.members, 0
        every = -(-len(spans) // _SPANS)
        for number, span in enumerate(spans):
            if number % every == 0 or number == len(spans) - 1:
                for member in sorted({span.first, (span.first + span.stop) // 2, span.stop - 1}):
                    start, stop = members.offsets[member], members.offsets[member + 1]
                    at = base + start - span.offset
                    yield partial(self._unpack, members.header(member), at, stop - start)
            base += span.size

    def _require(self, offset: int, expected: bytes, problem: str) -> None:
        if self._destination.read(self._archive, offset, len(expected)) != expected:
            raise DestinationError(problem)

    def _compare(self, offset: int, before: int, size: int) -> None:
        expected = self._destination.read(self._previous.stored, before, size)
        self._require(offset, expected, "a piece of it is not what was copied")

    def _unpack(self, header: Header, offset: int, length: int) -> None:
        """Look at a member that takes `length` bytes from `offset` on."""
        is_whole = length <= _SAMPLE_BYTES
        size = length if is_whole else min(length, _LOCAL_BYTES)
        data = self._destination.read(self._archive, offset, size)
        if not _is_member(data, header, is_whole=is_whole):
            raise DestinationError(f"{header.name} in it is not what was copied")


def _is_member(data: bytes, header: Header, *, is_whole: bool) -> bool:
    """Tell whether `data` is the member of a header, or, where not whole, begins like it."""
    if data[:4] != b"PK\x03\x04" or len(data) < 30:
        return False
    method, *_, name_length, extra_length = struct.unpack_from("<H2x2xLLLHH", data, 8)
    if data[30 : 30 + name_length].decode(errors="replace") != header.name:
        return False
    if not is_whole:
        return True
    start = 30 + name_length + extra_length
    stored = data[start : start + header.stored_size]
    try:
        content = zlib.decompress(stored, -zlib.MAX_WBITS) if method == DEFLATED else stored
    except zlib.error:
        return False
    return len(content) == header.size and zlib.crc32(content) == header.crc
