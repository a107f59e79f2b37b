"""A zip read as APPNOTE 6.3.10 has it, strictly, by code that shares nothing with Storelet's.

What a lenient reader would shrug off is an assertion here: gaps between members, local headers
that disagree with the catalogue, zip64 records that were not needed. Encrypted members are
decrypted and checked as WinZip's "AES Encryption Information" has it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from Cryptodome.Cipher import AES

__all__ = ["ParsedMember", "ParsedZip", "Private", "parse_zip"]

_UINT16 = 0xFFFF
_UINT32 = 0xFFFFFFFF
_ZIP64 = 0x0001
_ENCRYPTION = 0x9901
_PRIVATE = 0x6C53


@dataclass(frozen=True, slots=True, kw_only=True)
class Private:
    """Storelet's private field."""

    flags: int
    link_group: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    source_size: int
    read_at: int
    raw_name: bytes | None
    archive: tuple[int, str, str] | None  # started in ns, job, host
    sources: tuple[tuple[str, str], ...]  # beginnings of members' names, and paths


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedMember:
    """A member: its central header, checked against its local header and its data."""

    name: bytes
    made_by: int
    needed: int
    general_flags: int
    method: int  # beneath the encryption
    is_encrypted: bool
    dos_time: tuple[int, int]  # date, time
    crc: int
    stored_size: int
    size: int
    external: int
    offset: int
    local_extra: dict[int, bytes]
    extra: dict[int, bytes]
    stored: memoryview  # as it stands in the archive
    packed: bytes  # the same, decrypted

    @property
    def mode(self) -> int:
        """Unix's st_mode."""
        return self.external >> 16

    @property
    def is_streamed(self) -> bool:
        """Whether a data descriptor follows the data."""
        return bool(self.general_flags & 8)

    @property
    def mtime(self) -> int | None:
        """Seconds of the extended timestamp."""
        field = self.extra.get(0x5455)
        return None if field is None else struct.unpack("<Bl", field)[1]

    @property
    def owner(self) -> tuple[int, int]:
        """The uid and gid."""
        version, uid_size, uid, gid_size, gid = struct.unpack("<BBLBL", self.extra[0x7875])
        assert (version, uid_size, gid_size) == (1, 4, 4)
        return uid, gid

    @property
    def private(self) -> Private:
        """Storelet's private field."""
        return _parse_private(self.extra[_PRIVATE])

    def pieces(self) -> Iterator[bytes]:
        """Yield the content, inflated."""
        if self.method == 0:
            yield self.packed
            return
        inflater = zlib.decompressobj(-15)
        for start in range(0, len(self.packed), 1 << 16):
            yield inflater.decompress(self.packed[start : start + (1 << 16)])
        yield inflater.flush()
        assert inflater.eof
        assert inflater.unused_data == b""

    @property
    def data(self) -> bytes:
        """The content, whole."""
        return b"".join(self.pieces())


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedZip:
    """An archive: its members in the catalogue's order."""

    members: list[ParsedMember]
    has_zip64_end: bool

    def __getitem__(self, name: str | bytes) -> ParsedMember:
        wanted = name.encode() if isinstance(name, str) else name
        (found,) = [member for member in self.members if member.name == wanted]
        return found

    def __contains__(self, name: str) -> bool:
        return name in self.names

    @property
    def names(self) -> list[str]:
        """The members' names."""
        return [member.name.decode() for member in self.members]

    def contents(self) -> dict[str, bytes]:
        """Map the names of files and symbolic links to what is in them."""
        return {
            member.name.decode(): member.data
            for member in self.members
            if not member.name.endswith(b"/")
        }


def parse_zip(data: Any, start: int = 0, password: str | None = None) -> ParsedZip:
    """Read and check a whole archive, whose first local header is at `start`."""
    view = memoryview(data)
    count, size, offset, end = _parse_end(view)
    assert offset + size == end, "the end records follow the catalogue"
    members = []
    position = offset
    for _ in range(count):
        member, position = _parse_central(view, position, password)
        members.append(member)
    assert position == end
    at = start
    for member in members:
        assert member.offset == at, f"a gap before {member.name!r}"
        at = _check_data(view, member)
    assert at == offset, "the catalogue follows the last member"
    assert all(m.private.archive is None for m in members[1:])
    return ParsedZip(members=members, has_zip64_end=end != len(view) - 22)


