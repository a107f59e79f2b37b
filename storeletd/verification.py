"""Verifications: which jobs' archives are to be read back now, and when the next ones.

A job's first one comes with its first archive, each further one `every` so long after the one
before was begun. One that failed is repeated as soon as there is another archive, so that nobody
waits a week to hear whether that is better; one that could not be done is repeated as a backup is.

Nothing is due while the job is paused. What became due while nothing ran is due then, once.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from storeletd.agenda import find_owed
from storeletd.history import History
from storeletd.jobs import Job
from storeletd.jobstate import JobStates
from storeletd.planner import AHEAD, Owed

__all__ = ["VerificationWatch"]


class _Next(NamedTuple):
    job: Job
    due: datetime | None
    owed: Owed | None


class VerificationWatch:
    """Knows of each job when it is verified next."""

    def __init__(self, states: JobStates, history: History) -> None:
        self._states = states
        self._history = history
        self._next: dict[str, _Next] = {}

    def touch(self, name: str) -> None:
        """Ask history again: a run of the job has begun or ended."""
        self._next.pop(name, None)

    def find_due(self, jobs: Iterable[Job], now: datetime) -> list[tuple[Job, Owed | None]]:
        """Return the jobs to verify now, each with what it owes. Raises HistoryError."""
        found = []
        for job in jobs:
            if job.settings.verify is None:
                self.touch(job.name)
                continue
            coming = self._next.get(job.name)
            if coming is None or coming.job is not job:
                coming = self._next[job.name] = self._find_next(job, job.settings.verify.every)
            if _is_due(coming.due, job.settings.verify.every, now) and not self._is_paused(
                job, now
            ):
                found.append((job, coming.owed))
        return found

    def next_due(self, name: str) -> datetime | None:
        """Return when a job is verified next, as far as that is known."""
        coming = self._next.get(name)
        return coming and coming.due

    def next_look(self, now: datetime) -> datetime | None:
        """Return when to look again, if nothing happens until then."""
        dues = (each.due for each in self._next.values() if each.due is not None)
        return min((due for due in dues if due > now), default=None)

    def _find_next(self, job: Job, every: timedelta) -> _Next:
        saved = self._history.last_saved(job.name)
        if saved is None or saved.finished_at is None:
            return _Next(job, None, None)
        last = self._history.last_attempt(job.name, "verify")
        if last is None or last.finished_at is None:
            return _Next(job, saved.finished_at, None)
        owed = find_owed(self._history, job.name, "verify")
        if owed is not None:
            return _Next(job, owed.not_before, owed)
        due = last.queued_at + every
        if last.outcome == "failed" and last.finished_at < saved.finished_at:
            due = min(due, saved.finished_at)
        return _Next(job, due, None)

    def _is_paused(self, job: Job, now: datetime) -> bool:
        state = self._states.get(job.name)
        return state is not None and state.is_paused(now)


def _is_due(due: datetime | None, every: timedelta, now: datetime) -> bool:
    return due is not None and (due <= now or due - now > every + AHEAD)
