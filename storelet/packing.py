"""Packing: an entry read and written as a member, wherever its bytes go.

1. a directory is a member without content, a symbolic link one with its target;
2. a file of at most WHOLE_BYTES is read whole and gets exact sizes in its local header; it is
   stored where deflate does not shrink it;
3. a larger one is deflated as it is read, its sizes and CRC follow in a data descriptor.

What becomes of an entry is an outcome: nothing for a directory, else a tuple that marshal can
write, since a helper process may have packed it; `events_of` says it in the observer's words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from storelet import zipformat
from storelet.deflate import Engine, Joined, deflate_blocks
from storelet.observer import Added, Event, Skipped, Truncated
from storelet.plan import WHOLE_BYTES
from storelet.source import Entry, OpenedFile, UnreadableError, open_file, read_link
from storelet.zipformat import Member

__all__ = ["Outcome", "events_of", "pack"]

Write = Callable[[bytes], None]
# bytes read, bytes stored, whether it changed, and why it is broken off; or why it is skipped
Outcome = tuple[int, int, bool, str | None] | tuple[str] | None


def pack(entry: Entry, engine: Engine, offset: int, write: Write) -> tuple[bytes, Outcome]:
    """Write an entry as a member; return its central header, for `offset`, and its outcome.

    The header of one that is skipped is empty. Raises what `write` raises.
    """
    try:
        if entry.is_directory:
            return _pack_whole(entry, b"", None, engine, offset, write), None
        if entry.is_symlink:
            target = read_link(entry)
            header = _pack_whole(entry, target, None, engine, offset, write)
            return header, (0, len(target), False, None)
        with open_file(entry) as file:
            if file.entry.size <= WHOLE_BYTES:
                return _pack_small(file, engine, offset, write)
            return _pack_large(file, engine, offset, write)
    except UnreadableError as error:
        return b"", (str(error),)


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


def _pack_small(
    file: OpenedFile, engine: Engine, offset: int, write: Write
) -> tuple[bytes, Outcome]:
    data = file.read_whole()
    deflated = engine.whole(data) if data else None
    flags = zipformat.CHANGED if file.changed else 0
    header = _pack_whole(file.entry, data, deflated, engine, offset, write, flags)
    stored = len(data if deflated is None else deflated)
    return header, (len(data), stored, file.changed, None)


def _pack_whole(
    entry: Entry,
    data: bytes,
    deflated: bytes | None,
    engine: Engine,
    offset: int,
    write: Write,
    flags: int = 0,
) -> bytes:
    """Write a member that is in memory: `data`, or what it deflated to."""
    stored = data if deflated is None else deflated
    member = _make_member(
        entry,
        flags=flags,
        method=zipformat.STORED if deflated is None else zipformat.DEFLATED,
        crc=engine.crc32(data),
        size=len(data),
        stored_size=len(stored),
    )
    write(zipformat.local_header(member) + stored)
    return zipformat.central_header(member, offset)


def _pack_large(
    file: OpenedFile, engine: Engine, offset: int, write: Write
) -> tuple[bytes, Outcome]:
    blocks = file.blocks()
    first = next(blocks, b"")  # before the header: what cannot be read at all is no member
    is_zip64 = zipformat.needs_zip64(file.entry.size)
    member = _make_member(file.entry, method=zipformat.DEFLATED, streamed=True, zip64=is_zip64)
    write(zipformat.local_header(member))
    joined, stored = Joined(), 0
    for piece in deflate_blocks(engine, chain([first], blocks), joined):
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
