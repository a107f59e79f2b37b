"""What an archive is called, what it says of itself, and how it is known again.

An archive's time is the moment its backup began, in UTC, in its own record and its metadata; the
local time in its name is for people, and an hour of every autumn has it twice.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain

from storelet import catalogue
from storelet.destination.contract import backup_of
from storelet.destination.mark import is_mark, marked_by
from storelet.entry import Entry
from storelet.errors import ArchiveExistsError, UsageError
from storelet.source import UnreadableError, open_file
from storelet.zipformat import ArchiveRecord

__all__ = ["Label", "find_record", "names_taken"]

_NAMES_TRIED = 60  # seconds after now whose names may all be taken before we give up
_NAME_BYTES = 255 - len("_YYYYMMDDhhmmss.zip.bad")  # a file's name has 255 at most
_MARK_BYTES = 64  # of a mark, which show that it is one
_SOURCES_CHARACTERS = 12_000
_USUAL_HEADER_BYTES = 4 << 10
_FIRST_HEADER_BYTES = 46 + 2 * 0x10000  # central header, APPNOTE 4.3.12: name and extra field


class Label:
    """The label of one backup's archives."""

    def __init__(self, name: str) -> None:
        if not name or "/" in name or not name.isprintable() or len(name.encode()) > _NAME_BYTES:
            raise UsageError(
                f"not a name for a backup: {name!r}",
                hint=f"give a name of at most {_NAME_BYTES} bytes, without `/`; prefix= puts "
                "archives under a path",
            )
        self.name = name
        self._host = socket.gethostname()
        self._started_ns = time.time_ns()
        self._sources: list[tuple[str, str]] = []

    @property
    def record(self) -> ArchiveRecord:
        """What the archive says of itself, as far as it has got."""
        sources = tuple(dict.fromkeys(self._sources))
        if sum(map(len, chain.from_iterable(sources))) > _SOURCES_CHARACTERS:
            sources = ()  # there is room for 64 KiB, in all
        return ArchiveRecord(
            job=self.name, host=self._host, started_ns=self._started_ns, sources=sources
        )

    def add_source(self, prefix: str, path: str) -> None:
        """Note that members whose names begin with `prefix` come from `path`.

        An empty path says that they come from nowhere they could go back to.
        """
        self._sources.append((prefix, path))

    @property
    def metadata(self) -> dict[str, str]:
        """What the archive's own record says, in ASCII, as S3's metadata must be."""
        started = datetime.fromtimestamp(self.record.started_ns / 1e9, UTC)
        return {
            "storelet-job": _ascii(self.record.job),
            "storelet-host": _ascii(self.record.host),
            "storelet-started": started.isoformat(timespec="microseconds"),
        }

    def file_names(self) -> Iterator[str]:
        """Yield names for an archive made now, from this second on: the first may be taken."""
        now = datetime.now().astimezone()
        for seconds in range(_NAMES_TRIED):
            yield f"{self.name}_{now + timedelta(seconds=seconds):%Y%m%d%H%M%S}.zip"

    def is_own_archive(self, entry: Entry, places: frozenset[str]) -> bool:
        """Tell whether a file is an archive, or one's mark, that must not go into another.

        That is one of this backup, and any of Storelet's that lies in one of the directories
        `places`, where this one goes: else each night's would hold all earlier ones. They are
        known by their names and by what they say themselves; whatever else is there is not meant.
        """
        if not entry.path.endswith((".zip", ".zip.bad")):
            return False
        directory, file_name = os.path.split(entry.path)
        marked = marked_by(file_name)
        backup = backup_of(file_name if marked is None else marked)
        if backup is None or not stat.S_ISREG(entry.mode):
            return False
        if backup != self.name and os.path.realpath(directory) not in places:
            return False
        if marked is not None:
            return _is_mark(entry)
        record = read_record(entry)
        return record is not None and record.job == backup


def read_record(entry: Entry) -> ArchiveRecord | None:
    """Return what an archive in a file says of itself; None where it is none of Storelet's."""
    try:
        with open_file(entry) as file:
            return find_record(file.read_at, file.entry.size)
    except UnreadableError:
        return None


def find_record(read: Callable[[int, int], bytes], size: int) -> ArchiveRecord | None:
    """Return what an archive of `size` bytes says of itself; None where it is none of Storelet's.

    `read` takes offset and size and gives what there is.
    """
    found = catalogue.find_catalogue(
        read(max(size - catalogue.TAIL_BYTES, 0), catalogue.TAIL_BYTES)
    )
    if found is None or found[0] >= size:
        return None
    for header_bytes in (_USUAL_HEADER_BYTES, _FIRST_HEADER_BYTES):
        record = catalogue.read_record(read(found[0], header_bytes))
        if record is not None:
            return record
    return None


def _is_mark(entry: Entry) -> bool:
    try:
        with open_file(entry) as file:
            return is_mark(file.read_at(0, _MARK_BYTES))
    except UnreadableError:
        return False


def names_taken(destination: object) -> ArchiveExistsError:
    """Return the error that says that not one of the names was free."""
    return ArchiveExistsError(
        f"the names of the next {_NAMES_TRIED} s are all taken in {destination}",
        hint="is something else writing archives of the same name there?",
    )


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
