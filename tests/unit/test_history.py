"""History: no run is lost, each due time is counted once, a closed row stays as it is."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storelet import StoreletError
from storeletd.events import OpenedUpload, SavedArchive, SkippedEntry
from storeletd.history import EXIT_CODES, KEPT_SKIPPED, History, HistoryError, Run
from storeletd.schedule import Due
from storeletd.schema import MIGRATIONS
from tests.helpers import CLONE

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DUE = Due(first=NOON - 2 * HOUR, last=NOON, count=3)
ARCHIVES = (
    SavedArchive(
        url="s3://bucket/web_20260328120000.zip",
        bytes=10**12,
        bytes_reused=9 * 10**11,
        bytes_sent=10**11 + 7,
        requests=1234,
    ),
    SavedArchive(
        url="file:///srv/gr%C3%B6%C3%9Fe.zip", bytes=0, bytes_reused=0, bytes_sent=0, requests=0
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    history = History.open(path)
    yield history
    history.close()


def begin(history: History, job: str = "web", due: Due | None = None) -> Run:
    return history.begin(job=job, cause="schedule" if due else "manual", due=due, now=NOON)


def finish(history: History, job: str = "web", outcome: str = "success", saved: int = 0) -> Run:
    run = begin(history, job)
    archives = ARCHIVES[:saved]
    return history.finish(run.id, outcome=outcome, now=NOON + HOUR, archives=archives)


# One run's row


def test_a_run_goes_from_queued_to_running_to_its_outcome(history: History) -> None:
    run = begin(history, due=DUE)
    assert run == Run(
        id=1,
        job="web",
        kind="backup",
        cause="schedule",
        state="queued",
        outcome=None,
        exit_code=None,
        due=DUE,
        queued_at=NOON,
        begun_at=None,
        finished_at=None,
        message=None,
        hint=None,
        files=0,
        bytes_read=0,
        reused=0,
        skipped=0,
        notes=(),
        archives=(),
        collided_with=None,
    )
    running = replace(run, state="running", begun_at=NOON + HOUR)
    assert history.start(run.id, now=NOON + HOUR) == history.run(run.id) == running
    finished = replace(
        running,
        state="finished",
        outcome="partial",
        exit_code=3,
        finished_at=NOON + 2 * HOUR,
        message="1 entry is not in the archive",
        hint="look at it",
        files=7,
        bytes_read=2**40,
        reused=66_000,
        skipped=1,
        notes=("not reused from bucket b: it is elsewhere",),
        archives=ARCHIVES,
    )
    assert finished == history.finish(
        run.id,
        outcome="partial",
        now=NOON + 2 * HOUR,
        message="1 entry is not in the archive",
        hint="look at it",
        files=7,
        bytes_read=2**40,
        reused=66_000,
        skipped=1,
        notes=("not reused from bucket b: it is elsewhere",),
        archives=ARCHIVES,
        output=["first", "last"],
    )
    assert history.run(run.id) == finished
    assert history.output(run.id) == ("first", "last")


@pytest.mark.parametrize("outcome", EXIT_CODES)
def test_an_outcome_has_its_exit_code(history: History, outcome: str) -> None:
    assert finish(history, outcome=outcome).exit_code == EXIT_CODES[outcome]


def test_a_failure_may_have_an_exit_code_of_its_own(history: History) -> None:
    run = begin(history)
    assert history.finish(run.id, outcome="failed", now=NOON, exit_code=10).exit_code == 10


def test_a_row_is_closed_once(history: History) -> None:
    run = finish(history, outcome="cancelled")
    with pytest.raises(HistoryError, match=f"run {run.id} is finished"):
        history.finish(run.id, outcome="success", now=NOON)
    with pytest.raises(HistoryError, match=f"run {run.id} is finished"):
        history.start(run.id, now=NOON)
    assert history.run(run.id) == run


def test_a_run_that_nobody_began_is_an_error(history: History) -> None:
    with pytest.raises(HistoryError, match="run 99"):
        history.start(99, now=NOON)
    with pytest.raises(HistoryError, match="run 99"):
        history.finish(99, outcome="success", now=NOON)
    with pytest.raises(HistoryError):
        history.add_skipped(99, [SkippedEntry(path="/a", reason="b")])
    assert history.run(99) is None
    assert history.output(99) == ()
    assert history.skipped_entries(99) == ()


def test_times_come_back_as_the_moments_they_were(history: History) -> None:
    """An hour that the local clock shows twice, and the last microsecond, stay apart."""
    zone = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, 0, 1, tzinfo=zone)
    again = first.replace(fold=1)
    run = begin(history, due=Due(first=first, last=again, count=2))
    assert run.due is not None
    assert run.due.last - run.due.first == HOUR
    assert run.due.first == first.astimezone(UTC)


def test_a_time_without_a_zone_is_refused(history: History) -> None:
    with pytest.raises(TypeError):
        history.begin(job="web", cause="manual", due=None, now=NOON.replace(tzinfo=None))
    assert history.runs() == ()


@given(st.lists(st.text(max_size=20), max_size=5))
@settings(deadline=None, max_examples=50)
def test_output_comes_back_line_for_line(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        history = History.open(Path(directory, "history.sqlite"))
        run = begin(history)
        history.finish(run.id, outcome="failed", now=NOON, output=lines)
        assert history.output(run.id) == tuple(lines)
        history.close()


def test_a_name_that_is_no_unicode_is_kept_readable(history: History) -> None:
    name = os.fsdecode(b"/srv/\xff\n")
    run = begin(history)
    history.add_skipped(run.id, [SkippedEntry(path=name, reason=f"no {name}")])
    archives = [replace(ARCHIVES[0], url=name)]
    run = history.finish(
        run.id,
        outcome="failed",
        now=NOON,
        message=name,
        hint=name,
        output=[name],
        notes=[name],
        archives=archives,
    )
    kept = "/srv/\\udcff\n"
    assert (run.message, run.hint, *run.notes, run.archives[0].url) == (kept, kept, kept, kept)
    assert history.output(run.id) == (kept,)
    assert history.skipped_entries(run.id) == (SkippedEntry(path=kept, reason=f"no {kept}"),)


# Skipped entries


def test_skipped_entries_come_back_in_order(history: History) -> None:
    entries = [SkippedEntry(path=f"/{n}", reason="gone") for n in (3, 1, 2)]
    one, other = begin(history), begin(history)
    history.add_skipped(one.id, entries[:2])
    history.add_skipped(other.id, [])
    history.add_skipped(one.id, entries[2:])
    assert history.skipped_entries(one.id) == tuple(entries)
    assert history.skipped_entries(other.id) == ()


@pytest.mark.parametrize("batch", [1, 300, KEPT_SKIPPED, 5 * KEPT_SKIPPED])
def test_only_the_first_thousand_skipped_entries_are_kept(history: History, batch: int) -> None:
    run = begin(history)
    entries = [SkippedEntry(path=f"/{n}", reason="gone") for n in range(KEPT_SKIPPED + 1)]
    for start in range(0, len(entries), batch):
        history.add_skipped(run.id, entries[start : start + batch])
    assert history.skipped_entries(run.id) == tuple(entries[:KEPT_SKIPPED])


# Uploads


def test_an_upload_is_left_when_its_run_is_over_and_it_is_not(history: History) -> None:
    run = begin(history)
    history.open_upload(run.id, upload("ended"))
    history.open_upload(run.id, upload("open"))
    history.end_upload("web", "ended")
    assert history.left_uploads("web") == ()  # they are the run's own matter as long as it is on
    history.start(run.id, now=NOON)
    assert history.left_uploads("web") == ()
    history.close_unfinished(now=NOON)
    assert history.left_uploads("web") == (upload("open"),)
    assert history.left_uploads("other") == ()


def test_uploads_are_left_in_order_until_they_are_ended(history: History) -> None:
    for number in (3, 1, 2):
        run = begin(history)
        history.open_upload(run.id, upload(str(number)))
        history.finish(run.id, outcome="failed", now=NOON)
    assert history.left_uploads("web") == (upload("3"), upload("1"), upload("2"))
    begin(history)
    history.end_upload("web", "1")
    assert history.left_uploads("web") == (upload("3"), upload("2"))


def test_an_upload_of_another_job_is_never_ended(history: History) -> None:
    """Two stores may have given the same id."""
    for job in ("web", "other"):
        run = begin(history, job)
        history.open_upload(run.id, upload("same"))
        history.finish(run.id, outcome="failed", now=NOON)
    history.end_upload("web", "same")
    history.end_upload("web", "never heard of")
    assert history.left_uploads("web") == ()
    assert history.left_uploads("other") == (upload("same"),)


def test_an_upload_of_no_run_is_refused(history: History) -> None:
    with pytest.raises(HistoryError):
        history.open_upload(99, upload("nobody's"))


def test_an_upload_outlives_the_job_and_the_daemon(history: History, path: Path) -> None:
    run = begin(history)
    history.open_upload(run.id, upload("open"))
    history.forget("web")
    history.close()
    again = History.open(path)
    again.close_unfinished(now=NOON)
    assert again.left_uploads("web") == (upload("open"),)
    again.close()


def upload(upload_id: str) -> OpenedUpload:
    return OpenedUpload(bucket="bucket", key="web/web_20260328120000.zip", upload_id=upload_id)


# Due times


def test_a_job_seen_first_is_decided_until_now(history: History) -> None:
    assert history.decided_until("web", "every 6h", now=NOON) == NOON
    assert history.decided_until("web", "every 6h", now=NOON + HOUR) == NOON


def test_another_schedule_is_decided_until_now(history: History) -> None:
    history.decided_until("web", "every 6h", now=NOON)
    history.decided_until("other", "every 6h", now=NOON)
    assert history.decided_until("web", "every 7h", now=NOON + HOUR) == NOON + HOUR
    assert history.decided_until("web", "every 7h", now=NOON + 2 * HOUR) == NOON + HOUR
    assert history.decided_until("other", "every 6h", now=NOON + HOUR) == NOON


def test_a_run_decides_its_due_times(history: History) -> None:
    history.decided_until("web", "@hourly", now=NOON - 3 * HOUR)
    history.decided_until("other", "@hourly", now=NOON - 3 * HOUR)
    begin(history, due=DUE)
    assert history.decided_until("web", "@hourly", now=NOON + HOUR) == DUE.last
    assert history.decided_until("other", "@hourly", now=NOON + HOUR) == NOON - 3 * HOUR


def test_a_manual_run_decides_nothing(history: History) -> None:
    history.decided_until("web", "@hourly", now=NOON - 3 * HOUR)
    begin(history)
    assert history.decided_until("web", "@hourly", now=NOON) == NOON - 3 * HOUR


def test_due_times_without_a_run_are_decided_and_recorded(history: History) -> None:
    history.decided_until("web", "@hourly", now=NOON - 3 * HOUR)
    running = begin(history)
    run = history.record(
        job="web",
        outcome="skipped",
        cause="schedule",
        due=DUE,
        now=NOON + HOUR,
        message="run 1 was still on",
        collided_with=running.id,
    )
    assert (run.state, run.outcome, run.exit_code) == ("finished", "skipped", 75)
    assert (run.begun_at, run.queued_at, run.finished_at) == (None, NOON + HOUR, NOON + HOUR)
    assert (run.due, run.collided_with) == (DUE, running.id)
    assert run.message == "run 1 was still on"
    assert history.decided_until("web", "@hourly", now=NOON + HOUR) == DUE.last


def test_what_is_decided_stays_decided(history: History) -> None:
    history.decided_until("web", "@hourly", now=NOON)
    begin(history, due=Due(first=NOON - 2 * HOUR, last=NOON - HOUR, count=2))
    assert history.decided_until("web", "@hourly", now=NOON + HOUR) == NOON


def test_a_clock_that_was_ahead_can_be_put_right(history: History) -> None:
    history.decided_until("web", "@hourly", now=NOON + 1000 * HOUR)
    history.set_decided_until("web", NOON)
    assert history.decided_until("web", "@hourly", now=NOON + HOUR) == NOON


def test_a_run_that_cannot_be_written_decides_nothing(history: History, path: Path) -> None:
    history.decided_until("web", "@hourly", now=NOON - 3 * HOUR)
    with sqlite3.connect(path) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON job BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    other.close()
    with pytest.raises(HistoryError, match=f"{path}.*full") as raised:
        begin(history, due=DUE)
    assert raised.value.exit_code == 1
    assert history.runs() == ()
    assert history.decided_until("web", "@hourly", now=NOON) == NOON - 3 * HOUR


# Looking back


def test_runs_come_newest_first(history: History) -> None:
    for job in ("a", "b", "a", "a"):
        begin(history, job)
    assert [run.id for run in history.runs()] == [4, 3, 2, 1]
    assert [run.id for run in history.runs(job="a")] == [4, 3, 1]
    assert [run.id for run in history.runs(job="a", limit=2)] == [4, 3]
    assert [run.id for run in history.runs(limit=1)] == [4]
    assert history.runs(job="nobody") == ()


def test_the_last_run_of_each_kind_is_found(history: History) -> None:
    for last in (history.last_run, history.last_finished, history.last_success, history.last_saved):
        assert last("web") is None
    success = finish(history, saved=2)
    partial = finish(history, outcome="partial", saved=1)
    failed = finish(history, outcome="failed")
    queued = begin(history)
    finish(history, "other")
    assert history.last_run("web") == queued
    assert history.last_finished("web") == failed
    assert history.last_saved("web") == partial
    assert history.last_success("web") == success


# When the daemon dies


def test_a_run_outlives_a_killed_daemon_and_is_lost(path: Path) -> None:
    code = """\
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from storeletd.history import History
history = History.open(Path(sys.argv[1]))
now = datetime(2026, 3, 28, 12, tzinfo=UTC)
runs = [history.begin(job="web", cause="manual", due=None, now=now) for _ in range(3)]
history.finish(runs[0].id, outcome="success", now=now)
history.start(runs[1].id, now=now)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=CLONE)
    assert killed.returncode == -signal.SIGKILL
    history = History.open(path)
    assert [run.state for run in history.runs()] == ["queued", "running", "finished"]
    lost = history.close_unfinished(now=NOON + HOUR)
    assert [(run.id, run.state, run.outcome, run.exit_code) for run in lost] == [
        (2, "finished", "lost", 1),
        (3, "finished", "lost", 1),
    ]
    assert {(run.finished_at, run.hint) for run in lost} == {
        (NOON + HOUR, "storeletctl run-now web")
    }
    assert ["died" in str(run.message) for run in lost] == [True, True]
    assert history.close_unfinished(now=NOON) == ()
    assert [run.outcome for run in history.runs()] == ["lost", "lost", "success"]
    history.close()


