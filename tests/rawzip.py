"""Zips built record by record (APPNOTE 6.3.10), so that each field can lie."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "UNIX",
    "WINDOWS",
    "RawMember",
    "build_zip",
    "extra_field",
    "owner_field",
    "private_field",
]

UNIX, WINDOWS = 3, 0  # made by
_FILE = stat.S_IFREG | 0o644
_UINT16 = 0xFFFF
_UINT32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class RawMember:
    """A member. What is None is as it should be; all else stands in the zip as it is given."""

    name: bytes
    content: bytes = b"content\n"
    mode: int = _FILE
    host: int = UNIX
    general: int = 1 << 11
    method: int = 0
    stored: bytes | None = None
    size: int | None = None
    stored_size: int | None = None
    crc: int | None = None
    extra: bytes = b""  # of the central header
    comment: bytes = b""
    offset: int | None = None
    name_length: int | None = None  # in the central header
    extra_length: int | None = None  # likewise
    local_name: bytes | None = None
    local_extra: bytes = b""
    local_signature: bytes = b"PK\x03\x04"
    is_listed: bool = True
    is_there: bool = True  # whether it has a local header and data

    @property
    def packed(self) -> bytes:
        """The data."""
        if self.stored is not None:
            return self.stored
        if self.method != 8:
            return self.content
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflater.compress(self.content) + deflater.flush()

    def local(self) -> bytes:
        """Return its local header and data."""
        name = self.name if self.local_name is None else self.local_name
        header = struct.pack(
            "<4sHHHHHLLLHH",
            self.local_signature,
            20,  # version needed
            self.general,
            self.method,
            0,  # time
            0x21,  # date
            self._crc,
            min(len(self.packed), _UINT32),
            min(len(self.content), _UINT32),
            len(name),
            len(self.local_extra),
        )
        return header + name + self.local_extra + self.packed

    def central(self, offset: int) -> bytes:
        """Return its central header; `offset` is where it is."""
        size = len(self.content) if self.size is None else self.size
        stored_size = len(self.packed) if self.stored_size is None else self.stored_size
        offset = offset if self.offset is None else self.offset
        wide = [value for value in (size, stored_size, offset) if value >= _UINT32]
        extra = extra_field(1, struct.pack(f"<{len(wide)}Q", *wide)) if wide else b""
        extra += self.extra
        header = struct.pack(
            "<4sHHHHHHLLLHHHHHLL",
            b"PK\x01\x02",
            self.host << 8 | 20,  # made by
            20,  # version needed
            self.general,
            self.method,
            0,  # time
            0x21,  # date
            self._crc,
            min(stored_size, _UINT32),
            min(size, _UINT32),
            len(self.name) if self.name_length is None else self.name_length,
            len(extra) if self.extra_length is None else self.extra_length,
            len(self.comment),
            0,  # disk
            0,  # internal attributes
            self.mode << 16 if self.host == UNIX else self.mode,
            min(offset, _UINT32),
        )
        return header + self.name + extra + self.comment

    @property
    def _crc(self) -> int:
        return zlib.crc32(self.content) if self.crc is None else self.crc


def build_zip(
    members: Iterable[RawMember],
    *,
    listed: Sequence[int] | None = None,  # the order in the catalogue
    before: bytes = b"",  # in front, not counted in offsets
    between: bytes = b"",  # in front of each local header
    comment: bytes = b"",
    count: int | None = None,
    catalogue_size: int | None = None,
    catalogue_offset: int | None = None,
    zip64: bytes = b"",  # records in front of the end record
    after: bytes = b"",
) -> bytes:
    """Return a zip."""
    body, headers = bytearray(), []
    for member in members:
        if member.is_there:
            body += between
        headers.append(member.central(len(body)) if member.is_listed else b"")
        if member.is_there:
            body += member.local()
    order = range(len(headers)) if listed is None else listed
    catalogue = b"".join(headers[number] for number in order)
    if count is None:
        count = sum(bool(headers[number]) for number in order)
    end = struct.pack(
        "<4sHHHHLLH",
        b"PK\x05\x06",
        0,  # this disk
        0,  # disk of the catalogue
        min(count, _UINT16),
        min(count, _UINT16),
        len(catalogue) if catalogue_size is None else catalogue_size,
        len(body) if catalogue_offset is None else catalogue_offset,
        len(comment),
    )
    return before + body + catalogue + zip64 + end + comment + after


def extra_field(identifier: int, data: bytes) -> bytes:
    """Pack an extra field."""
    return struct.pack("<HH", identifier, len(data)) + data


def owner_field(uid: int, gid: int, size: int = 4) -> bytes:
    """Pack Info-ZIP's new Unix field, of numbers of `size` bytes."""
    numbers = [bytes([size]) + number.to_bytes(size, "little") for number in (uid, gid)]
    return extra_field(0x7875, b"\1" + b"".join(numbers))


def private_field(
    *, raw_name: bytes | None = None, group: int = 0, mtime_ns: int = 0, record: bytes = b""
) -> bytes:
    """Pack Storelet's private field."""
    flags = (4 if raw_name is not None else 0) | (8 if record else 0)
    data = struct.pack("<BBLqqQQq", 1, flags, group, mtime_ns, 7, 7, 7, 7)
    if raw_name is not None:
        data += struct.pack("<H", len(raw_name)) + raw_name
    return extra_field(0x6C53, data + record)
