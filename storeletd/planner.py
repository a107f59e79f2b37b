"""Planner: what becomes of the due times of a job, given its state and the time.

Owns the choice between run, catch-up, skip and missed, and nothing else: asked again after each
wake-up, it starts nothing, remembers nothing and reads no clock. What it decides its caller
writes into history, which moves `decided_until` to the decision's last due time; so each due
time is in one decision, however seldom or often it is asked.

All arithmetic is in UTC: within one time zone Python reckons with what the clocks show.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from storeletd.schedule import Due, Schedule, due_between

__all__ = ["LATE", "Decision", "JobClock", "decide", "sane_decided_until"]

LATE = timedelta(seconds=60)  # a due time noticed later than that was missed
_AHEAD = timedelta(hours=1)  # history further in the future than that was written by a wrong clock


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClock:
    """What the planner has to know of a job."""

    schedule: Schedule
    timezone: ZoneInfo
    catch_up: bool  # missed due times: one run for all of them; otherwise they are recorded
    overlap: Literal["skip", "queue"]  # when the job is due while it runs
    decided_until: datetime  # every due time up to then has its row in history
    active_run: int | None  # id of the run that is queued or running
    waiting: bool  # another one is queued behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of some neighbouring due times."""

    action: Literal["run", "skip", "missed"]
    cause: Literal["schedule", "catch-up"]  # why they would start, or would have started, a run
    due: Due
    run_id: int | None = None  # of the run that a skipped one collided with


def decide(clock: JobClock, now: datetime) -> tuple[Decision, ...]:
    """Decide on every due time later than `decided_until` and not later than `now`.

    One decision for all of them, but where missed ones are not caught up: those come first, in a
    decision of their own.
    """
    since, now = clock.decided_until.astimezone(UTC), now.astimezone(UTC)
    missed_until = now - LATE - timedelta.resolution
    missed = due_between(clock.schedule, clock.timezone, since, missed_until)
    if missed is None or clock.catch_up:
        due = due_between(clock.schedule, clock.timezone, since, now)
        return _start(clock, due, "schedule" if missed is None else "catch-up")
    due = due_between(clock.schedule, clock.timezone, max(since, missed_until), now)
    record = Decision(action="missed", cause="schedule", due=missed)
    return (record, *_start(clock, due, "schedule"))


def _start(
    clock: JobClock, due: Due | None, cause: Literal["schedule", "catch-up"]
) -> tuple[Decision, ...]:
    """Decide on due times that ask for one run now."""
    if due is None:
        return ()
    if clock.active_run is None or (clock.overlap == "queue" and not clock.waiting):
        return (Decision(action="run", cause=cause, due=due),)
    return (Decision(action="skip", cause=cause, due=due, run_id=clock.active_run),)


def sane_decided_until(decided_until: datetime, now: datetime) -> datetime:
    """Return `decided_until`, or `now` where it is more than an hour ahead of it.

    Otherwise a clock that once showed 2036 would end all backups until then; a backup twice is
    better than none. What differs from `decided_until` is to be said loudly.
    """
    ahead = decided_until.astimezone(UTC) - now.astimezone(UTC)
    return now if ahead > _AHEAD else decided_until
