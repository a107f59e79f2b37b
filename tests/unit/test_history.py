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
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storeletd.database import Database, HistoryError, HistoryUnusableError
from storeletd.events import OpenedUpload, SavedArchive, SkippedEntry
from storeletd.history import KEPT_DAYS, KEPT_RUNS, KEPT_SKIPPED, History
from storeletd.jobstate import JobState, JobStates
from storeletd.proofs import CIRCLE, Proof
from storeletd.records import EXIT_CODES, Run, to_number
from storeletd.schedule import Due
from storeletd.schema import MIGRATIONS
from tests.helpers import CLONE

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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
SKIPPED = SkippedEntry(path="/a", reason="gone")
LASTS = (
    History.last_finished,
    History.last_attempt,
    History.last_good,
    History.last_success,
    History.last_saved,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


@pytest.fixture
def history(database: Database) -> History:
    return History(database)


@contextmanager
def opened(path: Path) -> Iterator[History]:
    """Another daemon's history, on the same files."""
    with closing(Database(path)) as database:
        yield History(database)


def begin(history: History, job: str = "web", due: Due | None = None) -> Run:
    return history.begin(job=job, cause="schedule" if due else "manual", due=due, now=NOON)


def end(run: Run, outcome: str = "success", **more: Any) -> Run:
    """The run as it is when it has that outcome."""
    code = EXIT_CODES[outcome]
    done = replace(run, state="finished", outcome=outcome, exit_code=code, finished_at=NOON + HOUR)
    return replace(done, **more)


def finish(history: History, job: str = "web", outcome: str = "success", saved: int = 0) -> Run:
    run = end(begin(history, job), outcome, archives=ARCHIVES[:saved])
    history.finish(run)
    return run


def read_decided_until(history: History, job: str = "web") -> int:
    with closing(sqlite3.connect(history.path)) as other:
        rows = other.execute("SELECT decided_until FROM job WHERE name = ?", (job,)).fetchall()
    return int(rows[0][0])


def write_decided_until(history: History, until: datetime, job: str = "web") -> None:
    with closing(sqlite3.connect(history.path)) as other, other:
        other.execute(
            "INSERT OR REPLACE INTO job (name, schedule, decided_until) VALUES (?, '@hourly', ?)",
            (job, to_number(until)),
        )


def record(history: History, outcome: str = "skipped", collided_with: int | None = None) -> Run:
    return history.record(
        job="web",
        outcome=outcome,
        cause="schedule",
        due=DUE,
        now=NOON + HOUR,
        message="why",
        collided_with=collided_with,
    )


# One run's row


def test_a_run_goes_from_queued_to_running_to_its_outcome(history: History) -> None:
    run = history.begin(job="web", cause="retry", due=DUE, now=NOON, repeats=1, attempt=2)
    assert run == Run(
        id=1,
        job="web",
        kind="backup",
        cause="retry",
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
        repeats=1,
        attempt=2,
        retry_at=None,
    )
    assert history.run(run.id) == run
    running = replace(run, state="running", begun_at=NOON + HOUR)
    assert history.start(run, now=NOON + HOUR) == history.run(run.id) == running
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
        retry_at=NOON + 3 * HOUR,
    )
    history.finish(finished, output=["first", "last"])
    assert history.run(run.id) == finished
    assert history.output(run.id) == ("first", "last")


def test_due_times_that_start_no_run_have_the_exit_code_of_their_outcome(history: History) -> None:
    for outcome in ("skipped", "missed"):
        run = record(history, outcome=outcome)
        assert run.exit_code == EXIT_CODES[outcome] != 0
        assert history.run(run.id) == run


def test_a_row_is_closed_once(history: History) -> None:
    run = finish(history, outcome="cancelled")
    with pytest.raises(HistoryError, match=f"run {run.id} is finished"):
        history.finish(replace(run, outcome="success"), output=["more"], skipped=[SKIPPED])
    assert history.start(run, now=NOON).state == "running"  # it is said, and not written
    assert history.run(run.id) == run
    assert history.output(run.id) == ()
    assert history.skipped_entries(run.id) == ()


