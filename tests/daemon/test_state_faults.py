"""Faults of the daemon itself and of its state directory: no run is lost, and none done twice."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.daemon import fill_history
from tests.clock import DAY, NIGHT, Clock, give_clock
from tests.daemon.test_daemon import SOON, jobs, run, started, write_job, write_yaml
from tests.daemon.test_job_faults import DONE, TICKER, assert_no_due_time_is_lost, runs
from tests.daemon.test_time import brief
from tests.daemon.test_uploads import open_uploads
from tests.helpers import CLONE, Bucket, Daemon, wait_for
from tests.proxy import Proxy, Request

HISTORY = "history.sqlite"


def assert_history_is_whole(daemon: Daemon) -> None:
    with closing(sqlite3.connect(daemon.state / HISTORY)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []


# kill -9 in each phase of a run


class Gate:
    """Holds requests for one action of S3 until it is opened."""

    def __init__(self) -> None:
        self.closed_for: str | None = None
        self.reached = threading.Event()
        self._opened = threading.Event()

    def script(self, request: Request) -> None:
        if request.action == self.closed_for:
            self.reached.set()
            self._opened.wait(60)

    def close(self, action: str | None) -> None:
        self.closed_for = action

    def open(self) -> None:
        self.closed_for = None
        self._opened.set()


@pytest.fixture
def gate(daemon: Daemon, s3_server: Bucket, tmp_path: Path) -> Iterator[Gate]:
    """Start the daemon anew: ten minutes before three at night, one run at once, S3 at a gate."""
    clock = Clock(tmp_path / "clock")
    clock.set(NIGHT)
    give_clock(daemon, clock)
    gate = Gate()
    with Proxy(s3_server.endpoint, gate.script) as proxy:
        daemon.stop()
        shutil.rmtree(daemon.state)
        daemon.environment |= s3_server.environment | {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        daemon.start("--max-runs", "1")
        try:
            yield gate
        finally:
            gate.open()
            daemon.stop()


def write_night(daemon: Daemon, tmp_path: Path, bucket: Bucket, more: str = "") -> Path:
    """Write a job of 20 MB that is due at three; return what it waits for while it includes."""
    source, going = tmp_path / "source", tmp_path / "go"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(20 << 20))
    write_job(
        daemon,
        "web.yaml",
        f"""\
        schedule: "0 3 * * *"
        {more}
        include:
        - new_dir: made
          run: touch {tmp_path}/including; until test -e {going}; do sleep 0.05; done
        - directory: {source}
        save: [{{s3: {bucket.name}, prefix: web/}}]
        """,
    )
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON, what="the job")
    return going


def strike(daemon: Daemon, tmp_path: Path, night: datetime = NIGHT) -> None:
    """Let it be a second past three, and look."""
    daemon.ctl("reload")  # a job that is just being loaded has no due times of before
    Clock(tmp_path / "clock").set(night.replace(hour=3, minute=0, second=1))
    daemon.ctl("reload")


def kill_queued(daemon: Daemon, tmp_path: Path, _going: Path, _gate: Gate) -> None:
    mark = tmp_path / "mark"
    text = f"SCHEDULE = 'manual'\nimport time\nopen({str(mark)!r}, 'w')\ntime.sleep(1000)\n"
    write_job(daemon, "slow.py", text)
    started(daemon, "slow", mark)
    strike(daemon, tmp_path)
    wait_for(lambda: runs(daemon, "web"), what="a run")
    assert runs(daemon, "web")[0]["state"] == "queued"
    daemon.kill()


def kill_starting(daemon: Daemon, tmp_path: Path, _going: Path, _gate: Gate) -> None:
    strike(daemon, tmp_path)
    wait_for(lambda: [each for each in daemon.processes() if "keeper" in each], what="a keeper")
    daemon.kill()


def kill_including(daemon: Daemon, tmp_path: Path, _going: Path, _gate: Gate) -> None:
    strike(daemon, tmp_path)
    wait_for((tmp_path / "including").exists, seconds=20, what="the command")
    daemon.kill()


def run_up_to(daemon: Daemon, tmp_path: Path, going: Path, gate: Gate, action: str) -> None:
    """Let the night's run come to one action of S3, and no further."""
    going.touch()
    gate.close(action)
    strike(daemon, tmp_path)
    assert gate.reached.wait(60), daemon.log()


def kill_uploading(daemon: Daemon, tmp_path: Path, going: Path, gate: Gate) -> None:
    run_up_to(daemon, tmp_path, going, gate, "UploadPart")
    daemon.kill()


def kill_completing(daemon: Daemon, tmp_path: Path, going: Path, gate: Gate) -> None:
    run_up_to(daemon, tmp_path, going, gate, "CompleteMultipartUpload")
    daemon.kill()


def kill_after_complete(daemon: Daemon, tmp_path: Path, going: Path, gate: Gate) -> None:
    """The worker has done its work and said so, but the daemon has not heard it."""
    run_up_to(daemon, tmp_path, going, gate, "CompleteMultipartUpload")
    daemon.process.send_signal(signal.SIGSTOP)
    gate.open()
    wait_for(lambda: not daemon.processes(), seconds=20, what="the worker's end")
    daemon.kill()


Kill = Callable[[Daemon, Path, Path, Gate], None]
PHASES: list[Kill] = [
    kill_queued,
    kill_starting,
    kill_including,
    kill_uploading,
    kill_completing,
    kill_after_complete,
]


@pytest.mark.parametrize("kill", PHASES, ids=lambda kill: kill.__name__)
def test_a_daemon_killed_in_any_phase_of_a_run_leaves_nothing_and_repeats_it(
    daemon: Daemon, gate: Gate, s3_server: Bucket, tmp_path: Path, kill: Kill
) -> None:
    going = write_night(daemon, tmp_path, s3_server)
    kill(daemon, tmp_path, going, gate)
    daemon.assert_alone()
    assert list(daemon.socket.parent.glob("storelet-*")) == []  # temporary directories
    going.touch()
    gate.open()
    daemon.start("--max-runs", "1")
    assert_history_is_whole(daemon)
    (lost,) = (each for each in runs(daemon, "web") if each["outcome"] == "lost")
    found = wait_for(lambda: over(daemon, 2), seconds=40, what="a run instead")
    assert [brief(each) for each in found] == [("schedule", "lost", 1), ("catch-up", "success", 0)]
    assert found[1]["repeats"] == lost["id"]
    wait_for(lambda: not open_uploads(s3_server), seconds=30, what="an end of uploads")
    keys = s3_server.keys()
    for key in keys:
        with zipfile.ZipFile(io.BytesIO(s3_server.read(key))) as archive:
            assert archive.testzip() is None
    assert len(keys) == (2 if kill is kill_after_complete else 1)
    daemon.ctl("reload")
    assert len(runs(daemon, "web")) == 2


def test_without_catch_up_a_run_that_was_killed_while_it_waited_is_lost_and_no_more(
    daemon: Daemon, gate: Gate, s3_server: Bucket, tmp_path: Path
) -> None:
    going = write_night(daemon, tmp_path, s3_server, "catch_up: false")
    kill_queued(daemon, tmp_path, going, gate)
    daemon.start()
    going.touch()
    strike(daemon, tmp_path, NIGHT + DAY)
    found = wait_for(lambda: over(daemon, 2), seconds=40, what="the next night's run")
    assert [brief(each) for each in found] == [("schedule", "lost", 1), ("schedule", "success", 1)]


def over(daemon: Daemon, count: int) -> list[dict[str, Any]]:
    found = runs(daemon, "web")
    return found if len(found) == count and all(each["outcome"] for each in found) else []


# The state directory


