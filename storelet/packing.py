"""Packing: an entry read and written as a member, wherever its bytes go.

1. a directory is a member without content, a symbolic link one with its target;
2. a file of at most WHOLE_BYTES is read whole and gets exact sizes in its local header; it is
   stored where deflate does not shrink it;
3. a larger one is deflated as it is read, its sizes and CRC follow in a data descriptor;
4. what a command will say is packed as a file is, by what comes of it;
5. with a password, what files and links hold is encrypted after that. A directory holds nothing.

What becomes of an entry is an outcome: nothing for a directory, else a tuple that marshal can
write, since a helper process may have packed it; `events_of` says it in the observer's words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from storelet import zipformat
from storelet.deflate import Engine, Joined, deflate_blocks
from storelet.encryption import Encryption, Encryptor
from storelet.entry import Entry
from storelet.observer import Added, Event, Skipped, Truncated
from storelet.output import Output
from storelet.plan import WHOLE_BYTES
from storelet.source import OpenedFile, UnreadableError, open_file, read_link
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
    outputs: Mapping[str, Output] = field(default_factory=dict)  # by their members' names

    def pack(self, entry: Entry, offset: int, write: Write) -> tuple[bytes, Outcome]:
        """Write an entry as a member; return its central header, for `offset`, and its outcome.

        The header of one that is skipped is empty. Raises what `write` raises, and SourceError
        where a command fails.
        """
        try:
            if entry.is_directory:
                return self._pack_directory(entry, offset, write), None
            if entry.is_symlink:
                target = read_link(entry)
                header, stored = self._pack_whole(entry, target, None, offset, write)
                return header, (0, stored, False, None)
            if entry.is_to_come:
                return self._pack_output(entry, offset, write)
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
        flags = zipformat.CHANGED if file.changed else 0
        deflated = self._deflate(data)
        header, stored = self._pack_whole(file.entry, data, deflated, offset, write, flags)
        return header, (len(data), stored, file.changed, None)

    def _deflate(self, data: bytes) -> bytes | None:
        return self.engine.whole(data) if data else None

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
        member = self._pack_blocks(member, chain([first], blocks), write)
        flags = file.changed * zipformat.CHANGED | bool(file.broken_off) * zipformat.TRUNCATED
        header = zipformat.central_header(member._replace(flags=flags), offset)
        return header, (member.size, member.stored_size, file.changed, file.broken_off)

    def _pack_output(self, entry: Entry, offset: int, write: Write) -> tuple[bytes, Outcome]:
        """Run a command and pack what it says; it may be longer than 4 GiB, for all we know."""
        now = time.time_ns()
        entry = entry._replace(mtime_ns=now, ctime_ns=now)
        with closing(self.outputs[entry.name].blocks()) as blocks:
            first, second = next(blocks, b""), next(blocks, None)
            if second is None:
                header, stored = self._pack_whole(entry, first, self._deflate(first), offset, write)
                return header, (len(first), stored, False, None)
            member = _make_member(
                entry,
                method=zipformat.DEFLATED,
                encrypted=self.encryption is not None,
                streamed=True,
                zip64=True,
            )
            member = self._pack_blocks(member, chain([first, second], blocks), write)
        header = zipformat.central_header(member, offset)
        return header, (member.size, member.stored_size, False, None)

    def _pack_blocks(self, member: Member, blocks: Iterable[bytes], write: Write) -> Member:
        """Write a streamed member; return it as it has become."""
        write(zipformat.local_header(member))
        joined, stored = Joined(), 0
        for piece in self._encrypt(deflate_blocks(self.engine, blocks, joined)):
            write(piece)
            stored += len(piece)
        member = member._replace(crc=joined.crc, size=joined.size, stored_size=stored)
        write(zipformat.data_descriptor(member))
        return member

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