def test_of_a_run_that_nobody_began_there_is_nothing(history: History) -> None:
    assert history.run(99) is None
    assert history.output(99) == ()
    assert history.skipped_entries(99) == ()


def test_a_run_that_is_on_has_no_output_in_history(history: History) -> None:
    assert history.output(begin(history).id) == ()


def test_times_come_back_as_the_moments_they_were(history: History) -> None:
    """An hour that the local clock shows twice, and the last microsecond, stay apart."""
    zone = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, 0, 1, tzinfo=zone)
    again = first.replace(fold=1)
    run = history.run(begin(history, due=Due(first=first, last=again, count=2)).id)
    assert run is not None
    assert run.due is not None
    assert run.due.last - run.due.first == HOUR
    assert run.due.first == first.astimezone(UTC)


def test_a_time_without_a_zone_is_refused(history: History) -> None:
    with pytest.raises(TypeError):
        history.begin(job="web", cause="manual", due=None, now=NOON.replace(tzinfo=None))
    assert history.runs() == ()


@given(st.lists(st.text(max_size=20), max_size=5))
@settings(max_examples=50)
def test_output_comes_back_line_for_line(lines: list[str]) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        opened(Path(directory, "history.sqlite")) as history,
    ):
        run = end(begin(history), "failed")
        history.finish(run, output=lines)
        assert history.output(run.id) == tuple(lines)


def test_a_name_that_is_no_unicode_is_kept_readable(history: History) -> None:
    name = os.fsdecode(b"/srv/\xff\n")
    archives = (replace(ARCHIVES[0], url=name),)
    run = end(begin(history), "failed", message=name, hint=name, notes=(name,), archives=archives)
    history.finish(run, output=[name], skipped=[SkippedEntry(path=name, reason=f"no {name}")])
    found = history.run(run.id)
    assert found is not None
    kept = "/srv/\\udcff\n"
    assert (found.message, found.hint, *found.notes, found.archives[0].url) == (kept,) * 4
    assert history.output(run.id) == (kept,)
    assert history.skipped_entries(run.id) == (SkippedEntry(path=kept, reason=f"no {kept}"),)


# A history that cannot be written


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing that is written while somebody holds the history would take 3 seconds."""
    monkeypatch.setattr("storeletd.database._BUSY_SECONDS", 0.05)


@pytest.mark.usefixtures("short_wait")
def test_a_history_that_somebody_holds_keeps_no_run_from_its_work(
    history: History, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_decided_until(history, NOON - 3 * HOUR)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        run = begin(history, due=DUE)
        assert f"Run {run.id} of web goes on without its row: cannot use history" in caplog.text
        run = history.start(run, now=NOON)
        run = end(run, "partial", archives=ARCHIVES, skipped=1)
        with pytest.raises(HistoryError, match=f"{path}.*locked"):
            history.finish(run, output=["line"], skipped=[SKIPPED])
    assert history.runs() == ()
    assert read_decided_until(history) == to_number(NOON - 3 * HOUR)
    history.finish(run, output=["line"], skipped=[SKIPPED])
    assert history.runs() == (run,)
    assert (history.output(run.id), history.skipped_entries(run.id)) == (("line",), (SKIPPED,))
    assert read_decided_until(history) == to_number(DUE.last)
    assert begin(history).id == run.id + 1


def test_due_times_that_cannot_be_recorded_stay_to_be_decided(history: History, path: Path) -> None:
    write_decided_until(history, NOON - 3 * HOUR)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(HistoryError, match="locked"):
            record(history)
    assert read_decided_until(history) == to_number(NOON - 3 * HOUR)
    assert record(history).due == DUE
    assert read_decided_until(history) == to_number(DUE.last)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a disk small enough to fill it")
def test_a_full_disk_keeps_no_run_from_its_work(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"this machine mounts nothing: {mounted.stderr.strip()}")
    try:
        with opened(disk / "history.sqlite") as history:
            write_decided_until(history, NOON - 3 * HOUR)
            earlier = finish(history, saved=1)
            fill(disk / "filler")
            run = history.start(begin(history, due=DUE), now=NOON)
            run = end(run, archives=ARCHIVES)
            output = ["line " * 100] * 200
            with pytest.raises(HistoryError, match="full") as raised:
                history.finish(run, output=output, skipped=[SKIPPED] * 100)
            assert "disk" in str(raised.value.hint)
            assert earlier in history.runs()  # and it can be read meanwhile
            assert "finished" not in {each.state for each in history.runs() if each != earlier}
            (disk / "filler").unlink()
            history.finish(run, output=output, skipped=[SKIPPED] * 100)
            assert history.runs() == (run, earlier)
            assert history.output(run.id) == tuple(output)
            assert len(history.skipped_entries(run.id)) == 100
            assert read_decided_until(history) == to_number(DUE.last)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(path: Path) -> None:
    """Write until nothing more can be written."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 1024):
            pass


