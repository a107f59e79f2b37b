"""What becomes of due times: run, catch-up, skip, missed; each due time in one decision."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storeletd.planner import LATE, Decision, JobClock, decide, sane_decided_until
from storeletd.schedule import Due, due_between, parse_schedule

BERLIN = ZoneInfo("Europe/Berlin")
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
MIDNIGHT = datetime(2026, 6, 1, tzinfo=UTC)

# Nightly at 02:30 UTC, catching up, skipping when it still runs, decided on up to midnight
NIGHTLY = JobClock(
    schedule=parse_schedule("30 2 * * *"),
    timezone=ZoneInfo("UTC"),
    catch_up=True,
    overlap="skip",
    decided_until=MIDNIGHT,
    active_run=None,
    waiting=False,
)
DUE_AT = MIDNIGHT.replace(hour=2, minute=30)
TONIGHT = Due(first=DUE_AT, last=DUE_AT, count=1)


def test_nothing_is_decided_before_the_due_time() -> None:
    assert decide(NIGHTLY, DUE_AT - timedelta.resolution) == ()


@pytest.mark.parametrize("late", [timedelta(0), timedelta.resolution, LATE])
def test_a_due_time_starts_a_run(late: timedelta) -> None:
    expected = Decision(action="run", cause="schedule", due=TONIGHT)
    assert decide(NIGHTLY, DUE_AT + late) == (expected,)


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
    assert decision == Decision(action="missed", cause="schedule", due=due)


def test_without_catch_up_a_due_time_of_now_runs_beside_missed_ones() -> None:
    clock = replace(NIGHTLY, catch_up=False)
    now = DUE_AT + 24 * HOUR
    assert decide(clock, now) == (
        Decision(action="missed", cause="schedule", due=TONIGHT),
        Decision(action="run", cause="schedule", due=Due(first=now, last=now, count=1)),
    )


@pytest.mark.parametrize(
    ("overlap", "waiting", "action", "run_id"),
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
    run_id: int | None,
    late: timedelta,
    cause: str,
) -> None:
    clock = replace(NIGHTLY, overlap=overlap, active_run=7, waiting=waiting)
    (decision,) = decide(clock, DUE_AT + late)
    assert (decision.action, decision.cause) == (action, cause)
    assert (decision.run_id, decision.due) == (run_id, TONIGHT)


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


# Any history of wake-ups

SCHEDULES = ["* * * * *", "30 2 * * *", "@hourly", "every 7m", "every 45s", "02:30:30", "manual"]

clocks = st.builds(
    JobClock,
    schedule=st.lists(st.sampled_from(SCHEDULES[:-1]), min_size=1, max_size=2).map(parse_schedule)
    | st.just(parse_schedule("manual")),
    timezone=st.just(BERLIN),
    catch_up=st.booleans(),
    overlap=st.sampled_from(["skip", "queue"]),
    # the days on which clocks are changed
    decided_until=st.sampled_from(
        [datetime(2026, 3, 28, 20, tzinfo=UTC), datetime(2026, 10, 24, 20, tzinfo=UTC)]
    ),
    active_run=st.none() | st.integers(1, 9),
    waiting=st.booleans(),
)
# a clock that stands still, and goes on: by an alarm, by the heartbeat, after a suspend or a reboot
steps = st.lists(
    st.integers(0, 90) | st.integers(0, 4000) | st.integers(0, 200_000), min_size=1, max_size=12
)


@settings(deadline=None)
@given(clocks, steps)
def test_every_due_time_is_in_exactly_one_decision(clock: JobClock, steps: list[int]) -> None:
    begin = now = clock.decided_until
    decisions: list[Decision] = []
    for step in steps:
        now += step * SECOND
        for decision in decide(clock, now):
            decisions.append(decision)
            clock = replace(clock, decided_until=decision.due.last)
    expected = due_between(clock.schedule, clock.timezone, begin, now)
    assert sum(decision.due.count for decision in decisions) == (expected.count if expected else 0)
    for decision in decisions:
        first, last = decision.due.first, decision.due.last
        before = first.astimezone(UTC) - timedelta.resolution
        assert decision.due == due_between(clock.schedule, clock.timezone, before, last)
    for earlier, later in pairwise(decisions):
        assert earlier.due.last.astimezone(UTC) < later.due.first.astimezone(UTC)
    if expected:
        assert decisions[0].due.first == expected.first
        assert decisions[-1].due.last == expected.last


@settings(deadline=None)
@given(clocks, st.integers(0, 400_000))
def test_a_decision_follows_from_lateness_and_overlap(clock: JobClock, seconds: int) -> None:
    now = clock.decided_until + seconds * SECOND
    decisions = decide(clock, now)
    assert [decision.action for decision in decisions] in (
        [],
        ["missed"],
        *([action] for action in ("run", "skip")),
        *(["missed", action] for action in ("run", "skip")),
    )
    is_free = clock.active_run is None or (clock.overlap == "queue" and not clock.waiting)
    for decision in decisions:
        is_late = now - decision.due.first.astimezone(UTC) > LATE
        if decision.action == "missed":
            assert not clock.catch_up
            assert now - decision.due.last.astimezone(UTC) > LATE
        else:
            assert decision.action == ("run" if is_free else "skip")
            assert decision.cause == ("catch-up" if is_late else "schedule")
            assert clock.catch_up or not is_late
        assert decision.run_id == (clock.active_run if decision.action == "skip" else None)