def _parse_end(view: memoryview) -> tuple[int, int, int, int]:
    """Return count, size and offset of the catalogue and where the end records begin."""
    at = len(view) - 22
    signature, disk, start_disk, here, count, size, offset, comment = struct.unpack(
        "<4sHHHHLLH", view[at:]
    )
    assert (signature, disk, start_disk, comment) == (b"PK\x05\x06", 0, 0, 0)
    assert here == count
    overflows = count == _UINT16 or _UINT32 in (size, offset)
    has_locator = at >= 20 and view[at - 20 : at - 16] == b"PK\x06\x07"
    assert has_locator == overflows, "zip64 where it is needed and nowhere else"
    if not overflows:
        return count, size, offset, at
    _, disk, record_at, disks = struct.unpack("<4sLQL", view[at - 20 : at])
    assert (disk, disks, record_at) == (0, 1, at - 76)
    record = struct.unpack("<4sQHHLLQQQQ", view[record_at : at - 20])
    signature, length, _made_by, needed, disk, start_disk, here, count64, size64, offset64 = record
    assert (signature, length, needed, disk, start_disk) == (b"PK\x06\x06", 44, 45, 0, 0)
    assert here == count64
    for narrow, wide, limit in (
        (count, count64, _UINT16),
        (size, size64, _UINT32),
        (offset, offset64, _UINT32),
    ):
        assert narrow == min(wide, limit)
    return count64, size64, offset64, record_at


def _parse_central(view: memoryview, at: int, password: str | None) -> tuple[ParsedMember, int]:
    fields = struct.unpack("<4sHHHHHHLLLHHHHHLL", view[at : at + 46])
    signature, made_by, needed, flags, method, clock, date, crc, stored_size, size = fields[:10]
    name_length, extra_length, comment, disk, internal, external, offset = fields[10:]
    assert (signature, comment, disk, internal) == (b"PK\x01\x02", 0, 0, 0)
    at += 46
    name = bytes(view[at : at + name_length])
    extra = _parse_extra(bytes(view[at + name_length : at + name_length + extra_length]))
    narrow = (size, stored_size, offset)
    wide = list(struct.unpack(f"<{len(extra.get(_ZIP64, b'')) // 8}Q", extra.get(_ZIP64, b"")))
    assert all(value >= _UINT32 for value in wide), "zip64 where it is needed and nowhere else"
    size, stored_size, offset = (wide.pop(0) if n == _UINT32 else n for n in narrow)
    assert not wide
    local_extra, stored_at = _check_local(view, offset, fields, name)
    stored = view[stored_at : stored_at + stored_size]
    is_encrypted = method == 99
    packed: bytes = bytes(stored)
    if is_encrypted:
        assert extra[_ENCRYPTION] == local_extra[_ENCRYPTION]
        method = _find_method(extra)
        assert password is not None, "a password"
        packed = _decrypt(packed, password.encode(errors="surrogateescape"))
        assert crc == 0, "AE-2 has no CRC"
    member = ParsedMember(
        name=name,
        made_by=made_by,
        needed=needed,
        general_flags=flags,
        method=method,
        is_encrypted=is_encrypted,
        dos_time=(date, clock),
        crc=crc,
        stored_size=stored_size,
        size=size,
        external=external,
        offset=offset,
        local_extra=local_extra,
        extra=extra,
        stored=stored,
        packed=packed,
    )
    return member, at + name_length + extra_length