# Skipped entries


def test_skipped_entries_come_back_in_order(history: History) -> None:
    entries = [SkippedEntry(path=f"/{n}", reason="gone") for n in (3, 1, 2)]
    one, other = begin(history), begin(history)
    history.finish(end(one), skipped=entries)
    history.finish(end(other))
    assert history.skipped_entries(one.id) == tuple(entries)
    assert history.skipped_entries(other.id) == ()


def test_only_the_first_thousand_skipped_entries_are_kept(history: History) -> None:
    run = begin(history)
    entries = [SkippedEntry(path=f"/{n}", reason="gone") for n in range(KEPT_SKIPPED + 1)]
    history.finish(end(run, skipped=len(entries)), skipped=entries)
    assert history.skipped_entries(run.id) == tuple(entries[:KEPT_SKIPPED])
    found = history.run(run.id)
    assert found is not None
    assert found.skipped == KEPT_SKIPPED + 1


# Uploads


def test_an_upload_is_left_when_its_run_is_over_and_it_is_not(history: History) -> None:
    run = begin(history)
    history.open_upload(run.id, upload("ended"))
    history.open_upload(run.id, upload("open"))
    history.end_upload("web", "ended")
    assert history.left_uploads("web") == ()  # they are the run's own matter as long as it is on
    history.start(run, now=NOON)
    assert history.left_uploads("web") == ()
    history.close_unfinished(now=NOON)
    assert history.left_uploads("web") == (upload("open"),)
    assert history.left_uploads("other") == ()


def test_uploads_are_left_in_order_until_they_are_ended(history: History) -> None:
    for number in (3, 1, 2):
        run = begin(history)
        history.open_upload(run.id, upload(str(number)))
        history.finish(end(run, "failed"))
    assert history.left_uploads("web") == (upload("3"), upload("1"), upload("2"))
    begin(history)
    history.end_upload("web", "1")
    assert history.left_uploads("web") == (upload("3"), upload("2"))


def test_an_upload_of_another_job_is_never_ended(history: History) -> None:
    """Two stores may have given the same id."""
    for job in ("web", "other"):
        run = begin(history, job)
        history.open_upload(run.id, upload("same"))
        history.finish(end(run, "failed"))
    history.end_upload("web", "same")
    history.end_upload("web", "never heard of")
    assert history.left_uploads("web") == ()
    assert history.left_uploads("other") == (upload("same"),)


def test_an_upload_of_no_run_is_refused(history: History) -> None:
    with pytest.raises(HistoryError):
        history.open_upload(99, upload("nobody's"))


def test_an_upload_outlives_the_daemon(history: History, path: Path) -> None:
    run = begin(history)
    history.open_upload(run.id, upload("open"))
    with opened(path) as again:
        again.close_unfinished(now=NOON)
        assert again.left_uploads("web") == (upload("open"),)


