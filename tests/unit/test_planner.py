"""What becomes of due times: run, catch-up, skip, missed; each due time in one decision."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storeletd.planner import (
    FOREVER,
    LATE,
    Decision,
    JobClock,
    Owed,
    decide,
    find_delay,
    find_next_look,
    find_retry,
    is_overdue,
    sane_decided_until,
)
from storeletd.schedule import Due, due_between, parse_schedule

BERLIN = ZoneInfo("Europe/Berlin")
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
MIDNIGHT = datetime(2026, 6, 1, tzinfo=UTC)

# Nightly at 02:30 UTC, catching up, skipping when it still runs, decided on up to midnight
NIGHTLY = JobClock(
    schedule=parse_schedule("30 2 * * *"),
    timezone=ZoneInfo("UTC"),
    delay=timedelta(0),
    catch_up=True,
    max_late=None,
    overlap="skip",
    decided_until=MIDNIGHT,
    paused_until=None,
    owed=None,
    is_ready=True,
    active_run=None,
    waiting=False,
)
DUE_AT = MIDNIGHT.replace(hour=2, minute=30)
TONIGHT = Due(first=DUE_AT, last=DUE_AT, count=1)
NO_CATCH_UP = "nothing was running to start it, and catch_up is false"
TOO_LATE = "nothing was running to start it, and it is later than max_late"


def test_nothing_is_decided_before_the_due_time() -> None:
    assert decide(NIGHTLY, DUE_AT - timedelta.resolution) == ()


@pytest.mark.parametrize("late", [timedelta(0), timedelta.resolution, LATE])
def test_a_due_time_starts_a_run(late: timedelta) -> None:
    expected = Decision(action="run", cause="schedule", due=TONIGHT)
    assert decide(NIGHTLY, DUE_AT + late) == (expected,)


def test_every_run_starts_so_much_later_than_it_is_due_as_its_job_is_delayed() -> None:
    clock = replace(NIGHTLY, delay=10 * MINUTE, catch_up=False)
    assert decide(clock, DUE_AT + 10 * MINUTE - timedelta.resolution) == ()
    expected = Decision(action="run", cause="schedule", due=TONIGHT)
    for late in (timedelta(0), LATE):
        assert decide(clock, DUE_AT + 10 * MINUTE + late) == (expected,)
    (decision,) = decide(clock, DUE_AT + 10 * MINUTE + LATE + timedelta.resolution)
    assert decision.action == "missed"


def test_a_due_time_is_decided_on_once() -> None:
    clock = replace(NIGHTLY, decided_until=DUE_AT)
    assert decide(clock, DUE_AT) == ()
    assert decide(clock, DUE_AT + LATE + SECOND) == ()


def test_a_manual_job_is_never_due() -> None:
    clock = replace(NIGHTLY, schedule=parse_schedule("manual"))
    assert decide(clock, MIDNIGHT + 1000 * HOUR) == ()


def test_a_missed_due_time_is_caught_up() -> None:
    expected = Decision(action="run", cause="catch-up", due=TONIGHT)
    assert decide(NIGHTLY, DUE_AT + LATE + timedelta.resolution) == (expected,)


def test_many_missed_due_times_are_caught_up_by_one_run() -> None:
    (decision,) = decide(NIGHTLY, MIDNIGHT + 72 * HOUR)
    last = DUE_AT + 48 * HOUR
    due = Due(first=DUE_AT, last=last, count=3)
    assert decision == Decision(action="run", cause="catch-up", due=due)


def test_a_catch_up_takes_a_due_time_of_now_along() -> None:
    now = DUE_AT + 24 * HOUR
    (decision,) = decide(NIGHTLY, now)
    due = Due(first=DUE_AT, last=now, count=2)
    assert decision == Decision(action="run", cause="catch-up", due=due)


def test_without_catch_up_missed_due_times_are_recorded() -> None:
    clock = replace(NIGHTLY, catch_up=False)
    (decision,) = decide(clock, MIDNIGHT + 72 * HOUR)
    due = Due(first=DUE_AT, last=DUE_AT + 48 * HOUR, count=3)
    assert decision == Decision(action="missed", cause="schedule", due=due, why=NO_CATCH_UP)


def test_without_catch_up_a_due_time_of_now_runs_beside_missed_ones() -> None:
    clock = replace(NIGHTLY, catch_up=False)
    now = DUE_AT + 24 * HOUR
    assert decide(clock, now) == (
        Decision(action="missed", cause="schedule", due=TONIGHT, why=NO_CATCH_UP),
        Decision(action="run", cause="schedule", due=Due(first=now, last=now, count=1)),
    )


@pytest.mark.parametrize(
    ("overlap", "waiting", "action", "collided_with"),
    [
        ("skip", False, "skip", 7),
        ("skip", True, "skip", 7),
        ("queue", False, "run", None),
        ("queue", True, "skip", 7),  # one behind the other is enough
    ],
)
@pytest.mark.parametrize(("late", "cause"), [(SECOND, "schedule"), (HOUR, "catch-up")])
def test_a_job_that_is_due_while_it_runs(
    overlap: Literal["skip", "queue"],
    waiting: bool,
    action: str,
    collided_with: int | None,
    late: timedelta,
    cause: str,
) -> None:
    clock = replace(NIGHTLY, overlap=overlap, active_run=7, waiting=waiting)
    (decision,) = decide(clock, DUE_AT + late)
    assert (decision.action, decision.cause) == (action, cause)
    assert (decision.collided_with, decision.due) == (collided_with, TONIGHT)


def test_missed_due_times_are_missed_whatever_runs_now() -> None:
    clock = replace(NIGHTLY, catch_up=False, active_run=7)
    assert [decision.action for decision in decide(clock, DUE_AT + HOUR)] == ["missed"]


def test_lateness_is_real_time_where_clocks_are_set_back() -> None:
    # 02:59:30 in summer and 02:00:00 in winter, half a minute later
    due = datetime(2026, 10, 25, 2, 59, 30, tzinfo=BERLIN)
    now = datetime(2026, 10, 25, 2, 0, 0, fold=1, tzinfo=BERLIN)
    clock = replace(
        NIGHTLY,
        schedule=parse_schedule("02:59:30"),
        timezone=BERLIN,
        decided_until=due - HOUR,
        catch_up=False,
    )
    (decision,) = decide(clock, now)
    assert (decision.action, decision.due.last) == ("run", due)
    assert decide(replace(clock, decided_until=due), now) == ()
    # and a minute and a half later
    (decision,) = decide(clock, now.replace(minute=1))
    assert decision.action == "missed"


# A clock that was wrong

WRONG = datetime(2036, 1, 1, tzinfo=UTC)


def test_a_clock_that_was_wrong_does_not_end_the_backups() -> None:
    # the clock shows 2036: ten years are caught up by one run
    (decision,) = decide(NIGHTLY, WRONG)
    assert decision.due.count == (WRONG - MIDNIGHT).days
    clock = replace(NIGHTLY, decided_until=decision.due.last)

    # the clock is put right: nothing would be due until 2036
    now = MIDNIGHT + 5 * HOUR
    assert decide(clock, DUE_AT + 24 * HOUR) == ()
    clock = replace(clock, decided_until=sane_decided_until(clock.decided_until, now))
    assert clock.decided_until == now
    (decision,) = decide(clock, DUE_AT + 24 * HOUR)
    assert (decision.action, decision.cause, decision.due.count) == ("run", "schedule", 1)


def test_a_clock_set_back_a_little_repeats_nothing() -> None:
    for ahead in (timedelta(0), SECOND, HOUR):
        assert sane_decided_until(DUE_AT, DUE_AT - ahead) == DUE_AT
    now = DUE_AT - HOUR - timedelta.resolution
    assert sane_decided_until(DUE_AT, now) == now
    assert sane_decided_until(DUE_AT, DUE_AT + 1000 * HOUR) == DUE_AT


def test_how_far_ahead_is_real_time_where_clocks_are_set_back() -> None:
    decided = datetime(2026, 10, 25, 2, 50, fold=1, tzinfo=BERLIN)
    now = datetime(2026, 10, 25, 2, 40, tzinfo=BERLIN)  # ten minutes by the clock, but 70
    assert sane_decided_until(decided, now) == now
    decided = datetime(2026, 10, 25, 3, 15, tzinfo=BERLIN)
    now = datetime(2026, 10, 25, 2, 15, fold=1, tzinfo=BERLIN)  # an hour
    assert sane_decided_until(decided, now) == decided


# What is caught up, and when


def test_what_is_due_too_long_ago_is_given_up() -> None:
    clock = replace(NIGHTLY, max_late=12 * HOUR)
    (decision,) = decide(clock, DUE_AT + 12 * HOUR)
    assert (decision.action, decision.cause) == ("run", "catch-up")
    (decision,) = decide(clock, DUE_AT + 12 * HOUR + timedelta.resolution)
    assert decision == Decision(action="missed", cause="schedule", due=TONIGHT, why=TOO_LATE)


def test_of_many_missed_due_times_some_may_be_too_late() -> None:
    clock = replace(NIGHTLY, max_late=50 * HOUR)
    given_up, caught_up = decide(clock, MIDNIGHT + 72 * HOUR)
    assert (given_up.action, given_up.due) == ("missed", TONIGHT)
    two = Due(first=DUE_AT + 24 * HOUR, last=DUE_AT + 48 * HOUR, count=2)
    assert (caught_up.action, caught_up.cause, caught_up.due) == ("run", "catch-up", two)


def test_a_max_late_shorter_than_a_look_may_come_late_gives_nothing_up_in_time() -> None:
    clock = replace(NIGHTLY, max_late=SECOND)
    (decision,) = decide(clock, DUE_AT + LATE)
    assert (decision.action, decision.cause) == ("run", "schedule")
    (decision,) = decide(clock, DUE_AT + LATE + timedelta.resolution)
    assert decision.action == "missed"


def test_a_catch_up_waits_until_the_job_is_ready() -> None:
    clock = replace(NIGHTLY, is_ready=False)
    assert decide(clock, DUE_AT + HOUR) == (Decision(action="wait", cause="catch-up"),)
    (decision,) = decide(replace(clock, is_ready=True), DUE_AT + HOUR)
    assert (decision.action, decision.due) == ("run", TONIGHT)


def test_a_catch_up_waits_no_longer_than_until_the_job_is_due_again() -> None:
    clock = replace(NIGHTLY, is_ready=False)
    now = DUE_AT + 24 * HOUR
    (decision,) = decide(clock, now)
    due = Due(first=DUE_AT, last=now, count=2)
    assert decision == Decision(action="run", cause="catch-up", due=due)


def test_a_catch_up_that_waits_may_become_too_late() -> None:
    clock = replace(NIGHTLY, is_ready=False, max_late=HOUR)
    assert [each.action for each in decide(clock, DUE_AT + HOUR)] == ["wait"]
    assert [each.action for each in decide(clock, DUE_AT + 2 * HOUR)] == ["missed"]


def test_a_catch_up_that_waits_is_looked_at_when_it_becomes_too_late() -> None:
    clock = replace(NIGHTLY, is_ready=False, max_late=HOUR, delay=MINUTE)
    look = find_next_look(clock, DUE_AT + HOUR / 2)
    assert look == DUE_AT + HOUR + MINUTE + timedelta.resolution
    assert [each.action for each in decide(clock, look - timedelta.resolution)] == ["wait"]
    assert [each.action for each in decide(clock, look)] == ["missed"]


def test_what_is_due_now_waits_for_nothing() -> None:
    (decision,) = decide(replace(NIGHTLY, is_ready=False), DUE_AT)
    assert (decision.action, decision.cause) == ("run", "schedule")


# Pauses


def test_in_a_pause_nothing_is_decided() -> None:
    for paused_until in (FOREVER, MIDNIGHT + 90 * HOUR):
        clock = replace(NIGHTLY, paused_until=paused_until, owed=OWED)
        assert decide(clock, MIDNIGHT + 72 * HOUR) == ()


def test_what_was_due_in_a_pause_is_skipped() -> None:
    clock = replace(NIGHTLY, paused_until=DUE_AT + 30 * HOUR)
    (decision,) = decide(clock, DUE_AT + 30 * HOUR)
    due = Due(first=DUE_AT, last=DUE_AT + 24 * HOUR, count=2)
    why = "the job was paused"
    assert decision == Decision(action="skip", cause="schedule", due=due, why=why)


def test_what_is_due_after_a_pause_runs_and_is_caught_up() -> None:
    clock = replace(NIGHTLY, paused_until=DUE_AT)  # to the moment: still in it
    skipped, run = decide(clock, DUE_AT + 72 * HOUR)
    assert (skipped.action, skipped.due) == ("skip", TONIGHT)
    due = Due(first=DUE_AT + 24 * HOUR, last=DUE_AT + 72 * HOUR, count=3)
    assert (run.action, run.cause, run.due) == ("run", "catch-up", due)


def test_what_was_due_before_a_pause_and_is_delayed_into_it_is_skipped() -> None:
    clock = replace(NIGHTLY, delay=HOUR, paused_until=DUE_AT + HOUR / 2)
    assert decide(clock, DUE_AT + HOUR / 2) == ()
    (decision,) = decide(clock, DUE_AT + HOUR)
    assert (decision.action, decision.due) == ("skip", TONIGHT)


def test_a_pause_too_late_and_in_time_are_three_decisions() -> None:
    clock = replace(NIGHTLY, paused_until=DUE_AT + HOUR, max_late=30 * HOUR)
    decisions = decide(clock, DUE_AT + 72 * HOUR)
    assert [each.action for each in decisions] == ["skip", "missed", "run"]
    assert [each.due.count for each in decisions if each.due] == [1, 1, 2]


# Runs that are owed

OWED = Owed(
    run_id=3,
    attempt=2,
    cause="retry",
    asked_at=MIDNIGHT,
    ended_at=MIDNIGHT,
    not_before=MIDNIGHT + MINUTE,
)


def test_a_run_is_repeated_when_its_time_has_come() -> None:
    clock = replace(NIGHTLY, owed=OWED)
    assert decide(clock, OWED.not_before - timedelta.resolution) == ()
    expected = Decision(action="run", cause="retry", repeats=OWED)
    for now in (OWED.not_before, DUE_AT - SECOND):
        assert decide(clock, now) == (expected,)


def test_a_run_is_not_repeated_while_another_is_on() -> None:
    clock = replace(NIGHTLY, owed=OWED, active_run=4, overlap="queue")
    assert decide(clock, DUE_AT - SECOND) == ()


def test_a_due_time_pays_for_what_is_owed() -> None:
    (decision,) = decide(replace(NIGHTLY, owed=OWED), DUE_AT)
    assert decision == Decision(action="run", cause="schedule", due=TONIGHT)


def test_a_run_ended_by_a_clock_that_was_ahead_is_repeated_now() -> None:
    owed = replace(OWED, ended_at=WRONG, not_before=WRONG + MINUTE)
    (decision,) = decide(replace(NIGHTLY, owed=owed), DUE_AT - HOUR)
    assert decision.repeats == owed
    soon = replace(OWED, ended_at=DUE_AT - HOUR / 2, not_before=DUE_AT - MINUTE)
    assert decide(replace(NIGHTLY, owed=soon), DUE_AT - HOUR) == ()  # it was set back a little


def test_a_lost_run_is_repeated_as_a_catch_up() -> None:
    lost = replace(OWED, cause="catch-up", not_before=MIDNIGHT)
    clock = replace(NIGHTLY, owed=lost, max_late=HOUR)
    assert decide(clock, MIDNIGHT) == (Decision(action="run", cause="catch-up", repeats=lost),)
    waiting = replace(clock, is_ready=False)
    assert decide(waiting, MIDNIGHT) == (Decision(action="wait", cause="catch-up"),)
    assert decide(replace(clock, catch_up=False), MIDNIGHT) == ()
    assert len(decide(clock, MIDNIGHT + HOUR)) == 1
    assert decide(clock, MIDNIGHT + HOUR + timedelta.resolution) == ()  # longer than max_late ago
    retry = replace(clock, catch_up=False, is_ready=False, owed=OWED)
    assert len(decide(retry, MIDNIGHT + HOUR)) == 1  # of a run that failed: none of that matters


def test_the_wait_before_a_retry_doubles() -> None:
    waits = [
        find_retry(retries=4, wait=MINUTE, attempt=attempt, ended_at=MIDNIGHT)
        for attempt in range(1, 7)
    ]
    assert waits == [*(MIDNIGHT + n * MINUTE for n in (1, 2, 4, 8)), None, None]
    assert find_retry(retries=0, wait=MINUTE, attempt=1, ended_at=MIDNIGHT) is None


# Delays


def test_a_delay_is_always_the_same_for_a_job_on_a_host() -> None:
    assert find_delay(None, host="a", job="web") == timedelta(0)
    assert find_delay(timedelta(0), host="a", job="web") == timedelta(0)
    # Another Storelet must come to the same: all of them would start at other times.
    assert find_delay(HOUR, host="4a0c", job="web") == 1553 * SECOND
    assert find_delay(HOUR, host="4a0c", job="db") == 2289 * SECOND
    assert find_delay(2 * HOUR, host="4a0c", job="web") == 3107 * SECOND
    assert find_delay(HOUR, host="4a0c", job="\udcff") < HOUR  # of a file name that is no UTF-8


@pytest.mark.parametrize("which", ["host", "job"])
def test_delays_are_spread_over_the_whole_time(which: str) -> None:
    names = {"host": "4a0c", "job": "web"}
    delays = [find_delay(HOUR, **{**names, which: f"name{n}"}) for n in range(1200)]
    assert all(timedelta(0) <= delay < HOUR for delay in delays)
    assert all(delay % SECOND == timedelta(0) for delay in delays)
    tenths = Counter(delay // (6 * MINUTE) for delay in delays)
    assert sorted(tenths) == list(range(10))
    assert min(tenths.values()) > 80  # of 120 expected: four standard deviations


# Age


def test_a_job_is_overdue_when_its_last_archive_is_older_than_max_age() -> None:
    assert not is_overdue(None, MIDNIGHT, MIDNIGHT + 10_000 * HOUR)
    assert not is_overdue(26 * HOUR, MIDNIGHT, MIDNIGHT + 26 * HOUR)
    assert is_overdue(26 * HOUR, MIDNIGHT, MIDNIGHT + 26 * HOUR + timedelta.resolution)


def test_age_is_real_time_where_clocks_are_set_back() -> None:
    good = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)
    now = datetime(2026, 10, 25, 2, 45, fold=1, tzinfo=BERLIN)  # 75 minutes
    assert is_overdue(HOUR, good, now)
    assert not is_overdue(2 * HOUR, good, now)


# Any history of wake-ups

SCHEDULES = ["* * * * *", "30 2 * * *", "@hourly", "every 7m", "every 45s", "02:30:30", "manual"]
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Pacific/Apia",
    "UTC",
]
# just before the local clock is changed: by an hour, by half an hour, by a day
BEGINNINGS = [
    datetime(2026, 3, 28, 20, tzinfo=UTC),
    datetime(2026, 10, 24, 20, tzinfo=UTC),
    datetime(2026, 4, 4, 8, tzinfo=UTC),
    datetime(2011, 12, 29, 20, tzinfo=UTC),
]


@st.composite
def clocks(draw: st.DrawFn) -> JobClock:
    decided_until = draw(st.sampled_from(BEGINNINGS))

    def moment(before: int, after: int) -> datetime:
        return decided_until + draw(st.integers(-before, after)) * SECOND

    owed = None
    if draw(st.booleans()):
        ended_at = moment(4000, 10_000)
        owed = Owed(
            run_id=1,
            attempt=2,
            cause=draw(st.sampled_from(["catch-up", "retry"])),
            asked_at=moment(4000, 0),
            ended_at=ended_at,
            not_before=ended_at + draw(st.integers(0, 4000)) * SECOND,
        )
    pauses = st.none() | st.just(FOREVER) | st.just(moment(4000, 10_000))
    return JobClock(
        schedule=parse_schedule(
            draw(
                st.just(["manual"])
                | st.lists(st.sampled_from(SCHEDULES[:-1]), min_size=1, max_size=2)
            )
        ),
        timezone=ZoneInfo(draw(st.sampled_from(ZONES))),
        delay=draw(st.just(0) | st.integers(0, 7200)) * SECOND,
        catch_up=draw(st.booleans()),
        max_late=draw(st.none() | st.integers(0, 10_000).map(lambda n: n * SECOND)),
        overlap=draw(st.sampled_from(["skip", "queue"])),
        decided_until=decided_until,
        paused_until=draw(pauses),
        owed=owed,
        is_ready=draw(st.booleans()),
        active_run=draw(st.none() | st.integers(1, 9)),
        waiting=draw(st.booleans()),
    )


# a clock that stands still, and goes on: by an alarm, by the heartbeat, after a suspend or a reboot
steps = st.lists(
    st.integers(0, 90) | st.integers(0, 4000) | st.integers(0, 200_000), min_size=1, max_size=12
)


def dues(decisions: Iterable[Decision]) -> list[Due]:
    return [decision.due for decision in decisions if decision.due]


@given(clocks(), steps, st.lists(st.booleans(), min_size=12, max_size=12))
def test_every_due_time_is_in_exactly_one_decision(
    clock: JobClock, steps: list[int], ready: list[bool]
) -> None:
    """Those that wait for the job to be ready are in one in the end."""
    begin = now = clock.decided_until
    decided: list[Due] = []
    for step, is_ready in zip([*steps, 0], [*ready[: len(steps)], True], strict=True):
        now += step * SECOND
        for due in dues(decide(replace(clock, is_ready=is_ready), now)):
            decided.append(due)
            clock = replace(clock, decided_until=due.last)
    is_paused = clock.paused_until is not None and now < clock.paused_until
    until = decided[-1].last if is_paused and decided else now - clock.delay
    expected = None
    if decided or not is_paused:
        expected = due_between(clock.schedule, clock.timezone, begin, until)
    assert sum(due.count for due in decided) == (expected.count if expected else 0)
    for due in decided:
        before = due.first.astimezone(UTC) - timedelta.resolution
        assert due == due_between(clock.schedule, clock.timezone, before, due.last)
    for earlier, later in pairwise(decided):
        assert earlier.last.astimezone(UTC) < later.first.astimezone(UTC)
    if expected:
        assert decided[0].first == expected.first
        assert decided[-1].last == expected.last


@settings(max_examples=300)
@given(clocks(), st.integers(0, 400_000))
def test_a_decision_follows_from_lateness_pause_and_overlap(clock: JobClock, seconds: int) -> None:
    begin = clock.decided_until
    now = begin + seconds * SECOND
    decisions = decide(clock, now)
    if clock.paused_until is not None and now < clock.paused_until:
        assert decisions == ()
    is_free = clock.active_run is None or (clock.overlap == "queue" and not clock.waiting)
    assert len(decisions) <= 3
    assert all(each.due for each in decisions[:-1])
    for decision in decisions:
        if decision.due is None:
            assert decision.action in ("run", "wait")
            assert clock.active_run is None
            assert decision.repeats in (None, clock.owed)
            assert decision.action == "wait" or decision.repeats
            continue
        assert decision.repeats is None
        first, last = (each.astimezone(UTC) for each in (decision.due.first, decision.due.last))
        is_late = now - clock.delay - first > LATE
        pause_end = clock.paused_until or begin
        in_pause = last <= pause_end
        assert in_pause == (first <= pause_end) == (decision.why == "the job was paused")
        if in_pause:
            assert (decision.action, decision.cause) == ("skip", "schedule")
        elif decision.action == "missed":
            longest = max(clock.max_late or LATE, LATE) if clock.catch_up else LATE
            assert now - clock.delay - last > longest
            assert not clock.catch_up or clock.max_late is not None
            assert decision.why == (TOO_LATE if clock.catch_up else NO_CATCH_UP)
        else:
            assert decision.action == ("run" if is_free else "skip")
            assert decision.cause == ("catch-up" if is_late else "schedule")
            assert clock.catch_up or not is_late
        collided = decision.action == "skip" and not in_pause
        assert decision.collided_with == (clock.active_run if collided else None)


@settings(max_examples=500)
@given(clocks(), st.integers(-3600, 200_000), st.lists(st.floats(0, 1), max_size=3))
def test_nothing_is_to_be_decided_before_the_next_look(
    clock: JobClock, seconds: int, shares: list[float]
) -> None:
    """So a job sleeps until then: no alarm comes too late."""
    now = clock.decided_until + seconds * SECOND
    said = decide(clock, now)
    for due in dues(said):
        clock = replace(clock, decided_until=due.last)
    said = decide(clock, now)  # what is owed, or waits: nobody carried that out
    look = find_next_look(clock, now)
    assert look is None or look > now
    end = now + 400_000 * SECOND if look is None else look
    moments = [now + (end - now) * share for share in shares]
    for moment in [*moments, end - timedelta.resolution]:
        if now <= moment and (look is None or moment < look):
            # What is owed may become too late: nobody has to know when.
            assert set(decide(clock, moment)) <= set(said)


# Work


def test_a_year_of_every_minute_is_one_decision_that_looks_at_days_and_not_at_minutes() -> None:
    clock = replace(NIGHTLY, schedule=parse_schedule("* * * * *"), timezone=BERLIN)
    now = MIDNIGHT + timedelta(days=365)
    (decision,) = decide(clock, now)
    assert decision.due is not None
    assert decision.due.count == 365 * 24 * 60
    calls = count_calls(lambda: decide(clock, now))
    assert calls < 30_000, calls  # some 80 a day; there are 525,600 minutes
    clock = replace(clock, decided_until=now)
    assert count_calls(lambda: find_next_look(clock, now)) < 500


def count_calls(work: Callable[[], object]) -> int:
    """Count the calls of functions, Python's and others: that is no matter of the machine."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls
