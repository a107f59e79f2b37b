"""Overdue jobs: it is said when it begins and when it is over, and never twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storeletd.database import Database
from storeletd.history import History
from storeletd.jobs import Job
from storeletd.jobstate import JobState, JobStates
from storeletd.overdue import OverdueWatch
from storeletd.planner import FOREVER
from storeletd.records import EXIT_CODES
from storeletd.settings import Settings

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def make_job(max_age: str | None, name: str = "web") -> Job:
    settings = Settings.model_validate({"schedule": "manual", "timezone": "UTC"})
    if max_age is not None:
        settings = Settings.model_validate({"schedule": "manual", "max_age": max_age})
    return Job(name=name, path="/web", language="python", settings=settings, source="", lines={})


class Watching:
    """A daemon's watch over one job, and what it has said."""

    def __init__(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.path = path
        self.caplog = caplog
        caplog.set_level(logging.INFO)
        self.job = make_job("26h")
        self.open()
        state = JobState(name="web", schedule="manual", decided_until=NOON, known_since=NOON)
        self.states.put(state)

    def open(self) -> None:
        self.database = Database(self.path)
        self.history, self.states = History(self.database), JobStates(self.database)
        self.watch = OverdueWatch(self.states, self.history)

    def restart(self) -> None:
        self.database.close()
        self.open()

    def look(self, hours: float) -> list[str]:
        """Look so many hours after noon; return what is said."""
        self.caplog.clear()
        self.watch.look([self.job], NOON + hours * HOUR)
        self.states.write()
        return [record.getMessage() for record in self.caplog.records]

    def run(self, outcome: str, hours: float) -> None:
        run = self.history.begin(job="web", cause="manual", due=None, now=NOON)
        at = NOON + hours * HOUR
        code = EXIT_CODES[outcome]
        run = replace(run, state="finished", outcome=outcome, exit_code=code, finished_at=at)
        self.history.finish(run)
        self.watch.touch("web")

    def change(self, **values: datetime | None) -> None:
        state = self.states.get("web")
        assert state is not None
        self.states.put(replace(state, **values))  # type: ignore[arg-type]

    @property
    def overdue_since(self) -> datetime | None:
        state = self.states.get("web")
        return state and state.overdue_since


NEVER = "Job web is overdue: it has never saved an archive"
OVER = "Job web is not overdue any more"


@pytest.fixture
def watching(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Watching]:
    watching = Watching(tmp_path / "history.sqlite", caplog)
    yield watching
    watching.database.close()


def test_it_is_said_once_when_it_begins_and_once_when_it_is_over(watching: Watching) -> None:
    assert watching.look(26) == []
    assert watching.look(27) == [NEVER]
    assert watching.caplog.records[0].levelno == logging.ERROR
    assert watching.overdue_since == NOON + 27 * HOUR
    for hours in (27, 50, 1000):
        assert watching.look(hours) == []
    watching.run("success", 1000)
    assert watching.look(1000) == [OVER]
    assert watching.overdue_since is None
    assert watching.look(1026) == []
    (said,) = watching.look(1027)
    at = (NOON + 1000 * HOUR).astimezone()
    assert said == f"Job web is overdue: the last good archive is of {at:%Y-%m-%d %H:%M}"


def test_a_restart_says_nothing_again(watching: Watching) -> None:
    watching.look(27)
    watching.restart()
    assert watching.look(28) == []
    watching.run("success", 29)
    watching.restart()
    assert watching.look(30) == [OVER]
    watching.restart()
    assert watching.look(31) == []


def test_only_an_archive_that_is_everywhere_it_should_be_counts(watching: Watching) -> None:
    for outcome in ("failed", "timeout", "cancelled", "lost", "skipped", "missed"):
        watching.run(outcome, 26)
    assert watching.look(27) == [NEVER]
    watching.run("partial", 27)
    assert watching.look(27) == [OVER]


def test_history_is_asked_again_only_when_a_run_has_ended(watching: Watching) -> None:
    """A look at a thousand jobs, each half minute, is to cost nothing."""
    watching.look(1)
    asked: list[str] = []
    watching.database._connection.set_trace_callback(asked.append)
    assert watching.look(2) == []
    assert asked == []
    watching.run("success", 2)
    asked.clear()
    watching.look(3)
    assert len(asked) == 1


def test_a_job_in_a_pause_is_not_overdue_until_the_pause_ends(watching: Watching) -> None:
    watching.change(paused_until=FOREVER)
    assert watching.look(1000) == []
    watching.change(paused_until=NOON + 1000 * HOUR)
    assert watching.look(1000) == [NEVER]


def test_a_job_without_max_age_is_never_overdue(watching: Watching) -> None:
    watching.job = make_job(None)
    assert watching.look(10_000) == []
    watching.job = make_job("26h")
    assert watching.look(10_000) == [NEVER]
    watching.job = make_job(None)  # as whoever edits its file may decide
    assert watching.look(10_000) == [OVER]
    assert watching.look(10_000) == []


def test_a_job_of_which_nothing_is_known_yet_is_passed_over(watching: Watching) -> None:
    watching.job = make_job("26h", name="other")
    assert watching.look(10_000) == []
