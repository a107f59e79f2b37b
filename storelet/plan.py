"""The plan of an archive: the entries that go into it, before one of them is read.

A plan has two shelves, directories and files (symbolic links among them): directories are members
without content, whose times change often, so they stand together and do not cut what is between
them into pieces too short to be copied the next night. Entries lie in batches, deflated, as they
are given to those who pack them: a million of them take some 50 MB.
"""

from __future__ import annotations

import marshal
import os
import zlib
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

from storelet.deflate import squeeze, unsqueeze
from storelet.entry import UNKNOWN_BYTES, Entry
from storelet.errors import UsageError
from storelet.names import Names
from storelet.observer import Skipped
from storelet.output import Output
from storelet.source import BLOCK_BYTES
from storelet.zipformat import fingerprint, portable_name

__all__ = ["WHOLE_BYTES", "Batch", "Facts", "Filler", "Plan", "Shelf"]

WHOLE_BYTES = BLOCK_BYTES  # a file of this size is still read whole
_ENTRY_BYTES = 20 << 10  # what an entry costs beside its bytes, in bytes that are packed

# A batch is packed in one slot of a helper: 4 MiB, for data, records, and before that the batch.
_BATCH_ENTRIES = 128
_BATCH_BYTES = 1 << 20  # before its last entry, which is at most as large again
_BATCH_NAMES = 64 << 10  # characters
_FINGERPRINT_BYTES = 32
_SIZE_AT = 24  # in a fingerprint
_RECORD_BYTES = 512  # about what an entry takes in an archive beside its content


class Batch(NamedTuple):
    """Entries that are packed together; a large file is one by itself."""

    first: int  # number on its shelf of the first one
    size: int  # entries
    cost: int  # of packing it, in bytes
    is_large: bool
    squeezed: bytes

    @property
    def marshalled(self) -> bytes:
        """The entries' fields as marshal writes them, for another process."""
        return unsqueeze(self.squeezed)

    @property
    def entries(self) -> list[Entry]:
        """The entries."""
        return [Entry._make(fields) for fields in marshal.loads(self.marshalled)]  # noqa: S302


class Facts(NamedTuple):
    """What must be the same of an entry beside its fingerprint, four bytes each."""

    raw_name: int  # CRC of a name that is not UTF-8: two such may look the same to readers
    link_group: int
    uid: int
    gid: int
    mode: int


_FACTS = len(Facts._fields)


def _facts_of(entry: Entry) -> Facts:
    raw_name = 0
    if not entry.name.isascii() and portable_name(entry.name) != entry.name:
        raw_name = zlib.crc32(os.fsencode(entry.name))
    return Facts(raw_name, entry.link_group, entry.uid, entry.gid, entry.mode)


class Filler:
    """Fills batches with entries."""

    def __init__(self) -> None:
        self._count = 0
        self._clear()

    def add(self, entry: Entry) -> Iterator[Batch]:
        """Put an entry into the batch; yield batches that are full."""
        size = 0 if entry.is_directory else entry.size
        if entry.is_to_come:
            size = WHOLE_BYTES + 1  # for all we know
        if size > WHOLE_BYTES:
            yield from self.close()
        self._entries.append(tuple(entry))
        self._bytes += size
        self._names += len(entry.path) + len(entry.name)
        if (
            self._bytes >= _BATCH_BYTES
            or len(self._entries) >= _BATCH_ENTRIES
            or self._names >= _BATCH_NAMES
        ):
            yield from self.close()

    def close(self) -> Iterator[Batch]:
        """Yield the batch as it is, unless it is empty."""
        if not self._entries:
            return
        size = len(self._entries)
        yield Batch(
            self._count,
            size,
            self._bytes + size * _ENTRY_BYTES,
            size == 1 and self._bytes > WHOLE_BYTES,
            squeeze(marshal.dumps(self._entries)),
        )
        self._count += size
        self._clear()

    def _clear(self) -> None:
        self._entries: list[tuple[Any, ...]] = []
        self._bytes = self._names = 0


