"""Planner: what becomes of the due times of a job, given its state and the time.

Owns the choice between run, catch-up, retry, skip and missed, and nothing else: asked again after
each wake-up, it starts nothing, remembers nothing and reads no clock. What it decides its caller
writes into history, which moves `decided_until` to the decision's last due time; so each due
time is in one decision, however seldom or often it is asked.

What holds for a due time that nobody has decided on yet:

- it starts a run `delay` later, where somebody looks within `LATE` of that moment;
- noticed later than that it was missed. Where `catch_up` is on and it was due no longer than
  `max_late` ago, one run makes up for it and all others like it, once the job `is_ready`; at the
  latest with the next due time that is noticed in time, so that nobody waits in silence;
- one in a pause is skipped, and so is one that comes while the job runs, unless it may queue.

A run that is `owed` (a retry, or one that the daemon's end cut short) is no due time's; any later
run pays for it.

All arithmetic is in UTC: within one time zone Python reckons with what the clocks show.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from storeletd.schedule import Due, Schedule, due_between, next_due

__all__ = [
    "AHEAD",
    "FOREVER",
    "LATE",
    "Cause",
    "Decision",
    "JobClock",
    "Owed",
    "decide",
    "find_delay",
    "find_next_look",
    "find_retry",
    "is_overdue",
    "sane_decided_until",
]

LATE = timedelta(seconds=60)  # a start noticed later than that was missed, as a rule
FOREVER = datetime(9999, 12, 1, tzinfo=UTC)  # the end of a pause that has none
AHEAD = timedelta(hours=1)  # history further in the future than that was written by a wrong clock

Cause = Literal["schedule", "catch-up", "retry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A run that is to be repeated."""

    run_id: int  # the first of all that were for the same
    attempt: int  # the how manieth the next one is
    cause: Literal["catch-up", "retry"]
    asked_at: datetime  # when the first one was due
    ended_at: datetime  # when the last one ended
    not_before: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClock:
    """What the planner has to know of a job."""

    schedule: Schedule
    timezone: ZoneInfo
    delay: timedelta  # from a due time to its start
    grace: timedelta = LATE  # a start noticed later than that was missed
    catch_up: bool  # missed due times: one run for all of them; otherwise they are recorded
    max_late: timedelta | None  # what was due longer ago is recorded all the same
    overlap: Literal["skip", "queue"]  # when the job is due while it runs
    decided_until: datetime  # every due time up to then has its row in history
    paused_until: datetime | None  # due times up to then are in a pause, perhaps a past one
    owed: Owed | None
    is_ready: bool  # whether what is late may start: the destinations answer
    active_run: int | None  # id of the run that is queued or running
    waiting: bool  # another one is queued behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of some neighbouring due times, or of an owed run.

    `wait` decides nothing: the job is to be made ready for a catch-up.
    """

    action: Literal["run", "skip", "missed", "wait"]
    cause: Cause  # why they would start, or would have started, a run
    due: Due | None = None
    why: str | None = None  # nothing is run
    collided_with: int | None = None  # the run that a skipped one came upon
    repeats: Owed | None = None


def decide(clock: JobClock, now: datetime) -> tuple[Decision, ...]:
    """Decide on every due time later than `decided_until` that is to start by `now`.

    At most three decisions, the earlier due times first: those in a pause, those that are given
    up, and the rest.
    """
    now = now.astimezone(UTC)
    if clock.paused_until is not None and now < clock.paused_until:
        return ()
    since, until = clock.decided_until.astimezone(UTC), now - clock.delay
    late_until = until - clock.grace - timedelta.resolution
    decisions = []
    if clock.paused_until is not None:
        pause_end = min(clock.paused_until, until)
        if due := _due(clock, since, pause_end):
            why = "the job was paused"
            decisions.append(Decision(action="skip", cause="schedule", due=due, why=why))
        since = max(since, pause_end)
    hopeless_until = _find_hopeless(clock, late_until, until)
    if due := _due(clock, since, hopeless_until):
        decisions.append(_give_up(clock, due))
    return (*decisions, *_start(clock, max(since, hopeless_until), late_until, until, now))


def _due(clock: JobClock, after: datetime, until: datetime) -> Due | None:
    return due_between(clock.schedule, clock.timezone, after, until)


def _find_hopeless(clock: JobClock, late_until: datetime, until: datetime) -> datetime:
    """Return up to when due times that are undecided will never start a run."""
    if not clock.catch_up:
        return late_until
    if clock.max_late is None:
        return clock.decided_until.astimezone(UTC)
    return min(late_until, until - clock.max_late - timedelta.resolution)


def _give_up(clock: JobClock, due: Due) -> Decision:
    why = "nothing was running to start it, and catch_up is false"
    if clock.catch_up:
        why = "nothing was running to start it, and it is later than max_late"
    return Decision(action="missed", cause="schedule", due=due, why=why)


def _start(
    clock: JobClock, since: datetime, late_until: datetime, until: datetime, now: datetime
) -> tuple[Decision, ...]:
    """Decide on due times that ask for one run now, or else on the run that is owed."""
    due = _due(clock, since, until)
    if due is None:
        return _repeat(clock, now)
    cause: Cause = "catch-up" if _due(clock, since, late_until) else "schedule"
    active = clock.active_run
    if active is not None and (clock.overlap == "skip" or clock.waiting):
        why = f"run {active} was still on"
        return (Decision(action="skip", cause=cause, due=due, why=why, collided_with=active),)
    is_held = cause == "catch-up" and active is None and not clock.is_ready
    if is_held and _due(clock, max(since, late_until), until) is None:
        return (Decision(action="wait", cause=cause),)
    return (Decision(action="run", cause=cause, due=due),)


def _repeat(clock: JobClock, now: datetime) -> tuple[Decision, ...]:
    owed = clock.owed
    if owed is None or clock.active_run is not None:
        return ()
    # From a time when the clock was wrong nothing can be reckoned.
    if now < owed.not_before and owed.ended_at <= now + AHEAD:
        return ()
    if owed.cause == "catch-up":
        is_late = clock.max_late is not None and now - owed.asked_at > clock.max_late
        if not clock.catch_up or is_late:
            return ()
        if not clock.is_ready:
            return (Decision(action="wait", cause=owed.cause),)
    return (Decision(action="run", cause=owed.cause, repeats=owed),)


def find_next_look(clock: JobClock, now: datetime) -> datetime | None:
    """Return when `decide` may say something else than now, if nothing happens until then."""
    now = now.astimezone(UTC)
    if clock.paused_until is not None and now < clock.paused_until:
        return clock.paused_until if clock.paused_until < FOREVER else None
    started_until, decided_until = now - clock.delay, clock.decided_until.astimezone(UTC)
    due = next_due(clock.schedule, clock.timezone, max(decided_until, started_until))
    looks = [] if due is None else [due.astimezone(UTC) + clock.delay]
    if clock.max_late is not None and (held := _due(clock, decided_until, started_until)):
        too_late = held.first.astimezone(UTC) + clock.delay + max(clock.max_late, LATE)
        looks.append(too_late + timedelta.resolution)
    if clock.owed is not None and clock.owed.not_before > now:
        looks.append(clock.owed.not_before)
    return min(looks, default=None)


def sane_decided_until(decided_until: datetime, now: datetime) -> datetime:
    """Return `decided_until`, or `now` where it is more than an hour ahead of it.

    Otherwise a clock that once showed 2036 would end all backups until then; a backup twice is
    better than none. What differs from `decided_until` is to be said loudly.
    """
    ahead = decided_until.astimezone(UTC) - now.astimezone(UTC)
    return now if ahead > AHEAD else decided_until


def find_delay(longest: timedelta | None, *, host: str, job: str) -> timedelta:
    """Return a delay of whole seconds, shorter than `longest`, always the same for these names."""
    if longest is None:
        return timedelta(0)
    digest = hashlib.sha256(f"{host}\0{job}".encode(errors="surrogateescape")).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return timedelta(seconds=int(longest.total_seconds() * share))


def find_retry(
    *, retries: int, wait: timedelta, attempt: int, ended_at: datetime
) -> datetime | None:
    """Return when a run that was the `attempt`th is to be repeated: the wait doubles each time."""
    return ended_at + wait * 2 ** (attempt - 1) if attempt <= retries else None


def is_overdue(max_age: timedelta | None, good_since: datetime, now: datetime) -> bool:
    """Whether the last archive, or else the job itself, is older than that.

    So is one that comes from the future: of how old it is a wrong clock knew nothing.
    """
    return max_age is not None and abs(now.astimezone(UTC) - good_since.astimezone(UTC)) > max_age