def upload(upload_id: str) -> OpenedUpload:
    return OpenedUpload(bucket="bucket", key="web/web_20260328120000.zip", upload_id=upload_id)


# Due times


def test_a_run_decides_its_due_times(history: History) -> None:
    write_decided_until(history, NOON - 3 * HOUR)
    write_decided_until(history, NOON - 3 * HOUR, "other")
    begin(history, due=DUE)
    assert read_decided_until(history) == to_number(DUE.last)
    assert read_decided_until(history, "other") == to_number(NOON - 3 * HOUR)


def test_a_manual_run_decides_nothing(history: History) -> None:
    write_decided_until(history, NOON - 3 * HOUR)
    begin(history)
    assert read_decided_until(history) == to_number(NOON - 3 * HOUR)


def test_due_times_without_a_run_are_decided_and_recorded(history: History) -> None:
    write_decided_until(history, NOON - 3 * HOUR)
    running = begin(history)
    run = record(history, collided_with=running.id)
    assert (run.state, run.outcome, run.exit_code) == ("finished", "skipped", 75)
    assert (run.begun_at, run.queued_at, run.finished_at) == (None, NOON + HOUR, NOON + HOUR)
    assert (run.due, run.collided_with) == (DUE, running.id)
    assert run.message == "why"
    assert history.run(run.id) == run
    assert read_decided_until(history) == to_number(DUE.last)


def test_what_is_decided_stays_decided(history: History) -> None:
    write_decided_until(history, NOON)
    begin(history, due=Due(first=NOON - 2 * HOUR, last=NOON - HOUR, count=2))
    assert read_decided_until(history) == to_number(NOON)


def test_the_end_of_a_run_decides_nothing_anew(history: History) -> None:
    """The clock was ahead when it began, and was put right: what comes due until then counts."""
    write_decided_until(history, NOON - 3 * HOUR)
    run = begin(history, due=DUE)
    write_decided_until(history, NOON - 2 * HOUR)
    history.finish(end(history.start(run, now=NOON)))
    assert read_decided_until(history) == to_number(NOON - 2 * HOUR)


def test_a_run_that_cannot_be_written_decides_nothing(history: History, path: Path) -> None:
    write_decided_until(history, NOON - 3 * HOUR)
    with closing(sqlite3.connect(path)) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON job BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    with pytest.raises(HistoryError, match=f"{path}.*full") as raised:
        record(history)
    assert raised.value.exit_code == 1
    begin(history, due=DUE)
    assert history.runs() == ()
    assert read_decided_until(history) == to_number(NOON - 3 * HOUR)


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
    for last in LASTS:
        assert last(history, "web") is None
    success = finish(history, saved=2)
    partial = finish(history, outcome="partial", saved=1)
    failed = finish(history, outcome="failed", saved=1)
    skipped = record(history)
    missed = record(history, outcome="missed")
    queued = begin(history)
    finish(history, "other")
    assert history.runs(job="web", limit=1) == (queued,)
    assert history.last_finished("web") == missed
    assert history.run(skipped.id) == skipped
    assert history.last_attempt("web") == failed
    assert history.last_saved("web") == failed
    assert history.last_good("web") == partial
    assert history.last_success("web") == success


def test_a_run_that_the_job_itself_has_skipped_was_an_attempt(history: History) -> None:
    """Otherwise the failed one before it would be owed for ever."""
    finish(history, outcome="failed")
    run = end(history.start(begin(history), now=NOON), "skipped")
    history.finish(run)
    record(history)
    assert history.last_attempt("web") == run


def test_a_verification_is_no_backup(history: History) -> None:
    backup = finish(history, saved=1)
    verification = begin_verification(history)
    history.finish(end(verification, "failed"))
    good = begin_verification(history)
    history.finish(end(good))
    assert history.last("web") == backup
    for last in LASTS:
        assert last(history, "web") == backup
    found = history.last_success("web", "verify")
    assert found == history.last_attempt("web", "verify")
    assert found is not None
    assert found.id == good.id
    assert [run.kind for run in history.runs(job="web")] == ["verify", "verify", "backup"]


