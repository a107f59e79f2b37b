"""A look at an archive to be copied from, and at one put together from copies.

Before: whether it is encrypted as the new one will be, and with the same password.

Afterwards the catalogue is read back and compared. Of each copied piece the beginning and the end
are compared with the archive before, where a range that was ignored or moved shows. Of the copied
members a sample is inflated and its CRC compared, at the ends of spans and between them; of
encrypted ones, which have none, the code.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from storelet.catalogue import DamagedError, Header
from storelet.destination.contract import Destination, Stored
from storelet.encryption import CODE_BYTES, HEAD_BYTES, OVERHEAD, Decryptor, Encryption
from storelet.errors import DestinationError, StoreletError, WrongPasswordError
from storelet.layout import Layout
from storelet.previous import NotReusableError, PreviousArchive
from storelet.reuse import Span
from storelet.zipformat import DEFLATED

__all__ = ["Inspection", "require_password"]

_SPANS = 8  # of more, these are chosen evenly
_PIECES = 32  # likewise
_EDGE_BYTES = 4 << 10
_LOCAL_BYTES = 30 + 2 * 0x10000  # local header, APPNOTE 4.3.7: name and extra field
# Of a larger member only the beginning is looked at; those that are not deflated are smaller.
_SAMPLE_BYTES = (1 << 20) + OVERHEAD + _LOCAL_BYTES
_MOST_BYTES = 1100 * _SAMPLE_BYTES  # what deflate may make of a sample; a header may lie
_READS_AT_ONCE = 8
_COMPARED_BYTES = 4 << 20


def require_password(
    destination: Destination, previous: PreviousArchive, encryption: Encryption | None
) -> None:
    """Raise NotReusableError unless members of an archive may stand in one of `encryption`.

    All of its files must be encrypted, with the same password, or none. Its shortest encrypted
    member tells that; an archive of directories, which never are, may be copied either way.
    """
    stored, members = previous.stored, previous.members
    if encryption is None:
        if members.shortest is not None:
            raise NotReusableError(f"{stored.name} is encrypted, and the new one is not")
        return
    if members.has_plain:
        raise NotReusableError(f"{stored.name} is not encrypted, and the new one is")
    if members.shortest is None:
        return
    start, stop = members.offsets[members.shortest : members.shortest + 2]
    try:
        data = destination.read(stored, start, _sample_of(stop - start))
    except StoreletError as error:
        raise NotReusableError(str(error)) from error
    if not _is_member(data, members.header(members.shortest), encryption):
        raise NotReusableError(f"{stored.name} has another password")


class Inspection:
    """An archive under inspection; it begins with copies from `previous`."""

    def __init__(
        self,
        destination: Destination,
        archive: Stored,
        previous: PreviousArchive,
        encryption: Encryption | None,
    ) -> None:
        self._destination = destination
        self._archive = archive
        self._previous = previous
        self._encryption = encryption

    def look(
        self, layout: Layout, spans: Sequence[Span], pieces: Sequence[tuple[int, int]]
    ) -> None:
        """Raise DestinationError where the archive is not what `layout` says.

        It has the spans of the archive before; `pieces` are compared with that one.
        """
        looks = [*self._samples(spans), *self._edges(pieces), *self._catalogue(layout)]
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            for look in [pool.submit(each) for each in looks]:
                look.result()

    def _catalogue(self, layout: Layout) -> Iterator[Callable[[], None]]:
        at = layout.offset
        for piece in layout.catalogue():
            for start in range(0, len(piece), _COMPARED_BYTES):
                part = piece[start : start + _COMPARED_BYTES]
                yield partial(self._require, at, part, "its catalogue is not what was written")
                at += len(part)

    def _edges(self, pieces: Sequence[tuple[int, int]]) -> Iterator[Callable[[], None]]:
        """Yield looks at pieces (offset and size in the archive before) that were copied."""
        at = 0
        every = -(-len(pieces) // _PIECES)
        for number, (offset, size) in enumerate(pieces):
            if number % every == 0 or number == len(pieces) - 1:
                edge = min(_EDGE_BYTES, size)
                for shift in (0, size - edge):
                    yield partial(self._compare, at + shift, offset + shift, edge)
            at += size

    def _samples(self, spans: Sequence[Span]) -> Iterator[Callable[[], None]]:
        members, base = self._previous.members, 0
        every = -(-len(spans) // _SPANS)
        for number, span in enumerate(spans):
            if number % every == 0 or number == len(spans) - 1:
                for member in sorted({span.first, (span.first + span.stop) // 2, span.stop - 1}):
                    start, stop = members.offsets[member], members.offsets[member + 1]
                    at = base + start - span.offset
                    yield partial(self._unpack, members.header(member), at, stop - start)
            base += span.size

    def _require(self, offset: int, expected: bytes, problem: str) -> None:
        if self._destination.read(self._archive, offset, len(expected)) != expected:
            raise DestinationError(problem)

    def _compare(self, offset: int, before: int, size: int) -> None:
        expected = self._destination.read(self._previous.stored, before, size)
        self._require(offset, expected, "a piece of it is not what was copied")

    def _unpack(self, header: Header, offset: int, length: int) -> None:
        """Look at a member that takes `length` bytes from `offset` on."""
        data = self._destination.read(self._archive, offset, _sample_of(length))
        if not _is_member(data, header, self._encryption):
            raise DestinationError(f"{header.name} in it is not what was copied")


def _sample_of(length: int) -> int:
    """Return how much is read of a member that takes `length` bytes."""
    return length if length <= _SAMPLE_BYTES else _LOCAL_BYTES


def _is_member(data: bytes, header: Header, encryption: Encryption | None) -> bool:
    """Tell whether `data` is the member of a header, or, where it is not whole, begins like it."""
    if data[:4] != b"PK\x03\x04" or len(data) < 30:
        return False
    name_length, extra_length = struct.unpack_from("<HH", data, 26)
    if data[30 : 30 + name_length].decode(errors="replace") != header.name:
        return False
    start = 30 + name_length + extra_length
    stored = data[start : start + header.stored_size]
    is_whole = len(stored) == header.stored_size
    content = stored
    try:
        if header.encrypted:
            content = _decrypt(stored, encryption, is_whole=is_whole)
        if header.method == DEFLATED:
            most = min(header.size + 1, _MOST_BYTES) if is_whole else _SAMPLE_BYTES
            stream = zlib.decompressobj(-zlib.MAX_WBITS)
            content = stream.decompress(content, most)
            if stream.eof and not is_whole:
                return False  # by a wrong password, bytes may well be a stream: a short one
    except (zlib.error, DamagedError, WrongPasswordError):
        return False
    if not is_whole:
        return True
    return len(content) == header.size and (header.encrypted or zlib.crc32(content) == header.crc)


def _decrypt(stored: bytes, encryption: Encryption | None, *, is_whole: bool) -> bytes:
    """Return what was encrypted, as far as it is there. Raises DamagedError, WrongPasswordError."""
    if encryption is None:
        raise DamagedError("it is encrypted")
    head = HEAD_BYTES[3]
    decryptor = Decryptor(encryption.secret, stored[:head])
    if not is_whole:
        return decryptor.update(stored[head:])
    data = decryptor.update(stored[head:-CODE_BYTES])
    decryptor.finish(stored[-CODE_BYTES:])
    return data
