"""The records of a zip as they are written; pure, no input or output. `catalogue` reads them.

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
from typing import NamedTuple

__all__ = [
    "CHANGED",
    "DEFLATED",
    "ENCRYPTED",
    "HAS_RAW_NAME",
    "HAS_RECORD",
    "MADE_BY",
    "PRIVATE",
    "PRIVATE_ID",
    "PRIVATE_VERSION",
    "RACY_NS",
    "STORED",
    "TRUNCATED",
    "ArchiveRecord",
    "Member",
    "central_header",
    "counted",
    "data_descriptor",
    "encryption_field",
    "end_records",
    "fingerprint",
    "local_header",
    "member_bytes",
    "needs_zip64",
    "portable_name",
    "zip64_field",
]

STORED = 0
DEFLATED = 8
ENCRYPTED = 99  # with AES; the method beneath stands in `encryption_field`

# Flags of the private field.
CHANGED = 1  # the file changed while it was read
TRUNCATED = 2  # a read error broke the file off
HAS_RAW_NAME = 4
HAS_RECORD = 8

# A file that changed within so long of being read may have changed once more, unseen.
RACY_NS = 2_000_000_000

PRIVATE_ID = 0x6C53  # "Sl" in the file; not in APPNOTE's list of known identifiers
PRIVATE_VERSION = 1
PRIVATE = struct.Struct("<HHBBL32sq")  # identifier and length in front
_FINGERPRINT = struct.Struct("<qqQQ")

_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_CENTRAL = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_TIMES_OWNER = struct.Struct("<HHBlHHBBLBL")
_OWNER = struct.Struct("<HHBBLBL")
_ENCRYPTION = struct.Struct("<HHH2sBH")

_UINT16 = 0xFFFF
_UINT32 = 0xFFFFFFFF
MADE_BY = 3 << 8 | 63  # Unix, APPNOTE 6.3
_IS_ENCRYPTED = 1
_DESCRIPTOR_FOLLOWS = 1 << 3
_NAME_IS_UTF8 = 1 << 11
_MSDOS_DIRECTORY = 0x10


class Member(NamedTuple):
    """An entry as stored in a zip."""

    name: str  # with `/` at the end for a directory; surrogates stand for bytes that are not UTF-8
    mode: int  # st_mode, type and permissions
    uid: int
    gid: int
    mtime_ns: int  # since the epoch
    ctime_ns: int
    inode: int
    source_size: int  # bytes, as the file system gave it when the file was opened
    link_group: int  # above 0: hard links to one file share this, the inode and the ctime
    read_at: int  # seconds since the epoch: when the bytes were last read from the source
    flags: int = 0  # CHANGED, TRUNCATED
    method: int = STORED
    crc: int = 0  # of an encrypted member not written
    size: int = 0  # bytes in the archive, inflated
    stored_size: int = 0  # bytes in the archive, as they stand
    streamed: bool = False  # sizes and CRC follow in a data descriptor
    zip64: bool = False  # local header and descriptor have 8-byte sizes; streamed members only
    encrypted: bool = False  # with AES-256, after `method`


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRecord:
    """What the archive says of itself, in the private field of its first central header."""

    job: str  # the name given to ZipBackup
    host: str
    started_ns: int  # since the epoch
    # Where members came from: the beginning of their names, and the path that stands for it, empty
    # for what was made for the backup.
    sources: tuple[tuple[str, str], ...] = ()


def needs_zip64(size: int) -> bool:
    """Tell whether a streamed member of `size` bytes may need 8-byte sizes.

    Deflate grows what it cannot shrink: zlib's bound for stored blocks is 5 bytes in 16 KiB, and
    each flush adds 5; a thousandth is above both, and 64 above what encryption adds.
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
    extra = _known_fields(member)
    if member.zip64:
        extra = struct.pack("<HHQQ", 0x0001, 16, 0, 0) + extra
    unknown_size = _UINT32 if member.zip64 else 0
    date, clock = _dos_time(member.mtime_ns)
    header = _LOCAL.pack(
        b"PK\x03\x04",
        _version_needed(member, zip64=member.zip64),
        _general_flags(member),
        ENCRYPTED if member.encrypted else member.method,
        clock,
        date,
        0 if member.streamed else _crc(member),
        unknown_size if member.streamed else member.stored_size,
        unknown_size if member.streamed else member.size,
        len(name),
        len(extra),
    )
    return header + name + extra


def data_descriptor(member: Member) -> bytes:
    """APPNOTE 4.3.9, with the signature that most readers expect."""
    return struct.pack(
        "<4sLQQ" if member.zip64 else "<4sLLL",
        b"PK\x07\x08",
        _crc(member),
        member.stored_size,
        member.size,
    )


