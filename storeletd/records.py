"""Records: a run as the history keeps it, and how it is stored.

All times are stored as microseconds since the epoch, UTC, and come back in UTC. Text that is no
valid Unicode, as a path's surrogates, is kept with backslash escapes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from storeletd.events import SavedArchive
from storeletd.schedule import Due

__all__ = [
    "COLUMNS",
    "EXIT_CODES",
    "Kind",
    "Run",
    "to_number",
    "to_row",
    "to_run",
    "to_text",
    "to_texts",
    "to_time",
]

# How storeletctl ends for each outcome a run may have.
EXIT_CODES = {
    "success": 0,
    "failed": 1,
    "lost": 1,
    "missed": 1,
    "partial": 3,
    "skipped": 75,
    "timeout": 124,
    "cancelled": 143,
}

Kind = Literal["backup", "verify"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One start of a job, or due times that started none."""

    id: int
    job: str
    kind: Kind = "backup"
    cause: str  # schedule, manual, catch-up, retry
    state: Literal["queued", "running", "finished"]
    outcome: str | None = None  # None until finished
    exit_code: int | None = None  # of storeletctl for it; likewise
    due: Due | None = None  # the due times it stands for
    queued_at: datetime
    begun_at: datetime | None = None  # None until it runs
    finished_at: datetime | None = None
    message: str | None = None  # why it is not a success
    hint: str | None = None
    files: int = 0  # files and symbolic links that were read, whole
    bytes_read: int = 0
    reused: int = 0  # files and symbolic links that were not read: destinations have them
    skipped: int = 0  # entries that are not whole in the archive
    notes: tuple[str, ...] = ()  # worth knowing, and of no effect on the outcome
    archives: tuple[SavedArchive, ...] = ()
    collided_with: int | None = None  # the run that kept this one from running
    repeats: int | None = None  # the first run of all that were for the same
    attempt: int = 1  # the how manieth of them this is
    retry_at: datetime | None = None  # it is to be repeated, not before then

    @property
    def is_owed_when_cut_short(self) -> bool:
        """Whether it is to be repeated where the daemon ends under it.

        Who started it by hand knows of it, and one that makes up for such an end is the last.
        """
        makes_up = self.cause == "catch-up" and self.repeats is not None
        return self.cause != "manual" and not makes_up

    @property
    def files_seen(self) -> int:
        """What was found in the sources, whatever became of it."""
        return self.files + self.reused + self.skipped


_TIMES = ("queued_at", "begun_at", "finished_at", "retry_at")
# All but `output`: a list of runs would read megabytes of it.
COLUMNS = (
    *(each.name for each in fields(Run) if each.name != "due"),
    *("due_first", "due_last", "due_count"),
)


def to_row(run: Run) -> dict[str, Any]:
    """Return the columns of a run."""
    values = {each.name: getattr(run, each.name) for each in fields(run) if each.name != "due"}
    for name in _TIMES:
        values[name] = None if values[name] is None else to_number(values[name])
    values["message"], values["hint"] = (text and to_text(text) for text in (run.message, run.hint))
    values["notes"] = to_texts(run.notes)
    values["archives"] = json.dumps(list(map(_from_archive, run.archives)))
    if run.due is not None:
        values["due_first"], values["due_last"] = to_number(run.due.first), to_number(run.due.last)
        values["due_count"] = run.due.count
    return values


def to_run(row: sqlite3.Row) -> Run:
    """Return the run of a row with COLUMNS."""
    values = dict(row)
    first, last, count = (values.pop(f"due_{each}") for each in ("first", "last", "count"))
    values["due"] = Due(first=to_time(first), last=to_time(last), count=count) if count else None
    for name in _TIMES:
        values[name] = None if values[name] is None else to_time(values[name])
    values["notes"] = tuple(json.loads(values["notes"]))
    values["archives"] = tuple(map(_to_archive, json.loads(values["archives"])))
    return Run(**values)


def _to_archive(values: Sequence[Any]) -> SavedArchive:
    url, size, reused, sent, requests = values
    return SavedArchive(
        url=url, bytes=size, bytes_reused=reused, bytes_sent=sent, requests=requests
    )


def _from_archive(archive: SavedArchive) -> Sequence[Any]:
    return (
        to_text(archive.url),
        archive.bytes,
        archive.bytes_reused,
        archive.bytes_sent,
        archive.requests,
    )


def to_texts(values: Iterable[str]) -> str:
    """Return texts as they are stored: a list in JSON."""
    return json.dumps(list(map(to_text, values)), ensure_ascii=False)


def to_number(time: datetime) -> int:
    """Return a time as it is stored: microseconds since the epoch."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def to_time(number: int) -> datetime:
    """Return a stored time."""
    return _EPOCH + timedelta(microseconds=number)


def to_text(text: str) -> str:
    """Return what UTF-8 can hold: a path may have surrogates for bytes that are not."""
    return text.encode(errors="backslashreplace").decode()
