"""Where an archive's catalogue is, from its end record.

APPNOTE.TXT 6.3.10, sections 4.3.14 to 4.3.16. There may be something before the archive, such as a
program that unpacks it, and something behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from storelet.catalogue import READ_AT_FIRST, Read, read_range

__all__ = ["Catalogue", "find_catalogue"]

_MOST_ENDS = 16  # end records that are tried; a comment, or what is behind, may look like many

_END = b"PK\x05\x06"
_END_BYTES = 22
_CENTRAL = b"PK\x01\x02"
_OFFSET_AT = 42  # in a central header
_LOCAL = b"PK\x03\x04"
_UINT16 = 0xFFFF
_UINT32 = 0xFFFFFFFF


class Catalogue(NamedTuple):
    """Where a catalogue is."""

    offset: int
    members: int  # that it should have
    shift: int  # to be added to its members' offsets
    chunks: Iterator[bytes]  # of it


def find_catalogue(read: Read, size: int) -> Catalogue | None:
    """Return the catalogue of an archive of `size` bytes; None where there is no end record."""
    tail_start = max(size - READ_AT_FIRST, 0)
    tail = read(tail_start, size - tail_start)
    read = _reading_once(read, tail_start, tail)
    at, tried = len(tail), 0
    while tried < _MOST_ENDS and (at := tail.rfind(_END, 0, at)) >= 0:
        if len(tail) - at < _END_BYTES:
            continue
        count, length, offset, comment = struct.unpack_from("<HLLH", tail, at + 10)
        end = tail_start + at  # where the catalogue, with the zip64 records, ends
        if count == _UINT16 or _UINT32 in (length, offset):
            wide = _read_zip64(read, size, tail, at)
            if wide is not None:
                count, length, offset, end = wide
        if length > end or (not length and offset != end):
            continue
        tried += 1
        located = _locate(read, offset, length, end, tail_start, tail)
        if located is None:
            continue
        start, chunks = located
        # The end of a zip that is a member of this one, which breaks off behind it, is not ours:
        # something comes before that one and behind it.
        if start == offset or at + _END_BYTES + comment == len(tail):
            return Catalogue(start, count, _find_shift(read, start, offset), chunks)
    return None


def _reading_once(read: Read, tail_start: int, tail: bytes) -> Read:
    """Return a `read` that costs no request for what is in the tail."""

    def read_once(offset: int, size: int) -> bytes:
        at = offset - tail_start
        return tail[at : at + size] if at >= 0 else read(offset, size)

    return read_once


def _read_zip64(read: Read, size: int, tail: bytes, at: int) -> tuple[int, int, int, int] | None:
    """Return count, size and offset of the catalogue, and where it ends (APPNOTE 4.3.14, 4.3.15).

    None where there are no such records.
    """
    if at < 20 or tail[at - 20 : at - 16] != b"PK\x06\x07":
        return None
    (stated,) = struct.unpack_from("<Q", tail, at - 20 + 8)
    behind = size - len(tail) + at - 20 - 56  # where it stands unless it has something more
    for offset in (stated, behind):
        if not 0 <= offset <= size - 56:
            continue
        record = read(offset, 56)
        if record[:4] == b"PK\x06\x06":
            count, length, start = struct.unpack_from("<QQQ", record, 32)
            return count, length, start, offset
    return None


def _locate(
    read: Read, offset: int, length: int, end: int, tail_start: int, tail: bytes
) -> tuple[int, Iterator[bytes]] | None:
    """Return where the catalogue is, before the end record or as stated, and its bytes in pieces.

    The first of these tells, so that looking costs no request that reading would not.
    """
    if length == 0:
        return offset, iter(())
    for start in (end - length, offset):
        if 0 <= start <= end - len(_CENTRAL):
            pieces = read_range(read, start, length, tail_start, tail)
            first = next(pieces, b"")
            if first.startswith(_CENTRAL):
                return start, chain([first], pieces)
    return None


def _find_shift(read: Read, start: int, offset: int) -> int:
    """Return what is to be added to offsets, where the catalogue is not where it should be.

    There is something before the archive; or there is not, and only that one offset is wrong.
    """
    shift = start - offset
    if shift:
        (first,) = struct.unpack("<L", read(start + _OFFSET_AT, 4))
        is_there = 0 <= first + shift < start and read(first + shift, 4) == _LOCAL
        if first != _UINT32 and not is_there:
            return 0
    return shift
