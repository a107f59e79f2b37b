"""Job states: what is remembered of a job beside its runs.

Until when its due times are decided, and by what schedule they were reckoned; whether it is
paused; whether it is overdue; why nothing is pruned; what somebody was told. All of it is in
memory, and `write` puts it into the history's database for the next daemon: of all jobs at once, as
a thousand transactions of their own take ten seconds on a slow disk. One that cannot be written is
written later: what was decided stays decided.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from storeletd.database import Database, HistoryError
from storeletd.records import to_number, to_text, to_time
from storeletd.schedule import Schedule, ScheduleError, parse_schedule

__all__ = ["JobState", "JobStates"]

_log = logging.getLogger("storeletd.jobstate")

_TEXTS = ("name", "schedule", "held_why", "told")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What is remembered of one job."""

    name: str
    schedule: str  # as `describe_times` writes it; nothing while there is no such job
    decided_until: datetime  # each due time up to then is in a run's row
    known_since: datetime
    paused_until: datetime | None = None  # due times up to then are in a pause
    overdue_since: datetime | None = None
    held_since: datetime | None = None  # nothing is pruned until somebody has looked
    held_why: str | None = None
    told: Mapping[str, str] = field(default_factory=dict)  # of troubles, by topic

    def is_paused(self, now: datetime) -> bool:
        """Whether no run of the job starts by itself."""
        return self.paused_until is not None and now < self.paused_until

    def times(self) -> tuple[Schedule, ZoneInfo] | None:
        """Return the schedule that was the job's when it was last looked at, if it had one."""
        texts, _, timezone = self.schedule.rpartition(" in ")
        try:
            return parse_schedule(texts.split("; ")), ZoneInfo(timezone)
        except (ScheduleError, ValueError, KeyError, OSError):  # of another version of Storelet
            return None


class JobStates:
    """The states of all jobs, by name."""

    def __init__(self, database: Database) -> None:
        """Read them. Raises HistoryError."""
        self._database = database
        self._unwritten: set[str] = set()
        self._renewals = database.renewals
        rows = database.rows("SELECT * FROM job")
        states = [_to_state(dict(row)) for row in rows]
        self._states = {state.name: state for state in states}

    def get(self, name: str) -> JobState | None:
        """Return the state of a job, where one is remembered."""
        return self._states.get(name)

    def put(self, state: JobState) -> None:
        """Remember a state from now on; it is to be written."""
        self._states[state.name] = state
        self._unwritten.add(state.name)

    def advance(self, name: str, until: datetime) -> None:
        """Remember that due times are decided up to then; history has that already."""
        state = self._states[name]
        self._states[name] = replace(state, decided_until=max(state.decided_until, until))

    def forget(self, name: str) -> None:
        """Forget until when a job's due times are decided: it is there no more.

        What comes due meanwhile is no due time. That it is paused is remembered: editors may
        remove a file to write it anew.
        """
        state = self._states.get(name)
        if state is not None:
            self.put(replace(state, schedule="", overdue_since=None))

    def write(self) -> None:
        """Write what is to be written, and all of it into a database that is new."""
        if self._renewals != self._database.renewals:
            self._renewals = self._database.renewals
            self._unwritten = set(self._states)
        if not self._unwritten:
            return
        rows = [_to_row(self._states[name]) for name in sorted(self._unwritten)]
        try:
            with self._database.transaction() as database:
                database.executemany(
                    "INSERT OR REPLACE INTO job (name, schedule, decided_until, known_since,"
                    " paused_until, overdue_since, held_since, held_why, told)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )
        except HistoryError as error:
            names = ", ".join(sorted(self._unwritten)[:3]) + ", …" * (len(rows) > 3)
            _log.error(
                "The states of %d jobs (%s) are not written yet: %s", len(rows), names, error
            )
        else:
            self._unwritten.clear()


def _to_row(state: JobState) -> tuple[object, ...]:
    return (
        to_text(state.name),
        state.schedule,
        to_number(state.decided_until),
        to_number(state.known_since),
        state.paused_until and to_number(state.paused_until),
        state.overdue_since and to_number(state.overdue_since),
        state.held_since and to_number(state.held_since),
        state.held_why and to_text(state.held_why),
        json.dumps(dict(state.told)),
    )


def _to_state(row: dict[str, object]) -> JobState:
    times = {
        name: None if value is None else to_time(int(str(value)))
        for name, value in row.items()
        if name not in _TEXTS
    }
    told = json.loads(str(row["told"]))
    return JobState(**{**row, **times, "told": told})
