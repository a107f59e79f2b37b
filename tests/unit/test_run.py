"""A run as its followers see it, and as history keeps it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storeletd.database import Database
from storeletd.events import Ended
from storeletd.history import History
from storeletd.jobs import Job
from storeletd.jobstate import JobStates
from storeletd.records import EXIT_CODES, Run
from storeletd.run import ActiveRun, Message
from storeletd.settings import Settings

NOON = datetime(2026, 11, 24, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with closing(Database(tmp_path / "history.sqlite")) as database:
        yield History(database)


def end(history: History, ended: Ended, **begun: Any) -> ActiveRun:
    """Begin a run, end it so, and return it; no worker is started."""
    settings = Settings.model_validate({"schedule": "manual", "retries": 2, "retry_wait": "1m"})
    job = Job(name="web", path="/web.py", language="python", settings=settings, source="", lines={})

    async def act() -> ActiveRun:
        row = history.begin(job="web", due=None, now=NOON, **{"cause": "schedule", **begun})
        run = ActiveRun(job, row, history, JobStates(history._database))
        run.finish(ended)
        return run

    return asyncio.run(act())


def test_who_follows_a_run_in_the_moment_of_its_end_is_told(history: History) -> None:
    """It has been told already, and is still among those that are on: nothing more would come."""
    run = end(history, Ended(outcome="skipped"))

    async def follow() -> list[Message]:
        return [message async for message in run.follow()]

    (message,) = asyncio.run(asyncio.wait_for(follow(), 30))
    assert (message.kind, message.data) == ("finished", run.run)


@pytest.mark.parametrize("outcome", EXIT_CODES)
def test_an_outcome_has_its_exit_code(history: History, outcome: str) -> None:
    run = end(history, Ended(outcome=outcome, message="why", hint="do")).run
    assert (run.exit_code, run.message, run.hint) == (EXIT_CODES[outcome], "why", "do")
    assert history.runs() == (run,)


def test_a_failure_may_have_an_exit_code_of_its_own(history: History) -> None:
    run = end(history, Ended(outcome="failed", exit_code=10)).run
    assert run.exit_code == 10
    assert history.runs() == (run,)


@pytest.mark.parametrize(
    ("outcome", "is_temporary", "begun", "wait"),
    [
        ("failed", True, {}, MINUTE),
        ("timeout", True, {}, MINUTE),
        ("failed", True, {"cause": "retry", "repeats": 1, "attempt": 2}, 2 * MINUTE),
        ("failed", True, {"cause": "catch-up", "repeats": 1, "attempt": 2}, 2 * MINUTE),
        ("failed", True, {"cause": "retry", "repeats": 1, "attempt": 3}, None),  # 2 retries
        ("failed", False, {}, None),
        ("failed", True, {"cause": "manual"}, None),
        ("cancelled", False, {}, None),  # by somebody
        ("cancelled", True, {}, timedelta(0)),  # by the end of the daemon
        ("cancelled", True, {"cause": "catch-up"}, timedelta(0)),
        ("cancelled", True, {"cause": "retry", "repeats": 1, "attempt": 3}, timedelta(0)),
        ("cancelled", True, {"cause": "catch-up", "repeats": 1}, None),  # once is enough
        ("cancelled", True, {"cause": "manual"}, None),
    ],
)
def test_what_may_pass_by_itself_is_repeated(
    history: History,
    outcome: str,
    is_temporary: bool,
    begun: dict[str, Any],
    wait: timedelta | None,
) -> None:
    run = end(history, Ended(outcome=outcome, is_temporary=is_temporary), **begun).run
    assert run.finished_at is not None
    assert run.retry_at == (None if wait is None else run.finished_at + wait)
    assert history.runs() == (run,)


def test_an_outcome_that_cannot_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("storeletd.database._BUSY_SECONDS", 0.05)
    path = tmp_path / "history.sqlite"
    with (
        closing(Database(path)) as database,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        history = History(database)
        other.execute("BEGIN EXCLUSIVE")
        active = end(history, Ended(outcome="failed", message="no way"))
        run: Run = active.run
        assert not active.is_recorded
        assert f"The outcome of run {run.id} is not in history yet" in caplog.text
        assert f"Run {run.id} of web: failed: no way" in caplog.text
        other.execute("ROLLBACK")
        assert history.runs() == ()
        assert active.record()
        assert active.is_recorded
        assert history.runs() == (run,)
