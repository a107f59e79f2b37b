"""The simulation: what a schedule does on days to come, by the daemon's own planner."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storeletd.jobs import Job
from storeletd.schedule import due_between
from storeletd.settings import Settings
from storeletd.simulation import Downtime, Happening, simulate

BEGIN = datetime(2027, 3, 20, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def make_job(**declared: object) -> Job:
    values = {"schedule": "30 2 * * *", "timezone": "Europe/Berlin", **declared}
    model = Settings.model_validate(values)
    return Job(name="web", path="/web.py", language="python", settings=model, source="", lines={})


def happen(
    job: Job, *, days: int = 3, takes: str = "0:10", down: str | None = None
) -> list[Happening]:
    hours, minutes = map(int, takes.split(":"))
    found = simulate(
        job,
        begin=BEGIN,
        end=BEGIN + timedelta(days=days),
        takes=timedelta(hours=hours, minutes=minutes),
        down=down and read_downtime(down),
        host="here",
    )
    return list(found)


def read_downtime(text: str) -> Downtime:
    begin, end = map(time.fromisoformat, text.split("-"))
    return Downtime(begin=begin, end=end, timezone=BERLIN)


def brief(happenings: list[Happening]) -> list[tuple[str, str]]:
    return [(f"{each.at.astimezone(BERLIN):%d %H:%M}", each.kind) for each in happenings]


def test_a_job_runs_when_it_is_due_also_where_the_clock_skips_that_hour() -> None:
    found = happen(make_job(), days=9)
    assert brief(found)[6:] == [("26 02:30", "run"), ("27 02:30", "run"), ("28 03:00", "run")]


def test_what_is_due_in_a_downtime_is_caught_up_when_it_ends() -> None:
    found = happen(make_job(), down="23:00-07:00")
    assert brief(found) == [(f"{day} 07:00", "catch-up") for day in (20, 21, 22)]
    assert [each.due.count for each in found if each.due] == [1, 1, 1]


def test_or_missed_where_the_job_says_so() -> None:
    found = happen(make_job(catch_up=False), down="23:00-07:00")
    assert brief(found) == [(f"{day} 07:00", "missed") for day in (20, 21, 22)]
    found = happen(make_job(catch_up={"max_late": "4h"}), down="23:00-07:00")
    assert [each.kind for each in found] == ["missed"] * 3


def test_a_catch_up_comes_after_the_jobs_random_delay() -> None:
    job = make_job(randomized_delay="1h")
    (on_time,) = happen(job, days=1)
    (late,) = happen(job, days=1, down="02:00-07:00")
    delay = on_time.at - datetime(2027, 3, 20, 1, 30, tzinfo=UTC)
    assert timedelta(0) < delay < timedelta(hours=1)
    assert (late.kind, late.at) == ("catch-up", datetime(2027, 3, 20, 6, tzinfo=UTC) + delay)


@pytest.mark.parametrize(
    ("overlap", "kinds"), [("skip", ["run", "skipped"]), ("queue", ["run", "run"])]
)
def test_runs_that_take_too_long_collide(overlap: str, kinds: list[str]) -> None:
    job = make_job(schedule="0 */6 * * *", overlap=overlap)
    assert [each.kind for each in happen(job, days=1, takes="7:00")][:2] == kinds


def test_a_downtime_cuts_a_run_short_which_is_then_repeated() -> None:
    found = happen(make_job(), days=1, takes="4:00", down="05:00-07:00")
    assert brief(found) == [
        ("20 02:30", "run"),
        ("20 05:00", "cut short"),
        ("20 07:00", "catch-up"),
    ]
    assert found[2].due is None


@settings(max_examples=50)
@given(
    schedule=st.sampled_from(["30 2 * * *", "@hourly", "every 7h", "*/20 * * * *"]),
    catch_up=st.booleans() | st.just({"max_late": "3h"}),
    overlap=st.sampled_from(["skip", "queue"]),
    takes=st.sampled_from(["0:01", "0:45", "9:00"]),
    down=st.none() | st.sampled_from(["23:00-07:00", "02:29-02:31", "00:00-23:00", "12:00-12:05"]),
)
def test_every_due_time_happens_once(
    schedule: str, catch_up: object, overlap: str, takes: str, down: str | None
) -> None:
    job = make_job(schedule=schedule, catch_up=catch_up, overlap=overlap)
    found = happen(job, days=10, takes=takes, down=down)
    decided = [each.due for each in found if each.due is not None]
    expected = due_between(job.settings.schedule, BERLIN, BEGIN, decided[-1].last)
    assert expected is not None
    assert sum(due.count for due in decided) == expected.count
    assert BEGIN + timedelta(days=8) < decided[-1].last
    assert [each.at for each in found] == sorted(each.at for each in found)
