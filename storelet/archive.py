"""The archive writer: entries in, the bytes of a zip out to any sink.

For each entry, in the order given:

1. its member name must be free: one name is one file, and a file's name is no directory's;
2. a file of at most WHOLE_BYTES is read whole and gets exact sizes in its local header; it is
   stored where deflate does not shrink it;
3. a larger one is deflated as it is read, its sizes and CRC follow in a data descriptor;
4. `central_directory` gives the catalogue for all members so far, and may be asked again later.

The writer only ever appends: it never seeks, and knows nothing of where the bytes go. What the
sink raises ends the backup. What is not guaranteed: that two files were read at one moment.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Protocol

from storelet import zipformat
from storelet.deflate import Engine, Joined, deflate_blocks
from storelet.observer import Added, Event, Skipped, Truncated
from storelet.source import BLOCK_BYTES, Entry, OpenedFile, UnreadableError, open_file, read_link
from storelet.zipformat import ArchiveRecord, Member

__all__ = ["ArchiveWriter", "Sink", "read_record"]

WHOLE_BYTES = BLOCK_BYTES  # a file of this size is still read whole
# APPNOTE 4.4.10 and 4.4.11: a record's name and extra fields have 16 bits together, and a name
# that is not UTF-8 stands among the latter once more.
_NAME_BYTES = 0x7000

_FIRST_HEADER_BYTES = 46 + 2 * 0x10000  # central header, APPNOTE 4.3.12: name and extra field


class Sink(Protocol):
    """Takes the archive's bytes in order, all of each call or an exception."""

    def write(self, data: bytes) -> None:
        """Append `data`."""


class ArchiveWriter:
    """Writes one archive to a sink."""

    def __init__(self, sink: Sink, record: ArchiveRecord, engine: Engine) -> None:
        self.offset = 0  # bytes written so far
        self._sink = sink
        self._record = record
        self._engine = engine
        self._names = _Names()
        self._central = bytearray()
        self._count = 0
        self._link_groups: dict[tuple[int, int, int], int] = {}

    def add(self, entry: Entry) -> Iterator[Event]:
        """Write an entry and yield what became of it, for files and symbolic links.

        Directories are silent. Raises what the sink raises; then the archive is lost.
        """
        problem = self._names.find_problem(entry)
        if problem:
            yield Skipped(path=entry.path, reason=problem)
        elif entry.is_directory:
            if self._names.take(entry):
                self._write_whole(self._member(entry), b"")
        else:
            try:
                yield from self._add_symlink(entry) if entry.is_symlink else self._add_file(entry)
            except UnreadableError as error:
                yield Skipped(path=entry.path, reason=str(error))
            else:
                self._names.take(entry)

    def central_directory(self) -> bytes:
        """Return what completes the archive behind the members written so far."""
        return bytes(self._central) + zipformat.end_records(
            self._count, len(self._central), self.offset
        )

    def _add_symlink(self, entry: Entry) -> Iterator[Event]:
        target = read_link(entry)
        self._write_whole(self._member(entry), target)
        yield Added(path=entry.path, member=entry.name, bytes_read=0, bytes_stored=len(target))

    def _add_file(self, entry: Entry) -> Iterator[Event]:
        with open_file(entry) as file:
            if file.entry.size <= WHOLE_BYTES:
                member = self._add_small(file)
            else:
                member = self._add_large(file)
        yield Added(
            path=entry.path,
            member=entry.name,
            bytes_read=member.size,
            bytes_stored=member.stored_size,
            changed=file.changed,
        )
        if file.broken_off:
            yield Truncated(path=entry.path, reason=file.broken_off)

    def _add_small(self, file: OpenedFile) -> Member:
        data = file.read_whole()
        deflated = self._engine.whole(data) if data else None
        member = replace(
            self._member(file.entry),
            method=zipformat.STORED if deflated is None else zipformat.DEFLATED,
            flags=zipformat.CHANGED if file.changed else 0,
        )
        return self._write_whole(member, data, deflated)

    def _add_large(self, file: OpenedFile) -> Member:
        blocks = file.blocks()
        first = next(blocks, b"")  # before the header: what cannot be read at all is no member
        member = replace(
            self._member(file.entry),
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

    def _write(self, data: bytes) -> None:
        self._sink.write(data)
        self.offset += len(data)

    def _finish(self, member: Member, start: int) -> None:
        record = None if self._count else self._record
        self._central += zipformat.central_header(member, start, record)
        self._count += 1

    def _member(self, entry: Entry) -> Member:
        return Member(
            name=entry.name,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime_ns=entry.mtime_ns,
            ctime_ns=entry.ctime_ns,
            inode=entry.inode,
            source_size=entry.size,
            link_group=self._link_group(entry),
            read_at=int(time.time()),
        )

    def _link_group(self, entry: Entry) -> int:
        """Give the files that several hard links lead to a number each; 0 to all others.

        The ctime is in the key because inodes are used again: what one produced directory had
        under a number, the next one may have for another file.
        """
        if entry.is_directory or entry.links < 2:
            return 0
        groups = self._link_groups
        return groups.setdefault((entry.device, entry.inode, entry.ctime_ns), len(groups) + 1)


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
