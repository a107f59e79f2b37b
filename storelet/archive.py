"""The archive writer: entries in, the bytes of a zip out to any sink.

For each entry, in the order given:

1. its member name must be free: one name is one file, and a file's name is no directory's;
2. a file of at most WHOLE_BYTES is read whole and gets exact sizes in its local header; it is
   stored where deflate does not shrink it;
3. a larger one is deflated as it is read, its sizes and CRC follow in a data descriptor;
4. `central_directory` gives the catalogue for all members so far, and may be asked again later.

Where there is much to do, batches of small files are packed by a crew of helpers, each of which
writes a piece of an archive; pieces are appended in order, their central headers moved to where
they are then. It is the same archive.

The writer only ever appends: it never seeks, and knows nothing of where the bytes go. What the
sink raises ends the backup. What is not guaranteed: that two files were read at one moment.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol

from storelet import zipformat
from storelet.crew import Answer, Crew
from storelet.deflate import Compression, Joined, deflate_blocks, find_engine
from storelet.observer import Added, Event, Skipped, Truncated
from storelet.source import BLOCK_BYTES, Entry, OpenedFile, UnreadableError, open_file, read_link
from storelet.zipformat import ArchiveRecord, Member

__all__ = ["ArchiveWriter", "Sink", "pack_event", "read_record", "unpack_event"]

WHOLE_BYTES = BLOCK_BYTES  # a file of this size is still read whole
# APPNOTE 4.4.10 and 4.4.11: a record's name and extra fields have 16 bits together, and a name
# that is not UTF-8 stands among the latter once more.
_NAME_BYTES = 0x7000

_LITTLE_BYTES = 16 << 20  # up to here helpers are not worth their start
_ENTRY_BYTES = 20 << 10  # what an entry costs beside its bytes, in bytes that are packed
# A batch is packed in one slot of a helper: 4 MiB, for data, records, and before that the batch.
_BATCH_ENTRIES = 128
_BATCH_BYTES = 1 << 20  # before its last entry, which is at most as large again
_BATCH_NAMES = 64 << 10  # characters
_FIRST_HEADER_BYTES = 46 + 2 * 0x10000  # central header, APPNOTE 4.3.12: name and extra field


_Piece = list[tuple[Entry, int]] | Skipped  # a batch, each entry with its link group


class Sink(Protocol):
    """Takes the archive's bytes in order, all of each call or an exception."""

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""


