"""storeletctl as a process, on a real storeletd."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import CLONE, Daemon, wait_for

TIME = r"[A-Z][a-z]{2} \d{4}-\d\d-\d\d \d\d:\d\d"  # Wed 2026-11-25 02:30

FAILING = """\
SCHEDULE = "manual"
raise SystemExit(1)
"""
SKIPPING = """\
SCHEDULE = "manual"
raise SystemExit(75)
"""
LARGE = """\
SCHEDULE = "manual"
from storelet import observer
for number in range(66_034):
    observer.report(
        observer.Added(path=f"/{number}", member=f"{number}", bytes_read=100, bytes_stored=10)
    )
observer.report(observer.Reused(files=1_000))
observer.report(observer.NotReused(destination="bucket b", reason="its storage class is cold"))
observer.report(
    observer.Saved(
        url="s3://b/website.zip", destination="bucket b", bytes=1010 << 20,
        bytes_reused=10 << 20, bytes_sent=1000 << 20, requests=130,
    )
)
"""

WriteJob = Callable[..., Path]


@pytest.fixture
def write_job(daemon: Daemon, job_dir: Path, tree: Path, tmp_path: Path) -> WriteJob:
    """Return what writes a job that saves `tree` (after a command, if given) and loads it."""
    saved = tmp_path / "saved"
    saved.mkdir()

    def write(name: str, *, run: str = "", again: bool = False, more: str = "") -> Path:
        lines = ['schedule: "30 2 * * *"', "include:", f"  - directory: {tree}"]
        if again:  # every file's name is taken then: a skipped entry each
            lines += [f"  - directory: {tree}"]
        if run:
            lines += ["  - new_dir: produced", f"    run: {json.dumps(run)}"]
        lines += ["save:", f"  - directory: {saved}", more]
        (job_dir / f"{name}.yaml").write_text("\n".join(lines) + "\n")
        daemon.ctl("reload")
        return saved

    return write


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Make a FIFO: a command that reads it waits until it is written to."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def open_gate(gate: Path) -> None:
    gate.write_text("go\n")


def document(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


@contextmanager
def start_ctl(
    daemon: Daemon, *arguments: str, output: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """Run storeletctl beside the test; after a minute it is killed, so that nobody waits on."""
    # A shell's background jobs ignore SIGINT, and so would what such a test run starts.
    python = ["env", "--default-signal=INT", sys.executable]
    process = subprocess.Popen(
        [*python, "-m", "storeletd.ctl", "--socket", str(daemon.socket), *arguments],
        cwd=CLONE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        text=True,
    )
    timer = threading.Timer(60, process.kill)
    timer.start()
    try:
        with process:
            yield process
    finally:
        process.kill()
        timer.cancel()


def start_run(daemon: Daemon, job: str) -> int:
    """Start a run and wait until it runs."""
    run_id = int(daemon.ctl("run-now", "--no-wait", job).stdout)
    wait_for(lambda: daemon.request("GET", f"/runs/{run_id}")[1]["state"] == "running")
    return run_id


def wait_until_finished(daemon: Daemon, run_id: int) -> dict[str, Any]:
    def finished() -> dict[str, Any] | None:
        run: dict[str, Any] = daemon.request("GET", f"/runs/{run_id}")[1]
        return run if run["state"] == "finished" else None

    return wait_for(finished)


# list, status, show, reload


def test_an_empty_list_says_where_job_files_go(daemon: Daemon, job_dir: Path) -> None:
    done = daemon.ctl("list")
    assert done.stdout == ""
    assert f"put a job file such as website.yaml into {job_dir}" in done.stderr
    assert document(daemon.ctl("list", "--json")) == {"jobs": [], "problems": []}


def test_list_shows_each_job_in_a_row_for_awk(daemon: Daemon, write_job: WriteJob) -> None:
    write_job("website")
    write_job("database")
    daemon.ctl("run-now", "website")
    titles, *rows = [
        re.split(r" {2,}", line.strip()) for line in daemon.ctl("list").stdout.splitlines()
    ]
    assert " ".join(titles) == "NAME STATE LAST WHEN NEXT LEFT SIZE SENT FILES AGE PROVED"
    database, website = (dict(zip(titles, row, strict=True)) for row in rows)
    assert [database[each] for each in ("NAME", "STATE", "LAST")] == ["database", "idle", "-"]
    assert [each for each in titles if database[each] == "-"] == ["LAST", "WHEN", *titles[6:]]
    assert [website[each] for each in ("NAME", "STATE", "LAST")] == ["website", "idle", "success"]
    assert re.fullmatch(TIME, website["WHEN"])
    assert re.fullmatch(TIME, website["NEXT"])
    assert re.fullmatch(r"\d+[hms].*", website["LEFT"])
    assert re.fullmatch(r"\d+\.\d KiB", website["SIZE"])
    assert website["SENT"] == website["SIZE"]
    assert website["FILES"] == "9"
    assert re.fullmatch(r"\d+s", website["AGE"])


def test_list_keeps_the_size_of_the_newest_archive(
    daemon: Daemon, write_job: WriteJob, job_dir: Path
) -> None:
    write_job("website")
    daemon.ctl("run-now", "website")
    write_job("website", run="exit 1")
    daemon.ctl("run-now", "website", check=False)
    row = re.split(r" {2,}", daemon.ctl("list").stdout.splitlines()[1])
    assert row[2] == "failed"
    assert row[6].endswith("KiB")
    assert row[7:9] == ["-", "-"]  # what the last run sent and saw
    assert row[9].endswith("s")  # the age of the last good archive


def test_broken_files_are_listed_beneath_and_list_is_done(
    daemon: Daemon, write_job: WriteJob, job_dir: Path
) -> None:
    write_job("website")
    (job_dir / "broken.yaml").write_text("schedule: manual\nsav: nowhere\n")
    assert daemon.ctl("reload", check=False).returncode == 78
    table, problems = daemon.ctl("list").stdout.split("\n\n")
    assert len(table.splitlines()) == 2
    assert f"{job_dir}/broken.yaml:2: sav: " in problems


def test_status_of_good_jobs_is_0(daemon: Daemon, write_job: WriteJob) -> None:
    write_job("website")
    daemon.ctl("run-now", "website")
    said, first, second, _, job, run = daemon.ctl("status").stdout.splitlines()
    assert said == "All is well"
    assert first.startswith("storeletd 1.")
    assert "1 job, 0 running, 0 queued, 0 problems" in second
    assert job.startswith("website: idle, next ")
    assert re.search(rf"1  {TIME}  success  .*  read \d+ of \d+, sent ", run)
    status = document(daemon.ctl("status", "--json"))
    assert status["well"] is True
    assert status["health"]["pid"] == daemon.pid
    assert status["jobs"][0]["last_run"]["outcome"] == "success"


def test_status_says_why_a_job_failed_and_is_3(daemon: Daemon, write_job: WriteJob) -> None:
    write_job("website", run="echo disk on fire; exit 1")
    daemon.ctl("run-now", "website", check=False)
    done = daemon.ctl("status", check=False)
    assert done.returncode == 3
    assert "ended with status 1" in done.stdout
    assert done.stdout.splitlines()[0] == "Not well: website (1 of 1 job)"
    done = daemon.ctl("status", "website", check=False)
    assert done.returncode == 3
    assert "    disk on fire" in done.stdout
    done = daemon.ctl("status", "website", "--json", check=False)
    assert done.returncode == 3
    assert document(done)["well"] is False
    assert "disk on fire" in document(done)["last_run"]["output"]


def test_a_skipped_run_is_well(daemon: Daemon, job_dir: Path) -> None:
    (job_dir / "away.py").write_text(SKIPPING)
    daemon.ctl("reload")
    assert daemon.ctl("run-now", "away", check=False).returncode == 75
    daemon.ctl("status")


def test_a_broken_job_is_not_well_while_its_last_good_version_is_loaded(
    daemon: Daemon, write_job: WriteJob, job_dir: Path
) -> None:
    write_job("website")
    with (job_dir / "website.yaml").open("a") as file:
        file.write("tiemout: 4h\n")
    assert daemon.ctl("reload", check=False).returncode == 78
    for arguments in (["status"], ["status", "website"]):
        done = daemon.ctl(*arguments, check=False)
        assert done.returncode == 3
        assert "tiemout: " in done.stdout
        assert "last good version" in done.stdout
    daemon.ctl("run-now", "website")


def test_a_job_whose_file_was_never_good_says_what_is_wrong(daemon: Daemon, job_dir: Path) -> None:
    (job_dir / "broken.yaml").write_text("schedule: manual\nsav: nowhere\n")
    daemon.ctl("reload", check=False)
    done = daemon.ctl("run-now", "broken", check=False)
    assert done.returncode == 78
    assert f"job broken is not loaded: {job_dir}/broken.yaml" in done.stderr
    assert daemon.ctl("status", "broken", check=False).returncode == 3


@pytest.mark.parametrize("verb", ["status", "show", "run-now", "cancel", "history", "next", "logs"])
def test_an_unknown_job_is_4_and_the_nearest_name_is_said(
    daemon: Daemon, write_job: WriteJob, verb: str
) -> None:
    write_job("website")
    done = daemon.ctl(verb, "webiste", check=False)
    assert done.returncode == 4
    assert "no such job: webiste" in done.stderr
    assert "Try: website" in done.stderr
    done = daemon.ctl(verb, "webiste", "--json", check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert json.loads(done.stderr)["exit_code"] == 4


def test_a_name_that_is_no_name_is_no_such_job(daemon: Daemon) -> None:
    assert daemon.ctl("status", "../health", check=False).returncode == 4
    assert daemon.ctl("status", "a b?c#d", check=False).returncode == 4
    for verb in ("status", "run-now", "cancel", "history"):
        assert daemon.ctl(verb, "gr\udcf6\udcdfe", check=False).returncode == 4


def test_show_gives_each_setting_with_its_origin(
    daemon: Daemon, write_job: WriteJob, job_dir: Path, tree: Path
) -> None:
    write_job("website", more="timeout: 4h")
    lines = daemon.ctl("show", "website").stdout.splitlines()
    assert any(re.fullmatch(rf"schedule:.*# {job_dir}/website.yaml:1", line) for line in lines), (
        lines
    )
    assert any(re.fullmatch(r"timezone:.*# default", line) for line in lines)
    assert f"- directory: {tree}" in lines
    settings = document(daemon.ctl("show", "website", "--json"))["settings"]
    assert settings["schedule"]["from"] == f"{job_dir}/website.yaml:1"


def test_reload_says_what_has_changed(
    daemon: Daemon, write_job: WriteJob, job_dir: Path, tree: Path
) -> None:
    write_job("website")
    assert daemon.ctl("reload").stdout == "no job has changed\n"
    (job_dir / "broken.yaml").write_text("schedule: manual\nsav: nowhere\n")
    done = daemon.ctl("reload", "--json", check=False)
    assert done.returncode == 78
    assert document(done)["problems"][0]["file"] == f"{job_dir}/broken.yaml"


# run-now, cancel


def test_run_now_prints_the_outcome_and_the_archive(daemon: Daemon, write_job: WriteJob) -> None:
    saved = write_job("website")
    done = daemon.ctl("run-now", "website")
    (archive,) = saved.iterdir()
    outcome = r"website: success in \S+: read (\d+) of \1 files, sent .* KiB of .* KiB"
    lines = rf"{outcome}\n  {archive}\n"
    assert re.fullmatch(lines, done.stdout)
    assert done.stderr == ""


def test_run_now_as_json_is_one_document(daemon: Daemon, write_job: WriteJob) -> None:
    saved = write_job("website")
    (run,) = document(daemon.ctl("run-now", "website", "--json"))["runs"]
    assert (run["outcome"], run["exit_code"]) == ("success", 0)
    assert run["archives"][0]["bytes"] == next(saved.iterdir()).stat().st_size


def test_a_partial_run_is_3_and_shows_the_first_skipped_entries(
    daemon: Daemon, write_job: WriteJob
) -> None:
    write_job("website", again=True)
    done = daemon.ctl("run-now", "website", check=False)
    outcome, _archive, *skipped = done.stdout.splitlines()
    assert done.returncode == 3
    assert outcome.startswith("website: partial in ")
    assert re.search(r", \d+ skipped$", outcome)
    assert len(skipped) == 6
    assert all(line.startswith("  skipped /") for line in skipped[:5])
    assert re.fullmatch(r"  and \d+ more: storeletctl history --run 1", skipped[5])


def test_of_several_jobs_the_worst_outcome_is_the_exit_code(
    daemon: Daemon, write_job: WriteJob, job_dir: Path
) -> None:
    write_job("website")
    (job_dir / "away.py").write_text(SKIPPING)
    (job_dir / "failing.py").write_text(FAILING)
    daemon.ctl("reload")
    done = daemon.ctl("run-now", "website", "away", check=False)
    assert done.returncode == 75
    done = daemon.ctl("run-now", "failing", "away", "no-such-job", check=False)
    assert done.returncode == 1
    assert [line.split(" in ")[0] for line in done.stdout.splitlines()] == [
        "failing: failed",
        "away: skipped",
    ]
    assert "no such job: no-such-job" in done.stderr
    done = daemon.ctl("run-now", "website", "no-such-job", "--json", check=False)
    assert done.returncode == 4
    assert [run["job"] for run in document(done)["runs"]] == ["website"]
    assert [error["job"] for error in document(done)["errors"]] == ["no-such-job"]


def test_a_run_that_times_out_is_124(daemon: Daemon, write_job: WriteJob, gate: Path) -> None:
    write_job("website", run=f"cat {gate}", more="timeout: 1s")
    done = daemon.ctl("run-now", "website", check=False)
    assert done.returncode == 124
    assert "website: timeout" in done.stdout


def test_a_job_that_runs_already_is_11(daemon: Daemon, write_job: WriteJob, gate: Path) -> None:
    write_job("website", run=f"cat {gate}")
    run_id = start_run(daemon, "website")
    done = daemon.ctl("run-now", "website", check=False)
    assert done.returncode == 11
    assert "storeletctl cancel website" in done.stderr
    open_gate(gate)
    assert wait_until_finished(daemon, run_id)["outcome"] == "success"


@pytest.mark.parametrize("by", ["job", "run"])
def test_a_cancelled_run_is_143_for_who_follows_it(
    daemon: Daemon, write_job: WriteJob, gate: Path, by: str
) -> None:
    write_job("website", run=f"cat {gate}")
    with start_ctl(daemon, "run-now", "website") as following:
        wait_for(lambda: document(daemon.ctl("list", "--json"))["jobs"][0]["state"] == "running")
        done = daemon.ctl("cancel", "website" if by == "job" else "1")
        assert done.stdout == "run 1 of website is being cancelled\n"
        out, _ = following.communicate(timeout=30)
    assert following.returncode == 143
    assert out.startswith("website: cancelled")


def test_a_number_is_first_the_name_of_a_job(
    daemon: Daemon, write_job: WriteJob, gate: Path
) -> None:
    write_job("website", run=f"cat {gate}")
    write_job("1")
    run_id = start_run(daemon, "website")
    assert run_id == 1
    done = daemon.ctl("cancel", "1", check=False)
    assert done.returncode == 1
    assert "job 1 has no run to cancel" in done.stderr
    assert daemon.request("GET", "/runs/1")[1]["state"] == "running"
    for number in ("9" * 19, "9" * 5000, "\N{ARABIC-INDIC DIGIT ONE}"):
        assert daemon.ctl("cancel", number, check=False).returncode == 4
    open_gate(gate)
    assert wait_until_finished(daemon, run_id)["outcome"] == "success"


def test_cancel_without_a_run_fails(daemon: Daemon, write_job: WriteJob) -> None:
    write_job("website")
    done = daemon.ctl("cancel", "website", check=False)
    assert done.returncode == 1
    assert "job website has no run to cancel" in done.stderr
    daemon.ctl("run-now", "website")
    assert daemon.ctl("cancel", "1", check=False).returncode == 1
    assert daemon.ctl("cancel", "99", check=False).returncode == 4


def test_interrupting_ends_the_following_and_not_the_run(
    daemon: Daemon, write_job: WriteJob, gate: Path
) -> None:
    write_job("website", run=f"echo waiting; cat {gate}")
    with start_ctl(daemon, "run-now", "-v", "website") as following:
        _read_until(following, "waiting\n")
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=10)
    assert following.returncode == 130
    assert "run 1 of website, which goes on" in err
    assert "Try: storeletctl cancel 1" in err
    open_gate(gate)
    assert wait_until_finished(daemon, 1)["outcome"] == "success"


@pytest.mark.parametrize(("times", "outcome"), [(1, "success"), (2, "cancelled")])
def test_on_a_terminal_a_second_interrupt_cancels_the_run(
    daemon: Daemon, write_job: WriteJob, gate: Path, times: int, outcome: str
) -> None:
    write_job("website", run=f"echo waiting; cat {gate}")
    master, slave = pty.openpty()
    with start_ctl(daemon, "run-now", "-v", "website", output=slave) as following:
        os.close(slave)
        shown = b""
        for said in (b"waiting", b"once more cancels it")[:times]:
            while said not in shown:
                chunk = _read_terminal(master)
                assert chunk, shown
                shown += chunk
            following.send_signal(signal.SIGINT)
        while chunk := _read_terminal(master):
            shown += chunk
    os.close(master)
    assert following.returncode == 130
    if outcome == "success":
        open_gate(gate)
    else:
        assert b"run 1 of website is being cancelled" in shown
    assert wait_until_finished(daemon, 1)["outcome"] == outcome


def test_a_daemon_that_goes_away_while_it_is_followed_is_69(
    daemon: Daemon, write_job: WriteJob, gate: Path
) -> None:
    write_job("website", run=f"cat {gate}")
    with start_ctl(daemon, "run-now", "website") as following:
        wait_for(lambda: document(daemon.ctl("list", "--json"))["jobs"][0]["state"] == "running")
        daemon.kill()
        _, err = following.communicate(timeout=30)
    assert following.returncode == 69
    assert "storeletd went away while run 1 was followed" in err
    daemon.start()
    assert daemon.ctl("status", "website", check=False).returncode == 3  # lost


def test_a_run_that_queues_says_that_it_waits(
    daemon: Daemon, write_job: WriteJob, gate: Path
) -> None:
    daemon.stop()
    daemon.start("--max-runs", "1")
    write_job("first", run=f"cat {gate}")
    write_job("second")
    start_run(daemon, "first")
    with start_ctl(daemon, "run-now", "-v", "second") as following:
        _read_until(following, "run 2 of second waits for its turn\n")
        assert "second  queued" in daemon.ctl("list").stdout
        open_gate(gate)
        out, _ = following.communicate(timeout=30)
    assert following.returncode == 0
    assert "second: success" in out


def test_on_a_terminal_progress_is_shown_and_names_cannot_steer_it(
    daemon: Daemon, write_job: WriteJob, tree: Path, gate: Path
) -> None:
    (tree / "\x1b[2Jevil").write_text("clears the screen\n")
    write_job("website", run=f"cat {gate}")
    master, slave = pty.openpty()
    with start_ctl(daemon, "run-now", "-v", "website", output=slave) as following:
        os.close(slave)
        shown = b""
        while not re.search(rb"website  \d+ files?  .*/s  ", shown):
            chunk = _read_terminal(master)
            assert chunk, shown
            shown += chunk
        open_gate(gate)
        while chunk := _read_terminal(master):
            shown += chunk
    os.close(master)
    assert following.returncode == 0
    assert b"website: " in shown
    assert f"Added file {tree}/".encode() in shown  # not wrapped: a terminal does that itself
    assert rb"\x1b[2Jevil" in shown
    assert b"\x1b[2Jevil" not in shown


def test_on_a_terminal_progress_says_what_was_reused(
    daemon: Daemon, write_job: WriteJob, job_dir: Path, gate: Path
) -> None:
    (job_dir / "website.py").write_text(
        f"""{LARGE}
