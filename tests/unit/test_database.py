"""The database: what is damaged is kept aside, and everything goes on in a new one."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storeletd.database import Database, HistoryError, HistoryUnusableError
from storeletd.history import History
from storeletd.jobstate import JobState, JobStates
from storeletd.records import EXIT_CODES, Run

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
STATE = JobState(name="web", schedule="@hourly in UTC", decided_until=NOON, known_since=NOON)
PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def fill(history: History, runs: int = 300) -> Run:
    """Write so many runs that the tables have pages in the middle; return the last."""
    for _ in range(runs):
        run = history.begin(job="web", cause="manual", due=None, now=NOON)
        run = Run(
            **{name: getattr(run, name) for name in ("id", "job", "cause", "queued_at")},
            state="finished",
            outcome="failed",
            exit_code=EXIT_CODES["failed"],
            finished_at=NOON,
            message="no way " * 50,
        )
        history.finish(run, output=["line"])
    return run


def find_aside(path: Path) -> Path:
    (aside,) = (
        each for each in path.parent.glob(f"{path.name}.damaged-*") if each.name[-4:-1] != "-sh"
    )
    return aside


def assert_said(caplog: pytest.LogCaptureFixture, path: Path) -> None:
    (record,) = (each for each in caplog.records if each.name == "storeletd.database")
    assert record.levelno == logging.ERROR
    for text in (str(path), "is damaged", str(find_aside(path)), "a new one begun"):
        assert text in record.getMessage()


@pytest.mark.parametrize("garbage", [b"Dear diary, " * 1000, b"x" * 1000, bytes(range(256)) * 80])
def test_what_is_no_database_is_kept_aside(
    path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(garbage)
    path.chmod(0o640)
    with closing(Database(path)) as database:
        history = History(database)
        run = history.begin(job="web", cause="manual", due=None, now=NOON)
        assert history.runs() == (run,)
    assert find_aside(path).read_bytes() == garbage
    assert_said(caplog, path)
    with closing(Database(path)) as database:  # and it is a whole one
        assert History(database).runs() == (run,)


@pytest.mark.parametrize("pages", [1, 3, 20])
def test_a_database_cut_short_is_kept_aside(
    path: Path, pages: int, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Database(path)) as database:
        fill(History(database))
    assert path.stat().st_size > 30 * PAGE
    os.truncate(path, pages * PAGE)
    cut = path.read_bytes()
    with closing(Database(path)) as database:
        read_and_write(database)
    aside = find_aside(path)
    assert aside.read_bytes()[PAGE:] == cut[PAGE:]  # the first page has counters
    assert_said(caplog, path)


def read_and_write(database: Database) -> None:
    """Do what a daemon does; something of it meets the damage, and the next try does not."""
    for _ in range(2):
        try:
            history = History(database)
            history.close_unfinished(now=NOON)
            history.runs(limit=10_000)
            history.last_good("web")
            states = JobStates(database)
            states.put(STATE)
            history.begin(job="web", cause="manual", due=None, now=NOON)
            states.write()
        except HistoryError as error:
            assert error.hint == "it is kept aside, and a new one was begun"
    assert database.renewals == 1
    assert JobStates(database).get("web") == STATE
    assert history.runs(job="web")


def damage(path: Path) -> bytes:
    """Overwrite all pages but the first of a database that somebody has open; return it all."""
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    content = bytearray(path.read_bytes())
    for at in range(PAGE, len(content), PAGE):
        content[at : at + 64] = b"\xa5" * 64
    with path.open("r+b") as file:
        file.write(content)
    return bytes(content)


def test_a_database_damaged_while_it_is_open_is_kept_aside_and_nothing_stops(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Database(path)) as database:
        history, states = History(database), JobStates(database)
        states.put(STATE)
        last = fill(history)
        running = history.begin(job="web", cause="manual", due=None, now=NOON)
        damaged = damage(path)
        with pytest.raises(HistoryError, match=f"cannot use history {path}") as raised:
            history.runs(limit=1000)
        assert raised.value.hint == "it is kept aside, and a new one was begun"
        assert database.renewals == 1
        assert find_aside(path).read_bytes()[PAGE:] == damaged[PAGE:]
        assert_said(caplog, path)

        assert history.runs() == ()
        states.write()
        assert JobStates(database).get("web") == STATE
        after = history.begin(job="web", cause="manual", due=None, now=NOON)
        assert after.id == running.id + 1 == last.id + 2  # no number twice, in one journal
        done = history.start(running, now=NOON)
        assert set(history.runs()) == {after, done}  # what was on is written whole
    with closing(Database(path)) as database:
        again = History(database)
        assert set(again.runs()) == {after, done}
        assert again.begin(job="web", cause="manual", due=None, now=NOON).id == after.id + 1
        assert JobStates(database).get("web") == STATE


def test_a_run_whose_row_meets_the_damage_is_not_kept_from_its_work(path: Path) -> None:
    with closing(Database(path)) as database:
        history, states = History(database), JobStates(database)
        states.put(STATE)
        fill(history)
        damage(path)
        run = history.begin(job="web", cause="manual", due=None, now=NOON)
        run = history.start(run, now=NOON)
        assert database.renewals == 1
        assert history.runs() == (run,)


def test_all_or_nothing_is_written(path: Path) -> None:
    with closing(Database(path)) as database:
        with pytest.raises(ZeroDivisionError), database.transaction() as connection:
            connection.execute("DELETE FROM job")
            connection.execute("INSERT INTO job (name, schedule, decided_until) VALUES ('a','',0)")
            raise ZeroDivisionError
        assert JobStates(database).get("a") is None
        with pytest.raises(HistoryError, match="no such table"):
            database.change("DELETE FROM nowhere")
        states = JobStates(database)
        states.put(STATE)
        states.write()  # and no transaction is left open
        assert database.change("DELETE FROM job") == 1


def test_a_damaged_database_that_cannot_be_kept_aside_is_refused_and_left_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / ("h" * 240)  # with what is appended to it the name would be too long
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(HistoryUnusableError, match=r"cannot open history .*: File name too long"):
        Database(path)
    assert path.read_bytes().startswith(b"Dear diary")