class ArchiveWriter:
    """Writes one archive to a sink.

    Without a record it writes a piece of one, whose catalogue is not complete.
    """

    def __init__(
        self, sink: Sink, record: ArchiveRecord | None, compression: Compression = "fast"
    ) -> None:
        self.offset = 0  # bytes written so far
        self._sink = sink
        self._record = record
        self._compression: Compression = compression
        self._engine = find_engine(compression)
        self._names = _Names()
        self._central = bytearray()
        self._count = 0
        self._link_groups: dict[tuple[int, int, int], int] = {}

    def write(self, entries: Iterable[Entry]) -> Iterator[Event]:
        """Write entries in order and yield what becomes of each file and symbolic link.

        Directories are silent. Much is packed on all cores. Raises what the sink raises; then
        the archive is lost.
        """
        rest = iter(entries)
        little = _LITTLE_BYTES
        for entry in rest:
            little -= entry.size + _ENTRY_BYTES
            yield from self.add(entry)
            if little < 0 and self._count:  # the first one has the archive's record
                break
        else:
            return
        with Crew(self._compression) as crew:
            for piece, answer in crew.pack(self._batch(rest)):
                if isinstance(piece, Skipped):
                    yield piece
                elif answer is None:
                    for entry, link_group in piece:
                        yield from self.pack(entry, link_group)
                else:
                    yield from self._add_answer(piece, answer)

    def add(self, entry: Entry) -> Iterator[Event]:
        """Write one entry, if its name is free, and yield what became of it."""
        problem = self._names.find_problem(entry)
        if problem:
            yield Skipped(path=entry.path, reason=problem)
            return
        if entry.is_directory and not self._names.take(entry):
            return
        for event in self.pack(entry, self._link_group(entry)):
            if isinstance(event, Added):
                self._names.take(entry)
            yield event

    def pack(self, entry: Entry, link_group: int) -> Iterator[Event]:
        """Write one entry, whatever its name, and yield what became of it."""
        try:
            if entry.is_directory:
                self._write_whole(_make_member(entry, link_group), b"")
            elif entry.is_symlink:
                target = read_link(entry)
                self._write_whole(_make_member(entry, link_group), target)
                size = len(target)
                yield Added(path=entry.path, member=entry.name, bytes_read=0, bytes_stored=size)
            else:
                yield from self._add_file(entry, link_group)
        except UnreadableError as error:
            yield Skipped(path=entry.path, reason=str(error))

    def central_directory(self) -> bytes:
        """Return what completes the archive behind the members written so far."""
        return bytes(self._central) + zipformat.end_records(
            self._count, len(self._central), self.offset
        )

    @property
    def central_headers(self) -> bytes:
        """The central headers of the members written so far, for a piece of an archive."""
        return bytes(self._central)

    def _batch(self, entries: Iterable[Entry]) -> Iterator[tuple[_Piece, list[Any] | None]]:
        """Yield entries in batches for the crew, and by themselves those that are no matter of it.

        Names are taken here, ahead of the reading.
        """
        batch: list[tuple[Entry, int]] = []
        size = names = 0
        for entry in entries:
            problem = self._names.find_problem(entry)
            if not problem and not self._names.take(entry):
                continue  # a directory that is there already
            is_large = not entry.is_directory and entry.size > WHOLE_BYTES
            if batch and (problem or is_large or _is_full(len(batch), size, names)):
                yield batch, _pack_batch(batch)
                batch, size, names = [], 0, 0
            if problem:
                yield Skipped(path=entry.path, reason=problem), None
            elif is_large:
                yield [(entry, self._link_group(entry))], None
            else:
                batch.append((entry, self._link_group(entry)))
                size += 0 if entry.is_directory else entry.size
                names += len(entry.path) + len(entry.name)
        if batch:
            yield batch, _pack_batch(batch)

    def _add_answer(self, batch: list[tuple[Entry, int]], answer: Answer) -> Iterator[Event]:
        """Write what a helper has packed, its central headers moved to where that is."""
        headers, count = zipformat.relocate(answer.central, self.offset)
        self._write(answer.data)
        self._central += headers
        self._count += count
        for index, *what in answer.events:
            yield unpack_event(batch[index][0], what)

    def _add_file(self, entry: Entry, link_group: int) -> Iterator[Event]:
        with open_file(entry) as file:
            if file.entry.size <= WHOLE_BYTES:
                member = self._add_small(file, link_group)
            else:
                member = self._add_large(file, link_group)
        yield Added(
            path=entry.path,
            member=entry.name,
            bytes_read=member.size,
            bytes_stored=member.stored_size,
            changed=file.changed,
        )
        if file.broken_off:
            yield Truncated(path=entry.path, reason=file.broken_off)

    def _add_small(self, file: OpenedFile, link_group: int) -> Member:
        data = file.read_whole()
        deflated = self._engine.whole(data) if data else None
        member = replace(
            _make_member(file.entry, link_group),
            method=zipformat.STORED if deflated is None else zipformat.DEFLATED,
            flags=zipformat.CHANGED if file.changed else 0,
        )
        return self._write_whole(member, data, deflated)

    def _add_large(self, file: OpenedFile, link_group: int) -> Member:
        blocks = file.blocks()
        first = next(blocks, b"")  # before the header: what cannot be read at all is no member
        member = replace(
            _make_member(file.entry, link_group),
            method=zipformat.DEFLATED,
            streamed=True,
            zip64=zipformat.needs_zip64(file.entry.size),
        )
        start = self.offset
        self._write(zipformat.local_header(member))
        joined = Joined()
        before = self.offset
        for piece in deflate_blocks(self._engine, chain([first], blocks), joined):
            self._write(piece)
        member = replace(
            member,
            crc=joined.crc,
            size=joined.size,
            stored_size=self.offset - before,
            flags=file.changed * zipformat.CHANGED | bool(file.broken_off) * zipformat.TRUNCATED,
        )
        self._write(zipformat.data_descriptor(member))
        self._finish(member, start)
        return member

    def _write_whole(self, member: Member, data: bytes, deflated: bytes | None = None) -> Member:
        """Write a member that is in memory: `data`, or what it deflated to."""
        stored = data if deflated is None else deflated
        member = replace(
            member, crc=self._engine.crc32(data), size=len(data), stored_size=len(stored)
        )
        start = self.offset
        self._write(zipformat.local_header(member) + stored)
        self._finish(member, start)
        return member

    def _write(self, data: bytes | memoryview) -> None:
        self._sink.write(data)
        self.offset += len(data)

    def _finish(self, member: Member, start: int) -> None:
        record = None if self._count else self._record
        self._central += zipformat.central_header(member, start, record)
        self._count += 1

    def _link_group(self, entry: Entry) -> int:
        """Give the files that several hard links lead to a number each; 0 to all others.

        The ctime is in the key because inodes are used again: what one produced directory had
        under a number, the next one may have for another file.
        """
        if entry.is_directory or entry.links < 2:
            return 0
        groups = self._link_groups
        return groups.setdefault((entry.device, entry.inode, entry.ctime_ns), len(groups) + 1)