def begin_verification(history: History, now: datetime = NOON) -> Run:
    run = history.begin(job="web", kind="verify", cause="schedule", due=None, now=now)
    return history.start(run, now=now)


def prove(first: int, size: int, place: str = "bucket", hours: int = 0) -> Proof:
    archive = f"s3://{place}/web_\udcff.zip"
    at = NOON + hours * HOUR
    return Proof(place=place, archive=archive, first=first, size=size, proved_at=at)


def test_of_what_was_proved_the_newest_is_remembered(history: History) -> None:
    half = CIRCLE // 2
    for job, proof in (
        ("web", prove(0, half)),
        ("web", prove(0, half, "other", 1)),
        ("app", prove(0, half, hours=2)),
        ("web", prove(half, half, hours=3)),
        ("web", prove(0, half, hours=4)),
    ):
        history.add_proof(job, proof)
    found = [(proof.place, proof.first, proof.proved_at) for proof in history.proofs("web")]
    assert found == [
        ("bucket", 0, NOON + 4 * HOUR),
        ("bucket", half, NOON + 3 * HOUR),
        ("other", 0, NOON + HOUR),
    ]
    assert len(history.proofs("app")) == 1
    assert history.proofs("nobody") == ()


# Old runs


OLD = NOON - timedelta(days=KEPT_DAYS, seconds=1)


def begin_old(history: History, job: str = "web", now: datetime = OLD) -> Run:
    return history.begin(job=job, cause="manual", due=None, now=now)


