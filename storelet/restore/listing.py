"""An archive's members, from its catalogue: of any zip, by whoever made it.

APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16 and 4.5. The end of the archive is read first, then
the catalogue by ranged reads, and nothing else. `catalogue` reads those of our own to copy from
and believes nothing else; here all that can be understood is, and what cannot is a problem with
a name.
"""

from __future__ import annotations

import os
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from storelet.catalogue import read_record
from storelet.deflate import squeeze, unsqueeze
from storelet.zipformat import (
    HAS_RAW_NAME,
    PRIVATE,
    PRIVATE_ID,
    PRIVATE_VERSION,
    TRUNCATED,
    ArchiveRecord,
)

__all__ = ["FOREIGN", "Listing", "Read", "StoredMember", "decode_name", "read_dos_time"]

Read = Callable[[int, int], bytes]  # offset and size; all of it, or StoreletError

FOREIGN = -1  # encrypted in a way that is not WinZip's AES

_TAIL_BYTES = 256 << 10  # read at first: the whole catalogue of 1,500 files
_CHUNK_BYTES = 8 << 20
_PIECE_BYTES = 1 << 20

_END = b"PK\x05\x06"
_END_BYTES = 22
_MAGIC = b"PK\x01\x02"
_HEADER = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_FIELD = struct.Struct("<HH")
_UINT16 = 0xFFFF
_UINT32 = 0xFFFFFFFF

_UNIX, _MACOS = 3, 19  # made by, APPNOTE 4.4.2.2
_WITH_BACKSLASHES = (0, 10, 11)  # MS-DOS, Windows, VFAT
_IS_ENCRYPTED, _IS_STRONG, _IS_UTF8 = 1, 1 << 6, 1 << 11  # APPNOTE 4.4.4
_MSDOS_READ_ONLY, _MSDOS_DIRECTORY = 0x01, 0x10
_HAS_UNIX_MODE = 0x8000  # 7-Zip's, where the host is not Unix
_LOCAL_HEADER_BYTES = 30
_MORE_EXTRA_BYTES = 64  # that a local header may have over the central one
_WINDOWS_EPOCH_SECONDS = 11_644_473_600  # from 1601


class StoredMember(NamedTuple):
    """A member of an archive."""

    name: str  # with `/` at the end for a directory; surrogates stand for bytes that are not UTF-8
    size: int  # bytes of its content
    stored_size: int  # bytes in the archive
    mode: int  # st_mode, type and permissions; usual ones where the archive has none
    mtime_ns: int  # since the epoch
    uid: int | None  # None where the archive does not say
    gid: int | None
    crc: int  # of the content; 0 where encryption leaves it out
    method: int  # APPNOTE 4.4.5, beneath encryption
    encryption: int  # 0: none; 1, 2, 3: AES of 128, 192, 256 bits; else FOREIGN
    has_crc: bool
    is_whole: bool  # False: a read error broke it off when it was backed up
    link: bytes  # hard links to one file share it; empty for all else
    offset: int  # of its local header
    head_bytes: int  # about how many stand before its data, rather too many
    raw_name: bytes  # as it stands in both headers

    @property
    def is_directory(self) -> bool:
        """Tell whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Tell whether it is a symbolic link; its content is the target."""
        return stat.S_ISLNK(self.mode)


class Listing:
    """The catalogue of an archive of `size` bytes; reads it when it is made.

    `problems` say what is wrong with it. Raises StoreletError where reading does.
    """

    def __init__(self, read: Read, size: int) -> None:
        self.problems: list[str] = []
        self.record: ArchiveRecord | None = None  # what the archive says of itself
        self.end = size  # bytes: where the members end
        self.is_whole = False  # whether all that there should be is listed
        self._shift = 0  # bytes before the archive, in which offsets do not count
        self._pieces: list[bytes] = []
        found = _find_end(read, size)
        if found is None:
            self.problems.append("it has no catalogue: it is no zip, or its end is missing")
            return
        self.end, self._shift = found.offset, found.shift
        count = self._load(found)
        if count != found.members and not self.problems:
            self.problems.append(
                f"its catalogue should have {found.members:,} members, not {count:,}"
            )
        self.is_whole = not self.problems

    def members(self) -> Iterator[StoredMember]:
        """Yield the members in the order of the catalogue; as often as asked for."""
        for piece in self._pieces:
            headers = unsqueeze(piece)
            at = 0
            while at < len(headers):
                member, at = _read_member(headers, at, self._shift)
                yield member

    def _load(self, found: _Found) -> int:
        """Keep the catalogue in pieces of whole headers; return how many those are."""
        count, rest, at = 0, b"", found.offset
        for chunk in found.chunks:
            rest += chunk
            end, headers, is_damaged = _whole_headers(rest)
            if end:
                if not self._pieces:
                    self.record = read_record(rest)
                self._pieces.append(squeeze(rest[:end]))
                rest = rest[end:]
            count, at = count + headers, at + end
            if is_damaged:
                break
        if rest:
            self.problems.append(f"its catalogue is damaged at byte {at:,}")
        return count


