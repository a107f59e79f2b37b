"""Members that no catalogue lists, from their local headers.

What lies between the listed members is read through for local headers (APPNOTE.TXT 6.3.10, section
4.3.7):

1. one that says how long its data are has something known behind them;
2. one that does not has, somewhere, a data descriptor (4.3.9) that says how far it is away; or else
   its deflate stream says where it ends;
3. what goes on beyond the last byte breaks off there, and nothing behind it is believed.

What has neither an end record nor a member near its beginning is no zip, and not read any further:
it may be a disk.

Modes, hard links and what is a symbolic link stand in catalogues alone.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

from storelet.catalogue import DamagedError, read_range
from storelet.restore.content import METHODS, end_of, measure
from storelet.restore.endrecord import Catalogue
from storelet.restore.listing import Listing, Read
from storelet.zipformat import DEFLATED

__all__ = ["salvage"]

_LEAST_GAP = 64  # bytes: neighbours may have less between them, in extra fields and descriptors
_CHUNK_BYTES = 8 << 20
_PIECE_BYTES = 1 << 20
_BEGINNING_BYTES = 1 << 20  # in which a zip begins; before it may be a program that unpacks it
_MOST_EXTRA = 65_535 - 28  # beside the field for zip64 that is put in front
_NOWHERE = 1 << 62  # more bytes than an archive has
_MOST_READ = 8  # times a gap: what says that it ends and does not must not be sought for ever

_LOCAL, _CENTRAL, _DESCRIPTOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
_KNOWN = {_LOCAL, _CENTRAL, _DESCRIPTOR, b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x08"}
_HEADER = struct.Struct("<4sHHHHHLLLHH")
_LATEST_VERSION = 63  # of APPNOTE
_IS_ENCRYPTED, _IS_STREAMED = 1, 1 << 3
_UNIX = 3 << 8
_UINT32 = 0xFFFFFFFF


def salvage(read: Read, listing: Listing) -> None:
    """Fill a listing up with the members that it lacks, and say so in its problems.

    Where a catalogue follows the last of them, only its end was missing: then it counts.
    Raises StoreletError where reading does.
    """
    size = listing.end
    if not listing.has_catalogue and not _begins_like_zip(read, size):
        listing.problems[:] = ["it is no zip: it neither begins nor ends like one"]
        return
    found, end = _fill_up(read, listing)
    if found and end < size and read(end, len(_CENTRAL)) == _CENTRAL:
        listing.load(Catalogue(end, 0, 0, read_range(read, end, size - end, size)))
        listing.problems[:] = ["its end is missing or damaged"]
        found, _ = _fill_up(read, listing)
    if found:
        listing.problems.append(
            f"{found:,} members are in no catalogue: they have no modes and no hard links, and "
            "symbolic links are files with what they point to"
        )


def _begins_like_zip(read: Read, size: int) -> bool:
    beginning = _Gap(read, 0, min(size, _BEGINNING_BYTES))
    return next(beginning.members(0), None) is not None


def _fill_up(read: Read, listing: Listing) -> tuple[int, int]:
    """Add members from between the listed ones; return how many, and where the last one ends."""
    found, last_end = 0, listing.end
    headers = bytearray()
    for start, stop in _gaps(listing):
        for header, end in _Gap(read, start, stop).members(listing.shift):
            headers += header
            found, last_end = found + 1, end
            if len(headers) > _PIECE_BYTES:
                listing.add(bytes(headers))
                headers.clear()
    listing.add(bytes(headers))
    return found, last_end


def _gaps(listing: Listing) -> list[tuple[int, int]]:
    """Return where no listed member lies."""
    starts, ends = array("Q"), array("Q")
    for member in listing.members():
        if member.offset >= 0 and end_of(member) <= listing.end:
            starts.append(member.offset)
            ends.append(end_of(member))
    starts.append(listing.end)
    ends.append(listing.end)
    gaps, at = [], max(listing.shift, 0)
    for number in sorted(range(len(starts)), key=starts.__getitem__):
        if starts[number] - at > _LEAST_GAP:
            gaps.append((at, starts[number]))
        at = max(at, ends[number])
    return gaps


class _Gap:
    """A part of an archive, read forwards in chunks."""

    def __init__(self, read: Read, start: int, stop: int) -> None:
        self._read = read
        self._start, self._stop = start, stop
        self._chunk, self._chunk_start = b"", start
        self._left = _MOST_READ * (stop - start)  # bytes that may be read in vain

    def members(self, shift: int) -> Iterator[tuple[bytes, int]]:
        """Yield a central header for each local one, and where its member ends."""
        at = self._start
        while (at := self._find(_LOCAL, at)) >= 0:
            found = self._read_header(at, shift)
            if found is None:
                at += len(_LOCAL)
                continue
            header, end = found
            yield header, min(end, self._stop)
            if end >= self._stop or self._get(end, 4) in _KNOWN:
                at = end
            else:
                self._left -= end - at
                at += _HEADER.size

    def _read_header(self, at: int, shift: int) -> tuple[bytes, int] | None:
        """Return the central header, and where its member ends; None where there is none."""
        head = self._get(at, _HEADER.size)
        if len(head) < _HEADER.size:
            return None
        (_, needed, general, method, clock, date, crc, stored, size, name_length,
         extra_length) = _HEADER.unpack(head)  # fmt: skip
        data = at + _HEADER.size + name_length + extra_length
        is_known = method in METHODS and needed & 0xFF <= _LATEST_VERSION
        if not is_known or not name_length or data > self._stop:
            return None
        rest = self._get(at + _HEADER.size, name_length + extra_length)
        name, extra = rest[:name_length], rest[name_length:][:_MOST_EXTRA]
        is_wide = _UINT32 in (size, stored) and extra[:2] == b"\1\0" and len(extra) >= 20
        if is_wide:
            size, stored = struct.unpack_from("<QQ", extra, 4)
        end = data + stored
        if general & _IS_STREAMED and not stored:
            crc, stored, size, end = self._find_end(data, general, method, is_wide=is_wide)
        if end > self._stop:
            stored = _NOWHERE
        wide = struct.pack("<HHQQQ", 1, 24, size, stored, at - shift)
        header = struct.pack(
            "<4sHHHHHHLLLHHHHHLL", _CENTRAL, _UNIX, needed, general, method, clock, date, crc,
            _UINT32, _UINT32, name_length, len(wide) + len(extra), 0, 0, 0, 0, _UINT32,
        )  # fmt: skip
        return header + name + wide + extra, end

    def _find_end(
        self, data: int, general: int, method: int, *, is_wide: bool
    ) -> tuple[int, int, int, int]:
        """Return CRC and sizes from behind the data, and where the next member may begin."""
        layout = struct.Struct("<4sLQQ" if is_wide else "<4sLLL")
        at = data
        while self._left > 0 and (at := self._find(_DESCRIPTOR, at)) >= 0:
            found = self._get(at, layout.size)
            if len(found) == layout.size:
                _, crc, stored, size = layout.unpack(found)
                if stored == at - data:
                    return crc, stored, size, at + layout.size
            at += len(_DESCRIPTOR)
        self._left -= self._stop - data
        breaks_off = 0, 0, 0, self._stop + 1
        if method != DEFLATED or general & _IS_ENCRYPTED or self._left <= 0:
            return breaks_off
        try:
            measured = measure(self._pieces(data))
        except DamagedError:
            return 0, 0, 0, data
        if measured is None:
            return breaks_off
        stored, size = measured
        (crc,) = struct.unpack("<L", self._get(data + stored, 4).ljust(4, b"\0"))
        return crc, stored, size, data + stored + layout.size - len(_DESCRIPTOR)

    def _pieces(self, at: int) -> Iterator[bytes]:
        while at < self._stop:
            piece = self._get(at, _CHUNK_BYTES)
            yield piece
            at += len(piece)

    def _get(self, at: int, size: int) -> bytes:
        """Return what there is of a range."""
        end = min(at + size, self._stop)
        if at < self._chunk_start or end > self._chunk_start + len(self._chunk):
            size = min(max(size, _CHUNK_BYTES), self._stop - at)
            self._chunk, self._chunk_start = self._read(at, max(size, 0)), at
        return self._chunk[at - self._chunk_start : max(end - self._chunk_start, 0)]

    def _find(self, what: bytes, at: int) -> int:
        """Return where something is next; -1 where it is not."""
        while at + len(what) <= self._stop:
            self._get(at, len(what))
            found = self._chunk.find(what, at - self._chunk_start)
            if found >= 0:
                return self._chunk_start + found
            at = self._chunk_start + len(self._chunk) - len(what) + 1
        return -1
