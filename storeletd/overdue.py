"""Overdue jobs: those that have saved no archive for longer than their `max_age`.

Whatever the reason: it is said once when it begins and once when it is over, also where the
daemon was started anew between.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from storeletd import journal
from storeletd.history import History
from storeletd.jobs import Job
from storeletd.jobstate import JobStates
from storeletd.planner import is_overdue

__all__ = ["OverdueWatch"]

_log = logging.getLogger("storeletd.overdue")


class OverdueWatch:
    """Keeps each job's `overdue_since` up to date."""

    def __init__(self, states: JobStates, history: History) -> None:
        self._states = states
        self._history = history
        self._good_since: dict[str, datetime | None] = {}  # as history has it

    def touch(self, name: str) -> None:
        """Ask history again: a run of the job has ended."""
        self._good_since.pop(name, None)

    def look(self, jobs: Iterable[Job], now: datetime) -> None:
        """See which jobs have become overdue, or are not any more. Raises HistoryError."""
        for job in jobs:
            state = self._states.get(job.name)
            if state is None or (job.settings.max_age is None and state.overdue_since is None):
                continue
            if state.is_paused(now):  # somebody knows
                continue
            good = self._find_good(job.name)
            overdue = is_overdue(job.settings.max_age, good or state.known_since, now)
            if overdue == (state.overdue_since is not None):
                continue
            self._states.put(replace(state, overdue_since=now if overdue else None))
            self._say(job, overdue, good)

    def _find_good(self, name: str) -> datetime | None:
        if name not in self._good_since:
            run = self._history.last_good(name)
            self._good_since[name] = run.finished_at if run else None
        return self._good_since[name]

    def _say(self, job: Job, overdue: bool, good: datetime | None) -> None:
        if not overdue:
            message = f"Job {job.name} is not overdue any more"
            _log.info(message, extra=journal.fields(event="job-recovered", job=job.name))
            return
        last = f"the last good archive is of {good.astimezone():%Y-%m-%d %H:%M}" if good else ""
        message = f"Job {job.name} is overdue: {last or 'it has never saved an archive'}"
        _log.error(message, extra=journal.fields(event="job-overdue", job=job.name))
