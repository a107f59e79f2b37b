"""An archive's catalogue as bytes: found, read, and moved into another archive; pure.

The catalogue is the central directory: a header for each member, in the order of the members.
APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16; `zipformat` writes it. Only archives of Storelet's
are read here: everything that such a one never has is damage.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from storelet.zipformat import (
    DEFLATED,
    ENCRYPTED,
    HAS_RAW_NAME,
    HAS_RECORD,
    MADE_BY,
    PRIVATE,
    PRIVATE_ID,
    PRIVATE_VERSION,
    STORED,
    ArchiveRecord,
    counted,
    encryption_field,
    member_bytes,
    zip64_field,
)

__all__ = [
    "READ_AT_FIRST",
    "TAIL_BYTES",
    "DamagedError",
    "Header",
    "Read",
    "find_catalogue",
    "read_headers",
    "read_range",
    "read_record",
    "relocate",
    "set_record",
    "split",
]

Read = Callable[[int, int], bytes]  # offset and size; all of it, or StoreletError

READ_AT_FIRST = 256 << 10  # bytes of an archive's end: the whole catalogue of 1,500 files
TAIL_BYTES = 22 + 20 + 56  # of an archive of ours: the end records, which have no comment

_CHUNK_BYTES = 8 << 20
_PIECE_BYTES = 1 << 20
_HEADER = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_HEADER_BYTES = 46
_MAGIC = b"PK\x01\x02"
_ZIP64 = b"\x01\x00"
_UINT32 = 0xFFFFFFFF
_NEEDS_ZIP64 = 45  # version needed, APPNOTE 4.4.3.2
_OWNER_START = struct.pack("<HHBB", 0x7875, 11, 1, 4)
_IS_ENCRYPTED = 1
_DESCRIPTOR_FOLLOWS = 1 << 3
_NAME_IS_UTF8 = 1 << 11
_NEEDED, _NEEDED_ENCRYPTED = (10, 20, _NEEDS_ZIP64), (51,)
_METHODS = {encryption_field(method): method for method in (STORED, DEFLATED)}


class DamagedError(Exception):
    """Bytes that are not what an archive of Storelet's has there."""


class Header(NamedTuple):
    """A central header, read."""

    start: int  # where it stands in the bytes it was read from
    end: int
    name: str  # as every reader sees it
    mode: int
    method: int  # STORED, DEFLATED
    encrypted: bool  # after that
    crc: int  # 0 where it is encrypted
    size: int
    stored_size: int
    offset: int  # of the local header
    length: int  # bytes the member takes from there on
    uid: int
    gid: int
    version: int  # of the private field; 0 where there is none that is whole
    flags: int  # CHANGED, TRUNCATED
    link_group: int
    fingerprint: bytes  # see zipformat.fingerprint
    read_at: int
    raw_name: bytes  # empty where the name is UTF-8


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


def read_range(
    read: Read, start: int, size: int, tail_start: int, tail: bytes = b""
) -> Iterator[bytes]:
    """Yield the bytes from `start` on in pieces; the `tail`, from `tail_start` on, is known."""
    stop = start + size
    for at in range(start, min(tail_start, stop), _CHUNK_BYTES):
        chunk = read(at, min(_CHUNK_BYTES, tail_start - at, stop - at))
        for piece in range(0, len(chunk), _PIECE_BYTES):
            yield chunk[piece : piece + _PIECE_BYTES]
    yield tail[max(start - tail_start, 0) : max(stop - tail_start, 0)]


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


def read_record(headers: bytes) -> ArchiveRecord | None:
    """Return what an archive says of itself in its first header, if it is one of ours."""
    try:
        end = _next(headers, 0)
    except DamagedError:
        return None
    if not 0 < end <= len(headers):
        return None
    private = _find_private(headers, _extra_start(headers), end)
    if private is None or not private.is_whole or not private.record:
        return None
    (started_ns,) = struct.unpack_from("<q", private.record)
    job, host, *sources = (os.fsdecode(each) for each in _uncount_all(private.record[8:]))
    pairs = tuple(zip(sources[::2], sources[1::2], strict=False))
    return ArchiveRecord(job=job, host=host, started_ns=started_ns, sources=pairs)


