"""A look at an archive that was put together from copies: whether it is what it should be.

The catalogue is read back and compared, and of the copied members a sample: those at the ends of
spans, where a range that was ignored or moved shows, and others between them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from storelet.catalogue import Header
from storelet.destination.contract import Destination, Stored
from storelet.errors import DestinationError
from storelet.layout import Layout
from storelet.previous import Members
from storelet.reuse import Span
from storelet.zipformat import DEFLATED

__all__ = ["inspect"]

_SPANS = 8  # of more, these are chosen evenly
_SAMPLE_BYTES = 1 << 20  # of a larger member only the header is looked at
_LOCAL_BYTES = 30 + 2 * 0x10000  # local header, APPNOTE 4.3.7: name and extra field
_READS_AT_ONCE = 4
_COMPARED_BYTES = 4 << 20


def inspect(
    destination: Destination,
    archive: Stored,
    layout: Layout,
    spans: Sequence[Span],
    copied: Members,
) -> None:
    """Raise DestinationError where the archive is not what `layout` says.

    `spans` of the members `copied` are its beginning.
    """
    at = layout.offset
    for piece in layout.catalogue():
        for start in range(0, len(piece), _COMPARED_BYTES):
            part = piece[start : start + _COMPARED_BYTES]
            if destination.read(archive, at, len(part)) != part:
                raise DestinationError("its catalogue is not what was written")
            at += len(part)
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        samples = _choose_samples(spans, copied)
        for problem in pool.map(lambda each: _look_at(destination, archive, *each), samples):
            if problem is not None:
                raise DestinationError(problem)


def _choose_samples(spans: Sequence[Span], copied: Members) -> Iterable[tuple[Header, int, int]]:
    """Yield the headers of members, with their offsets in the new archive and their lengths."""
    base = 0
    every = -(-len(spans) // _SPANS)
    for number, span in enumerate(spans):
        if number % every == 0 or number == len(spans) - 1:
            for member in sorted({span.first, (span.first + span.stop) // 2, span.stop - 1}):
                start, stop = copied.offsets[member], copied.offsets[member + 1]
                yield copied.header(member), base + start - span.offset, stop - start
        base += span.size


def _look_at(
    destination: Destination, archive: Stored, header: Header, offset: int, length: int
) -> str | None:
    """Return what is wrong with a member that takes `length` bytes from `offset` on."""
    is_whole = length <= _SAMPLE_BYTES
    data = destination.read(archive, offset, length if is_whole else min(length, _LOCAL_BYTES))
    wrong = f"{header.name} in it is not what was copied"
    if data[:4] != b"PK\x03\x04" or len(data) < 30:
        return wrong
    method, *_, name_length, extra_length = struct.unpack_from("<H2x2xLLLHH", data, 8)
    name = data[30 : 30 + name_length]
    if name.decode(errors="replace") != header.name:
        return wrong
    if not is_whole:
        return None
    start = 30 + name_length + extra_length
    stored = data[start : start + header.stored_size]
    try:
        content = zlib.decompress(stored, -zlib.MAX_WBITS) if method == DEFLATED else stored
    except zlib.error:
        return wrong
    is_right = len(content) == header.size and zlib.crc32(content) == header.crc
    return None if is_right else wrong