class Histories(RuleBasedStateMachine):
    """Runs begin, start and end; daemons die; a machine loses its power."""

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.power_cuts = 0
        self.history = History.open(Path(self.directory.name, "0"))
        self.model: dict[int, tuple[str, str | None]] = {}
        self.due_times = 0
        self.now = NOON
        self.history.decided_until("web", "@hourly", now=self.now)

    def pick(self, state: str, number: int) -> int:
        found = [run_id for run_id, (each, _) in self.model.items() if each == state]
        return found[number % len(found)]

    def has(self, state: str) -> bool:
        return any(each == state for each, _ in self.model.values())

    def make_due(self, count: int) -> Due | None:
        first = self.now + HOUR
        self.now += count * HOUR
        self.due_times += count
        return Due(first=first, last=self.now, count=count) if count else None

    @rule(count=st.integers(0, 3))
    def begin(self, count: int) -> None:
        due = self.make_due(count)
        run = self.history.begin(job="web", cause="schedule", due=due, now=self.now)
        assert run.id not in self.model
        self.model[run.id] = ("queued", None)

    @rule(count=st.integers(1, 3), outcome=st.sampled_from(["skipped", "missed"]))
    def record(self, count: int, outcome: str) -> None:
        due = self.make_due(count)
        assert due is not None
        run = self.history.record(
            job="web", outcome=outcome, cause="schedule", due=due, now=self.now, message="why"
        )
        self.model[run.id] = ("finished", outcome)

    @precondition(lambda self: self.has("queued"))
    @rule(number=st.integers(0, 10))
    def start(self, number: int) -> None:
        run_id = self.pick("queued", number)
        assert self.history.start(run_id, now=self.now).state == "running"
        self.model[run_id] = ("running", None)

    @precondition(lambda self: self.has("queued") or self.has("running"))
    @rule(number=st.integers(0, 10), outcome=st.sampled_from(sorted(EXIT_CODES)))
    def finish(self, number: int, outcome: str) -> None:
        run_id = self.pick("running" if self.has("running") else "queued", number)
        self.history.finish(run_id, outcome=outcome, now=self.now)
        self.model[run_id] = ("finished", outcome)

    @rule()
    def cut_power(self) -> None:
        """Go on with the files as they are at this moment, with nothing closed."""
        old, self.power_cuts = Path(self.directory.name, str(self.power_cuts)), self.power_cuts + 1
        new = Path(self.directory.name, str(self.power_cuts))
        for suffix in ("", "-wal"):
            shutil.copy(f"{old}{suffix}", f"{new}{suffix}")
        self.history.close()
        self.history = History.open(new)
        lost = self.history.close_unfinished(now=self.now)
        open_ = {run_id for run_id, (state, _) in self.model.items() if state != "finished"}
        assert {run.id for run in lost} == open_
        self.model |= dict.fromkeys(open_, ("finished", "lost"))
        assert all(run.outcome for run in self.history.runs(limit=1000))

    @invariant()
    def every_run_is_there(self) -> None:
        runs = self.history.runs(limit=1000)
        assert {run.id: (run.state, run.outcome) for run in runs} == self.model
        assert Counter(run.state == "finished" for run in runs) == Counter(
            run.finished_at is not None for run in runs
        )

    @invariant()
    def every_due_time_is_counted_once(self) -> None:
        runs = self.history.runs(limit=1000)
        assert sum(run.due.count for run in runs if run.due) == self.due_times
        assert self.history.decided_until("web", "@hourly", now=NOON) == self.now

    def teardown(self) -> None:
        self.history.close()
        self.directory.cleanup()


