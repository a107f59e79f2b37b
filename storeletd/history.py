"""History: all runs in SQLite, and up to when each job's due times have been decided.

A run's row is written before its work and closed by one statement after it, once. What the
library or a worker reports while it works is not in here; the row gets it at its end. But for
uploads: they are written when they are opened, since whoever opened one may not come to its end.

What fails raises HistoryError and changes nothing; how it is kept is `database`'s matter. All
times are stored as microseconds since the epoch, UTC, and come back in UTC.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from storeletd.database import Database, HistoryError, HistoryUnusableError
from storeletd.events import OpenedUpload, SavedArchive, SkippedEntry
from storeletd.schedule import Due

__all__ = ["EXIT_CODES", "History", "HistoryError", "HistoryUnusableError", "Run"]

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

KEPT_SKIPPED = 1_000  # skipped entries kept of a run; `Run.skipped` counts all

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# All but `output`: a list of runs would read megabytes of it.
_COLUMNS = (
    "id, job, kind, cause, state, outcome, exit_code, due_first, due_last, due_count, queued_at,"
    " begun_at, finished_at, message, hint, files, bytes_read, reused, skipped, notes, archives,"
    " collided_with"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One start of a job, or due times that started none."""

    id: int
    job: str
    kind: str  # backup
    cause: str  # schedule, manual, catch-up
    state: Literal["queued", "running", "finished"]
    outcome: str | None  # None until finished
    exit_code: int | None  # of storeletctl for it; likewise
    due: Due | None  # the due times it stands for
    queued_at: datetime
    begun_at: datetime | None  # None until it runs
    finished_at: datetime | None
    message: str | None  # why it is not a success
    hint: str | None
    files: int  # files and symbolic links that were read, whole
    bytes_read: int
    reused: int  # files and symbolic links that were not read: destinations have them
    skipped: int  # entries that are not whole in the archive
    notes: tuple[str, ...]  # worth knowing, and of no effect on the outcome
    archives: tuple[SavedArchive, ...]
    collided_with: int | None  # the run that kept this one from running

    @property
    def files_seen(self) -> int:
        """What was found in the sources, whatever became of it."""
        return self.files + self.reused + self.skipped


