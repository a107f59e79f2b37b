"""Runs: which may start, and when.

A run's row is in history before anything else happens. It then waits until no earlier run of its
job is on and one of `max_runs` places is free; `ActiveRun` does the rest. When it has ended the
next may start. Verifications have one place of their own: no backup ever waits for one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial

from storelet import StoreletError
from storeletd.events import Ended
from storeletd.history import History
from storeletd.jobs import Job
from storeletd.jobstate import JobStates
from storeletd.planner import Owed
from storeletd.records import Kind, Run
from storeletd.run import ActiveRun, Message
from storeletd.schedule import Due

__all__ = ["AlreadyRunningError", "NotRunningError", "Runner"]

_log = logging.getLogger("storeletd.runner")


class AlreadyRunningError(StoreletError):
    """The job runs, or waits to run, already."""

    exit_code = 11


class NotRunningError(StoreletError):
    """The run is over and cannot be cancelled."""


class Runner:
    """Starts runs: at most `max_runs` at once, one at a time of each job, in order."""

    def __init__(
        self, history: History, states: JobStates, *, max_runs: int, ended: Callable[[str], None]
    ) -> None:
        self._history = history
        self._states = states
        self._places: dict[Kind, int] = {"backup": max_runs, "verify": 1}
        self._ended = ended  # called with the name of a job, one of whose runs has ended
        self._waiting: dict[int, ActiveRun] = {}
        self._running: dict[int, ActiveRun] = {}
        self._unrecorded: dict[int, ActiveRun] = {}  # over, but history could not be written

    def active(self, job: str | None = None, kind: Kind | None = None) -> tuple[Run, ...]:
        """Return the runs, of one job or kind or all, that run or wait; the oldest first."""
        every = (each.run for each in (*self._running.values(), *self._waiting.values()))
        return tuple(run for run in every if job in (None, run.job) and kind in (None, run.kind))

    def run(
        self,
        job: Job,
        *,
        kind: Kind = "backup",
        cause: str,
        due: Due | None = None,
        repeats: Owed | None = None,
        sample: float | None = None,
    ) -> Run:
        """Begin a run and return at once; it is in history by then.

        A verification is of a `sample`, if not of what the job says.
        """
        run = self._history.begin(
            job=job.name,
            kind=kind,
            cause=cause,
            due=due,
            now=_now(),
            repeats=repeats.run_id if repeats else None,
            attempt=repeats.attempt if repeats else 1,
        )
        self._waiting[run.id] = ActiveRun(job, run, self._history, self._states, sample=sample)
        self._start_next()
        return self.find(run.id) or run

    def run_now(self, job: Job, kind: Kind = "backup", sample: float | None = None) -> Run:
        """Begin a run because somebody asked. Raises AlreadyRunningError."""
        for run in self.active(job.name, kind):
            what = "job" if kind == "backup" else "a verification of"
            raise AlreadyRunningError(
                f"{what} {job.name} is {run.state} already, as run {run.id}",
                hint=f"storeletctl logs -f {job.name}, or storeletctl cancel {job.name}",
            )
        return self.run(job, kind=kind, cause="manual", sample=sample)

    def find(self, run_id: int) -> Run | None:
        """Return a run that runs or waits, or whose outcome is not in history yet."""
        active = self._find(run_id)
        return active.run if active else None

    def lines(self, run_id: int) -> tuple[str, ...]:
        """Return the last lines of such a run."""
        active = self._find(run_id)
        return tuple(line.message for line in active.lines) if active else ()

    def record_rest(self) -> None:
        """Write the outcomes that could not be written when their runs ended."""
        for run_id, active in list(self._unrecorded.items()):
            if active.record():
                del self._unrecorded[run_id]

    def cancel(self, run_id: int, why: str, *, is_temporary: bool = False) -> Run:
        """End a run; its outcome will be `cancelled`. Raises NotRunningError.

        `is_temporary` says that nobody meant this run: it is to be repeated.
        """
        ended = Ended(outcome="cancelled", message=why, is_temporary=is_temporary)
        if active := self._running.get(run_id):
            active.end(ended)
        elif active := self._waiting.pop(run_id, None):
            active.finish(ended)
            self._let_go(active)
        else:
            raise NotRunningError(f"run {run_id} is over")
        return active.run

    async def follow(self, run_id: int) -> AsyncIterator[Message]:
        """Yield what happens in a run, from how it stands now to its end."""
        active = self._running.get(run_id) or self._waiting.get(run_id)
        if active is not None:
            async for message in active.follow():
                yield message
        elif run := self.find(run_id) or self._history.run(run_id):
            yield Message("finished", run)

    async def close(self) -> None:
        """End every run and wait until their processes are gone."""
        tasks = [each.task for each in self._running.values() if each.task]
        for run in reversed(self.active()):  # those that wait first, or they would start
            self.cancel(run.id, "storeletd was stopped", is_temporary=True)
        await asyncio.gather(*tasks, return_exceptions=True)
        self.record_rest()

    def _find(self, run_id: int) -> ActiveRun | None:
        for runs in (self._running, self._waiting, self._unrecorded):
            if run_id in runs:
                return runs[run_id]
        return None

    def _start_next(self) -> None:
        for run_id, active in list(self._waiting.items()):
            beside = [
                each.run for each in self._running.values() if each.run.kind == active.run.kind
            ]
            if len(beside) >= self._places[active.run.kind]:
                continue
            if any(run.job == active.run.job for run in beside):
                continue
            self._running[run_id] = self._waiting.pop(run_id)
            active.task = asyncio.create_task(active.work(), name=f"run {run_id}")
            active.task.add_done_callback(partial(self._end, run_id))

    def _end(self, run_id: int, task: asyncio.Task[None]) -> None:
        active = self._running.pop(run_id)
        if not task.cancelled() and (error := task.exception()):
            _log.error("Run %d has no outcome", run_id, exc_info=error)
        self._start_next()
        self._let_go(active)

    def _let_go(self, active: ActiveRun) -> None:
        if not active.is_recorded:
            self._unrecorded[active.run.id] = active
        self._ended(active.job.name)


def _now() -> datetime:
    return datetime.now(UTC)