open({str(gate)!r}).read()
"""
    )
    daemon.ctl("reload")
    master, slave = pty.openpty()
    with start_ctl(daemon, "run-now", "website", output=slave) as following:
        os.close(slave)
        shown = b""
        while not re.search(rb"website  [\d,]+ files  .*/s  1,000 reused", shown):
            chunk = _read_terminal(master)
            assert chunk, shown
            shown += chunk
        open_gate(gate)
        while _read_terminal(master):
            pass
    os.close(master)
    assert following.returncode == 0


def _read_terminal(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # the other end is closed
        return b""


# history, logs, next


def test_history_shows_runs_newest_first(
    daemon: Daemon, write_job: WriteJob, job_dir: Path
) -> None:
    assert daemon.ctl("history").stderr == "no runs yet\n"
    write_job("website")
    (job_dir / "failing.py").write_text(FAILING)
    daemon.ctl("reload")
    daemon.ctl("run-now", "website")
    daemon.ctl("run-now", "failing", check=False)
    titles, *rows = [re.split(r" {2,}", line.strip()) for line in _lines(daemon, "history")]
    assert titles == ["RUN", "JOB", "BEGUN", "TOOK", "OUTCOME", "READ", "SENT", "SIZE"]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("2", "failing", "failed"),
        ("1", "website", "success"),
    ]
    assert len(_lines(daemon, "history", "--limit", "1")) == 2
    assert len(_lines(daemon, "history", "website")) == 2
    (run,) = document(daemon.ctl("history", "failing", "--json"))["runs"]
    assert run["id"] == 2


def test_history_of_large_archives_fits_a_terminal(
    daemon: Daemon, write_job: WriteJob, job_dir: Path
) -> None:
    (job_dir / "website.py").write_text(LARGE)
    daemon.ctl("reload")
    daemon.ctl("run-now", "website")
    titles, row = _show_on_terminal(daemon, "history")
    assert re.split(r" {2,}", titles.strip())[5:] == ["READ", "SENT", "SIZE"]
    cells = re.split(r" {2,}", row.strip())
    assert (cells[1], cells[5:]) == ("website", ["66,034", "1000 MiB", "1010 MiB"])


def test_a_runs_notes_and_figures_are_shown_where_all_is(
    daemon: Daemon, write_job: WriteJob, job_dir: Path
) -> None:
    (job_dir / "website.py").write_text(LARGE)
    daemon.ctl("reload")
    daemon.ctl("run-now", "website")
    shown = [
        "  files:    67,034 seen: 1,000 reused, 66,034 read (6.3 MiB), 0 skipped",
        "  sent:     1000 MiB of 1010 MiB in 130 requests, 10.0 MiB reused",
        "  note:     not reused from bucket b: its storage class is cold",
    ]
    for verb in (("history", "--run", "1"), ("status", "website")):
        lines = _lines(daemon, *verb)
        assert [line for line in shown if line not in lines] == []
    (run,) = document(daemon.ctl("history", "--json"))["runs"]
    assert run["notes"] == ["not reused from bucket b: its storage class is cold"]
    assert run["files"] == {"seen": 67_034, "reused": 1_000, "read": 66_034, "skipped": 0}


def test_history_shows_all_that_is_kept_of_a_run(daemon: Daemon, write_job: WriteJob) -> None:
    write_job("website", run="echo hello; exit 1")
    daemon.ctl("run-now", "website", check=False)
    lines = _lines(daemon, "history", "--run", "1")
    assert lines[0] == "run 1 of website: failed"
    assert any(re.fullmatch("  message:  .*ended with status 1", line) for line in lines)
    assert "    hello" in lines
    assert document(daemon.ctl("history", "--run", "1", "--json"))["id"] == 1
    assert daemon.ctl("history", "--run", "99", check=False).returncode == 4


def test_logs_are_the_lines_of_the_newest_run(daemon: Daemon, write_job: WriteJob) -> None:
    write_job("website", run="printf 'one\\ntwo\\n\\033[31mthree\\n'")
    assert daemon.ctl("logs", "website").stderr == "no run of website yet\n"
    daemon.ctl("run-now", "website")
    lines = _lines(daemon, "logs", "website")
    at = lines.index("one")
    assert lines[at : at + 3] == ["one", "two", r"\x1b[31mthree"]
    assert _lines(daemon, "logs", "website", "-n", "2") == lines[-2:]
    assert _lines(daemon, "logs", "website", "-n", "0") == []
    assert _lines(daemon, "logs", "website", "--run", "1") == lines
    assert document(daemon.ctl("logs", "website", "--json"))["run"]["id"] == 1
    write_job("database")
    assert daemon.ctl("logs", "database", "--run", "1", check=False).returncode == 4


def test_logs_of_a_run_that_is_on_are_its_lines_so_far(
    daemon: Daemon, write_job: WriteJob, gate: Path
) -> None:
    write_job("website", run=f"echo waiting; cat {gate}")
    start_run(daemon, "website")
    wait_for(lambda: "waiting" in _lines(daemon, "logs", "website"))
    open_gate(gate)


def test_followed_logs_go_on_with_later_runs(
    daemon: Daemon, write_job: WriteJob, gate: Path
) -> None:
    write_job("website", run=f"echo waiting; cat {gate}")
    start_run(daemon, "website")
    with start_ctl(daemon, "logs", "-f", "website") as following:
        _read_until(following, "waiting\n")
        open_gate(gate)
        _read_until(following, "go\n")
        wait_until_finished(daemon, 1)
        start_run(daemon, "website")
        _read_until(following, "waiting\n")
        open_gate(gate)
        _read_until(following, "go\n")
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=10)
    assert (following.returncode, err) == (130, "")


def test_followed_logs_of_one_run_end_with_it(
    daemon: Daemon, write_job: WriteJob, gate: Path
) -> None:
    write_job("website", run=f"echo waiting; cat {gate}")
    run_id = start_run(daemon, "website")
    with start_ctl(daemon, "logs", "-f", "website", "--run", str(run_id)) as following:
        _read_until(following, "waiting\n")
        open_gate(gate)
        out, _ = following.communicate(timeout=30)
    assert following.returncode == 0
    assert "go\n" in out


def test_next_shows_due_times_in_order(daemon: Daemon, write_job: WriteJob) -> None:
    assert daemon.ctl("next").stderr == "no job is due\n"
    write_job("website")
    write_job("database")
    titles, *rows = [re.split(r" {2,}", line.strip()) for line in _lines(daemon, "next")]
    assert titles == ["DUE", "LEFT", "JOB"]
    assert [row[2] for row in rows] == ["database", "website"]
    coming = document(daemon.ctl("next", "website", "--count", "3", "--json"))
    assert [each["job"] for each in coming] == ["website"] * 3
    assert all("T02:30:00" in each["due"] for each in coming)
    job = document(daemon.ctl("status", "website", "--json"))
    assert coming[0]["due"][:16] == job["next_due"][:16]


@pytest.mark.parametrize("verb", ["list", "history", "next"])
def test_on_a_terminal_a_long_name_is_in_one_piece(
    daemon: Daemon, write_job: WriteJob, verb: str
) -> None:
    name = "long-name-" * 20
    write_job(name)
    daemon.ctl("run-now", name)
    titles, row, *rest = _show_on_terminal(daemon, verb)
    assert row.endswith(name)  # the terminal wraps it, so it can be copied
    assert max(map(len, [titles, *rest])) <= 80
    begin = titles.index({"list": "STATE", "history": "BEGUN", "next": "JOB"}[verb])
    assert [len(each) - len(each.lstrip()) for each in rest] == [begin] * (verb != "next")


def test_on_a_terminal_a_job_is_one_row(daemon: Daemon, write_job: WriteJob) -> None:
    write_job("customer-database", more="verify: {every: 1w}")
    daemon.ctl("run-now", "customer-database")
    daemon.ctl("verify", "customer-database", check=False)
    titles, row, *more = _show_on_terminal(daemon, "list")
    assert more == []
    assert titles.split()[-1] == "PROVED"
    assert row.split()[-1] == "ago"


def test_a_reader_that_has_enough_is_no_error(daemon: Daemon, write_job: WriteJob) -> None:
    write_job("website", run="seq 5000")
    daemon.ctl("run-now", "website")
    with start_ctl(daemon, "logs", "website") as logs:
        assert logs.stdout is not None
        assert logs.stderr is not None
        logs.stdout.readline()
        logs.stdout.close()
        assert logs.stderr.read() == ""


def _show_on_terminal(daemon: Daemon, *arguments: str) -> list[str]:
    """Return what a terminal of 80 columns shows, without its colours."""
    master, slave = pty.openpty()
    with start_ctl(daemon, *arguments, output=slave):
        os.close(slave)
        shown = b""
        while chunk := _read_terminal(master):
            shown += chunk
    os.close(master)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()


def _lines(daemon: Daemon, *arguments: str) -> list[str]:
    return daemon.ctl(*arguments).stdout.splitlines()


def _read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for read in process.stdout:
        if read == line:
            return
    raise AssertionError(f"ended without {line!r}")
