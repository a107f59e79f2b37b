"""Simulation: what the planner would do with a job over some days.

The decisions are `planner.decide`'s, asked at the moments at which the daemon would ask; assumed
are only the world around it: when the machine is down, how long a run takes, that destinations
answer, that a place for the run is free. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from storeletd.agenda import Standing, find_host, make_clock
from storeletd.jobs import Job
from storeletd.jobstate import JobState
from storeletd.planner import Decision, JobClock, Owed, decide, find_next_look
from storeletd.schedule import Due

__all__ = ["Downtime", "Happening", "find_host", "simulate"]

_Kind = Literal["run", "catch-up", "skipped", "missed", "cut short"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Downtime:
    """Hours of each day, by the local clock, in which the machine is off or asleep."""

    begin: time
    end: time  # of the next day, where it is not later than the begin
    timezone: ZoneInfo

    def next_begin(self, after: datetime) -> datetime:
        """Return when it begins next."""
        return self._next(self.begin, after)

    def next_end(self, after: datetime) -> datetime:
        """Return when it ends next."""
        return self._next(self.end, after)

    def holds(self, now: datetime) -> bool:
        """Whether the machine is down at that moment."""
        return self.next_end(now) <= self.next_begin(now)

    def _next(self, at: time, after: datetime) -> datetime:
        day = after.astimezone(self.timezone).date()
        for days in range(3):
            local = datetime.combine(day + timedelta(days), at, self.timezone)
            moment = local.astimezone(UTC)
            if moment > after:
                return moment
        raise ValueError(f"no such time within three days: {at}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something that would happen to a job."""

    at: datetime
    job: str
    kind: _Kind
    due: Due | None = None  # the due times it stands for
    why: str | None = None


def simulate(
    job: Job, *, begin: datetime, end: datetime, takes: timedelta, down: Downtime | None, host: str
) -> Iterator[Happening]:
    """Yield what would happen to a job from `begin` to `end`, in the order of time."""
    return _World(job, begin.astimezone(UTC), takes=takes, down=down, host=host).go_on(
        end.astimezone(UTC)
    )


class _World:
    """One job, one machine, one clock."""

    def __init__(
        self, job: Job, now: datetime, *, takes: timedelta, down: Downtime | None, host: str
    ) -> None:
        self._job = job
        self._now = now
        self._takes = takes
        self._down = down
        self._host = host
        self._state = JobState(name=job.name, schedule="", decided_until=now, known_since=now)
        self._ends: list[datetime] = []  # of the run that is on, and of one that waits for it
        self._owed: Owed | None = None
        self._ready_at: datetime | None = None
        self._runs = 0

    def go_on(self, end: datetime) -> Iterator[Happening]:
        """Yield what happens until then."""
        while self._now < end:
            if self._down is not None and self._down.holds(self._now):
                yield from self._sleep(self._down)
                continue
            self._ends = [each for each in self._ends if each > self._now]
            for decision in decide(self._clock(), self._now):
                happening = self._carry_out(decision)
                if happening is not None:
                    yield happening
            if self._ready_at != self._now:  # else what waited may start at once
                self._now = self._find_next(end)

    def _clock(self) -> JobClock:
        standing = Standing(
            active_run=self._runs if self._ends else None,
            waiting=len(self._ends) > 1,
            is_ready=self._ready_at is not None and self._ready_at <= self._now,
        )
        return make_clock(self._job, self._state, self._owed, standing, self._host)

    def _carry_out(self, decision: Decision) -> Happening | None:
        if decision.action == "wait":
            self._ready_at = self._ready_at or self._now + self._clock().delay
            return None
        if decision.due is not None:
            self._state = replace(self._state, decided_until=decision.due.last.astimezone(UTC))
        kind: _Kind = "missed" if decision.action == "missed" else "skipped"
        if decision.action == "run":
            kind = "run" if decision.cause == "schedule" else "catch-up"
            self._runs += 1
            self._ends.append((self._ends[-1] if self._ends else self._now) + self._takes)
            self._owed = self._ready_at = None
        return Happening(
            at=self._now, job=self._job.name, kind=kind, due=decision.due, why=decision.why
        )

    def _sleep(self, down: Downtime) -> Iterator[Happening]:
        """Let the machine be down: a run that is on is cut short, and owed."""
        if self._ends:
            why = "the machine went down under it"
            yield Happening(at=self._now, job=self._job.name, kind="cut short", why=why)
            self._owed = Owed(
                run_id=self._runs,
                attempt=1,
                cause="catch-up",
                asked_at=self._state.decided_until,
                ended_at=self._now,
                not_before=self._now,
            )
        self._ends = []
        self._ready_at = None
        self._now = down.next_end(self._now)

    def _find_next(self, end: datetime) -> datetime:
        """Return the next moment at which something may be decided, or the machine goes down."""
        moments = [end, *self._ends, find_next_look(self._clock(), self._now)]
        moments += [self._ready_at, self._down.next_begin(self._now) if self._down else None]
        return min(each for each in moments if each is not None and each > self._now)
