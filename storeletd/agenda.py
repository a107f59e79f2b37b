"""The agenda: which due times are still to be decided on, job by job, and when to look again.

It keeps the planner's view of each job up to date, so that a look at a thousand jobs costs
nothing while none of them is due. It starts nothing: whoever looks carries the decisions out, one
by one, and only then the agenda goes on.

What it does not lose, beside what the planner sees to: due times of a schedule that was changed
before they were decided on, or of a job that was removed.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storeletd import journal
from storeletd.history import History
from storeletd.jobs import Job
from storeletd.jobstate import JobState, JobStates
from storeletd.planner import (
    LATE,
    Decision,
    JobClock,
    Owed,
    decide,
    find_delay,
    find_next_look,
    sane_decided_until,
)
from storeletd.records import Kind
from storeletd.schedule import due_between, next_due

__all__ = ["Agenda", "Standing", "describe_times", "find_host", "find_owed", "make_clock"]

_log = logging.getLogger("storeletd.agenda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a job stands at the moment."""

    active_run: int | None = None  # that is queued or running
    waiting: bool = False  # another one is queued behind it
    is_ready: bool = False  # for a catch-up


class Agenda:
    """Decides on what is due, for the jobs it was given."""

    def __init__(self, states: JobStates, history: History, *, host: str) -> None:
        self._states = states
        self._history = history
        self._host = host
        self._jobs: Mapping[str, Job] = {}
        self._gone: set[str] = set()  # jobs whose last due times are not written down yet
        self._next_looks: dict[str, datetime | None] = {}  # no entry: at once
        # Due times and delays, as far as somebody has asked: a thousand jobs are to cost nothing.
        self._next_starts: dict[str, tuple[datetime, timedelta]] = {}
        self._last_look = datetime.min.replace(tzinfo=UTC)

    def set_jobs(self, jobs: Mapping[str, Job], now: datetime) -> Iterator[tuple[str, Decision]]:
        """Take these jobs from now on; yield what becomes of due times of those that are gone."""
        before, self._jobs = self._jobs, jobs
        for name, job in jobs.items():
            if before.get(name) is not job:
                self.touch(name)
        self._gone = (self._gone | before.keys()) - jobs.keys()
        for name in sorted(self._gone):
            self.touch(name)
            state = self._states.get(name)
            times = state and state.times()
            if state and times and (due := due_between(*times, state.decided_until, now)):
                why = "its job file was removed"
                yield name, Decision(action="missed", cause="schedule", due=due, why=why)
            self._states.forget(name)
            self._gone.discard(name)

    def touch(self, name: str) -> None:
        """Look at a job again: something has happened to it."""
        self._next_looks.pop(name, None)
        self._next_starts.pop(name, None)

    def find_due(self, now: datetime) -> tuple[Job, ...]:
        """Return the jobs that are to be looked at now."""
        if now < self._last_look:  # the clock was set back: nothing reckoned from it holds
            self._next_looks.clear()
            self._next_starts.clear()
        self._last_look = now
        return tuple(job for name, job in self._jobs.items() if self._is_due(name, now))

    def next_look(self) -> datetime | None:
        """Return when to look again, if nothing happens until then."""
        return min((each for each in self._next_looks.values() if each is not None), default=None)

    def next_start(self, job: Job, now: datetime) -> tuple[datetime | None, timedelta]:
        """Return when the job is due next, outside of a pause, and how much later it starts."""
        if (known := self._next_starts.get(job.name)) and known[0] > now - known[1]:
            return known
        delay = find_delay(job.settings.randomized_delay, host=self._host, job=job.name)
        state = self._states.get(job.name)
        after = now - delay
        if state is not None:
            after = max(after, state.decided_until, state.paused_until or after)
        due = next_due(job.settings.schedule, job.settings.timezone, after)
        if due is not None:
            self._next_starts[job.name] = (due, delay)
        return due, delay

    def look(self, job: Job, now: datetime, standing: Standing) -> Iterator[Decision]:
        """Yield what is decided, each to be carried out before the next.

        Where that is broken off, the rest stays to be decided at the next look.
        """
        state = self._find_state(job, now)
        owed = find_owed(self._history, job.name)
        clock = make_clock(job, state, owed, standing, self._host)
        if state.schedule != describe_times(job):
            for decision in _decide_old(clock, state, now):
                yield decision
                if decision.action == "run":  # it pays for what is owed
                    clock = replace(clock, owed=None)
            decided_until = max(state.decided_until, now)  # the clock may have been set back a bit
            state = replace(state, schedule=describe_times(job), decided_until=decided_until)
            self._states.put(state)
            clock = replace(clock, decided_until=decided_until)
        yield from decide(clock, now)
        state = self._end_pause(self._states.get(job.name) or state, clock, now)
        clock = replace(clock, decided_until=state.decided_until)
        self._next_looks[job.name] = find_next_look(clock, now)

    def _is_due(self, name: str, now: datetime) -> bool:
        if name not in self._next_looks:
            return True
        look_at = self._next_looks[name]
        return look_at is not None and look_at <= now

    def _find_state(self, job: Job, now: datetime) -> JobState:
        """Return what is remembered; a job that is new has no due times before now."""
        times = describe_times(job)
        state = self._states.get(job.name)
        if state is None:
            state = JobState(name=job.name, schedule=times, decided_until=now, known_since=now)
            self._states.put(state)
        elif not state.schedule:
            # The clock may have been set back while the file was away.
            since = max(state.decided_until, now)
            state = replace(state, schedule=times, decided_until=since, known_since=now)
            self._states.put(state)
        decided_until = sane_decided_until(state.decided_until, now)
        if decided_until != state.decided_until:
            message = "The clock was ahead: due times of %s are taken from now, not from %s"
            extra = journal.fields(job=job.name)
            _log.warning(message, job.name, state.decided_until, extra=extra)
            state = replace(state, decided_until=decided_until)
            self._states.put(state)
        return state

    def _end_pause(self, state: JobState, clock: JobClock, now: datetime) -> JobState:
        """Forget a pause when all that was due in it is decided."""
        if state.paused_until is not None and state.paused_until <= now - clock.delay:
            state = replace(state, paused_until=None)
            self._states.put(state)
        return state


