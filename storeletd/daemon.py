"""The daemon's heart: which jobs are loaded, what is due, what runs.

`look` is called whenever something may be due: by the alarm, after a reload, when a run has
ended. It asks the planner about each job and does what it says; it is the only place that does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storelet import StoreletError
from storeletd import journal
from storeletd.agenda import Agenda, Standing, find_host
from storeletd.alarm import Alarm
from storeletd.database import Database, HistoryError
from storeletd.history import History
from storeletd.jobdir import Change, JobDirectory
from storeletd.jobs import Job, JobProblem
from storeletd.jobstate import JobState, JobStates
from storeletd.notifying import Notifier
from storeletd.overdue import OverdueWatch
from storeletd.planner import FOREVER, Decision
from storeletd.readiness import Readiness
from storeletd.runner import Runner
from storeletd.sweep import abort_left_uploads
from storeletd.verification import VerificationWatch

__all__ = ["Daemon", "NoSuchJobError"]

_log = logging.getLogger("storeletd.daemon")

SCAN_SECONDS = 30  # between looks at the job directory, should its watch have missed something
TIDY_SECONDS = 3600  # between looks for runs that are old enough to be forgotten


class NoSuchJobError(StoreletError):
    """There is no job of that name."""

    exit_code = 4


class Daemon:
    """Holds the jobs, the history and the runs together. Lives on one event loop."""

    def __init__(self, job_directory: JobDirectory, database: Database, *, max_runs: int) -> None:
        self.history = History(database)
        self.states = JobStates(database)
        self.runner = Runner(self.history, self.states, max_runs=max_runs, ended=self._run_ended)
        self.readiness = Readiness(database.path.parent, ready=self._job_ready)
        self.started = _now()
        self.news = asyncio.Event()  # a run has ended or job files were read; who waits clears it
        self._job_directory = job_directory
        self._agenda = Agenda(self.states, self.history, host=find_host())
        self._overdue = OverdueWatch(self.states, self.history)
        self._verifications = VerificationWatch(self.states, self.history)
        self._notifier = Notifier(
            self.states, self.history, host=socket.gethostname(), told=self.look
        )
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
            asyncio.create_task(self._tidy_now_and_then(), name="forget old runs"),
        ]

    async def stop(self) -> None:
        """Start nothing any more, and end what runs."""
        self._is_stopping = True
        self._alarm.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.readiness.close()
        await self.runner.close()
        await self._notifier.close()
        self.states.write()

    async def reload(self) -> Change:
        """Bring the jobs up to date with the job directory, and see what is due."""
        change = await self._scan()
        self.look()
        return change

    async def _scan(self) -> Change:
        async with self._scanning:  # one scan at a time; none on the event loop
            change = await asyncio.to_thread(self._job_directory.scan)
        self._say(change)
        now = _now()
        try:
            for name, decision in self._agenda.set_jobs(self.jobs, now):
                self._record(name, decision, now)
        except HistoryError as error:  # the next scan does it
            _log.error("What was due of jobs that are gone is not recorded yet: %s", error)
        for name in change.removed:
            self.readiness.forget(name)
        self.news.set()
        return change

    def job(self, name: str) -> Job:
        """Return a job. Raises NoSuchJobError."""
        try:
            return self.jobs[name]
        except KeyError:
            raise NoSuchJobError(f"no such job: {name}", hint="storeletctl list") from None

    def next_run(self) -> tuple[datetime, str] | None:
        """Return when the next run of all starts by itself, and of which job."""
        now = _now()
        starts = [(self._agenda.next_start(job, now), job.name) for job in self.jobs.values()]
        return min(((due + delay, name) for (due, delay), name in starts if due), default=None)

    def next_start(self, job: Job) -> tuple[datetime | None, timedelta]:
        """Return when the job is due next, and how much later it starts."""
        return self._agenda.next_start(job, _now())

    def pause(self, job: Job, until: datetime | None) -> None:
        """Start no run that is due from now on, until somebody resumes the job, or until then."""
        self.look()
        self.states.put(replace(self._state(job), paused_until=until or FOREVER))
        self.readiness.forget(job.name)
        self._agenda.touch(job.name)
        extra = journal.fields(event="job-paused", job=job.name)
        end = f" until {until.astimezone().isoformat(timespec='seconds')}" if until else ""
        _log.info(f"Job {job.name} is paused{end}", extra=extra)
        self.look()

    def resume(self, job: Job) -> None:
        """End a pause; what was due in it is skipped. Nothing happens where there is none."""
        state = self._state(job)
        if state.paused_until is not None:
            self.states.put(replace(state, paused_until=min(state.paused_until, _now())))
            self._agenda.touch(job.name)
            extra = journal.fields(event="job-resumed", job=job.name)
            _log.info(f"Job {job.name} goes on", extra=extra)
            self.look()

    def resume_prune(self, job: Job) -> None:
        """Let archives be pruned again. Nothing happens where that is so."""
        state = self._state(job)
        if state.held_since is not None:
            self.states.put(replace(state, held_since=None, held_why=None))
            extra = journal.fields(event="prune-resumed", job=job.name)
            _log.info(f"Archives of {job.name} are pruned again", extra=extra)
            self.look()

    def next_verification(self, job: Job) -> datetime | None:
        """Return when the job's archives are verified next, as far as that is known."""
        return self._verifications.next_due(job.name)

    def is_paused(self, job: Job) -> bool:
        """Whether no run of the job starts by itself now."""
        state = self.states.get(job.name)
        return state is not None and state.is_paused(_now())

    def look(self) -> None:
        """See what is due, and run it or record why not."""
        if self._is_stopping:  # the ends of runs must not begin others
            return
        now = _now()
        self.runner.record_rest()
        try:
            for job in self._agenda.find_due(now):
                self._decide(job, now)
            self._overdue.look(self.jobs.values(), now)
            self._verify(now)
            self._notifier.look(self.jobs.values(), now)
        except HistoryError as error:  # the next look does what this one has left
            _log.error("Not all that is due can be decided on yet: %s", error)
        self.states.write()
        looks = (
            self._agenda.next_look(),
            self._verifications.next_look(now),
            self._notifier.next_look(now),
        )
        self._alarm.set(min((each for each in looks if each is not None), default=None))

    def _decide(self, job: Job, now: datetime) -> None:
        active = self.runner.active(job.name, "backup")
        standing = Standing(
            active_run=active[0].id if active else None,
            waiting=len(active) > 1,
            is_ready=self.readiness.is_ready(job.name),
        )
        is_waiting = False
        for decision in self._agenda.look(job, now, standing):
            if decision.action == "wait":
                is_waiting = True
                self.readiness.want(job, self.next_start(job)[1])
            elif decision.action == "run":
                self.runner.run(
                    job, cause=decision.cause, due=decision.due, repeats=decision.repeats
                )
            else:
                self._record(job.name, decision, now)
            if decision.due is not None:
                self.states.advance(job.name, decision.due.last)
        if not is_waiting:
            self.readiness.forget(job.name)

    def _verify(self, now: datetime) -> None:
        """Begin the verifications that are due; those of jobs that run come after that."""
        for job, owed in self._verifications.find_due(self.jobs.values(), now):
            if not self.runner.active(job.name):
                cause = owed.cause if owed else "schedule"
                self.runner.run(job, kind="verify", cause=cause, repeats=owed)

    def _record(self, name: str, decision: Decision, now: datetime) -> None:
        """Write down due times that start no run."""
        outcome = "skipped" if decision.action == "skip" else "missed"
        due, why = decision.due, decision.why
        assert due is not None and why is not None  # noqa: S101 - they say what and why
        run = self.history.record(
            job=name,
            outcome=outcome,
            cause=decision.cause,
            due=due,
            now=now,
            message=why,
            collided_with=decision.collided_with,
        )
        message = f"Run {run.id} of {name}: {outcome}: {why}"
        extra = journal.fields(event="run-finished", job=name, run=run.id, outcome=outcome)
        _log.warning(message, extra=extra)
        self._notifier.touch(name)

    def _state(self, job: Job) -> JobState:
        state = self.states.get(job.name)
        if state is None:
            raise NoSuchJobError(f"no such job: {job.name}", hint="storeletctl list")
        return state

    def _run_ended(self, name: str) -> None:
        """See whether a job waited for the run that ended, or has to repeat it."""
        self._agenda.touch(name)
        self._overdue.touch(name)
        self._verifications.touch(name)
        self._notifier.touch(name)
        self.look()
        self.news.set()

    def _job_ready(self, name: str) -> None:
        self._agenda.touch(name)
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
            await self._try_scan()

    async def _scan_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SCAN_SECONDS)
            await self._try_scan()

    async def _tidy_now_and_then(self) -> None:
        while True:
            try:
                for forgotten in self.history.forget_old(now=_now()):
                    await asyncio.sleep(0.1 if forgotten else 0)  # others want the database, too
            except HistoryError as error:
                _log.error("Old runs cannot be forgotten now: %s", error)
            await asyncio.sleep(TIDY_SECONDS)

    async def _try_scan(self) -> None:
        """Scan; if that fails for whatever reason it is said, and the next one may not."""
        try:
            change = await self._scan()
            if change.added or change.changed or change.removed:
                self.look()
        except Exception:  # noqa: BLE001 - the next scan may succeed
            _log.exception("The job files could not be reloaded")


def _now() -> datetime:
    return datetime.now(UTC)