def test_old_runs_are_forgotten_but_for_the_newest_of_each_job(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storeletd.history.KEPT_RUNS", 2)
    assert KEPT_RUNS == 1_000
    good = end(begin_old(history))
    history.finish(good)
    runs = [end(begin_old(history), "failed") for _ in range(5)]
    for run in runs:
        history.finish(run, skipped=[SKIPPED])
    verification = end(begin_verification(history, now=OLD))  # no good one is newer than `good`
    history.finish(verification)
    young = end(begin_old(history, now=NOON - timedelta(days=KEPT_DAYS)), "failed")
    history.finish(young)
    kept = [begin_old(history, "other") for _ in range(2)]
    with_upload = runs[1]
    history.open_upload(with_upload.id, upload("left"))
    assert sum(history.forget_old(now=NOON)) == 4
    assert history.runs(job="web") == (young, verification, with_upload, good)
    assert history.skipped_entries(runs[0].id) == ()
    assert history.skipped_entries(with_upload.id) == (SKIPPED,)
    assert set(history.runs(job="other")) == set(kept)
    assert sum(history.forget_old(now=NOON)) == 0
    assert begin(history).id == kept[1].id + 1


# When the daemon dies


def test_a_run_outlives_a_killed_daemon_and_is_lost(path: Path) -> None:
    code = """\
import os, signal, sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from storeletd.database import Database
from storeletd.history import History
history = History(Database(Path(sys.argv[1])))
now = datetime(2026, 3, 28, 12, tzinfo=UTC)
runs = [history.begin(job="web", cause="manual", due=None, now=now) for _ in range(3)]
done = replace(runs[0], state="finished", outcome="success", exit_code=0, finished_at=now)
history.finish(done)
history.start(runs[1], now=now)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=CLONE)
    assert killed.returncode == -signal.SIGKILL
    with opened(path) as history:
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


@pytest.mark.parametrize(
    ("cause", "repeats", "is_owed"),
    [
        ("schedule", None, True),
        ("catch-up", None, True),
        ("retry", 1, True),
        ("catch-up", 1, False),  # it was the repetition of a lost one: once is enough
        ("manual", None, False),  # whoever asked for it may ask again
    ],
)
def test_a_lost_run_is_owed_once_more(
    history: History, path: Path, cause: str, repeats: int | None, is_owed: bool
) -> None:
    history.begin(job="web", cause=cause, due=None, now=NOON, repeats=repeats)
    with opened(path) as again:
        (lost,) = again.close_unfinished(now=NOON + HOUR)
        assert lost.retry_at == (NOON + HOUR if is_owed else None)


class Histories(RuleBasedStateMachine):
    """Runs begin, start and end; daemons die; a machine loses its power."""

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.power_cuts = 0
        self.model: dict[int, Run] = {}
        self.due_times = 0
        self.now = NOON
        self.open_next()
        self.states.put(
            JobState(name="web", schedule="@hourly", decided_until=NOON, known_since=NOON)
        )
        self.states.write()

    def open_next(self) -> None:
        self.database = Database(Path(self.directory.name, str(self.power_cuts)))
        self.history, self.states = History(self.database), JobStates(self.database)

    def pick(self, state: str, number: int) -> Run:
        found = [run for run in self.model.values() if run.state == state]
        return found[number % len(found)]

    def has(self, state: str) -> bool:
        return any(run.state == state for run in self.model.values())

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
        self.model[run.id] = run

    @rule(count=st.integers(1, 3), outcome=st.sampled_from(["skipped", "missed"]))
    def record(self, count: int, outcome: str) -> None:
        due = self.make_due(count)
        assert due is not None
        run = self.history.record(
            job="web", outcome=outcome, cause="schedule", due=due, now=self.now, message="why"
        )
        assert run.id not in self.model
        self.model[run.id] = run

    @precondition(lambda self: self.has("queued"))
    @rule(number=st.integers(0, 10))
    def start(self, number: int) -> None:
        run = self.history.start(self.pick("queued", number), now=self.now)
        assert run.state == "running"
        self.model[run.id] = run

    @precondition(lambda self: self.has("queued") or self.has("running"))
    @rule(number=st.integers(0, 10), outcome=st.sampled_from(sorted(EXIT_CODES)))
    def finish(self, number: int, outcome: str) -> None:
        run = end(self.pick("running" if self.has("running") else "queued", number), outcome)
        self.history.finish(run)
        self.model[run.id] = run

    @rule()
    def cut_power(self) -> None:
        """Go on with the files as they are at this moment, with nothing closed."""
        old, self.power_cuts = Path(self.directory.name, str(self.power_cuts)), self.power_cuts + 1
        new = Path(self.directory.name, str(self.power_cuts))
        for suffix in ("", "-wal"):
            shutil.copy(f"{old}{suffix}", f"{new}{suffix}")
        self.database.close()
        self.open_next()
        lost = self.history.close_unfinished(now=self.now)
        open_ = {run.id for run in self.model.values() if run.state != "finished"}
        assert {run.id for run in lost} == open_
        assert {run.outcome for run in lost} <= {"lost"}
        self.model |= {run.id: run for run in lost}

    @invariant()
    def every_run_is_there(self) -> None:
        assert {run.id: run for run in self.history.runs(limit=1000)} == self.model

    @invariant()
    def every_due_time_is_counted_once(self) -> None:
        runs = self.history.runs(limit=1000)
        assert sum(run.due.count for run in runs if run.due) == self.due_times
        state = JobStates(self.database).get("web")
        assert state is not None
        assert state.decided_until == self.now

    def teardown(self) -> None:
        self.database.close()
        self.directory.cleanup()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=30)


# The file


def test_the_files_are_for_nobody_else(path: Path) -> None:
    path.touch()
    path.chmod(0o644)  # as a restored copy may be
    before = os.umask(0)
    try:
        with opened(path) as history:
            begin(history)
            files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert files == {path.name + suffix: 0o600 for suffix in ("", "-wal", "-shm")}


def test_history_stays_over_a_restart(path: Path) -> None:
    with opened(path) as history:
        run = finish(history, saved=2)
        write_decided_until(history, NOON)
    with opened(path) as again:
        assert again.runs() == (run,)
        assert read_decided_until(again) == to_number(NOON)
        assert begin(again).id == run.id + 1


def test_somebody_may_look_into_it_meanwhile(history: History, path: Path) -> None:
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM run").fetchone() == (0,)
    run = begin(history)
    assert history.run(run.id) == run
    reader.close()


def make_history(path: Path, version: int) -> None:
    """Make one as an earlier Storelet left it."""
    with closing(sqlite3.connect(path)) as database, database:
        for statements in MIGRATIONS[:version]:
            for statement in statements:
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {version}")
        archives = ARCHIVES_OF[version]
        database.execute(
            "INSERT INTO run (job, kind, cause, state, outcome, exit_code, queued_at, files,"
            " archives, due_first, due_last, due_count) VALUES ('web', 'backup', 'schedule',"
            " 'finished', 'success', 0, 0, 5, ?, 0, 3600000000, 2), ('web', 'backup', 'schedule',"
            " 'running', NULL, NULL, 0, 0, '[]', NULL, NULL, 0)",
            (archives,),
        )
        database.execute("INSERT INTO skipped_entry VALUES (1, '/a', 'gone')")
        database.execute("INSERT INTO job VALUES ('web', 'every 6h', 3600000000)")


ARCHIVES_OF = {
    1: '[["s3://b/web.zip", 1000000000000], ["file:///srv/web.zip", 7]]',
    2: '[["s3://b/web.zip", 1000000000000, 0, 1000000000000, 0],'
    ' ["file:///srv/web.zip", 7, 0, 7, 0]]',
}


@pytest.mark.parametrize("version", [1, 2])
def test_a_history_of_an_earlier_version_is_brought_up_to_date(path: Path, version: int) -> None:
    make_history(path, version)
    with opened(path) as history:
        done, lost = reversed(history.runs())
        assert (done.id, done.files, done.reused, done.notes) == (1, 5, 0, ())
        assert (done.repeats, done.attempt, done.retry_at) == (None, 1, None)
        assert done.due == Due(first=EPOCH, last=EPOCH + HOUR, count=2)
        assert (lost.state, lost.archives) == ("running", ())
        assert done.archives == (
            SavedArchive(
                url="s3://b/web.zip", bytes=10**12, bytes_reused=0, bytes_sent=10**12, requests=0
            ),
            SavedArchive(
                url="file:///srv/web.zip", bytes=7, bytes_reused=0, bytes_sent=7, requests=0
            ),
        )
        assert history.last_saved("web") == history.last_good("web") == done
        assert history.skipped_entries(1) == (SkippedEntry(path="/a", reason="gone"),)
        (lost,) = history.close_unfinished(now=NOON)
        assert (lost.id, lost.outcome, lost.retry_at) == (2, "lost", NOON)
        history.open_upload(lost.id, upload("open"))
    with closing(Database(path)) as database:  # and it is brought there once
        again = History(database)
        assert again.run(1) == done
        assert again.left_uploads("web") == (upload("open"),)
        state = JobStates(database).get("web")
        assert begin(again).id == 3
    at = EPOCH + HOUR
    assert state == JobState(name="web", schedule="every 6h", decided_until=at, known_since=at)


def test_a_history_of_a_newer_storelet_is_refused_and_left_alone(path: Path) -> None:
    Database(path).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA user_version = 1000")
    before = path.read_bytes()
    with pytest.raises(HistoryUnusableError, match=r"newer Storelet.*1000") as raised:
        Database(path)
    assert raised.value.exit_code == 78
    assert str(path) in raised.value.message
    assert raised.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize("what", ["a directory", "nowhere"])
def test_what_cannot_be_opened_is_refused_with_the_reason(path: Path, what: str) -> None:
    if what == "a directory":
        path.mkdir()
    else:
        path = path / "history.sqlite"
    with pytest.raises(HistoryUnusableError, match=f"cannot open history {path}: .") as raised:
        Database(path)
    assert raised.value.exit_code == 78
    assert raised.value.hint
