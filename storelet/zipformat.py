"""The records of a zip as bytes; pure, no input or output.

Written as APPNOTE.TXT 6.3.10 describes them (sections 4.3 and 4.5). In order an archive is

1. for each member a local header, its data and, for a streamed one, a data descriptor;
2. for each member a central header: the catalogue;
3. the end records, zip64 ones only where a field overflows.

Each member carries extra fields that common tools know (times 0x5455, owner 0x7875) and, in the
central header alone, Storelet's private field (`private_field`). What is not kept: access times,
extended attributes, ACLs.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from dataclasses import dataclass

__all__ = [
    "CHANGED",
    "DEFLATED",
    "PRIVATE_ID",
    "STORED",
    "TAIL_BYTES",
    "TRUNCATED",
    "ArchiveRecord",
    "Member",
    "central_header",
    "data_descriptor",
    "end_records",
    "find_catalogue",
    "local_header",
    "needs_zip64",
    "portable_name",
    "read_archive_record",
    "relocate",
]

STORED = 0
DEFLATED = 8

# Flags of the private field.
CHANGED = 1  # the file changed while it was read
TRUNCATED = 2  # a read error broke the file off
_HAS_RAW_NAME = 4
_HAS_ARCHIVE_RECORD = 8

PRIVATE_ID = 0x6C53  # "Sl" in the file; not in APPNOTE's list of known identifiers
_PRIVATE_VERSION = 1
_PRIVATE = struct.Struct("<BBLqqQQq")

_UINT16 = 0xFFFF
_UINT32 = 0xFFFFFFFF
_MADE_BY = 3 << 8 | 63  # Unix, APPNOTE 6.3
_DESCRIPTOR_FOLLOWS = 1 << 3
_NAME_IS_UTF8 = 1 << 11
_MSDOS_DIRECTORY = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An entry as stored in a zip."""

    name: str  # with `/` at the end for a directory; surrogates stand for bytes that are not UTF-8
    mode: int  # st_mode, type and permissions
    uid: int
    gid: int
    mtime_ns: int  # since the epoch
    ctime_ns: int
    inode: int
    source_size: int  # bytes, as the file system gave it when the file was opened
    link_group: int  # members with the same number above 0 were hard links to one file
    read_at: int  # seconds since the epoch: when the bytes were last read from the source
    flags: int = 0  # CHANGED, TRUNCATED
    method: int = STORED
    crc: int = 0
    size: int = 0  # bytes in the archive, inflated
    stored_size: int = 0  # bytes in the archive, as they stand
    streamed: bool = False  # sizes and CRC follow in a data descriptor
    zip64: bool = False  # local header and descriptor have 8-byte sizes; streamed members only


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRecord:
    """What the archive says of itself, in the private field of its first central header."""

    job: str  # the name given to ZipBackup
    host: str
    started_ns: int  # since the epoch


def needs_zip64(size: int) -> bool:
    """Tell whether a streamed member of `size` bytes may need 8-byte sizes.

    Deflate grows what it cannot shrink: zlib's bound for stored blocks is 5 bytes in 16 KiB, and
    each flush adds 5; a thousandth is above both.
    """
    return size + size // 1000 + 64 >= _UINT32


def portable_name(name: str) -> str:
    """Return `name` as every reader can decode it: bytes that are not UTF-8 become `%XX`."""
    if name.isascii():
        return name
    return "".join(
        f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in name
    )


def local_header(member: Member) -> bytes:
    """APPNOTE 4.3.7. Of a streamed member the sizes and the CRC are left to the descriptor."""
    name = portable_name(member.name).encode()
    extra = _times_field(member) + _owner_field(member)
    if member.zip64:
        extra = struct.pack("<HHQQ", 0x0001, 16, 0, 0) + extra
    unknown_size = _UINT32 if member.zip64 else 0
    date, clock = _dos_time(member.mtime_ns)
    return (
        struct.pack(
            "<4sHHHHHLLLHH",
            b"PK\x03\x04",
            _version_needed(member, zip64=member.zip64),
            _general_flags(member),
            member.method,
            clock,
            date,
            0 if member.streamed else member.crc,
            unknown_size if member.streamed else member.stored_size,
            unknown_size if member.streamed else member.size,
            len(name),
            len(extra),
        )
        + name
        + extra
    )


def data_descriptor(member: Member) -> bytes:
    """APPNOTE 4.3.9, with the signature that most readers expect."""
    return struct.pack(
        "<4sLQQ" if member.zip64 else "<4sLLL",
        b"PK\x07\x08",
        member.crc,
        member.stored_size,
        member.size,
    )


