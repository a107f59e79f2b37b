"""Verifications: when they are due, and that they come in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storeletd.database import Database
from storeletd.events import SavedArchive
from storeletd.history import History
from storeletd.jobs import Job
from storeletd.jobstate import JobState, JobStates
from storeletd.planner import FOREVER
from storeletd.records import EXIT_CODES, Kind, Run
from storeletd.settings import Settings
from storeletd.verification import VerificationWatch

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ARCHIVE = SavedArchive(url="file:///a.zip", bytes=1, bytes_reused=0, bytes_sent=1, requests=0)


def make_job(more: dict[str, object]) -> Job:
    settings = Settings.model_validate({"schedule": "manual", **more})
    return Job(name="web", path="/web", language="yaml", settings=settings, source="", lines={})


class Watching:
    """A daemon's watch over one job, and its history."""

    def __init__(self, database: Database) -> None:
        self.job = make_job({"verify": {"every": "1w"}})
        self.history, self.states = History(database), JobStates(database)
        self.watch = VerificationWatch(self.states, self.history)
        state = JobState(name="web", schedule="manual", decided_until=NOON, known_since=NOON)
        self.states.put(state)

    def run(
        self, day: float, outcome: str = "success", kind: Kind = "backup", **more: object
    ) -> Run:
        """Have a run begin and end on that day."""
        at = NOON + day * DAY
        run = self.history.begin(job="web", kind=kind, cause="schedule", due=None, now=at)
        run = self.history.start(run, now=at)
        archives = (ARCHIVE,) if kind == "backup" and outcome == "success" else ()
        run = replace(
            run,
            state="finished",
            outcome=outcome,
            exit_code=EXIT_CODES[outcome],
            finished_at=at + timedelta(minutes=1),
            archives=archives,
            **more,  # type: ignore[arg-type] # fields of a run
        )
        self.history.finish(run)
        self.watch.touch("web")
        return run

    def is_due(self, day: float) -> bool:
        return bool(self.watch.find_due([self.job], NOON + day * DAY))


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Watching]:
    with closing(Database(tmp_path / "history.sqlite")) as database:
        yield Watching(database)


def test_the_first_comes_with_the_first_archive(watching: Watching) -> None:
    assert not watching.is_due(100)
    watching.run(0, "failed")
    assert not watching.is_due(100)
    watching.run(1)
    assert not watching.is_due(1)
    assert watching.is_due(1.01)


def test_each_further_one_comes_so_long_after_the_one_before(watching: Watching) -> None:
    watching.run(0)
    watching.run(0.5, kind="verify")
    watching.run(1)
    assert not watching.is_due(7.4)
    assert watching.watch.next_look(NOON + 3 * DAY) == NOON + 7.5 * DAY
    assert watching.is_due(7.5)
    assert watching.watch.next_look(NOON + 8 * DAY) is None


def test_what_became_due_while_nothing_ran_is_due_once(watching: Watching) -> None:
    watching.run(0)
    watching.run(0, kind="verify")
    assert watching.is_due(40)
    watching.run(40, kind="verify")
    assert not watching.is_due(41)


def test_one_that_failed_is_repeated_with_the_next_archive(watching: Watching) -> None:
    watching.run(0)
    watching.run(0.5, "failed", kind="verify")
    assert not watching.is_due(6)
    watching.run(6, "failed")
    assert not watching.is_due(6.5)
    watching.run(6.6)
    assert watching.is_due(6.7)


def test_one_that_could_not_be_done_is_repeated(watching: Watching) -> None:
    watching.run(0)
    first = watching.run(1, "failed", kind="verify", retry_at=NOON + 1.1 * DAY)
    assert not watching.is_due(1.05)
    ((_, owed),) = watching.watch.find_due([watching.job], NOON + 1.2 * DAY)
    assert owed is not None
    assert (owed.run_id, owed.attempt, owed.cause) == (first.id, 2, "retry")


def test_a_retry_of_a_backup_is_none_of_a_verification(watching: Watching) -> None:
    watching.run(0)
    watching.run(0.1, kind="verify")
    watching.run(1, "failed", retry_at=NOON + 1.1 * DAY)
    assert not watching.is_due(1.2)


def test_nothing_is_due_in_a_pause(watching: Watching) -> None:
    watching.run(0)
    state = watching.states.get("web")
    assert state is not None
    watching.states.put(replace(state, paused_until=FOREVER))
    assert not watching.is_due(1)
    watching.states.put(replace(state, paused_until=NOON + 2 * DAY))
    assert watching.is_due(3)


def test_a_job_that_says_nothing_of_it_is_never_due(watching: Watching) -> None:
    watching.run(0)
    assert watching.is_due(1)
    watching.job = make_job({})
    assert not watching.is_due(1)
    assert watching.watch.next_look(NOON) is None


@pytest.mark.parametrize(("every", "is_due"), [("1d", True), ("4w", False)])
def test_a_setting_that_changes_counts_at_once(
    watching: Watching, every: str, is_due: bool
) -> None:
    watching.run(0)
    watching.run(0, kind="verify")
    assert watching.is_due(2) is False
    watching.job = make_job({"verify": {"every": every}})
    assert watching.is_due(2 if is_due else 8) is is_due


def test_a_clock_that_once_showed_2036_silences_nothing(watching: Watching) -> None:
    watching.run(0)
    watching.run(3650, kind="verify")
    assert watching.is_due(1)
