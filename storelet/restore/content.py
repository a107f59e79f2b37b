"""A member's bytes: found behind its local header, decrypted, inflated, and checked.

APPNOTE.TXT 6.3.10, sections 4.3.7 and 4.4.5. Nothing is believed: the local header must be that of
the member, and no more comes out than the catalogue says, however well a bomb is packed. Whoever
takes the bytes must not use them before the last: only then it is known whether the CRC is right.
"""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from storelet.catalogue import DamagedError
from storelet.errors import WrongPasswordError
from storelet.restore.listing import FOREIGN, StoredMember
from storelet.restore.paths import RefusedError
from storelet.zipformat import DEFLATED, STORED

__all__ = ["METHODS", "check_readable", "crc_of", "end_of", "find_data", "measure", "unpack"]

_BZIP2, _ENCRYPTED = 12, 99
_OTHER_METHODS = {9: "Deflate64", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
METHODS = {STORED, DEFLATED, _BZIP2, _ENCRYPTED, *_OTHER_METHODS}  # that are in use
_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_BLOCK_BYTES = 1 << 20  # that come out at once, at most
_MOST_DEFLATED = 1032  # RFC 1951: a bit less than two bits for 258 bytes


def end_of(member: StoredMember) -> int:
    """Return where a member ends by its catalogue, or further on: local headers may be longer."""
    return member.offset + _LOCAL.size + len(member.raw_name) + member.stored_size


def check_readable(member: StoredMember, end: int) -> None:
    """Raise RefusedError where what the catalogue says of a member cannot be read, or not be.

    `end` is that of all members.
    """
    if not 0 <= member.offset < end:
        raise RefusedError("its catalogue says it is where the archive has no members")
    if end_of(member) > end:
        raise RefusedError("the archive ends before it does")
    if member.encryption == FOREIGN:
        raise RefusedError("it is encrypted in a way that Storelet does not read; try 7z")
    if member.method not in (STORED, DEFLATED, _BZIP2):
        name = _OTHER_METHODS.get(member.method, "unknown to Storelet")
        raise RefusedError(f"it is packed with method {member.method}, {name}; try 7z")
    if member.method == STORED and not member.encryption and member.size != member.stored_size:
        raise RefusedError("its catalogue has two sizes for it")
    if member.method == DEFLATED and member.size > member.stored_size * _MOST_DEFLATED:
        raise RefusedError("its catalogue says it is larger than can be packed into its bytes")


def find_data(head: bytes | memoryview, member: StoredMember) -> int:
    """Return where a member's data begin in bytes that begin with its local header.

    Raises DamagedError where that is another one, or none.
    """
    if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
        raise DamagedError("it is not where its catalogue says")
    name_length, extra_length = struct.unpack_from("<HH", head, 26)
    if head[_LOCAL.size : _LOCAL.size + name_length] != member.raw_name:
        raise DamagedError("it has another name where it is than in its catalogue")
    return _LOCAL.size + int(name_length) + int(extra_length)


def crc_of(pieces: Iterable[bytes]) -> int:
    """Return the CRC of bytes in pieces."""
    crc = 0
    for piece in pieces:
        crc = _find_engine().crc32(piece, crc)
    return crc


def unpack(stored: Iterable[bytes], member: StoredMember, secret: bytes) -> Iterator[bytes]:
    """Yield the content of a member from its data, all that belongs to it.

    `secret` is the password of encrypted ones. Raises DamagedError where they are not what the
    catalogue says, RefusedError where the password is another one.
    """
    crc32 = _find_engine().crc32
    size = crc = 0
    for data in _inflate(_decrypt(stored, member, secret), member.method):
        size += len(data)
        if size > member.size:
            raise DamagedError("it is larger than its catalogue says")
        crc = crc32(data, crc)
        yield data
    if size < member.size:
        raise DamagedError("it is smaller than its catalogue says")
    if member.has_crc and crc != member.crc:
        raise DamagedError("its CRC is not that of its catalogue")


def _decrypt(pieces: Iterable[bytes], member: StoredMember, secret: bytes) -> Iterator[bytes]:
    if not member.encryption:
        yield from pieces
        return
    from storelet.encryption import CODE_BYTES, HEAD_BYTES, Decryptor

    head_bytes = HEAD_BYTES[member.encryption]
    left = member.stored_size - head_bytes - CODE_BYTES
    if left < 0:
        raise DamagedError("it is too short to be encrypted")
    rest, held = iter(pieces), b""
    while len(held) < head_bytes:
        held += _next(rest)
    try:
        decryptor = Decryptor(secret, held[:head_bytes])
    except WrongPasswordError as error:
        raise RefusedError("it has another password, or is damaged") from error
    held = held[head_bytes:]
    while left:
        held = held or _next(rest)
        data, held = held[:left], held[left:]
        left -= len(data)
        yield decryptor.update(data)
    while len(held) < CODE_BYTES:
        held += _next(rest)
    decryptor.finish(held)


def _next(pieces: Iterator[bytes]) -> bytes:
    piece = next(pieces, b"")
    if not piece:
        raise DamagedError("it breaks off")
    return piece


def _inflate(pieces: Iterable[bytes], method: int) -> Iterator[bytes]:
    if method == STORED:
        yield from pieces
        return
    stream = _Bzip2() if method == _BZIP2 else _Deflate()
    rest = iter(pieces)
    for piece in rest:
        yield from _feed(stream, piece)
        if stream.has_ended:
            break
    if not stream.has_ended:
        raise DamagedError("it breaks off")
    if stream.rest_bytes or next(rest, b""):
        raise DamagedError("there is something behind its content")


def measure(pieces: Iterable[bytes]) -> tuple[int, int] | None:
    """Return the size of a deflate stream with more behind it, and of its content.

    None where it breaks off. Raises DamagedError where it is none.
    """
    stream = _Deflate()
    stored_size = size = 0
    for piece in pieces:
        size += sum(map(len, _feed(stream, piece)))
        stored_size += len(piece)
        if stream.has_ended:
            return stored_size - stream.rest_bytes, size
    return None


def _feed(stream: _Deflate | _Bzip2, piece: bytes) -> Iterator[bytes]:
    try:
        yield from stream.feed(piece)
    except (zlib.error, OSError, _find_engine().error) as error:
        raise DamagedError("it cannot be inflated") from error


class _Deflate:
    """A deflate stream, a block at a time."""

    def __init__(self) -> None:
        self._stream = _find_engine().inflate(-zlib.MAX_WBITS)

    @property
    def has_ended(self) -> bool:
        return bool(self._stream.eof)

    @property
    def rest_bytes(self) -> int:
        return len(self._stream.unused_data)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        while True:
            data = self._stream.decompress(piece, _BLOCK_BYTES)
            yield data
            piece = self._stream.unconsumed_tail
            if self.has_ended or (not piece and len(data) < _BLOCK_BYTES):
                return


class _Bzip2:
    """A bzip2 stream, likewise."""

    def __init__(self) -> None:
        self._stream = bz2.BZ2Decompressor()

    @property
    def has_ended(self) -> bool:
        return self._stream.eof

    @property
    def rest_bytes(self) -> int:
        return len(self._stream.unused_data)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        yield self._stream.decompress(piece, _BLOCK_BYTES)
        while not self._stream.eof and not self._stream.needs_input:
            yield self._stream.decompress(b"", _BLOCK_BYTES)


class _Engine(NamedTuple):
    """What does the work."""

    crc32: Callable[[bytes, int], int]
    inflate: Callable[[int], Any]  # zlib.decompressobj, or what is made like it
    error: type[Exception]


@cache
def _find_engine() -> _Engine:
    """Return ISA-L, which inflates at twice the speed of zlib, else that."""
    try:
        from isal import isal_zlib
    except ImportError:
        return _Engine(zlib.crc32, zlib.decompressobj, zlib.error)
    error: type[Exception] = isal_zlib.error  # type: ignore[assignment] # so say its stubs
    return _Engine(isal_zlib.crc32, isal_zlib.decompressobj, error)
