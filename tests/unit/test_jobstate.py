"""Job states: what is remembered of a job stays, also where it cannot be written just then."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from storeletd.database import Database
from storeletd.jobstate import JobState, JobStates
from storeletd.schedule import parse_schedule

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
STATE = JobState(
    name="web",
    schedule="30 2 * * *; every 6h in Europe/Berlin",
    decided_until=NOON,
    known_since=NOON - HOUR,
    paused_until=NOON + HOUR,
    overdue_since=NOON - HOUR,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "history.sqlite")) as database:
        yield database


def read(database: Database, name: str = "web") -> JobState | None:
    """Return what the next daemon will find."""
    return JobStates(database).get(name)


def test_a_state_outlives_the_daemon(database: Database) -> None:
    states = JobStates(database)
    assert states.get("web") is None
    for state in (STATE, replace(STATE, paused_until=None, overdue_since=None)):
        states.put(state)
        states.write()
        assert states.get("web") == state == read(database)
    states.put(replace(STATE, name="\udcff"))  # of a file name that is no UTF-8
    states.write()
    assert states.get("\udcff") is not None


def test_the_schedule_of_a_state_can_be_reckoned_with() -> None:
    schedule = parse_schedule(["30 2 * * *", "every 6h"])
    assert STATE.times() == (schedule, ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize(
    "text", ["", "every 6h", "never in UTC", "every 6h in Mars/Base", "every 6h in ../UTC", " in "]
)
def test_a_schedule_that_this_storelet_does_not_know_is_none(text: str) -> None:
    assert replace(STATE, schedule=text).times() is None


def test_due_times_are_decided_once_and_for_all(database: Database) -> None:
    states = JobStates(database)
    states.put(STATE)
    for until in (NOON + HOUR, NOON):
        states.advance("web", until)
        assert states.get("web") == replace(STATE, decided_until=NOON + HOUR)


def test_of_a_job_that_is_gone_only_its_pause_is_remembered(database: Database) -> None:
    states = JobStates(database)
    states.put(STATE)
    states.forget("web")
    states.forget("other")
    states.write()
    forgotten = replace(STATE, schedule="", overdue_since=None)
    assert states.get("web") == read(database) == forgotten
    assert states.get("other") is None


def test_what_cannot_be_written_is_written_later(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("storeletd.database._BUSY_SECONDS", 0.05)
    with (
        closing(Database(database.path)) as ours,
        closing(sqlite3.connect(database.path, isolation_level=None)) as other,
    ):
        states = JobStates(ours)
        other.execute("BEGIN EXCLUSIVE")
        states.put(STATE)
        states.put(replace(STATE, name="other"))
        states.write()
        assert states.get("web") == STATE
        assert "The states of 2 jobs (other, web) are not written yet: cannot" in caplog.text
        other.execute("ROLLBACK")
        assert read(database) is None
        states.write()
        assert read(database) == STATE
        assert read(database, "other") == replace(STATE, name="other")