@contextmanager
def mounted(at: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory there; skip the test where that is not permitted."""
    at.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a file system of one's own needs root: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@pytest.fixture
def small_state(daemon: Daemon) -> Iterator[None]:
    """Start the daemon anew, with its state on a disk of 2 MB."""
    daemon.stop()
    shutil.rmtree(daemon.state)
    with mounted(daemon.state, "size=2m,mode=700"):
        daemon.start()
        yield
        daemon.stop()


def fill_up(directory: Path) -> Path:
    path = directory / "full"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, b"x" * 512)
    except OSError:
        return path
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("small_state")
def test_on_a_full_disk_backups_go_on_and_their_rows_are_written_when_there_is_room(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", tree, destination)
    write_job(daemon, "tick.py", TICKER)
    run(daemon, "web")
    wait_for(lambda: runs(daemon, "tick"), what="a run")
    full = fill_up(daemon.state)
    wait_for(lambda: "is not in history yet" in daemon.log(), seconds=30, what="the fault")
    numbers = [run(daemon, "web")["id"] for _ in range(2)]
    assert len(list(destination.iterdir())) == 3
    for number in numbers:
        assert f"Run {number} of web goes on without its row" in daemon.log()
    full.unlink()
    (daemon.jobs / "tick.py").unlink()
    wait_for(lambda: "tick" not in jobs(daemon), seconds=SOON, what="an end of the job")
    wait_for(lambda: all(each["outcome"] for each in runs(daemon, "tick")), what="their ends")
    daemon.stop()
    daemon.start()  # what it knows now is what was written
    found = {each["id"]: each["outcome"] for each in runs(daemon, "web")}
    assert [found[number] for number in numbers] == ["success", "success"]
    assert_no_due_time_is_lost(runs(daemon, "tick"))
    assert_history_is_whole(daemon)


@pytest.mark.usefixtures("small_state")
def test_a_start_on_a_full_disk_fails_so_that_it_is_tried_again(daemon: Daemon) -> None:
    daemon.stop()
    full = fill_up(daemon.state)
    status, said = start_in_vain(daemon)
    assert status == 1  # of 78 a service manager is told that trying again is of no use
    assert "is the disk full" in said
    full.unlink()
    daemon.start()
    assert_history_is_whole(daemon)


def start_in_vain(daemon: Daemon) -> tuple[int, str]:
    """Run a daemon that ends by itself; return its exit status and what it said."""
    places = {"--jobs": daemon.jobs, "--state": daemon.state, "--socket": daemon.socket}
    options = [str(each) for pair in places.items() for each in pair]
    done = subprocess.run(
        [sys.executable, "-m", "storeletd", "--log-to", "stderr", *options],
        cwd=CLONE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_state_directory_that_cannot_be_written_is_78_in_one_line(daemon: Daemon) -> None:
    daemon.stop()
    shutil.rmtree(daemon.state)
    with mounted(daemon.state, "ro"):
        status, said = start_in_vain(daemon)
    assert status == 78
    (line,) = said.splitlines()
    assert f"cannot use state directory {daemon.state}: Read-only file system" in line


def test_a_history_that_another_program_holds_keeps_no_run_from_its_work_and_nobody_waiting(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    names = [f"tick{number}" for number in range(12)]
    for name in names:  # each would wait for the history, one after the other
        write_job(daemon, f"{name}.py", TICKER)
    write_yaml(daemon, "web", tree, destination)
    for name in names:
        wait_for(lambda name=name: name in jobs(daemon) and runs(daemon, name), seconds=20)
    with closing(sqlite3.connect(daemon.state / HISTORY, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        held_until = time.monotonic() + 8  # longer than the daemon waits for it
        wait_for(lambda: "goes on without its row" in daemon.log(), seconds=30, what="the fault")
        done = run(daemon, "web")  # each request must be answered in 30 seconds
        assert done["outcome"] == "success"
        wait_for(lambda: time.monotonic() > held_until, what="the other program")
        other.execute("ROLLBACK")
    assert len(list(destination.iterdir())) == 1
    for name in names:
        (daemon.jobs / f"{name}.py").unlink()
    wait_for(lambda: list(jobs(daemon)) == ["web"], seconds=SOON, what="an end of the others")
    daemon.stop()
    daemon.start()
    assert [each["id"] for each in runs(daemon, "web")] == [done["id"]]
    for name in names:
        assert_no_due_time_is_lost(runs(daemon, name))
    assert_history_is_whole(daemon)


HEADER = b"SQLite format 3\0"


def spoil(daemon: Daemon) -> None:
    """Overwrite all of a history, as a broken disk does."""
    for suffix in ("-wal", ""):
        path = daemon.state / f"{HISTORY}{suffix}"
        if path.exists():
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.write(HEADER + b"\xa5" * (size - len(HEADER)))


def kept_aside(daemon: Daemon) -> list[Path]:
    return sorted(daemon.state.glob(f"{HISTORY}.damaged-*[0-9]"))


def test_a_history_that_is_damaged_at_the_start_is_kept_aside_and_a_new_one_begun(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", tree, destination)
    run(daemon, "web")
    daemon.stop()
    spoil(daemon)
    damaged = (daemon.state / HISTORY).read_bytes()
    daemon.start()
    (aside,) = kept_aside(daemon)
    assert aside.read_bytes() == damaged
    assert aside.stat().st_mode & 0o777 == 0o600
    assert f"it is kept as {aside}, and a new one begun" in daemon.log()
    assert run(daemon, "web")["outcome"] == "success"
    assert len(list(destination.iterdir())) == 2
    assert_history_is_whole(daemon)


@pytest.mark.parametrize("how", ["damaged", "removed", "removed with its directory"])
def test_a_history_that_is_spoiled_while_the_daemon_runs_costs_no_run_no_pause_and_no_due_time(
    daemon: Daemon, tree: Path, destination: Path, how: str, tmp_path: Path
) -> None:
    daemon.stop()
    fill_history(daemon.state, jobs=1, runs=5_000, days=(80, 1))  # more than SQLite keeps in memory
    daemon.start()
    write_yaml(daemon, "web", tree, destination)
    write_yaml(daemon, "held", tree, destination)
    going, mark = tmp_path / "go", tmp_path / "mark"
    write_job(
        daemon,
        "long.py",
        f"SCHEDULE = 'manual'\nimport os, time\nopen({str(mark)!r}, 'w').close()\n"
        f"while not os.path.exists({str(going)!r}): time.sleep(0.05)\n{DONE}",
    )
    write_job(daemon, "tick.py", TICKER)
    before = run(daemon, "web")
    daemon.ctl("pause", "held")
    long = started(daemon, "long", mark)
    wait_for(lambda: runs(daemon, "tick"), what="a run")
    old = runs(daemon, "tick")
    spoiling = {
        "damaged": lambda: spoil(daemon),
        "removed": lambda: [each.unlink() for each in daemon.state.glob(f"{HISTORY}*")],
        "removed with its directory": lambda: shutil.rmtree(daemon.state),
    }
    spoiling[how]()
    daemon.request("GET", "/runs?limit=10000")
    wait_for(lambda: "a new one begun" in daemon.log(), seconds=60, what="a word about it")
    assert len(kept_aside(daemon)) == (how == "damaged")
    going.touch()
    after = run(daemon, "web")
    assert after["outcome"] == "success"
    assert after["id"] > before["id"]
    wait_for(lambda: due_runs(daemon, "tick"), what="a due run in the new history")
    (daemon.jobs / "tick.py").unlink()
    wait_for(lambda: "tick" not in jobs(daemon), seconds=SOON, what="an end of the job")
    wait_for(lambda: runs(daemon, "long"), seconds=20, what="the long run's row")
    wait_for(lambda: all(each["outcome"] for each in runs(daemon, "tick")), what="their ends")
    daemon.stop()
    daemon.start()
    assert_history_is_whole(daemon)
    assert [(each["id"], each["exit_code"]) for each in runs(daemon, "long")] == [(long, 75)]
    assert jobs(daemon)["held"]["paused"]
    assert [each["id"] for each in runs(daemon, "web")] == [after["id"]]
    new = due_runs(daemon, "tick")
    assert_no_due_time_is_lost(new)
    # Some rows may have been in both: what counts is that nothing is between them.
    assert new[0]["due"]["first"] <= next_second(old[-1]["due"]["last"])


def due_runs(daemon: Daemon, job: str) -> list[dict[str, Any]]:
    return [each for each in runs(daemon, job) if each["due"]]


def next_second(text: str) -> str:
    return (datetime.fromisoformat(text) + timedelta(seconds=1)).isoformat(timespec="milliseconds")
