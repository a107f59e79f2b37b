"""An archive's catalogue as bytes: found, read, and moved into another archive; pure.

The catalogue is the central directory: a header for each member, in the order of the members.
APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16; `zipformat` writes it. Only archives of Storelet's
are read here: everything that such a one never has is damage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from storelet.zipformat import (
    HAS_RAW_NAME,
    HAS_RECORD,
    PRIVATE,
    PRIVATE_ID,
    PRIVATE_VERSION,
    ArchiveRecord,
    counted,
    zip64_field,
)

__all__ = [
    "TAIL_BYTES",
    "DamagedError",
    "Header",
    "find_catalogue",
    "read_headers",
    "read_record",
    "relocate",
    "set_record",
    "split",
]

TAIL_BYTES = 22 + 20 + 56  # of an archive of ours: the end records, which have no comment

_HEADER = struct.Struct("<4sHHHHLLLLHHHHHLL")
_HEADER_BYTES = 46
_MAGIC = b"PK\x01\x02"
_ZIP64 = b"\x01\x00"
_UINT32 = 0xFFFFFFFF
_NEEDS_ZIP64 = 45  # version needed, APPNOTE 4.4.3.2
_PRIVATE_START = struct.pack("<HH", PRIVATE_ID, PRIVATE.size - 4)  # without name and record


class DamagedError(Exception):
    """Bytes that are not what an archive of Storelet's has there."""


class Header(NamedTuple):
    """A central header, read."""

    start: int  # where it stands in the bytes it was read from
    end: int
    name: str  # as every reader sees it
    mode: int
    crc: int
    size: int
    stored_size: int
    offset: int  # of the local header
    owner: bytes  # the field with uid and gid, as it stands
    version: int  # of the private field; 0 where there is none
    flags: int  # CHANGED, TRUNCATED
    link_group: int
    fingerprint: bytes  # see zipformat.fingerprint
    read_at: int


def find_catalogue(tail: bytes) -> tuple[int, int] | None:
    """Return offset and size of the catalogue from an archive's last TAIL_BYTES or more.

    None where they are not the end of an archive of ours.
    """
    if len(tail) < 22 or tail[-22:-18] != b"PK\x05\x06":
        return None
    size, offset = struct.unpack_from("<LL", tail, len(tail) - 10)
    if _UINT32 in (size, offset) and tail[-TAIL_BYTES:][:4] == b"PK\x06\x06":
        size, offset = struct.unpack_from("<QQ", tail, len(tail) - TAIL_BYTES + 40)
    return offset, size


def split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the catalogue that comes in chunks in pieces of whole headers. Raises DamagedError."""
    rest = b""
    for chunk in chunks:
        rest += chunk
        end = 0
        while end < (at := _next(rest, end)) <= len(rest):
            end = at
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        raise DamagedError("its catalogue is not whole")


def read_headers(piece: bytes) -> Iterator[Header]:
    """Yield the headers of a piece of whole ones. Raises DamagedError."""
    at = 0
    while at < len(piece):
        header = _read_header(piece, at)
        yield header
        at = header.end


def read_record(header: bytes) -> ArchiveRecord | None:
    """Return what an archive says of itself in its first header, if it is one of ours."""
    try:
        end = _next(header, 0)
        if not 0 < end <= len(header):
            return None
        version, flags, body = _find_private(header, _extra_start(header), end)
        if version != PRIVATE_VERSION or not flags & HAS_RECORD:
            return None
        rest = header[body + PRIVATE.size - 4 : end]
        if flags & HAS_RAW_NAME:
            _, rest = _uncount(rest)
        (started_ns,) = struct.unpack_from("<q", rest)
        job, rest = _uncount(rest[8:])
        host, rest = _uncount(rest)
    except (struct.error, DamagedError):  # it looks like ours and is not
        return None
    return ArchiveRecord(
        job=job.decode(errors="replace"), host=host.decode(errors="replace"), started_ns=started_ns
    )


def set_record(headers: bytes, record: ArchiveRecord | None) -> bytes:
    """Return headers of ours with `record`, or none, in the private field of the first one."""
    end = _next(headers, 0)
    header, rest = headers[:end], headers[end:]
    version, flags, body = _find_private(header, _extra_start(header), end)
    if version != PRIVATE_VERSION:
        raise DamagedError("it has no private field")
    kept = body + PRIVATE.size - 4  # behind it is the raw name, then the record
    if flags & HAS_RAW_NAME:
        kept += 2 + struct.unpack_from("<H", header, kept)[0]
    changed = bytearray(header[:kept])
    changed[body + 1] = flags & ~HAS_RECORD
    if record is not None:
        changed[body + 1] |= HAS_RECORD
        changed += struct.pack("<q", record.started_ns)
        changed += counted(record.job.encode(errors="replace"))
        changed += counted(record.host.encode(errors="replace"))
    struct.pack_into("<H", changed, body - 2, len(changed) - body)
    _set_extra_length(changed)
    return bytes(changed) + rest


def relocate(headers: bytes | memoryview, shift: int) -> tuple[bytes, int]:
    """Move headers' members by `shift` bytes; return the headers, and how many they are."""
    moved = bytearray(headers)
    at = count = 0
    while at < len(moved):
        name_length, extra_length = struct.unpack_from("<HH", moved, at + 28)
        end = at + _HEADER_BYTES + name_length + extra_length
        (offset,) = struct.unpack_from("<L", moved, at + 42)
        if offset != _UINT32 and 0 <= offset + shift < _UINT32:
            struct.pack_into("<L", moved, at + 42, offset + shift)
        else:
            wide = _move_wide(bytes(moved[at:end]), shift)
            moved[at:end] = wide
            end = at + len(wide)
        at, count = end, count + 1
    return bytes(moved), count