class _Found(NamedTuple):
    """Where the catalogue is."""

    offset: int
    members: int  # that it should have
    shift: int
    chunks: Iterator[bytes]  # of it


def _find_end(read: Read, size: int) -> _Found | None:
    """Find the end record, and from it the catalogue; None where there is none."""
    tail_start = max(size - _TAIL_BYTES, 0)
    tail = read(tail_start, size - tail_start)
    at = len(tail)
    while (at := tail.rfind(_END, 0, at)) >= 0:
        if len(tail) - at < _END_BYTES:
            continue
        count, length, offset = struct.unpack_from("<HLL", tail, at + 10)
        end = tail_start + at  # where the catalogue, with the zip64 records, ends
        if count == _UINT16 or _UINT32 in (length, offset):
            wide = _read_zip64(read, size, tail, at)
            if wide is not None:
                count, length, offset, end = wide
        start = _locate(read, offset, length, end)
        if start is not None:
            chunks = _read_range(read, start, length, tail_start, tail)
            return _Found(start, count, start - offset, chunks)
    return None


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


def _locate(read: Read, offset: int, length: int, end: int) -> int | None:
    """Return where the catalogue is: as stated, or before the end record, after something else."""
    if length == 0 and offset <= end:
        return offset
    for start in (offset, end - length):
        if 0 <= start <= end - 4 and read(start, 4) == _MAGIC:
            return start
    return None


def _read_range(read: Read, start: int, size: int, tail_start: int, tail: bytes) -> Iterator[bytes]:
    """Yield the bytes from `start` on, of which the tail is there already."""
    stop = start + size
    for at in range(start, min(tail_start, stop), _CHUNK_BYTES):
        chunk = read(at, min(_CHUNK_BYTES, tail_start - at, stop - at))
        for piece in range(0, len(chunk), _PIECE_BYTES):
            yield chunk[piece : piece + _PIECE_BYTES]
    yield tail[max(start - tail_start, 0) : max(stop - tail_start, 0)]


def _whole_headers(data: bytes) -> tuple[int, int, bool]:
    """Return where the last whole header ends, how many there are, and whether none follows."""
    at = count = 0
    while at + _HEADER.size <= len(data):
        if data[at : at + 4] != _MAGIC:
            return at, count, True
        name, extra, comment = struct.unpack_from("<HHH", data, at + 28)
        end = at + _HEADER.size + name + extra + comment
        if end > len(data):
            break
        at, count = end, count + 1
    return at, count, False


def _read_member(headers: bytes, at: int, shift: int) -> tuple[StoredMember, int]:
    """Read one central header; return the member and where the next header begins."""
    (_, made_by, _, general, method, clock, date, crc, stored, size, name_length, extra_length,
     comment_length, _, _, attributes, offset) = _HEADER.unpack_from(headers, at)  # fmt: skip
    extra = at + _HEADER.size + name_length
    end = extra + extra_length
    raw = headers[at + _HEADER.size : extra]
    fields = _read_fields(headers, extra, end)
    if _UINT32 in (size, stored, offset):
        size, stored, offset = _widen(fields.get(0x0001, b""), size, stored, offset)
    host = made_by >> 8
    private = _read_private(fields.get(PRIVATE_ID, b""))
    if private is not None and private.raw_name:
        name = os.fsdecode(private.raw_name)
    else:
        name = decode_name(raw, general, fields.get(0x7075, b""))
        if host in _WITH_BACKSLASHES and "\\" in name and "/" not in name:
            name = name.replace("\\", "/")
    mode = _read_mode(host, attributes, name)
    if stat.S_ISDIR(mode) and not name.endswith("/"):
        name += "/"
    encryption, method, has_crc = _read_encryption(general, method, fields.get(0x9901, b""))
    uid, gid = _read_owner(fields.get(0x7875, b""))
    member = StoredMember(
        name,
        size,
        stored,
        mode,
        private.mtime_ns if private else _read_mtime(fields, date, clock),
        uid,
        gid,
        crc,
        method,
        encryption,
        has_crc,
        private is None or private.is_whole,
        private.link if private else b"",
        offset + shift,
        _LOCAL_HEADER_BYTES + name_length + extra_length + _MORE_EXTRA_BYTES,
        raw,
    )
    return member, end + comment_length


def _read_fields(headers: bytes, at: int, end: int) -> dict[int, bytes]:
    """Return the extra fields by their identifiers, the first of each (APPNOTE 4.5.1)."""
    fields: dict[int, bytes] = {}
    while at + 4 <= end:
        identifier, length = _FIELD.unpack_from(headers, at)
        at += 4 + length
        if at > end:
            break
        fields.setdefault(identifier, headers[at - length : at])
    return fields


