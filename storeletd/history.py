"""History: all runs in SQLite.

A run's row is written before its work and closed by one statement after it, once. What the
library or a worker reports while it works is not in here; the row gets it at its end. But for
uploads: they are written when they are opened, since whoever opened one may not come to its end.

A history that cannot be written, on a full disk or while another program holds it, keeps no run
from its work: the row is written whole with its outcome. Anything else that fails raises
HistoryError and changes nothing; how it is kept is `database`'s matter.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from storeletd.database import IN_MEMORY, Database, HistoryError
from storeletd.events import OpenedUpload, SkippedEntry
from storeletd.proofs import Proof, find_needed, sort_by_place
from storeletd.records import (
    COLUMNS,
    EXIT_CODES,
    Kind,
    Run,
    to_number,
    to_row,
    to_run,
    to_text,
    to_texts,
    to_time,
)
from storeletd.schedule import Due

__all__ = ["History"]

_log = logging.getLogger("storeletd.history")

KEPT_SKIPPED = 1_000  # skipped entries kept of a run; `Run.skipped` counts all
KEPT_RUNS = 1_000  # of each job, however old they are
KEPT_DAYS = 90  # and all that are younger
_FORGET_AT_ONCE = 200  # runs in one transaction, which takes some 5 ms


class History:
    """The runs remembered; used from one thread."""

    def __init__(self, database: Database) -> None:
        self.path = database.path
        self.directory = None if self.path == IN_MEMORY else self.path.parent
        self._database = database
        self._last_id = self._find_last_id()

    def begin(
        self,
        *,
        job: str,
        kind: Kind = "backup",
        cause: str,
        due: Due | None,
        now: datetime,
        repeats: int | None = None,
        attempt: int = 1,
    ) -> Run:
        """Write the row of a run that is to come, `queued`; its due times are decided."""
        run = Run(
            id=self._next_id(),
            job=job,
            kind=kind,
            cause=cause,
            state="queued",
            due=due,
            queued_at=now,
            repeats=repeats,
            attempt=attempt,
        )
        self._try_write(run)
        return run

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
        run = Run(
            id=self._next_id(),
            job=job,
            cause=cause,
            state="finished",
            outcome=outcome,
            exit_code=EXIT_CODES[outcome],
            due=due,
            queued_at=now,
            finished_at=now,
            message=message,
            collided_with=collided_with,
        )
        self._write(run)
        return run

    def start(self, run: Run, *, now: datetime) -> Run:
        """Write that a queued run has begun."""
        run = replace(run, state="running", begun_at=now)
        self._try_write(run)
        return run

    def finish(
        self, run: Run, *, output: Sequence[str] = (), skipped: Sequence[SkippedEntry] = ()
    ) -> None:
        """Write the outcome of a run, once; of what it skipped, the first KEPT_SKIPPED."""
        with self._database.transaction() as database:
            self._write_in(database, run, output=to_texts(output))
            database.executemany(
                "INSERT INTO skipped_entry (run, path, reason) VALUES (?, ?, ?)",
                [
                    (run.id, to_text(each.path), to_text(each.reason))
                    for each in skipped[:KEPT_SKIPPED]
                ],
            )

    def close_unfinished(self, *, now: datetime) -> tuple[Run, ...]:
        """Close the rows of runs that a daemon left open when it died: they are lost.

        Each is owed once more, where it is at all.
        """
        lost = [_lose(run, now) for run in self._runs("WHERE state <> 'finished' ORDER BY id")]
        with self._database.transaction() as database:
            for run in lost:
                self._write_in(database, run)
        return tuple(lost)

    def run(self, run_id: int) -> Run | None:
        """Return a run."""
        return next(iter(self._runs("WHERE id = ?", run_id)), None)

    def runs(self, *, job: str | None = None, limit: int = 50) -> tuple[Run, ...]:
        """Return runs, of one job or all, the newest first."""
        if job is None:
            return self._runs("ORDER BY id DESC LIMIT ?", limit)
        return self._runs("WHERE job = ? ORDER BY id DESC LIMIT ?", job, limit)

    def last(self, job: str) -> Run | None:
        """Return the job's newest backup, whatever its state."""
        return self._last(job, "true")

    def last_finished(self, job: str) -> Run | None:
        """Return the job's newest backup that has an outcome."""
        return self._last(job, "state = 'finished'")

    def last_attempt(self, job: str, kind: Kind = "backup") -> Run | None:
        """Return the job's newest run of a kind that was to do something, and is over."""
        # A job's own code may have skipped it: then it has begun.
        return self._last(
            job,
            "state = 'finished' AND (begun_at NOTNULL OR outcome NOT IN ('skipped', 'missed'))",
            kind,
        )

    def last_success(self, job: str, kind: Kind = "backup") -> Run | None:
        """Return the job's newest run of a kind that was a success."""
        return self._last(job, "outcome = 'success'", kind)

    def last_news(self, job: str, kind: Kind) -> Run | None:
        """Return the newest run of a kind that is news to somebody.

        That is one that nobody started by hand, or was a success, and that nothing kept from
        running.
        """
        condition = (
            "state = 'finished' AND outcome NOT IN ('skipped', 'cancelled')"
            " AND (cause <> 'manual' OR outcome = 'success')"
        )
        return self._last(job, condition, kind)

    def last_good(self, job: str) -> Run | None:
        """Return the job's newest backup that left an archive everywhere it should."""
        return self._last(job, "outcome IN ('success', 'partial')")

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
            *map(to_text, (upload.bucket, upload.key, upload.upload_id)),
        )

    def end_upload(self, job: str, upload_id: str) -> None:
        """Forget an upload of a job's runs; nothing happens where it is not remembered."""
        self._database.change(
            "DELETE FROM upload WHERE upload_id = ? AND run IN (SELECT id FROM run WHERE job = ?)",
            to_text(upload_id),
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

    def add_proof(self, job: str, proof: Proof) -> None:
        """Remember what was verified, and of what is known of that place only what is needed."""
        before = sort_by_place(self.proofs(job)).get(proof.place, [])
        rows = [_to_proof_row(job, each) for each in find_needed([proof, *before])]
        with self._database.transaction() as database:
            which = (job, to_text(proof.place))
            database.execute("DELETE FROM proof WHERE job = ? AND place = ?", which)
            # The newest comes last.
            database.executemany("INSERT INTO proof VALUES (?, ?, ?, ?, ?, ?)", reversed(rows))

    def proofs(self, job: str) -> tuple[Proof, ...]:
        """Return what was verified of a job's archives, the newest first."""
        statement = (
            "SELECT place, archive, first, size, proved_at FROM proof WHERE job = ?"
            " ORDER BY rowid DESC"
        )
        rows = map(dict, self._database.rows(statement, job))
        return tuple(Proof(**{**row, "proved_at": to_time(row["proved_at"])}) for row in rows)

    def forget_old(self, *, now: datetime) -> Iterator[int]:
        """Forget the runs that are older than KEPT_DAYS and than KEPT_RUNS of their job.

        The newest good run of a job stays, and one with an upload that is not ended. Yields how
        many were forgotten after each bit of the work, so that others get their turn.
        """
        before = to_number(now - timedelta(days=KEPT_DAYS))
        for job in self._names():
            while forgotten := self._forget_some(job, before):
                yield forgotten
            yield 0

    def _names(self) -> list[str]:
        """Return the names of all jobs that have runs, by as many looks into the index."""
        statement = (
            "WITH RECURSIVE name (job) AS (SELECT min(job) FROM run UNION ALL"
            " SELECT (SELECT min(job) FROM run WHERE job > name.job) FROM name WHERE job NOTNULL)"
            " SELECT job FROM name WHERE job NOTNULL"
        )
        return [row["job"] for row in self._database.rows(statement)]

    def _forget_some(self, job: str, before: int) -> int:
        """Forget some old runs of a job, of those that are next to go."""
        # Only so many are looked at: where none of them is old, those behind them are not either.
        next_to_go = (
            "SELECT id, queued_at FROM run WHERE job = ?1 AND id <="
            " (SELECT id FROM run WHERE job = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)"
            " AND id NOT IN (SELECT run FROM upload) AND id IS NOT (SELECT max(id) FROM run"
            " WHERE job = ?1 AND kind = 'backup' AND outcome IN ('success', 'partial'))"
            " ORDER BY id LIMIT ?3"
        )
        with self._database.transaction() as database:
            rows = database.execute(next_to_go, (job, KEPT_RUNS, _FORGET_AT_ONCE)).fetchall()
            ids = [(row["id"],) for row in rows if row["queued_at"] < before]
            database.executemany("DELETE FROM skipped_entry WHERE run = ?", ids)
            database.executemany("DELETE FROM run WHERE id = ?", ids)
        return len(ids)

    def _find_last_id(self) -> int:
        rows = self._database.rows("SELECT seq FROM sqlite_sequence WHERE name = 'run'")
        return rows[0]["seq"] if rows else 0

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _try_write(self, run: Run) -> None:
        try:
            self._write(run)
        except HistoryError as error:
            _log.error("Run %d of %s goes on without its row: %s", run.id, run.job, error)

    def _write(self, run: Run) -> None:
        with self._database.transaction() as database:
            self._write_in(database, run)

    def _write_in(self, database: sqlite3.Connection, run: Run, **more: str) -> None:
        """Write an open run's row; with a new one its job moves behind its due times, too.

        All or nothing. Raises HistoryError where the row is closed already.
        """
        values = {**to_row(run), **more}
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        changes = ", ".join(f"{name} = excluded.{name}" for name in values if name != "id")
        is_new = database.execute("SELECT id FROM run WHERE id = ?", (run.id,)).fetchone() is None
        written = database.execute(
            f"INSERT INTO run ({names}) VALUES ({marks})"  # noqa: S608 - ours alone
            f" ON CONFLICT (id) DO UPDATE SET {changes} WHERE state <> 'finished'",
            tuple(values.values()),
        )
        if written.rowcount != 1:
            raise HistoryError(f"run {run.id} is finished in history {self.path}")
        if is_new and run.due is not None:  # the clock may have been set back since it was new
            database.execute(
                "UPDATE job SET decided_until = max(decided_until, ?) WHERE name = ?",
                (values["due_last"], run.job),
            )

    def _last(self, job: str, condition: str, kind: Kind = "backup") -> Run | None:
        which = f"WHERE job = ? AND kind = '{kind}' AND {condition} ORDER BY id DESC LIMIT 1"
        return next(iter(self._runs(which, job)), None)

    def _runs(self, which: str, *values: object) -> tuple[Run, ...]:
        statement = f"SELECT {', '.join(COLUMNS)} FROM run {which}"  # noqa: S608 - ours alone
        return tuple(map(to_run, self._database.rows(statement, *values)))


def _to_proof_row(job: str, proof: Proof) -> tuple[object, ...]:
    return (
        job,
        to_text(proof.place),
        to_text(proof.archive),
        proof.first,
        proof.size,
        to_number(proof.proved_at),
    )


def _lose(run: Run, now: datetime) -> Run:
    """Return a run as it is when a daemon has died under it, or before it began."""
    when = "before it began" if run.state == "queued" else "under it"
    return replace(
        run,
        state="finished",
        outcome="lost",
        exit_code=EXIT_CODES["lost"],
        finished_at=now,
        message=f"storeletd died {when}",
        hint=f"storeletctl run-now {run.job}",
        retry_at=now if run.is_owed_when_cut_short else None,
    )