def central_header(member: Member, offset: int) -> bytes:
    """APPNOTE 4.3.12; `offset` is the local header's."""
    name = portable_name(member.name).encode()
    wide = member.size >= _UINT32 or member.stored_size >= _UINT32 or offset >= _UINT32
    extra = _known_fields(member) + _private_field(member)
    if wide:
        extra = zip64_field(member.size, member.stored_size, offset) + extra
    date, clock = _dos_time(member.mtime_ns)
    directory = _MSDOS_DIRECTORY if stat.S_ISDIR(member.mode) else 0
    header = _CENTRAL.pack(
        b"PK\x01\x02",
        MADE_BY,
        _version_needed(member, zip64=wide or member.zip64),
        _general_flags(member),
        ENCRYPTED if member.encrypted else member.method,
        clock,
        date,
        _crc(member),
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
    return header + name + extra


def member_bytes(name: int, known: int, stored: int, streamed: int | None) -> int:
    """Return how many bytes a member takes, from its local header to its descriptor.

    `name` and `known` are the lengths of its name and of the fields that common tools read,
    `stored` of its data; `streamed` is its source's size, where a descriptor follows.
    """
    if streamed is None:
        return _LOCAL.size + name + known + stored
    zip64 = 20 if needs_zip64(streamed) else 0
    return _LOCAL.size + name + known + zip64 + stored + (24 if zip64 else 16)


def zip64_field(*values: int) -> bytes:
    """APPNOTE 4.5.3: size, stored size, offset, those of them that have no room in the header."""
    wide = [value for value in values if value >= _UINT32]
    return struct.pack(f"<HH{len(wide)}Q", 0x0001, 8 * len(wide), *wide) if wide else b""


def encryption_field(method: int) -> bytes:
    """WinZip's AE-2, which has no CRC, with AES-256; `method` is how it was packed before."""
    return _ENCRYPTION.pack(0x9901, 7, 2, b"AE", 3, method)


def end_records(count: int, size: int, offset: int) -> bytes:
    """APPNOTE 4.3.14 to 4.3.16: `count` central headers in `size` bytes begin at `offset`."""
    zip64 = b""
    if count >= _UINT16 or size >= _UINT32 or offset >= _UINT32:
        zip64 = struct.pack(
            "<4sQHHLLQQQQ",
            b"PK\x06\x06",
            44,  # bytes that follow this field
            MADE_BY,
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


def _version_needed(member: Member, *, zip64: bool) -> int:
    """APPNOTE 4.4.3.2: 5.1 for AES, 4.5 for zip64, 2.0 for deflate and directories, else 1.0."""
    if member.encrypted:
        return 51
    if zip64:
        return 45
    return 20 if member.method == DEFLATED or stat.S_ISDIR(member.mode) else 10


def _general_flags(member: Member) -> int:
    """APPNOTE 4.4.4."""
    return (
        _NAME_IS_UTF8
        | (_DESCRIPTOR_FOLLOWS if member.streamed else 0)
        | (_IS_ENCRYPTED if member.encrypted else 0)
    )


def _crc(member: Member) -> int:
    """Return what is written for a CRC; one of encrypted content would help to guess it."""
    return 0 if member.encrypted else member.crc


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


def _known_fields(member: Member) -> bytes:
    """Pack the fields that common tools read.

    Info-ZIP's extended timestamp: flags (1: mtime), then signed seconds, where they fit; not
    before 1970, for 7-Zip and libarchive read them unsigned, and 1960 became 2096. Then its new
    Unix field: version, uid and gid, each behind its size. Last is how it is encrypted.
    """
    owner = (0x7875, 11, 1, 4, member.uid, 4, member.gid)
    encryption = encryption_field(member.method) if member.encrypted else b""
    seconds = member.mtime_ns // 1_000_000_000
    if 0 <= seconds < 1 << 31:
        return _TIMES_OWNER.pack(0x5455, 5, 1, seconds, *owner) + encryption
    return _OWNER.pack(*owner) + encryption


def _private_field(member: Member) -> bytes:
    """Pack what only Storelet reads: the exact stat that tells whether a file has changed.

    version, flags, link group, then `fingerprint` and when the bytes were read; then the raw name
    where the name is not UTF-8, and what `catalogue.set_record` adds.
    """
    flags, raw_name = member.flags, b""
    if not member.name.isascii() and portable_name(member.name) != member.name:
        flags |= HAS_RAW_NAME
        raw_name = counted(os.fsencode(member.name))
    return (
        PRIVATE.pack(
            PRIVATE_ID,
            PRIVATE.size - 4 + len(raw_name),
            PRIVATE_VERSION,
            flags,
            member.link_group,
            fingerprint(member.mtime_ns, member.ctime_ns, member.inode, member.source_size),
            member.read_at,
        )
        + raw_name
    )


def fingerprint(mtime_ns: int, ctime_ns: int, inode: int, size: int) -> bytes:
    """Return 32 bytes that two states of a file share only if it has not changed."""
    try:
        return _FINGERPRINT.pack(mtime_ns, ctime_ns, inode, size)
    except struct.error:  # file systems go further than 64 bits of ns, which end in 2262
        return _FINGERPRINT.pack(_int64(mtime_ns), _int64(ctime_ns), inode, size)


def _int64(ns: int) -> int:
    return max(-(1 << 63), min(ns, (1 << 63) - 1))


def counted(data: bytes) -> bytes:
    """Return `data` behind its length in two bytes."""
    return struct.pack("<H", len(data)) + data