def _check_local(
    view: memoryview, offset: int, central: tuple[Any, ...], name: bytes
) -> tuple[dict[int, bytes], int]:
    """Check a local header against the central one; return its extra fields and its end."""
    header = struct.unpack("<4sHHHHHLLLHH", view[offset : offset + 30])
    signature, needed, flags, method, clock, date, crc, stored_size, size, names, extras = header
    assert signature == b"PK\x03\x04"
    _, _, _, flags_, method_, clock_, date_, crc_, stored_size_, size_ = central[:10]
    assert (flags, method, clock, date) == (flags_, method_, clock_, date_)
    assert method in (0, 8, 99)
    encrypted = method == 99
    assert flags & ~0b1000 == 1 << 11 | encrypted, "UTF-8, and perhaps a descriptor"
    at = offset + 30 + names
    assert view[offset + 30 : at] == name
    extra = _parse_extra(bytes(view[at : at + extras]))
    assert encrypted == (_ENCRYPTION in extra)
    if encrypted:
        method = _find_method(extra)
    if flags & 8:
        assert method == 8, "streaming readers cannot find the end of a stored member"
        unknown = _UINT32 if _ZIP64 in extra else 0
        assert (crc, stored_size, size) == (0, unknown, unknown)
    else:
        assert (crc, stored_size, size) == (crc_, stored_size_, size_)
        assert _ZIP64 not in extra
    plain = 45 if _ZIP64 in extra else 20 if method or name.endswith(b"/") else 10
    assert needed == (51 if encrypted else plain)
    return extra, at + extras


def _find_method(extra: dict[int, bytes]) -> int:
    """Return the method beneath AES-256 in the form AE-2."""
    version, vendor, strength, method = struct.unpack("<H2sBH", extra[_ENCRYPTION])
    assert (version, vendor, strength) == (2, b"AE", 3)
    assert method in (0, 8)
    return method


def _decrypt(stored: bytes, password: bytes) -> bytes:
    """Decrypt block by block, not in a mode of counters as Storelet does."""
    salt, verifier, data, code = stored[:16], stored[16:18], stored[18:-10], stored[-10:]
    keys = hashlib.pbkdf2_hmac("sha1", password, salt, 1000, 66)
    assert keys[64:] == verifier, "another password"
    assert hmac.digest(keys[32:64], data, "sha1")[:10] == code, "tampered with"
    count = -(-len(data) // 16)
    counters = b"".join(number.to_bytes(16, "little") for number in range(1, count + 1))
    stream = AES.new(keys[:32], AES.MODE_ECB).encrypt(counters)[: len(data)]
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
    return mixed.to_bytes(len(data), "big")


def _check_data(view: memoryview, member: ParsedMember) -> int:
    """Check content, sizes, CRC and descriptor of a member; return where it ends."""
    size = crc = 0
    for piece in member.pieces():
        size += len(piece)
        crc = zlib.crc32(piece, crc)
    assert size == member.size, member.name
    assert member.is_encrypted or crc == member.crc, member.name
    header = struct.unpack("<HH", view[member.offset + 26 : member.offset + 30])
    at = member.offset + 30 + sum(header) + member.stored_size
    if not member.is_streamed:
        return at
    layout = "<4sLQQ" if _ZIP64 in member.local_extra else "<4sLLL"
    end = at + struct.calcsize(layout)
    expected = (b"PK\x07\x08", member.crc, member.stored_size, member.size)
    assert struct.unpack(layout, view[at:end]) == expected
    return end


def _parse_extra(data: bytes) -> dict[int, bytes]:
    fields = {}
    while data:
        kind, length = struct.unpack("<HH", data[:4])
        assert kind not in fields
        assert len(data) >= 4 + length
        fields[kind] = data[4 : 4 + length]
        data = data[4 + length :]
    return fields


def _parse_private(data: bytes) -> Private:
    layout = "<BBLqqQQq"
    version, flags, *numbers = struct.unpack_from(layout, data)
    assert version == 1
    rest = data[struct.calcsize(layout) :]
    raw_name = archive = None
    sources: list[tuple[str, str]] = []
    if flags & 4:
        raw_name, rest = _parse_counted(rest)
    if flags & 8:
        (started,) = struct.unpack_from("<q", rest)
        job, rest = _parse_counted(rest[8:])
        host, rest = _parse_counted(rest)
        archive = (started, job.decode(), host.decode())
        while rest:  # where members came from: beginnings of names, and paths
            prefix, rest = _parse_counted(rest)
            path, rest = _parse_counted(rest)
            sources.append((os.fsdecode(prefix), os.fsdecode(path)))
    assert rest == b""
    names = ("link_group", "mtime_ns", "ctime_ns", "inode", "source_size", "read_at")
    return Private(
        flags=flags & 3,
        raw_name=raw_name,
        archive=archive,
        sources=tuple(sources),
        **dict(zip(names, numbers, strict=True)),
    )


def _parse_counted(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from("<H", data)
    return data[2 : 2 + length], data[2 + length :]
