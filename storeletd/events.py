"""The messages a worker sends its runner: one JSON object a line, over a pipe.

A worker reports everything of its run this way; nobody parses its log. The pipe's number is in
the environment variable `EVENTS_FD`. What a worker is told is an `order`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import get_args

__all__ = [
    "EVENTS_FD",
    "Busy",
    "Ended",
    "EndedUpload",
    "Event",
    "Held",
    "Logged",
    "Noted",
    "OpenedUpload",
    "Progress",
    "Proved",
    "SavedArchive",
    "SkippedEntry",
    "conclude",
    "decode",
    "encode",
]

EVENTS_FD = "STORELET_EVENTS_FD"

# Exit statuses that a job's code gives a meaning (sysexits.h: 75 is EX_TEMPFAIL, not now).
_PARTIAL = 3
_SKIPPED = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A record of the worker's logging."""

    level: int  # of the module `logging`
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the run is: while bytes move, it comes at least once a second.

    At most five times a second, so that nobody is drowned. While none comes, the run is idle,
    unless it is `Busy`.
    """

    files: int  # files and symbolic links that were read, whole
    bytes_read: int  # from sources
    bytes_sent: int  # to destinations
    reused: int  # files and symbolic links that were not read: destinations have them
    skipped: int  # entries that are not whole in the archive
    current: str | None  # path of the entry just added


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """A command fills a new directory, or none does any more: meanwhile a run is not idle."""

    is_busy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedEntry:
    """An entry that is not, or not whole, in the archive."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedArchive:
    """An archive that stands whole at its destination."""

    url: str
    bytes: int
    bytes_reused: int  # of them, copied by the destination itself from an earlier archive
    bytes_sent: int
    requests: int  # to the destination, for this archive


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What is worth knowing of a run and changes nothing about its outcome."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """A part of an archive was read back and is right; see `proofs`."""

    place: str  # the destination that has it
    archive: str  # URL
    first: int  # point on the circle
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The run looks like a disaster: nothing is to be pruned until somebody has looked."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedUpload:
    """A multipart upload was begun; what is sent costs money until it is ended."""

    bucket: str
    key: str
    upload_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedUpload:
    """A multipart upload, of this run or left by an earlier one, is complete or aborted."""

    upload_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The worker's last word. A run whose worker ends without it has failed."""

    outcome: str  # success, partial, failed, skipped
    message: str | None = None  # why it is not a success
    hint: str | None = None
    exit_code: int | None = None  # of the error that ended it; left out, the outcome's
    is_temporary: bool = False  # whether that error may pass by itself


Event = (
    Logged
    | Progress
    | Busy
    | SkippedEntry
    | SavedArchive
    | Noted
    | Proved
    | Held
    | OpenedUpload
    | EndedUpload
    | Ended
)

_OUTCOMES = ("success", "partial", "failed", "skipped")
_TYPES: dict[object, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "int | None": (int, type(None)),
    "str": (str,),
    "str | None": (str, type(None)),
}
_KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


def encode(event: Event) -> bytes:
    """Return the event as a line."""
    # ASCII: a path may hold surrogates, which UTF-8 does not.
    return json.dumps({"event": type(event).__name__, **asdict(event)}).encode("ascii") + b"\n"


def decode(line: bytes) -> Event:
    """Return the event of a line. Raises ValueError for anything that is not one."""
    try:
        values = json.loads(line)
        event = _KINDS[values.pop("event")](**values)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an event: {line[:200]!r}") from error
    # A module may write into the pipe, too.
    if not all(isinstance(getattr(event, each.name), _TYPES[each.type]) for each in fields(event)):
        raise ValueError(f"not an event: {line[:200]!r}")
    if isinstance(event, Ended) and event.outcome not in _OUTCOMES:
        raise ValueError(f"no outcome: {event.outcome}")
    return event


def conclude(status: int, *, saved: int, skipped: int) -> Ended:
    """Tell how a run ended from its code's exit status and from what it saved and skipped."""
    if status == _SKIPPED:
        return Ended(outcome="skipped", message=f"it ended with status {_SKIPPED}")
    if status > 128:
        return Ended(outcome="failed", message=f"it was ended by signal {status - 128}")
    if status not in (0, _PARTIAL):
        return Ended(outcome="failed", message=f"it ended with status {status}")
    if not saved:
        hint = "call save_to_s3 or save_to_directory, or end with status 75 to skip a run"
        return Ended(outcome="failed", message="it saved nothing", hint=hint)
    if skipped:
        entries = "entry is" if skipped == 1 else "entries are"
        return Ended(outcome="partial", message=f"{skipped} {entries} not whole in the archive")
    if status == _PARTIAL:
        return Ended(outcome="partial", message=f"it ended with status {_PARTIAL}")
    return Ended(outcome="success")