def pack_event(index: int, event: Event) -> tuple[Any, ...]:
    """Return an event about the entry `index` of a batch, for another process."""
    match event:
        case Added(bytes_read=read, bytes_stored=stored, changed=changed):
            return index, "added", read, stored, changed
        case Skipped(reason=reason):
            return index, "skipped", reason
        case Truncated(reason=reason):
            return index, "truncated", reason
    raise TypeError(event)


def unpack_event(entry: Entry, what: Sequence[Any]) -> Event:
    """Return the event that `pack_event` packed, without the index."""
    kind, *values = what
    if kind == "added":
        read, stored, changed = values
        return Added(
            path=entry.path,
            member=entry.name,
            bytes_read=read,
            bytes_stored=stored,
            changed=changed,
        )
    if kind == "skipped":
        return Skipped(path=entry.path, reason=values[0])
    return Truncated(path=entry.path, reason=values[0])


def _make_member(entry: Entry, link_group: int) -> Member:
    return Member(
        name=entry.name,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        ctime_ns=entry.ctime_ns,
        inode=entry.inode,
        source_size=entry.size,
        link_group=link_group,
        read_at=int(time.time()),
    )


def _is_full(entries: int, size: int, names: int) -> bool:
    return entries >= _BATCH_ENTRIES or size >= _BATCH_BYTES or names >= _BATCH_NAMES


def _pack_batch(batch: list[tuple[Entry, int]]) -> list[Any]:
    return [(link_group, entry.pack()) for entry, link_group in batch]


def read_record(entry: Entry) -> ArchiveRecord | None:
    """Return what an archive in a file says of itself; None where it is none of Storelet's."""
    try:
        with open_file(entry) as file:
            start = max(file.entry.size - zipformat.TAIL_BYTES, 0)
            catalogue = zipformat.find_catalogue(file.read_at(start, zipformat.TAIL_BYTES))
            if catalogue is None:
                return None
            return zipformat.read_archive_record(file.read_at(catalogue[0], _FIRST_HEADER_BYTES))
    except UnreadableError:
        return None


class _Names:
    """The member names that are taken, and by what.

    They are compared as readers see them: two names that are not UTF-8 may look the same.
    """

    def __init__(self) -> None:
        self._files: dict[str, str] = {}  # member name -> path
        self._directories: dict[str, bool] = {}  # without `/` -> whether it is a member itself

    def find_problem(self, entry: Entry) -> str | None:
        """Return why the entry cannot have its name; directories of one name merge."""
        name = zipformat.portable_name(entry.name.rstrip("/"))
        if len(name.encode()) >= _NAME_BYTES:  # a directory's has a `/` more
            return "its path is too long for a zip"
        if not entry.is_directory and name in self._directories:
            return f"{name} is a directory in the archive; give another name="
        for taken in (name, *_parents(name)):
            if taken in self._files:
                return f"{taken} is taken by {self._files[taken]}; give another name="
            if taken != name and taken in self._directories:
                return None
        return None

    def take(self, entry: Entry) -> bool:
        """Take the name; returns whether it is new as a member."""
        name = zipformat.portable_name(entry.name.rstrip("/"))
        for parent in _parents(name):
            if parent in self._directories:
                break
            self._directories[parent] = False
        if not entry.is_directory:
            self._files[name] = entry.path
            return True
        is_new = not self._directories.get(name, False)
        self._directories[name] = True
        return is_new


def _parents(name: str) -> Iterator[str]:
    """Yield `a/b` and `a` for `a/b/c`."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