class History:
    """The runs remembered; used from one thread.

    Text that is no valid Unicode, as a path's surrogates, is kept with backslash escapes.
    """

    def __init__(self, database: Database) -> None:
        self.path = database.path
        self._database = database

    @classmethod
    def open(cls, path: Path) -> History:
        """Open the history, made if it does not exist. Raises HistoryUnusableError."""
        return cls(Database.open(path))

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def begin(
        self, *, job: str, cause: str, due: Due | None, now: datetime, kind: str = "backup"
    ) -> Run:
        """Write the row of a run that is to come, `queued`; its due times are decided."""
        return self._insert(job, cause, due, now, kind=kind, state="queued")

    def record(
        self,
        *,
        job: str,
        outcome: str,
        cause: str,
        due: Due,
        now: datetime,
        message: str,
        collided_with: int | None = None,
    ) -> Run:
        """Write the row of due times that started no run."""
        return self._insert(
            job,
            cause,
            due,
            now,
            state="finished",
            outcome=outcome,
            exit_code=EXIT_CODES[outcome],
            finished_at=_to_number(now),
            message=_text(message),
            collided_with=collided_with,
        )

    def start(self, run_id: int, *, now: datetime) -> Run:
        """Write that a queued run has begun."""
        statement = (
            "UPDATE run SET state = 'running', begun_at = ? WHERE id = ? AND state = 'queued'"
        )
        return self._update(run_id, statement, (_to_number(now), run_id))

    def add_skipped(self, run_id: int, entries: Sequence[SkippedEntry]) -> None:
        """Keep skipped entries of a run, the first KEPT_SKIPPED of all."""
        with self._database.transaction() as database:
            counting = "SELECT count(*) FROM skipped_entry WHERE run = ?"
            ((kept,),) = self._database.rows(counting, run_id)
            room = max(KEPT_SKIPPED - kept, 0)
            database.executemany(
                "INSERT INTO skipped_entry (run, path, reason) VALUES (?, ?, ?)",
                [(run_id, _text(each.path), _text(each.reason)) for each in entries[:room]],
            )

    def finish(
        self,
        run_id: int,
        *,
        outcome: str,
        now: datetime,
        exit_code: int | None = None,
        message: str | None = None,
        hint: str | None = None,
        files: int = 0,
        bytes_read: int = 0,
        reused: int = 0,
        skipped: int = 0,
        notes: Sequence[str] = (),
        archives: Sequence[SavedArchive] = (),
        output: Sequence[str] = (),
    ) -> Run:
        """Close a run's row, once; a failure's exit code may tell more than its outcome's."""
        return self._update(
            run_id,
            "UPDATE run SET state = 'finished', outcome = ?, exit_code = ?, finished_at = ?,"
            " message = ?, hint = ?, files = ?, bytes_read = ?, reused = ?, skipped = ?,"
            " notes = ?, archives = ?, output = ? WHERE id = ? AND state <> 'finished'",
            (
                outcome,
                EXIT_CODES[outcome] if exit_code is None else exit_code,
                _to_number(now),
                message and _text(message),
                hint and _text(hint),
                files,
                bytes_read,
                reused,
                skipped,
                _to_json(map(_text, notes)),
                _to_json(map(_from_archive, archives)),
                _to_json(map(_text, output)),
                run_id,
            ),
        )

    def close_unfinished(self, *, now: datetime) -> tuple[Run, ...]:
        """Close the rows of runs that a daemon left open when it died: they are lost."""
        with self._database.transaction() as database:
            opened = self._database.rows("SELECT id FROM run WHERE state <> 'finished' ORDER BY id")
            database.execute(
                "UPDATE run SET state = 'finished', outcome = 'lost', exit_code = ?,"
                " finished_at = ?, message = iif(state = 'queued',"
                " 'storeletd died before it began', 'storeletd died under it'),"
                " hint = 'storeletctl run-now ' || job WHERE state <> 'finished'",
                (EXIT_CODES["lost"], _to_number(now)),
            )
            return tuple(self._get(row["id"]) for row in opened)

    def run(self, run_id: int) -> Run | None:
        """Return a run."""
        return next(iter(self._runs("WHERE id = ?", run_id)), None)

    def runs(self, *, job: str | None = None, limit: int = 50) -> tuple[Run, ...]:
        """Return runs, of one job or all, the newest first."""
        if job is None:
            return self._runs("ORDER BY id DESC LIMIT ?", limit)
        return self._runs("WHERE job = ? ORDER BY id DESC LIMIT ?", job, limit)

    def last_run(self, job: str) -> Run | None:
        """Return the job's newest run."""
        return self._last(job, "TRUE")

    def last_finished(self, job: str) -> Run | None:
        """Return the job's newest run that has an outcome."""
        return self._last(job, "state = 'finished'")

    def last_success(self, job: str) -> Run | None:
        """Return the job's newest run that was a success."""
        return self._last(job, "outcome = 'success'")

    def last_saved(self, job: str) -> Run | None:
        """Return the job's newest run that left an archive."""
        return self._last(job, "archives <> '[]'")

    def skipped_entries(self, run_id: int) -> tuple[SkippedEntry, ...]:
        """Return what is kept of a run's skipped entries."""
        statement = "SELECT path, reason FROM skipped_entry WHERE run = ? ORDER BY rowid"
        rows = self._database.rows(statement, run_id)
        return tuple(SkippedEntry(**row) for row in map(dict, rows))

    def output(self, run_id: int) -> tuple[str, ...]:
        """Return the last lines of a run."""
        statement = "SELECT output FROM run WHERE id = ? AND state = 'finished'"
        rows = self._database.rows(statement, run_id)
        return tuple(line for row in rows for line in json.loads(row["output"] or "[]"))

    def open_upload(self, run_id: int, upload: OpenedUpload) -> None:
        """Remember an upload that a run has begun, until it is ended."""
        self._database.change(
            "INSERT INTO upload (run, bucket, key, upload_id) VALUES (?, ?, ?, ?)",
            run_id,
            *map(_text, (upload.bucket, upload.key, upload.upload_id)),
        )

    def end_upload(self, job: str, upload_id: str) -> None:
        """Forget an upload of a job's runs; nothing happens where it is not remembered."""
        self._database.change(
            "DELETE FROM upload WHERE upload_id = ? AND run IN (SELECT id FROM run WHERE job = ?)",
            _text(upload_id),
            job,
        )

    def left_uploads(self, job: str) -> tuple[OpenedUpload, ...]:
        """Return the uploads that runs of the job did not end and, being over, never will."""
        statement = (
            "SELECT bucket, key, upload_id FROM upload JOIN run ON run.id = upload.run"
            " WHERE run.job = ? AND run.state = 'finished' ORDER BY upload.rowid"
        )
        rows = self._database.rows(statement, job)
        return tuple(OpenedUpload(**row) for row in map(dict, rows))

    def decided_until(self, job: str, schedule: str, *, now: datetime) -> datetime:
        """Return until when the job's due times are decided.

        A job that is new, or has another schedule than before, is decided until now: no due
        time of a schedule lies before somebody wrote it.
        """
        with self._database.transaction("DEFERRED") as database:
            statement = "SELECT decided_until FROM job WHERE name = ? AND schedule = ?"
            for row in self._database.rows(statement, job, schedule):
                return _to_time(row["decided_until"])
            database.execute(
                "INSERT INTO job (name, schedule, decided_until) VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET"
                " schedule = excluded.schedule, decided_until = excluded.decided_until",
                (job, schedule, _to_number(now)),
            )
        return now

    def set_decided_until(self, job: str, until: datetime) -> None:
        """Set back until when the due times are decided, after the clock was wrong."""
        statement = "UPDATE job SET decided_until = ? WHERE name = ?"
        self._database.change(statement, _to_number(until), job)

    def forget(self, job: str) -> None:
        """Forget until when a job's due times are decided: it is there no more."""
        self._database.change("DELETE FROM job WHERE name = ?", job)

    def _insert(
        self,
        job: str,
        cause: str,
        due: Due | None,
        now: datetime,
        kind: str = "backup",
        **more: Any,
    ) -> Run:
        """Insert a row and move the job's decided_until behind its due times, both or neither."""
        values: dict[str, Any] = {"job": job, "kind": kind, "cause": cause, **more}
        values["queued_at"] = _to_number(now)
        if due is not None:
            values["due_first"] = _to_number(due.first)
            values["due_last"] = _to_number(due.last)
            values["due_count"] = due.count
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        with self._database.transaction() as database:
            inserted = database.execute(
                f"INSERT INTO run ({names}) VALUES ({marks})",  # noqa: S608 - ours alone
                tuple(values.values()),
            )
            if due is not None:
                database.execute(
                    "UPDATE job SET decided_until = max(decided_until, ?) WHERE name = ?",
                    (values["due_last"], job),
                )
            return self._get(inserted.lastrowid or 0)

    def _update(self, run_id: int, statement: str, values: tuple[object, ...]) -> Run:
        """Change one open run. Raises HistoryError where it is not as the statement wants it."""
        with self._database.transaction() as database:
            if database.execute(statement, values).rowcount != 1:
                state = self._get(run_id).state
                raise HistoryError(f"run {run_id} is {state} in history {self.path}")
            return self._get(run_id)

    def _last(self, job: str, condition: str) -> Run | None:
        found = self._runs(f"WHERE job = ? AND {condition} ORDER BY id DESC LIMIT 1", job)
        return next(iter(found), None)

    def _get(self, run_id: int) -> Run:
        run = self.run(run_id)
        if run is None:
            raise HistoryError(f"run {run_id} is not in history {self.path}")
        return run

    def _runs(self, which: str, *values: object) -> tuple[Run, ...]:
        statement = f"SELECT {_COLUMNS} FROM run {which}"  # noqa: S608 - ours alone
        return tuple(map(_to_run, self._database.rows(statement, *values)))


def _to_run(row: sqlite3.Row) -> Run:
    values = dict(row)
    first, last, count = (values.pop(f"due_{each}") for each in ("first", "last", "count"))
    values["due"] = Due(first=_to_time(first), last=_to_time(last), count=count) if count else None
    for name in ("queued_at", "begun_at", "finished_at"):
        values[name] = None if values[name] is None else _to_time(values[name])
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
        _text(archive.url),
        archive.bytes,
        archive.bytes_reused,
        archive.bytes_sent,
        archive.requests,
    )


def _to_json(values: Iterable[object]) -> str:
    return json.dumps(list(values), ensure_ascii=False)


def _to_number(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _to_time(number: int) -> datetime:
    return _EPOCH + timedelta(microseconds=number)


def _text(text: str) -> str:
    """Return what UTF-8 can hold: a path may have surrogates for bytes that are not."""
    return text.encode(errors="backslashreplace").decode()