def _widen(field: bytes, *narrow: int) -> tuple[int, ...]:
    """APPNOTE 4.5.3: those values stand in the field that have no room in the header."""
    wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
    return tuple(next(wide, value) if value == _UINT32 else value for value in narrow)


def decode_name(raw: bytes, general: int, unicode_path: bytes = b"") -> str:
    """Return a member's name from its header.

    UTF-8 where the header says so, or a field 0x7075 that belongs to it (APPNOTE 4.6.9), or where
    it is; else IBM's code page 437 (APPNOTE, appendix D).
    """
    if unicode_path[:1] == b"\1" and len(unicode_path) > 5:
        (crc,) = struct.unpack_from("<L", unicode_path, 1)
        if crc == zlib.crc32(raw):
            raw, general = unicode_path[5:], _IS_UTF8
    if general & _IS_UTF8:
        return raw.decode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _read_mode(host: int, attributes: int, name: str) -> int:
    """Return type and permissions; a name that ends with `/` is a directory's, whatever else."""
    mode = attributes >> 16 if host in (_UNIX, _MACOS) or attributes & _HAS_UNIX_MODE else 0
    kind = stat.S_IFMT(mode)
    if name.endswith("/") or (not kind and attributes & _MSDOS_DIRECTORY):
        kind = stat.S_IFDIR
    permissions = stat.S_IMODE(mode)
    if not mode:
        permissions = 0o755 if kind == stat.S_IFDIR else 0o644
        if attributes & _MSDOS_READ_ONLY:
            permissions &= ~0o222
    return (kind or stat.S_IFREG) | permissions


def _read_encryption(general: int, method: int, field: bytes) -> tuple[int, int, bool]:
    """Return how it is encrypted, the method beneath, and whether it has a CRC."""
    if not general & _IS_ENCRYPTED:
        return 0, method, True
    if method == 99 and len(field) >= 7 and field[2:4] == b"AE" and not general & _IS_STRONG:
        version, strength, beneath = struct.unpack("<H2xBH", field[:7])
        if strength in (1, 2, 3) and version in (1, 2):
            return strength, beneath, version == 1
    return FOREIGN, method, True


def _read_owner(field: bytes) -> tuple[int | None, int | None]:
    """Info-ZIP's new Unix field 0x7875: version, then uid and gid, each behind its size."""
    if field[:1] != b"\1" or len(field) < 2:
        return None, None
    split = 2 + field[1]
    if len(field) < split + 1 or len(field) < split + 1 + field[split]:
        return None, None
    uid, gid = field[2:split], field[split + 1 : split + 1 + field[split]]
    return int.from_bytes(uid, "little"), int.from_bytes(gid, "little")


class _Private(NamedTuple):
    mtime_ns: int
    is_whole: bool
    link: bytes
    raw_name: bytes


def _read_private(field: bytes) -> _Private | None:
    """Read our own field; None where there is none, or one of another version."""
    if len(field) < PRIVATE.size - 4 or field[0] != PRIVATE_VERSION:
        return None
    flags = field[1]
    group, fingerprint = field[2:6], field[6:38]
    raw_name = b""
    if flags & HAS_RAW_NAME:
        with suppress(struct.error):
            at = PRIVATE.size - 4
            (length,) = struct.unpack_from("<H", field, at)
            raw_name = field[at + 2 : at + 2 + length]
    return _Private(
        int.from_bytes(fingerprint[:8], "little", signed=True),
        not flags & TRUNCATED,
        group + fingerprint[8:24] if any(group) else b"",  # with ctime and inode
        raw_name,
    )


def _read_mtime(fields: dict[int, bytes], date: int, clock: int) -> int:
    """Return the time, in ns since the epoch, as exact as the archive has it."""
    windows = fields.get(0x000A, b"")  # APPNOTE 4.5.5
    if len(windows) >= 16 and windows[4:8] == b"\1\0\x18\0":
        (ticks,) = struct.unpack_from("<Q", windows, 8)
        return int(ticks) * 100 - _WINDOWS_EPOCH_SECONDS * 1_000_000_000
    unix = fields.get(0x5455, b"")  # Info-ZIP's extended timestamp: flags, then the mtime
    if len(unix) >= 5 and unix[0] & 1:
        return int.from_bytes(unix[1:5], "little", signed=True) * 1_000_000_000
    return read_dos_time(date, clock)


def read_dos_time(date: int, clock: int) -> int:
    """APPNOTE 4.4.6: local time in steps of 2 s, as ns since the epoch."""
    fields = (
        1980 + (date >> 9),
        max(date >> 5 & 15, 1),
        max(date & 31, 1),
        clock >> 11,
        clock >> 5 & 63,
        (clock & 31) * 2,
    )
    return int(time.mktime((*fields, 0, 0, -1))) * 1_000_000_000
