"""What the library reports while it works, and to whom; the figures of a run.

`report(event)` writes the event's log line and hands the event to the observer, if one is set.
An observer is any callable that takes an event; `observe(callable)` sets it for a block. It is
one for the whole process, not a context variable: a script that backs up in threads of its own
must be counted too, and new threads do not inherit context variables.

An observer's exception ends the backup, so it must not raise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = [
    "Added",
    "Event",
    "Figures",
    "NotReused",
    "Observer",
    "Passed",
    "Reused",
    "Saved",
    "Skipped",
    "Truncated",
    "UploadEnded",
    "UploadOpened",
    "observe",
    "report",
]

_log = logging.getLogger("storelet")
_files_log = logging.getLogger("storelet.files")


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


Event = (
    Added | Skipped | Truncated | Passed | Reused | NotReused | UploadOpened | UploadEnded | Saved
)
Observer = Callable[[Event], None]

_observer: Observer | None = None


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Hand every event of this process to `observer` until the block ends."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = before


def report(event: Event) -> None:
    """Log `event` in Storelet's words and hand it to the observer."""
    _log_event(event)
    if _observer is not None:
        _observer(event)


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
        case NotReused(destination=destination, reason=reason):
            _log.warning("Not reused from %s: %s", _printable(destination), _printable(reason))
        case UploadOpened(key=key, upload_id=upload_id):
            _log.debug("Began multipart upload %s of %s", upload_id, _printable(key))
        case UploadEnded(upload_id=upload_id):
            _log.debug("Ended multipart upload %s", upload_id)
        case Saved(url=url, destination=destination, bytes=size):
            _log.info("Saved %s to %s (%d bytes)", _printable(url), _printable(destination), size)


def _printable(text: str) -> str:
    """Return `text` on one line in valid UTF-8: a file's name may hold any byte."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(slots=True)
class Figures:
    """The figures of a run, counted from its events."""

    files: int = 0  # files and symbolic links that were read
    bytes_read: int = 0  # from sources
    reused: int = 0  # files and symbolic links that were not
    skipped: int = 0  # entries that are not whole in the archive
    not_reused: list[str] = field(default_factory=list)  # why, each reason once
    archives: list[Saved] = field(default_factory=list)

    def count(self, event: Event) -> None:
        """Add `event` to the figures."""
        match event:
            case Added(bytes_read=size):
                self.files += 1
                self.bytes_read += size
            case Skipped() | Truncated():
                self.skipped += 1
            case Reused(files=files):
                self.reused += files
            case NotReused(reason=reason):
                if reason not in self.not_reused:
                    self.not_reused.append(reason)
            case Saved():
                self.archives.append(event)
