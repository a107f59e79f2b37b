"""An archive's members, from its catalogue: of any zip, by whoever made it.

APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16 and 4.5. The end of the archive is read first
(`endrecord`), then the catalogue by ranged reads, and nothing else. `catalogue` reads those of our
own to copy from and believes nothing else; here all that can be understood is, and what cannot is
a problem with a name.
"""

from __future__ import annotations

import os
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

from storelet.catalogue import Read, read_record
from storelet.deflate import squeeze, unsqueeze
from storelet.restore.endrecord import Catalogue, find_catalogue
from storelet.zipformat import (
    HAS_RAW_NAME,
    PRIVATE,
    PRIVATE_ID,
    PRIVATE_VERSION,
    TRUNCATED,
    ArchiveRecord,
)

__all__ = ["FOREIGN", "Listing", "Read", "StoredMember"]

FOREIGN = -1  # encrypted in a way that is not WinZip's AES

_MAGIC = b"PK\x01\x02"
_HEADER = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_FIELD = struct.Struct("<HH")
_LENGTHS = struct.Struct("<HHH")  # of name, extra fields and comment
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
    ctime_ns: int | None  # likewise; None where the archive does not say
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

    `problems` say what is wrong with it; `salvage` finds what it lacks. Raises StoreletError where
    reading does.
    """

    def __init__(self, read: Read, size: int) -> None:
        self.problems: list[str] = []
        self.record: ArchiveRecord | None = None  # what the archive says of itself
        self.end = size  # bytes: where the members end
        self.shift = 0  # bytes before the archive, in which offsets do not count
        self._pieces: list[bytes] = []
        found = find_catalogue(read, size)
        self.has_catalogue = found is not None
        if found is None:
            self.problems.append("it has no catalogue: it is no zip, or its end is missing")
            return
        count = self.load(found)
        # Programs that know no zip64 count 65,536 members as none.
        is_counted = found.members in (count, count & _UINT16)
        if not is_counted and not self.problems:
            self.problems.append(
                f"its catalogue should have {found.members:,} members, not {count:,}"
            )

    def members(self) -> Iterator[StoredMember]:
        """Yield the members in the order of the catalogue; as often as asked for."""
        for _, member in self.chosen(lambda _number: True):
            yield member

    def chosen(self, is_chosen: Callable[[int], bool]) -> Iterator[tuple[int, StoredMember]]:
        """Yield members that are chosen by their numbers, from 0 on; others are passed over."""
        number = 0
        for piece in self._pieces:
            headers = unsqueeze(piece)
            at = 0
            while at < len(headers):
                if is_chosen(number):
                    member, at = _read_member(headers, at, self.shift)
                    yield number, member
                else:
                    at += _HEADER.size + sum(_LENGTHS.unpack_from(headers, at + 28))
                number += 1

    def load(self, catalogue: Catalogue) -> int:
        """List what is in a catalogue, and nothing else; return how many members it has."""
        self.end, self.shift = catalogue.offset, catalogue.shift
        self._pieces.clear()
        total, rest, at = 0, b"", catalogue.offset
        damaged_at: int | None = None
        for chunk in chain(catalogue.chunks, [b""]):  # and then the rest
            rest += chunk
            kept, count, done, damage = _whole_headers(rest, is_last=not chunk)
            if damage is not None and damaged_at is None:
                damaged_at = at + damage
            if total == 0:
                self.record = read_record(kept)
            self.add(kept)
            total, at, rest = total + count, at + done, rest[done:]
        if damaged_at is not None:
            self.problems.append(f"its catalogue is damaged at byte {damaged_at:,}")
        return total

    def add(self, headers: bytes) -> None:
        """List more members, from whole central headers."""
        if headers:
            self._pieces.append(squeeze(headers))


def _whole_headers(data: bytes, *, is_last: bool) -> tuple[bytes, int, int, int | None]:
    """Return the whole headers in some bytes, how many those are, and where they have been read.

    Then where there was first something else, if there was.
    """
    kept: list[bytes] = []
    damage = None
    at = start = count = 0
    while at + (1 if is_last else _HEADER.size) <= len(data):
        end = at
        if data[at : at + 4] == _MAGIC and at + _HEADER.size <= len(data):
            end += _HEADER.size + sum(_LENGTHS.unpack_from(data, at + 28))
        if at < end <= len(data):
            at, count = end, count + 1
            continue
        if end > len(data) and not is_last:
            break
        kept.append(data[start:at])
        damage = at if damage is None else damage
        at = data.find(_MAGIC, at + 1)
        if at < 0:
            at = len(data) if is_last else len(data) - len(_MAGIC) + 1
        start = at
    kept.append(data[start:at])
    return b"".join(kept), count, at, damage


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
        name = _decode_name(raw, general, fields.get(0x7075, b""))
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
        private.ctime_ns if private else None,
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


def _decode_name(raw: bytes, general: int, unicode_path: bytes = b"") -> str:
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
    """Info-ZIP's new Unix field 0x7875: version, then uid and gid, each behind its size.

    None for what no system can have.
    """
    if field[:1] != b"\1" or len(field) < 2:
        return None, None
    split = 2 + field[1]
    if len(field) < split + 1 or len(field) < split + 1 + field[split]:
        return None, None
    uid, gid = field[2:split], field[split + 1 : split + 1 + field[split]]
    found = int.from_bytes(uid, "little"), int.from_bytes(gid, "little")
    return found if uid and gid and max(found) < _UINT32 else (None, None)


class _Private(NamedTuple):
    mtime_ns: int
    ctime_ns: int
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
        int.from_bytes(fingerprint[8:16], "little", signed=True),
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
    return _read_dos_time(date, clock)


def _read_dos_time(date: int, clock: int) -> int:
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