def central_header(member: Member, offset: int, archive: ArchiveRecord | None = None) -> bytes:
    """APPNOTE 4.3.12; `offset` is the local header's. `archive` is given for the first one."""
    name = portable_name(member.name).encode()
    wide = [n for n in (member.size, member.stored_size, offset) if n >= _UINT32]
    zip64 = struct.pack(f"<HH{len(wide)}Q", 0x0001, 8 * len(wide), *wide) if wide else b""
    extra = zip64 + _times_field(member) + _owner_field(member) + _private_field(member, archive)
    date, clock = _dos_time(member.mtime_ns)
    directory = _MSDOS_DIRECTORY if stat.S_ISDIR(member.mode) else 0
    return (
        struct.pack(
            "<4sHHHHHHLLLHHHHHLL",
            b"PK\x01\x02",
            _MADE_BY,
            _version_needed(member, zip64=bool(wide) or member.zip64),
            _general_flags(member),
            member.method,
            clock,
            date,
            member.crc,
            min(member.stored_size, _UINT32),
            min(member.size, _UINT32),
            len(name),
            len(extra),
            0,  # comment length
            0,  # disk
            0,  # internal attributes
            (member.mode & _UINT16) << 16 | directory,
            min(offset, _UINT32),
        )
        + name
        + extra
    )


def relocate(headers: bytes | memoryview, base: int) -> tuple[bytes, int]:
    """Move central headers by `base` bytes; return them and how many they are.

    Their offsets must be below 4 GiB, that is, not in a zip64 field.
    """
    moved = bytearray(headers)
    at = count = 0
    while at < len(moved):
        name_length, extra_length = struct.unpack_from("<HH", moved, at + 28)
        offset = base + struct.unpack_from("<L", moved, at + 42)[0]
        extra = at + 46 + name_length
        end = extra + extra_length
        if offset >= _UINT32:
            moved[extra:extra] = struct.pack("<HHQ", 0x0001, 8, offset)
            end += 12
            struct.pack_into("<H", moved, at + 6, 45)  # version needed
            struct.pack_into("<H", moved, at + 30, extra_length + 12)
        struct.pack_into("<L", moved, at + 42, min(offset, _UINT32))
        at, count = end, count + 1
    return bytes(moved), count


def end_records(count: int, size: int, offset: int) -> bytes:
    """APPNOTE 4.3.14 to 4.3.16: `count` central headers in `size` bytes begin at `offset`."""
    zip64 = b""
    if count >= _UINT16 or size >= _UINT32 or offset >= _UINT32:
        zip64 = struct.pack(
            "<4sQHHLLQQQQ",
            b"PK\x06\x06",
            44,  # bytes that follow this field
            _MADE_BY,
            45,
            0,  # this disk
            0,  # disk of the central directory
            count,
            count,
            size,
            offset,
        ) + struct.pack(
            "<4sLQL",
            b"PK\x06\x07",
            0,  # disk of the record above
            offset + size,
            1,  # disks
        )
    return zip64 + struct.pack(
        "<4sHHHHLLH",
        b"PK\x05\x06",
        0,  # this disk
        0,  # disk of the central directory
        min(count, _UINT16),
        min(count, _UINT16),
        min(size, _UINT32),
        min(offset, _UINT32),
        0,  # comment length
    )


TAIL_BYTES = 22 + 20 + 56  # of an archive of ours: the end records, which have no comment


def find_catalogue(tail: bytes) -> tuple[int, int] | None:
    """Return offset and size of the catalogue from an archive's last TAIL_BYTES.

    None where they are not the end of an archive of ours.
    """
    if len(tail) < 22 or tail[-22:-18] != b"PK\x05\x06":
        return None
    size, offset = struct.unpack_from("<LL", tail, len(tail) - 10)
    if _UINT32 in (size, offset) and tail[:4] == b"PK\x06\x06":
        size, offset = struct.unpack_from("<QQ", tail, 40)
    return offset, size


def read_archive_record(catalogue: bytes) -> ArchiveRecord | None:
    """Return what the archive says of itself in its first central header, if it is one of ours."""
    if catalogue[:4] != b"PK\x01\x02" or len(catalogue) < 46:
        return None
    name_length, extra_length = struct.unpack_from("<HH", catalogue, 28)
    extra = catalogue[46 + name_length : 46 + name_length + extra_length]
    while len(extra) >= 4:
        identifier, length = struct.unpack_from("<HH", extra)
        if identifier == PRIVATE_ID:
            return _read_record_of(extra[4 : 4 + length])
        extra = extra[4 + length :]
    return None


