"""What the library reports while it works, and to whom; the figures of a run.

`report(event)` writes the event's log line and hands the event to the observer, if one is set.
An observer is any callable that takes an event; `observe(callable)` sets it for a block. It is
one for the whole process, not a context variable: a script that backs up in threads of its own
must be counted too, and new threads do not inherit context variables. It is called in whichever
thread has something to report.

`report_moved` counts bytes where they are read and sent, and makes a few events a second of that:
who follows a backup must know a slow line from one that hangs.

An observer's exception ends the backup, so it must not raise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

__all__ = [
    "Added",
    "Deleted",
    "Event",
    "Figures",
    "Filling",
    "Moved",
    "NotPruned",
    "NotReused",
    "Observer",
    "Passed",
    "Refused",
    "Restored",
    "Restoring",
    "Reused",
    "Saved",
    "Skipped",
    "Truncated",
    "UploadEnded",
    "UploadOpened",
    "is_followed",
    "observe",
    "report",
    "report_moved",
]

_log = logging.getLogger("storelet")
_files_log = logging.getLogger("storelet.files")

_MOVED_SECONDS = 0.1  # at least, between two events that say what moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A file or symbolic link became a member; directories are silent."""

    path: str  # where it was read, as given to the operating system
    member: str  # its name in the archive
    bytes_read: int  # from the source
    bytes_stored: int  # in the archive, without records
    changed: bool = False  # the file changed while it was read


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An entry that should be in the archive and is not: the run is `partial`."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """A member that a read error broke off, behind its `Added`: the run is `partial`."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A FIFO, socket, device, or something of Storelet's own: never in an archive."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused:
    """Files and symbolic links that were not read: every destination had them already.

    Reported once by a streamed backup, when it has compared; a spooled one reads everything.
    """

    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReused:
    """What a destination has was not, or not all, reused: the backup is whole and cost more."""

    destination: str  # in words, as in Saved
    reason: str
    is_first: bool = False  # there is no archive before this one: nothing is wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Bytes were read or sent since the last such event: a sign of life within large files.

    Both are 0 where a directory was walked, or a destination copied, or gave what it has.
    """

    bytes_read: int  # of a large file, whose `Added` or `Restored` has them once more
    bytes_sent: int  # to destinations


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """A new directory is to be filled, by a command or a script, or that is over.

    Nothing of the backup moves meanwhile, and that is well.
    """

    is_over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOpened:
    """A multipart upload was begun: what is sent costs money until it is ended."""

    bucket: str
    key: str
    upload_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadEnded:
    """A multipart upload is complete, or aborted; the store keeps nothing of it aside."""

    upload_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """An archive stands whole at its destination."""

    url: str
    destination: str  # in words: `bucket my-bucket`, `directory /srv/backups`
    bytes: int  # of the archive
    bytes_reused: int = 0  # of them, copied from the archive before, by the destination itself
    bytes_sent: int = 0  # to the destination, of this archive
    requests: int = 0  # to the destination for it; a directory has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """An archive that retention let go was deleted."""

    url: str
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotPruned:
    """Archives that retention lets go stay at a destination."""

    destination: str  # in words, as in Saved
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoring:
    """A restore begins; what is there already is not counted."""

    files: int  # files and links that will be restored
    bytes: int  # of their content


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A file or link was restored, or, where nothing is written, its content is right."""

    path: str  # in the target; empty where nothing is written
    member: str
    bytes: int  # of its content


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A member that was wanted was not restored, or is not right."""

    member: str
    reason: str


Event = (
    Added
    | Skipped
    | Truncated
    | Passed
    | Reused
    | NotReused
    | Moved
    | Filling
    | UploadOpened
    | UploadEnded
    | Saved
    | Deleted
    | NotPruned
    | Restoring
    | Restored
    | Refused
)
Observer = Callable[[Event], None]


class _Meter:
    """Gathers what moves, in any thread, until there is something to tell."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._read = self._sent = 0
        self._next = 0.0  # time for an event, monotonic

    def add(self, read: int, sent: int) -> Moved | None:
        """Count bytes, and return what there is to tell."""
        with self._lock:
            self._read += read
            self._sent += sent
            now = time.monotonic()
            if now < self._next:
                return None
            self._next = now + _MOVED_SECONDS
            return self._take()

    def close(self) -> Moved | None:
        """Return what was not told yet."""
        with self._lock:
            return self._take() if self._read or self._sent else None

    def _take(self) -> Moved:
        moved = Moved(bytes_read=self._read, bytes_sent=self._sent)
        self._read = self._sent = 0
        return moved