def _next(headers: bytes, at: int) -> int:
    """Return where the header at `at` ends; `at` itself where its lengths are not there yet."""
    if len(headers) < at + _HEADER_BYTES:
        return at
    if headers[at : at + 4] != _MAGIC:
        raise DamagedError("its catalogue is damaged")
    name_length, extra_length = struct.unpack_from("<HH", headers, at + 28)
    return at + _HEADER_BYTES + int(name_length) + int(extra_length)


def _read_header(piece: bytes, at: int) -> Header:
    try:
        (magic, _, _, _, _, _, crc, stored, size, name_length, extra_length, _, _, _, attributes,
         offset) = _HEADER.unpack_from(piece, at)  # fmt: skip
    except struct.error as error:
        raise DamagedError("its catalogue is not whole") from error
    extra = at + _HEADER_BYTES + name_length
    end = extra + extra_length
    if magic != _MAGIC or end > len(piece):
        raise DamagedError("its catalogue is damaged")
    if _UINT32 in (size, stored, offset):
        size, stored, offset = _widen(piece[extra:end], size, stored, offset)
    version, flags, body = _find_private(piece, extra, end)
    if version != PRIVATE_VERSION:
        link_group, mark, read_at, owner = 0, b"", 0, b""
    else:
        _, _, _, _, link_group, mark, read_at = PRIVATE.unpack_from(piece, body - 4)
        owner = piece[body - 4 - 15 : body - 4]
    name = piece[at + _HEADER_BYTES : extra].decode(errors="replace")
    return Header(
        at, end, name, attributes >> 16, crc, size, stored, offset,
        owner, version, flags, link_group, mark, read_at,
    )  # fmt: skip


def _find_private(piece: bytes, extra: int, end: int) -> tuple[int, int, int]:
    """Return version and flags of the private field, and where its body begins; 0 for none."""
    at = end - PRIVATE.size
    if at >= extra and piece[at : at + 4] == _PRIVATE_START:  # nearly always
        return piece[at + 4], piece[at + 5], at + 4
    while extra + 6 <= end:
        identifier, length = struct.unpack_from("<HH", piece, extra)
        if identifier == PRIVATE_ID and PRIVATE.size - 4 <= length <= end - extra - 4:
            return piece[extra + 4], piece[extra + 5], extra + 4
        extra += 4 + length
    return 0, 0, 0


def _widen(extra: bytes, *narrow: int) -> tuple[int, ...]:
    """Return the values that stand in the zip64 field, which is the first one."""
    if extra[:2] != _ZIP64:
        return narrow
    try:
        wide = iter(struct.unpack_from(f"<{narrow.count(_UINT32)}Q", extra, 4))
    except struct.error as error:
        raise DamagedError("its catalogue is damaged") from error
    return tuple(next(wide) if value == _UINT32 else value for value in narrow)


def _move_wide(header: bytes, shift: int) -> bytes:
    """Move one member across 4 GiB or beyond it: the zip64 field is made anew."""
    stored, size = struct.unpack_from("<LL", header, 20)
    (offset,) = struct.unpack_from("<L", header, 42)
    extra = _extra_start(header)
    size, stored, offset = _widen(header[extra:], size, stored, offset)
    offset += shift
    rest = extra
    if header[extra : extra + 2] == _ZIP64:
        rest += 4 + struct.unpack_from("<H", header, extra + 2)[0]
    field = zip64_field(size, stored, offset)
    moved = bytearray(header[:extra] + field + header[rest:])
    struct.pack_into("<L", moved, 42, min(offset, _UINT32))
    if field:
        struct.pack_into("<H", moved, 6, _NEEDS_ZIP64)
    _set_extra_length(moved)
    return bytes(moved)


def _extra_start(header: bytes | bytearray) -> int:
    return _HEADER_BYTES + int(struct.unpack_from("<H", header, 28)[0])


def _set_extra_length(header: bytearray) -> None:
    struct.pack_into("<H", header, 30, len(header) - _extra_start(header))


def _uncount(data: bytes) -> tuple[bytes, bytes]:
    """Return what `counted` packed, and the rest. Raises struct.error."""
    (length,) = struct.unpack_from("<H", data)
    return data[2 : 2 + length], data[2 + length :]