class Shelf:
    """Entries of one kind in order, numbered from 0."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0  # sizes together, as the file system gives them
        self._fingerprints = bytearray()
        self._facts = array("I")  # see `facts`, one after the other
        self._batches: list[Batch] = []
        self._filler = Filler()

    def add(self, entry: Entry) -> None:
        """Put an entry behind the others."""
        self.count += 1
        self.bytes += 0 if entry.is_to_come else entry.size
        self._facts.extend(_facts_of(entry))
        self._fingerprints += fingerprint(entry.mtime_ns, entry.ctime_ns, entry.inode, entry.size)
        self._batches += self._filler.add(entry)

    def fingerprint(self, number: int) -> bytes:
        """Return the fingerprint of an entry as it was found."""
        at = number * _FINGERPRINT_BYTES
        return bytes(self._fingerprints[at : at + _FINGERPRINT_BYTES])

    def size_of(self, wanted: bytearray | None) -> int:
        """Return about how many bytes entries marked 1 take in an archive; None means all."""
        if wanted is None:
            return self.bytes + self.count * _RECORD_BYTES
        size, number = 0, wanted.find(1)
        while number >= 0:
            at = number * _FINGERPRINT_BYTES + _SIZE_AT
            found = int.from_bytes(self._fingerprints[at : at + 8], "little")
            size += (0 if found == UNKNOWN_BYTES else found) + _RECORD_BYTES
            number = wanted.find(1, number + 1)
        return size

    def is_plain(self, number: int) -> bool:
        """Tell whether an entry's name is UTF-8 and it has no other hard links."""
        return not (self._facts[number * _FACTS] or self._facts[number * _FACTS + 1])

    def facts(self, number: int) -> Facts:
        """Return what else must be the same of an entry."""
        at = number * _FACTS
        return Facts._make(self._facts[at : at + _FACTS])

    def batches(self, first: int = 0) -> list[Batch]:
        """Return what is there from the entry `first` on, which must begin a batch, in order."""
        self._batches += self._filler.close()
        return [batch for batch in self._batches if batch.first >= first]

    def entry(self, number: int) -> Entry:
        """Return an entry by its number; slow."""
        for batch in self.batches():
            if number < batch.first + batch.size:
                return batch.entries[number - batch.first]
        raise IndexError(number)


class Plan:
    """What goes into an archive."""

    def __init__(self) -> None:
        self.directories = Shelf()
        self.files = Shelf()
        self.outputs: dict[str, Output] = {}  # of entries that are to come, by their names
        self._names = Names()

    @property
    def shelves(self) -> tuple[Shelf, Shelf]:
        """Both, in the order in which an archive has them."""
        return self.directories, self.files

    def add_output(self, output: Output) -> None:
        """Plan what a command will say. Raises UsageError where its name is taken."""
        skipped = self.add(Entry.to_come(output.name))
        if skipped is not None:
            raise UsageError(f"cannot include the command of {output.name}: {skipped.reason}")
        self.outputs[output.name] = output

    def add(self, entry: Entry) -> Skipped | None:
        """Plan an entry; where it cannot have its name, return why. Directories merge."""
        shelf = self.files
        if entry.is_directory:
            shelf = self.directories
            if self._names.find(portable_name(entry.name)) is not None:
                return None
        taken = self._names.take(entry, shelf.count)
        if taken is None:
            shelf.add(entry)
            return None
        if isinstance(taken, int):
            other = self.files.entry(taken)
            taken = f"{portable_name(other.name)} is taken by {other.path}; give another name="
        return Skipped(path=entry.path, reason=taken)

    def find(self, name: str) -> tuple[Shelf, int] | None:
        """Return where the entry of a member name, as readers see it, stands."""
        number = self._names.find(name)
        if number is None:
            return None
        return self.directories if name.endswith("/") else self.files, number