def _decide_old(clock: JobClock, state: JobState, now: datetime) -> Iterator[Decision]:
    """Decide, at once, on what was due before the schedule was changed."""
    times = state.times()
    if times is None:
        return
    schedule, timezone = times
    paused_until = state.paused_until and min(state.paused_until, now)
    yield from decide(
        replace(
            clock,
            schedule=schedule,
            timezone=timezone,
            delay=timedelta(0),
            grace=clock.delay + LATE,  # what still had to wait for its start is not late
            paused_until=paused_until,
            owed=None,
            is_ready=True,
        ),
        now,
    )


def make_clock(
    job: Job, state: JobState, owed: Owed | None, standing: Standing, host: str
) -> JobClock:
    """Return what the planner has to know of a job."""
    settings = job.settings
    return JobClock(
        schedule=settings.schedule,
        timezone=settings.timezone,
        delay=find_delay(settings.randomized_delay, host=host, job=job.name),
        catch_up=settings.catch_up is not False,
        max_late=settings.max_late,
        overlap=settings.overlap,
        decided_until=state.decided_until,
        paused_until=state.paused_until,
        owed=owed,
        is_ready=standing.is_ready or not needs_readiness(job),
        active_run=standing.active_run,
        waiting=standing.waiting,
    )


def needs_readiness(job: Job) -> bool:
    """Whether a catch-up waits for the destinations; a module alone knows those of its own."""
    return job.language == "yaml" or job.settings.randomized_delay is not None


def find_owed(history: History, name: str, kind: Kind = "backup") -> Owed | None:
    """Return the run that a job still owes: its newest is to be repeated. Raises HistoryError."""
    run = history.last_attempt(name, kind)
    if run is None or run.retry_at is None or run.finished_at is None:
        return None
    first = run if run.repeats is None else history.run(run.repeats) or run
    is_retry = run.outcome in ("failed", "timeout")
    return Owed(
        run_id=first.id,
        attempt=run.attempt + is_retry,
        cause="retry" if is_retry else "catch-up",
        asked_at=first.due.last if first.due else first.queued_at,
        ended_at=run.finished_at,
        not_before=run.retry_at,
    )


def describe_times(job: Job) -> str:
    """Return when a job is due, as text by which a change is seen."""
    return f"{'; '.join(job.settings.schedule.texts)} in {job.settings.timezone}"


def find_host() -> str:
    """Return what tells this host from others, for as long as it exists: machine-id(5)."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            if text := Path(path).read_text(encoding="ascii").strip():
                return text
    return socket.gethostname()
