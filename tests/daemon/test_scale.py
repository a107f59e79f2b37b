"""Many jobs and a long history: nothing is lost, nothing is out of order, nothing is held up.

How long things take is measured by `benchmarks/daemon.py`; no time is tested here.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.daemon import fill_history, write_jobs
from storeletd.database import Database
from storeletd.history import KEPT_RUNS, History
from tests.clock import NIGHT, Clock, give_clock
from tests.daemon.test_job_faults import DONE
from tests.daemon.test_state_faults import strike
from tests.helpers import Daemon, wait_for


def test_two_hundred_jobs_that_are_due_at_once_all_run_once_and_in_order(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.stop()
    shutil.rmtree(daemon.state)
    clock = Clock(tmp_path / "clock")
    clock.set(NIGHT)
    give_clock(daemon, clock)
    names = [f"due{number:03}" for number in range(200)]
    for name in names:
        path = daemon.jobs / f"{name}.py"
        path.write_text(f'SCHEDULE = "0 3 * * *"\n{DONE}')
        path.chmod(0o600)
    daemon.start()
    strike(daemon, tmp_path)
    path = "/runs?limit=1000"
    health = daemon.request("GET", "/health")[1]
    assert health["running"] + health["queued"] + finished_runs(daemon) >= 200  # all at once
    wait_for(lambda: finished_runs(daemon) == 200, seconds=400, what="200 runs")
    runs = daemon.request("GET", path)[1]["runs"][::-1]
    assert [run["job"] for run in runs] == names
    assert {run["exit_code"] for run in runs} == {75}
    assert {(run["due"]["first"], run["due"]["count"]) for run in runs} == {
        ("2027-03-20T03:00:00.000+00:00", 1)
    }
    begun = [run["begun_at"] for run in runs]
    assert begun == sorted(begun)
    ended = sorted(run["finished_at"] for run in runs)
    assert all(end <= next_ for end, next_ in zip(ended, begun[2:], strict=False))  # two at once


def finished_runs(daemon: Daemon) -> int:
    with closing(sqlite3.connect(daemon.state / "history.sqlite")) as database:
        (count,) = database.execute("SELECT count(*) FROM run WHERE outcome NOTNULL").fetchone()
        return int(count)


def test_a_thousand_jobs_and_a_hundred_thousand_runs_are_all_there(daemon: Daemon) -> None:
    daemon.stop()
    write_jobs(daemon.jobs, 1_000)
    daemon.start()
    # One transaction wrote the states of all, not one each: that would be 4 MB, and 1,000 syncs.
    assert (daemon.state / "history.sqlite-wal").stat().st_size < 1_000_000
    daemon.stop()
    fill_history(daemon.state, jobs=1_000, runs=100_000, days=(80, 1))
    daemon.start()
    names = [f"job{number:04}" for number in range(1_000)]
    assert [line.split()[0] for line in daemon.ctl("list").stdout.splitlines()[1:]] == names
    status = json.loads(daemon.ctl("status", "--json").stdout)
    assert [job["name"] for job in status["jobs"]] == names
    newest = 1_000_000 + 99_000
    for number, job in enumerate(status["jobs"]):
        assert job["last_run"] == job["last_finished"]
        assert job["last_run"]["id"] == newest + number
    history = json.loads(daemon.ctl("history", "--json").stdout)
    found = [run["id"] for run in (history if isinstance(history, list) else history["runs"])]
    assert found == list(range(1_099_999, 1_099_999 - len(found), -1))
    assert finished_runs(daemon) == 100_000


def test_a_hundred_thousand_old_runs_are_forgotten_but_for_the_newest_of_each_job(
    daemon: Daemon,
) -> None:
    daemon.stop()
    fill_history(daemon.state, jobs=10, runs=100_000, days=(400, 100))
    daemon.start()

    def look() -> bool:
        assert daemon.request("GET", "/health")[0] == 200  # it answers meanwhile
        return finished_runs(daemon) == 10 * KEPT_RUNS

    wait_for(look, seconds=300, what="an end of old runs")
    with closing(sqlite3.connect(daemon.state / "history.sqlite")) as database:
        left = database.execute("SELECT id, job FROM run").fetchall()
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert {each for each, _ in left} == set(range(1_090_000, 1_100_000))
    assert set(Counter(job for _, job in left).values()) == {KEPT_RUNS}


def test_old_runs_are_forgotten_in_small_bits(tmp_path: Path) -> None:
    """No bit of it reads the whole history: others wait for it."""
    Database(tmp_path / "history.sqlite").close()
    fill_history(tmp_path, jobs=2, runs=20_000, days=(400, 100))
    with closing(Database(tmp_path / "history.sqlite")) as database:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1_000
            return 0

        database._connection.set_progress_handler(count, 1_000)  # steps of SQLite's machine
        bits = []
        forgotten = 0
        for bit in History(database).forget_old(now=datetime.now(UTC)):
            bits.append(steps)
            forgotten, steps = forgotten + bit, 0
    assert forgotten == 18_000
    assert max(bits) <= 60_000, bits  # reading the 20,000 runs takes 300,000