def set_record(headers: bytes, record: ArchiveRecord | None) -> bytes:
    """Return headers of ours with `record`, or none, in the private field of the first one.

    Raises DamagedError.
    """
    end = _next(headers, 0)
    private = None
    if 0 < end <= len(headers):
        private = _find_private(headers, _extra_start(headers), end)
    if private is None or not private.is_whole:
        raise DamagedError("it has no private field")
    changed = bytearray(headers[: private.end - len(private.record)])
    flags = private.flags & ~HAS_RECORD
    if record is not None:
        flags |= HAS_RECORD
        changed += struct.pack("<q", record.started_ns)
        for text in (record.job, record.host, *chain.from_iterable(record.sources)):
            changed += counted(text.encode(errors="surrogateescape"))
    changed[private.start + 5] = flags
    struct.pack_into("<H", changed, private.start + 2, len(changed) - private.start - 4)
    _set_extra_length(changed)
    return bytes(changed) + headers[end:]


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
        (magic, made_by, needed, general, method, _, _, crc, stored, size, name_length,
         extra_length, comment, disk, internal, attributes,
         offset) = _HEADER.unpack_from(piece, at)  # fmt: skip
    except struct.error as error:
        raise DamagedError("its catalogue is not whole") from error
    extra = at + _HEADER_BYTES + name_length
    end = extra + extra_length
    encrypted = method == ENCRYPTED
    if (
        (magic, made_by, comment, disk, internal) != (_MAGIC, MADE_BY, 0, 0, 0)
        or needed not in (_NEEDED_ENCRYPTED if encrypted else _NEEDED)
        or general & ~_DESCRIPTOR_FOLLOWS != (_NAME_IS_UTF8 | (_IS_ENCRYPTED if encrypted else 0))
        or method not in (STORED, DEFLATED, ENCRYPTED)
        or (encrypted and crc)
        or end > len(piece)
    ):
        raise DamagedError("its catalogue is damaged")
    zip64 = 0
    if _UINT32 in (size, stored, offset):
        size, stored, offset = _widen(piece[extra:end], size, stored, offset)
        zip64 = 4 + struct.unpack_from("<H", piece, extra + 2)[0] if extra_length >= 4 else 0
    private = _find_private(piece, extra, end)
    raw_name = b""
    if private is None or not private.is_whole:
        uid = gid = flags = version = link_group = read_at = length = 0
        mark = b""
    else:
        version, flags, raw_name = private.version, private.flags, private.raw_name
        _, _, _, _, link_group, mark, read_at = PRIVATE.unpack_from(piece, private.start)
        uid, gid = private.owner
        if encrypted:
            method = _read_method(piece[extra : private.start])
        source_size = int.from_bytes(mark[-8:], "little")
        length = member_bytes(
            name_length,
            private.start - extra - zip64,
            stored,
            source_size if general & _DESCRIPTOR_FOLLOWS else None,
        )
    name = piece[at + _HEADER_BYTES : extra].decode(errors="replace")
    return Header(
        at, end, name, attributes >> 16, method, encrypted, crc, size, stored, offset, length,
        uid, gid, version, flags, link_group, mark, read_at, raw_name,
    )  # fmt: skip


def _read_method(known: bytes) -> int:
    """Return how a member was packed before it was encrypted, from the last field of `known`."""
    try:
        return _METHODS[known[-11:]]
    except KeyError:
        raise DamagedError("its catalogue is damaged") from None


class _Private(NamedTuple):
    """The private field: where it stands, and what is of a variable length in it."""

    start: int
    end: int
    version: int
    flags: int
    raw_name: bytes
    record: bytes
    owner: tuple[int, int]  # from the field before it
    is_whole: bool  # nothing is missing, nothing is too much


def _find_private(piece: bytes, extra: int, end: int) -> _Private | None:
    """Find the private field among the extra ones; None where there is none of ours."""
    owner = (-1, -1)
    at = extra
    while at + 4 <= end:
        identifier, length = struct.unpack_from("<HH", piece, at)
        stop = at + 4 + length
        if identifier == PRIVATE_ID:
            if length < PRIVATE.size - 4 or stop > end:
                return None
            version, flags = piece[at + 4], piece[at + 5]
            if length == PRIVATE.size - 4 and not flags & (HAS_RAW_NAME | HAS_RECORD):
                is_whole = version == PRIVATE_VERSION and stop == end  # nearly always
                return _Private(at, stop, version, flags, b"", b"", owner, is_whole)
            raw_name, record, is_whole = _read_rest(piece[at + PRIVATE.size : stop], flags)
            is_whole = is_whole and version == PRIVATE_VERSION and stop == end
            return _Private(at, stop, version, flags, raw_name, record, owner, is_whole)
        if piece[at : at + 6] == _OWNER_START and length == 11 and stop <= end:
            owner = struct.unpack_from("<LxL", piece, at + 6)
        at = stop
    return None


def _read_rest(rest: bytes, flags: int) -> tuple[bytes, bytes, bool]:
    """Return raw name and record from behind the fixed part, and whether they are all of it."""
    raw_name = b""
    try:
        if flags & HAS_RAW_NAME:
            raw_name, rest = _uncount(rest)
        if not flags & HAS_RECORD:
            return raw_name, b"", not rest
        texts = _uncount_all(rest[8:])
    except struct.error:
        return raw_name, b"", False
    return raw_name, rest, len(texts) >= 2


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
        (needed,) = struct.unpack_from("<H", moved, 6)
        struct.pack_into("<H", moved, 6, max(needed, _NEEDS_ZIP64))
    _set_extra_length(moved)
    return bytes(moved)


def _extra_start(header: bytes | bytearray) -> int:
    return _HEADER_BYTES + int(struct.unpack_from("<H", header, 28)[0])


def _set_extra_length(header: bytearray) -> None:
    struct.pack_into("<H", header, 30, len(header) - _extra_start(header))


def _uncount_all(data: bytes) -> list[bytes]:
    """Return all that `counted` packed. Raises struct.error where there is something else."""
    found = []
    while data:
        each, rest = _uncount(data)
        if len(data) - len(rest) != 2 + len(each):
            raise struct.error
        found.append(each)
        data = rest
    return found


def _uncount(data: bytes) -> tuple[bytes, bytes]:
    """Return what `counted` packed, and the rest. Raises struct.error."""
    (length,) = struct.unpack_from("<H", data)
    return data[2 : 2 + length], data[2 + length :]