_observer: Observer | None = None
_meter = _Meter()


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Hand every event of this process to `observer` until the block ends."""
    global _meter, _observer
    before, _observer, _meter = (_observer, _meter), observer, _Meter()
    try:
        yield
    finally:
        _observer, _meter = before


def is_followed() -> bool:
    """Tell whether anybody hears of every single file, in the log or as the observer."""
    return _observer is not None or _files_log.isEnabledFor(logging.INFO)


def report(event: Event) -> None:
    """Log `event` in Storelet's words and hand it to the observer."""
    _log_event(event)
    if _observer is None:
        return
    if isinstance(event, Saved) and (moved := _meter.close()):
        _observer(moved)
    _observer(event)


def report_moved(*, read: int = 0, sent: int = 0) -> None:
    """Count bytes that were read from a source or sent just now; cheap enough for every block.

    Without any it is a sign of life.
    """
    if _observer is not None and (moved := _meter.add(read, sent)):
        _observer(moved)


def _log_event(event: Event) -> None:
    match event:
        case Added(path=path, changed=changed):
            _files_log.info("Added file %s", _printable(path))
            if changed:
                _log.warning("%s changed while it was read; kept as read", _printable(path))
        case Skipped(path=path, reason=reason):
            _log.warning("Skipped %s: %s", _printable(path), _printable(reason))
        case Truncated(path=path, reason=reason):
            _log.warning("%s is %s", _printable(path), reason)
        case Passed(path=path, reason=reason):
            _log.info("Passed over %s: %s", _printable(path), reason)
        case Reused(files=files):
            _log.info("Reused %d files that have not changed", files)
        case NotReused(destination=destination, reason=reason, is_first=is_first):
            level = logging.DEBUG if is_first else logging.WARNING
            where = _printable(destination)
            _log.log(level, "Nothing is reused from %s: %s", where, _printable(reason))
        case UploadOpened(key=key, upload_id=upload_id):
            _log.debug("Began multipart upload %s of %s", upload_id, _printable(key))
        case UploadEnded(upload_id=upload_id):
            _log.debug("Ended multipart upload %s", upload_id)
        case Deleted(url=url, bytes=size, reason=reason):
            _log.info("Deleted %s (%d bytes): %s", _printable(url), size, reason)
        case NotPruned(destination=destination, reason=reason):
            _log.warning("Nothing is pruned in %s: %s", _printable(destination), reason)
        case Restored(path=path) if path:
            _files_log.info("Restored file %s", _printable(path))
        case Refused(member=member, reason=reason):
            _log.warning("Refused %s: %s", _printable(member), reason)
        case Saved(url=url, destination=destination, bytes=size):
            _log.info("Saved %s to %s (%d bytes)", _printable(url), _printable(destination), size)


def _printable(text: str) -> str:
    """Return `text` on one line in valid UTF-8: a file's name may hold any byte."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(slots=True)
class Figures:
    """The figures of a run, counted from its events by one thread at a time."""

    files: int = 0  # files and symbolic links that were read
    bytes_read: int = 0  # from sources
    bytes_underway: int = 0  # likewise, of large files that are not whole yet
    bytes_sent: int = 0  # to destinations, also of archives that are not whole yet
    reused: int = 0  # files and symbolic links that were not
    skipped: int = 0  # entries that are not whole in the archive
    not_reused: list[str] = field(default_factory=list)  # why, each reason once
    archives: list[Saved] = field(default_factory=list)
    deleted: int = 0  # archives that retention let go

    def count(self, event: Event) -> None:
        """Add `event` to the figures."""
        match event:
            case Added(bytes_read=size):
                self.files += 1
                self.bytes_read += size
                self.bytes_underway = max(self.bytes_underway - size, 0)
            case Moved(bytes_read=read, bytes_sent=sent):
                self.bytes_underway += read
                self.bytes_sent += sent
            case Skipped() | Truncated():
                self.skipped += 1
            case Reused(files=files):
                self.reused += files
            case NotReused(reason=reason):
                if reason not in self.not_reused:
                    self.not_reused.append(reason)
            case Deleted():
                self.deleted += 1
            case Saved():
                self.archives.append(event)
                self.bytes_underway = 0  # should a file have been read twice