def _read_record_of(private: bytes) -> ArchiveRecord | None:
    """Return the archive's record from a private field that has one."""
    try:
        version, flags = struct.unpack_from("<BB", private)
        if version != _PRIVATE_VERSION or not flags & _HAS_ARCHIVE_RECORD:
            return None
        rest = private[_PRIVATE.size :]
        if flags & _HAS_RAW_NAME:
            _, rest = _uncount(rest)
        (started_ns,) = struct.unpack_from("<q", rest)
        job, rest = _uncount(rest[8:])
        host, rest = _uncount(rest)
    except struct.error:  # it looks like ours and is not
        return None
    return ArchiveRecord(
        job=job.decode(errors="replace"), host=host.decode(errors="replace"), started_ns=started_ns
    )


def _version_needed(member: Member, *, zip64: bool) -> int:
    """APPNOTE 4.4.3.2: 4.5 for zip64, 2.0 for deflate and directories, else 1.0."""
    if zip64:
        return 45
    return 20 if member.method == DEFLATED or stat.S_ISDIR(member.mode) else 10


def _general_flags(member: Member) -> int:
    """APPNOTE 4.4.4."""
    return _NAME_IS_UTF8 | (_DESCRIPTOR_FOLLOWS if member.streamed else 0)


def _dos_time(mtime_ns: int) -> tuple[int, int]:
    """APPNOTE 4.4.6: local time in steps of 2 s, from 1980 to 2107; beyond, the nearest."""
    try:
        local = time.localtime(mtime_ns // 1_000_000_000)
    except (OverflowError, ValueError, OSError):  # a year beyond the C library's
        return (0xFF9F, 0xBF7D) if mtime_ns > 0 else (0x0021, 0)
    if local.tm_year < 1980:
        return 0x0021, 0
    if local.tm_year > 2107:
        return 0xFF9F, 0xBF7D
    return (
        (local.tm_year - 1980) << 9 | local.tm_mon << 5 | local.tm_mday,
        local.tm_hour << 11 | local.tm_min << 5 | min(local.tm_sec, 59) // 2,
    )


def _times_field(member: Member) -> bytes:
    """Info-ZIP's extended timestamp: flags (1: mtime), then signed seconds, where they fit.

    Not before 1970: 7-Zip and libarchive read them unsigned, and 1960 became 2096.
    """
    seconds = member.mtime_ns // 1_000_000_000
    if not 0 <= seconds < 1 << 31:
        return b""
    return struct.pack("<HHBl", 0x5455, 5, 1, seconds)


def _owner_field(member: Member) -> bytes:
    """Info-ZIP's new Unix field: version, then uid and gid, each behind its size."""
    return struct.pack("<HHBBLBL", 0x7875, 11, 1, 4, member.uid, 4, member.gid)


def _private_field(member: Member, archive: ArchiveRecord | None) -> bytes:
    """Pack what only Storelet reads: the exact stat that tells whether a file has changed.

    version, flags, link group, mtime and ctime in ns, inode, size, when the bytes were read;
    then, as the flags say, the raw name and the archive's own record.
    """
    raw_name = b""
    flags = member.flags
    if portable_name(member.name) != member.name:
        flags |= _HAS_RAW_NAME
        raw_name = _counted(os.fsencode(member.name))
    record = b""
    if archive is not None:
        flags |= _HAS_ARCHIVE_RECORD
        record = (
            struct.pack("<q", archive.started_ns)
            + _counted(archive.job.encode(errors="replace"))
            + _counted(archive.host.encode(errors="replace"))
        )
    body = (
        _PRIVATE.pack(
            _PRIVATE_VERSION,
            flags,
            member.link_group,
            _int64(member.mtime_ns),
            _int64(member.ctime_ns),
            member.inode,
            member.source_size,
            member.read_at,
        )
        + raw_name
        + record
    )
    return struct.pack("<HH", PRIVATE_ID, len(body)) + body


def _int64(ns: int) -> int:
    """Return a time as the field can hold it, up to the year 2262; file systems go further."""
    return max(-(1 << 63), min(ns, (1 << 63) - 1))


def _counted(data: bytes) -> bytes:
    return struct.pack("<H", len(data)) + data


def _uncount(data: bytes) -> tuple[bytes, bytes]:
    """Return what `_counted` packed, and the rest. Raises struct.error."""
    (length,) = struct.unpack_from("<H", data)
    return data[2 : 2 + length], data[2 + length :]
