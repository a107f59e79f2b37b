"""The daemon's heart: which jobs are loaded, what is due, what runs.

`look` is called whenever something may be due: by the alarm, after a reload, when a run has
ended. It asks the planner about each job and does what it says; it is the only place that does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from storelet import StoreletError
from storeletd import journal
from storeletd.alarm import Alarm
from storeletd.history import History
from storeletd.jobdir import Change, JobDirectory
from storeletd.jobs import Job, JobProblem
from storeletd.planner import Decision, JobClock, decide, sane_decided_until
from storeletd.runner import Runner
from storeletd.schedule import next_due
from storeletd.sweep import abort_left_uploads

__all__ = ["Daemon", "NoSuchJobError"]

_log = logging.getLogger("storeletd.daemon")

SCAN_SECONDS = 30  # between looks at the job directory, should its watch have missed something


class NoSuchJobError(StoreletError):
    """There is no job of that name."""

    exit_code = 4


class Daemon:
    """Holds the jobs, the history and the runs together. Lives on one event loop."""

    def __init__(self, job_directory: JobDirectory, history: History, *, max_runs: int) -> None:
        self.history = history
        self.runner = Runner(history, max_runs=max_runs, changed=self._run_changed)
        self.started = _now()
        self._job_directory = job_directory
        self._alarm = Alarm(self.look)
        self._scanning = asyncio.Lock()
        self._problems_said: frozenset[JobProblem] = frozenset()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The jobs as loaded, by name."""
        return self._job_directory.jobs

    @property
    def problems(self) -> tuple[JobProblem, ...]:
        """What is wrong with job files and their directory now."""
        return self._job_directory.problems

    @property
    def directory(self) -> Path:
        """The job directory."""
        return self._job_directory.path

    async def start(self) -> None:
        """Load the jobs, close what an earlier daemon left open, and look for the first time."""
        for run in self.history.close_unfinished(now=_now()):
            _log.error(
                "Run %d of %s was lost: the daemon ended under it",
                run.id,
                run.job,
                extra=journal.fields(event="run-lost", job=run.job, run=run.id, outcome="lost"),
            )
        self._alarm.start()
        await self.reload()
        sweep = abort_left_uploads(tuple(self.jobs.values()), self.history)
        self._tasks = [
            asyncio.create_task(sweep, name="abort the uploads that lost runs left"),
            asyncio.create_task(self._watch(), name="watch the job directory"),
            asyncio.create_task(self._scan_now_and_then(), name="scan the job directory"),
        ]

    async def stop(self) -> None:
        """Start nothing any more, and end what runs."""
        self._is_stopping = True
        self._alarm.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.runner.close()

    async def reload(self) -> Change:
        """Bring the jobs up to date with the job directory."""
        async with self._scanning:  # one scan at a time; none on the event loop
            change = await asyncio.to_thread(self._job_directory.scan)
        for name in change.removed:  # what comes due while there is no such job is no due time
            self.history.forget(name)
        self._say(change)
        self._alarm.set_jobs(self.jobs)
        self.look()
        return change

    def job(self, name: str) -> Job:
        """Return a job. Raises NoSuchJobError."""
        try:
            return self.jobs[name]
        except KeyError:
            raise NoSuchJobError(f"no such job: {name}", hint="storeletctl list") from None

    def next_due(self, job: Job) -> datetime | None:
        """Return when the job is due next."""
        return next_due(job.settings.schedule, job.settings.timezone, _now())

    def look(self) -> None:
        """See what is due, and run it or record why not."""
        if self._is_stopping:  # the ends of runs must not begin others
            return
        self.runner.record_rest()
        now = _now()
        for job in self.jobs.values():
            for decision in decide(self._clock(job, now), now):
                self._do(job, decision, now)

    def _clock(self, job: Job, now: datetime) -> JobClock:
        settings = job.settings
        active = self.runner.active(job.name)
        times = f"{'; '.join(settings.schedule.texts)} in {settings.timezone}"
        remembered = self.history.decided_until(job.name, times, now=now)
        decided_until = sane_decided_until(remembered, now)
        if decided_until != remembered:
            message = "The clock was ahead: due times of %s are taken from now, not from %s"
            _log.warning(message, job.name, remembered, extra=journal.fields(job=job.name))
            self.history.set_decided_until(job.name, decided_until)
        return JobClock(
            schedule=settings.schedule,
            timezone=settings.timezone,
            catch_up=settings.catch_up,
            overlap=settings.overlap,
            decided_until=decided_until,
            active_run=active[0].id if active else None,
            waiting=len(active) > 1,
        )

    def _do(self, job: Job, decision: Decision, now: datetime) -> None:
        if decision.action == "run":
            self.runner.run(job, cause=decision.cause, due=decision.due)
            return
        outcome, why = {
            "skip": ("skipped", f"run {decision.run_id} was still on"),
            "missed": ("missed", "nothing was running to start it, and catch_up is false"),
        }[decision.action]
        run = self.history.record(
            job=job.name,
            outcome=outcome,
            cause=decision.cause,
            due=decision.due,
            now=now,
            message=why,
            collided_with=decision.run_id,
        )
        message = f"Run {run.id} of {job.name}: {outcome}: {why}"
        extra = journal.fields(event="run-finished", job=job.name, run=run.id, outcome=outcome)
        _log.warning(message, extra=extra)

    def _run_changed(self) -> None:
        """See whether a job waited for the run that ended."""
        self.look()

    def _say(self, change: Change) -> None:
        for what in ("added", "changed", "removed"):
            for name in getattr(change, what):
                extra = journal.fields(event="jobs-changed", job=name)
                _log.info("Job %s %s", name, what, extra=extra)
        for problem in change.problems:
            if problem not in self._problems_said:
                extra = journal.fields(event="job-broken", job=Path(problem.file).stem)
                _log.error("%s", problem, extra=extra)
        self._problems_said = frozenset(change.problems)

    async def _watch(self) -> None:
        async for _ in self._job_directory.watch():
            await self._try_reload()

    async def _scan_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SCAN_SECONDS)
            await self._try_reload()

    async def _try_reload(self) -> None:
        """Reload; if that fails for whatever reason it is said, and the next one may not."""
        try:
            await self.reload()
        except Exception:  # noqa: BLE001 - the next scan may succeed
            _log.exception("The job files could not be reloaded")


def _now() -> datetime:
    return datetime.now(UTC)