TestHistories = Histories.TestCase
TestHistories.settings = settings(deadline=None, max_examples=30, stateful_step_count=30)


# The file


def test_the_files_are_for_nobody_else(path: Path) -> None:
    path.touch()
    path.chmod(0o644)  # as a restored copy may be
    before = os.umask(0)
    try:
        history = History.open(path)
    finally:
        os.umask(before)
    begin(history)
    files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert files == {path.name + suffix: 0o600 for suffix in ("", "-wal", "-shm")}
    history.close()


def test_history_stays_over_a_restart(history: History, path: Path) -> None:
    run = finish(history, saved=2)
    history.decided_until("web", "@hourly", now=NOON)
    history.close()
    again = History.open(path)
    assert again.runs() == (run,)
    assert again.decided_until("web", "@hourly", now=NOON + HOUR) == NOON
    assert begin(again).id > run.id
    again.close()


def test_a_history_of_version_1_is_brought_up_to_date(path: Path) -> None:
    with sqlite3.connect(path) as database:
        for statement in (*MIGRATIONS[0], "PRAGMA user_version = 1"):
            database.execute(statement)
        archives = '[["s3://b/web.zip", 1000000000000], ["file:///srv/web.zip", 7]]'
        database.execute(
            "INSERT INTO run (job, kind, cause, state, outcome, exit_code, queued_at, files,"
            " archives) VALUES ('web', 'backup', 'manual', 'finished', 'success', 0, 0, 5, ?),"
            " ('web', 'backup', 'manual', 'running', NULL, NULL, 0, 0, '[]')",
            (archives,),
        )
        database.execute("INSERT INTO skipped_entry VALUES (1, '/a', 'gone')")
        database.execute("INSERT INTO job VALUES ('web', 'every 6h', 0)")
    database.close()
    history = History.open(path)
    (lost,) = history.close_unfinished(now=NOON)
    done = history.run(1)
    assert done is not None
    assert (done.files, done.reused, done.notes, lost.archives) == (5, 0, (), ())
    assert done.archives == (
        SavedArchive(
            url="s3://b/web.zip", bytes=10**12, bytes_reused=0, bytes_sent=10**12, requests=0
        ),
        SavedArchive(url="file:///srv/web.zip", bytes=7, bytes_reused=0, bytes_sent=7, requests=0),
    )
    assert history.last_saved("web") == done
    assert history.skipped_entries(1) == (SkippedEntry(path="/a", reason="gone"),)
    history.open_upload(lost.id, upload("open"))
    history.close()
    again = History.open(path)  # and it is brought there once
    assert again.run(1) == done
    assert again.left_uploads("web") == (upload("open"),)
    again.close()


def test_somebody_may_look_into_it_meanwhile(history: History, path: Path) -> None:
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM run").fetchone() == (0,)
    run = begin(history)
    assert history.run(run.id) == run
    reader.close()


def test_a_history_of_a_newer_storelet_is_refused_and_left_alone(path: Path) -> None:
    History.open(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 1000")
    database.close()
    before = path.read_bytes()
    with pytest.raises(StoreletError, match=r"newer Storelet.*1000") as raised:
        History.open(path)
    assert raised.value.exit_code == 78
    assert str(path) in raised.value.message
    assert raised.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize("what", ["no database", "a directory", "nowhere"])
def test_what_is_no_history_is_refused_with_the_reason(path: Path, what: str) -> None:
    if what == "no database":
        path.write_bytes(b"Dear diary, " * 1000)
    elif what == "a directory":
        path.mkdir()
    else:
        path = path / "history.sqlite"
    with pytest.raises(StoreletError, match=f"cannot open history {path}: .") as raised:
        History.open(path)
    assert raised.value.exit_code == 78
    assert raised.value.hint
    assert what != "no database" or path.read_bytes().startswith(b"Dear diary")
