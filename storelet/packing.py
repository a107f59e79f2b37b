"""Packing: an entry read and written as a member, wherever its bytes go.

1. a directory is a member without content, a symbolic link one with its target;
2. a file of at most WHOLE_BYTES is read whole and gets exact sizes in its local header; it is
   stored where deflate does not shrink it;
3. a larger one is deflated as it is read, its sizes and CRC follow in a data descriptor;
4. with a password, what files and links hold is encrypted after that. A directory holds nothing.

What becomes of an entry is an outcome: nothing for a directory, else a tuple that marshal can
write, since a helper process may have packed it; `events_of` says it in the observer's words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from storelet import zipformat
from storelet.deflate import Engine, Joined, deflate_blocks
from storelet.encryption import Encryption, Encryptor
from storelet.observer import Added, Event, Skipped, Truncated
from storelet.plan import WHOLE_BYTES
from storelet.source import Entry, OpenedFile, UnreadableError, open_file, read_link
from storelet.zipformat import Member

__all__ = ["Outcome", "Packing", "events_of"]

Write = Callable[[bytes], None]
# bytes read, bytes stored, whether it changed, and why it is broken off; or why it is skipped
Outcome = tuple[int, int, bool, str | None] | tuple[str] | None


@dataclass(frozen=True, slots=True)
class Packing:
    """How entries are packed: deflated by an engine and, with a password, encrypted."""

    engine: Engine
    encryption: Encryption | None = None

    def pack(self, entry: Entry, offset: int, write: Write) -> tuple[bytes, Outcome]:
        """Write an entry as a member; return its central header, for `offset`, and its outcome.

        The header of one that is skipped is empty. Raises what `write` raises.
        """
        try:
            if entry.is_directory:
                return self._pack_directory(entry, offset, write), None
            if entry.is_symlink:
                target = read_link(entry)
                header, stored = self._pack_whole(entry, target, None, offset, write)
                return header, (0, stored, False, None)
            with open_file(entry) as file:
                if file.entry.size <= WHOLE_BYTES:
                    return self._pack_small(file, offset, write)
                return self._pack_large(file, offset, write)
        except UnreadableError as error:
            return b"", (str(error),)

    def _pack_directory(self, entry: Entry, offset: int, write: Write) -> bytes:
        member = _make_member(entry)
        write(zipformat.local_header(member))
        return zipformat.central_header(member, offset)

    def _pack_small(self, file: OpenedFile, offset: int, write: Write) -> tuple[bytes, Outcome]:
        data = file.read_whole()
        deflated = self.engine.whole(data) if data else None
        flags = zipformat.CHANGED if file.changed else 0
        header, stored = self._pack_whole(file.entry, data, deflated, offset, write, flags)
        return header, (len(data), stored, file.changed, None)

    def _pack_whole(
        self,
        entry: Entry,
        data: bytes,
        deflated: bytes | None,
        offset: int,
        write: Write,
        flags: int = 0,
    ) -> tuple[bytes, int]:
        """Write a member that is in memory: `data`, or what it deflated to.

        Return its central header, and how many bytes are stored.
        """
        stored = b"".join(self._encrypt([data if deflated is None else deflated]))
        member = _make_member(
            entry,
            flags=flags,
            method=zipformat.STORED if deflated is None else zipformat.DEFLATED,
            encrypted=self.encryption is not None,
            crc=self.engine.crc32(data),
            size=len(data),
            stored_size=len(stored),
        )
        write(zipformat.local_header(member) + stored)
        return zipformat.central_header(member, offset), len(stored)

    def _pack_large(self, file: OpenedFile, offset: int, write: Write) -> tuple[bytes, Outcome]:
        blocks = file.blocks()
        first = next(blocks, b"")  # before the header: what cannot be read at all is no member
        member = _make_member(
            file.entry,
            method=zipformat.DEFLATED,
            encrypted=self.encryption is not None,
            streamed=True,
            zip64=zipformat.needs_zip64(file.entry.size),
        )
        write(zipformat.local_header(member))
        joined, stored = Joined(), 0
        for piece in self._encrypt(deflate_blocks(self.engine, chain([first], blocks), joined)):
            write(piece)
            stored += len(piece)
        member = member._replace(
            crc=joined.crc,
            size=joined.size,
            stored_size=stored,
            flags=file.changed * zipformat.CHANGED | bool(file.broken_off) * zipformat.TRUNCATED,
        )
        write(zipformat.data_descriptor(member))
        header = zipformat.central_header(member, offset)
        return header, (joined.size, stored, file.changed, file.broken_off)

    def _encrypt(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield what is stored of a member's data."""
        if self.encryption is None:
            yield from pieces
            return
        encryptor = Encryptor(self.encryption.secret)
        yield encryptor.head
        for piece in pieces:
            yield encryptor.update(piece)
        yield encryptor.finish()


def events_of(entry: Entry, outcome: Outcome) -> Iterator[Event]:
    """Yield what there is to report of an entry; directories are silent."""
    if outcome is None:
        return
    if len(outcome) == 1:
        yield Skipped(path=entry.path, reason=outcome[0])
        return
    read, stored, changed, broken_off = outcome
    yield Added(
        path=entry.path,
        member=entry.name,
        bytes_read=read,
        bytes_stored=stored,
        changed=changed,
    )
    if broken_off is not None:
        yield Truncated(path=entry.path, reason=broken_off)


def _make_member(entry: Entry, **known: Any) -> Member:
    return Member(
        entry.name,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        entry.ctime_ns,
        entry.inode,
        entry.size,
        entry.link_group,
        int(time.time()),
        **known,
    )
