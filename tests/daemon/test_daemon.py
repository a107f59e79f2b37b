"""The daemon as its user meets it: job files in, archives and history out."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import CLONE, Bucket, Daemon, wait_for

# "Takes effect within 2 s" is the promise; a loaded machine gets some more before a test fails.
SOON = 5.0


def write_job(daemon: Daemon, name: str, text: str) -> Path:
    """Drop a job file as an editor does: under another name first."""
    path = daemon.jobs / name
    temporary = daemon.jobs / f".{name}.new"
    temporary.write_text(textwrap.dedent(text))
    temporary.chmod(0o600)
    temporary.rename(path)
    return path


def write_yaml(daemon: Daemon, name: str, source: Path, destination: Path, more: str = "") -> Path:
    return write_job(
        daemon,
        f"{name}.yaml",
        f"schedule: manual\n{more}include:\n- directory: {source}\n"
        f"save:\n- directory: {destination}\n",
    )


def jobs(daemon: Daemon) -> dict[str, Any]:
    return {job["name"]: job for job in daemon.request("GET", "/jobs")[1]["jobs"]}


def problems(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.request("GET", "/jobs")[1]["problems"]
    return found


def run(daemon: Daemon, name: str) -> dict[str, Any]:
    """Run a job to its end and return the run."""
    wait_for(lambda: name in jobs(daemon), seconds=SOON, what=f"job {name}")
    status, answer = daemon.request("POST", f"/jobs/{name}/runs")
    assert status == 202, answer
    return finished(daemon, answer["run"]["id"])


def finished(daemon: Daemon, run_id: int) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        answer: dict[str, Any] = daemon.request("GET", f"/runs/{run_id}")[1]
        return answer if answer["state"] == "finished" else None

    return wait_for(look, seconds=30, what=f"the end of run {run_id}")


def started(daemon: Daemon, name: str, mark: Path) -> int:
    """Start a job that makes `mark`, and wait for that; return the run's number."""
    wait_for(lambda: name in jobs(daemon), seconds=SOON, what=f"job {name}")
    run_id: int = daemon.request("POST", f"/jobs/{name}/runs")[1]["run"]["id"]
    wait_for(mark.exists, seconds=20, what=f"{mark} of job {name}")
    return run_id


def write_sleeper(daemon: Daemon, name: str, mark: Path, more: str = "") -> Path:
    """Drop a module that makes `mark`, starts a process that hides, and then never ends."""
    return write_job(
        daemon,
        f"{name}.py",
        f"""\
        SCHEDULE = "manual"
        {more}
        import subprocess, time
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        open({str(mark)!r}, "w").close()
        time.sleep(1000)
        """,
    )


def test_a_yaml_job_makes_an_archive(daemon: Daemon, tree: Path, destination: Path) -> None:
    write_yaml(daemon, "web", tree, destination)
    done = run(daemon, "web")
    assert (done["outcome"], done["cause"], done["exit_code"]) == ("success", "manual", 0)
    (archive,) = destination.iterdir()
    assert [each["url"] for each in done["archives"]] == [archive.as_uri()]
    with zipfile.ZipFile(archive) as opened:
        assert opened.read("hello.txt") == (tree / "hello.txt").read_bytes()
        members = [name for name in opened.namelist() if not name.endswith("/")]
    read = sum(p.stat().st_size for p in tree.rglob("*") if _is_file(p))
    assert done["files"] == {"seen": len(members), "reused": 0, "read": len(members), "skipped": 0}
    assert (done["bytes"]["read"], done["bytes"]["archive"]) == (read, archive.stat().st_size)
    first = f"not reused from directory {destination}: it has no archive of this backup yet"
    assert done["notes"] == [first]


def test_a_python_module_records_what_the_library_did(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    write_job(
        daemon,
        "photos.py",
        f"""\
        import storelet
        SCHEDULE = "30 2 * * *"
        TIMEOUT = "2h"
        storelet.setup_logging()
        with storelet.ZipBackup("pictures") as backup:
            backup.include_directory({str(tree)!r})
            backup.include_file({str(tree / "hello.txt")!r})
            print("now saving")
            backup.save_to_directory({str(destination)!r})
        """,
    )
    done = run(daemon, "photos")
    assert (done["outcome"], done["exit_code"]) == ("partial", 3)
    assert done["files"]["skipped"] == 1
    assert done["files"]["read"] > 5
    assert done["skipped_entries"][0]["path"] == str(tree / "hello.txt")
    (archive,) = destination.glob("pictures_*.zip")
    assert done["archives"][0]["url"] == archive.as_uri()
    assert "now saving" in done["output"]
    assert f"Added file {tree / 'hello.txt'}" in done["output"]


REPORTING = """\
SCHEDULE = "manual"
from storelet import observer
from storelet.observer import report
for path in ("/a", "/b", "/c"):
    report(observer.Added(path=path, member=path, bytes_read=1000, bytes_stored=10))
report(observer.Truncated(path="/c", reason="truncated at 7: EIO"))
report(observer.Skipped(path="/d", reason="permission denied"))
report(observer.Reused(files=66_000))
for bucket in ("bucket one", "bucket one", "bucket two"):
    report(observer.NotReused(destination=bucket, reason="its storage class is cold"))
for number in (1, 2):
    report(
        observer.Saved(
            url=f"s3://b/{number}.zip", destination="bucket b", bytes=570 << 20,
            bytes_reused=558 << 20, bytes_sent=12 << 20, requests=500,
        )
    )
"""


def test_a_run_records_what_was_reused_sent_and_noted(daemon: Daemon) -> None:
    write_job(daemon, "web.py", REPORTING)
    done = run(daemon, "web")
    assert done["outcome"] == "partial"  # for the entries, not for the notes
    assert done["files"] == {"seen": 66_004, "reused": 66_000, "read": 2, "skipped": 2}
    size = {"archive": 1140 << 20, "reused": 1116 << 20, "read": 3000, "sent": 24 << 20}
    assert done["bytes"] == size
    assert done["requests"] == 1000
    cold = "its storage class is cold"
    notes = [f"not reused from bucket {which}: {cold}" for which in ("one", "two")]
    assert done["notes"] == notes
    assert [each["bytes_sent"] for each in done["archives"]] == [12 << 20] * 2
    assert "read 2 of 66,004 files, sent 25,165,824 of 1,195,376,640 bytes" in daemon.log()
    daemon.stop()
    daemon.start()
    assert finished(daemon, done["id"]) == done  # it is in the history, not only in memory


def test_what_could_not_be_reused_makes_no_run_partial(daemon: Daemon) -> None:
    troubles = ("Truncated", "Skipped")
    text = "\n".join(
        line for line in REPORTING.splitlines() if not any(t in line for t in troubles)
    )
    write_job(daemon, "web.py", text)
    done = run(daemon, "web")
    assert (done["outcome"], done["message"]) == ("success", None)
    assert len(done["notes"]) == 2


def test_what_a_yaml_job_says_of_reuse_reaches_the_library(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    more = "reuse: false\nreread: 90d\nchange_detection: {ctime: false}\n"
    write_yaml(daemon, "web", tree, destination, more)
    assert run(daemon, "web")["outcome"] == "success"


def test_a_job_saves_to_s3_with_secrets_from_files_that_appear_nowhere(
    daemon: Daemon, tree: Path, tmp_path: Path, s3_server: Bucket
) -> None:
    secret = "a-secret-nobody-may-see"
    (tmp_path / "key").write_text(f"{secret}\n")
    write_job(
        daemon,
        "web.yaml",
        f"""\
        schedule: manual
        include: [{{directory: {tree}}}]
        save:
        - s3: {s3_server.name}
          prefix: web/
          endpoint_url: {s3_server.endpoint}
          region_name: us-east-1
          access_key: somebody
          secret_key: {{file: {tmp_path}/key}}
        """,
    )
    done = run(daemon, "web")
    assert done["outcome"] == "success", done
    (key,) = s3_server.keys()
    assert done["archives"][0]["url"] == f"s3://{s3_server.name}/{key}"
    written = daemon.log() + json.dumps(daemon.request("GET", "/jobs/web")[1]) + json.dumps(done)
    assert secret not in written
    assert all(secret.encode() not in path.read_bytes() for path in daemon.state.iterdir())


def test_a_job_locks_what_it_saves(daemon: Daemon, tree: Path, s3_server: Bucket) -> None:
    name = f"{s3_server.name}-locked"
    s3_server.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    daemon.environment |= s3_server.environment
    daemon.stop()
    daemon.start()
    write_job(
        daemon,
        "web.yaml",
        f"""\
        schedule: manual
        include: [{{directory: {tree}}}]
        save: [{{s3: {name}, lock: {{mode: governance, retain: 30d}}}}]
        """,
    )
    done = run(daemon, "web")
    assert done["outcome"] == "success", done
    key = done["archives"][0]["url"].rpartition("/")[2]
    head = s3_server.client.head_object(Bucket=name, Key=key)
    assert head["ObjectLockMode"] == "GOVERNANCE"
    left = head["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left < timedelta(days=30)


def test_a_scheduled_run_happens_and_is_recorded(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    path = write_yaml(daemon, "web", tree, destination)
    write_job(daemon, "web.yaml", path.read_text().replace("manual", "every 1s"))
    wait_for(lambda: list(destination.iterdir()), seconds=20, what="an archive")
    path.unlink()
    wait_for(lambda: "web" not in jobs(daemon), seconds=SOON, what="the job's removal")
    runs = wait_for(
        lambda: (
            (found := daemon.request("GET", "/runs?job=web")[1]["runs"])
            and all(each["state"] == "finished" for each in found)
            and found
        ),
        what="the end of all runs",
    )
    assert {each["cause"] for each in runs} <= {"schedule", "catch-up"}
    # Every due time is in one row: they follow one another without a gap.
    due = sorted((each["due"] for each in runs), key=lambda each: each["first"])
    for before, after in itertools.pairwise(due):
        assert _seconds(after["first"]) - _seconds(before["last"]) == 1
        assert before["count"] == _seconds(before["last"]) - _seconds(before["first"]) + 1


def test_files_are_picked_up_changed_and_removed_while_the_daemon_runs(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    assert jobs(daemon) == {}
    path = write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: jobs(daemon), seconds=SOON, what="the job")
    write_job(daemon, "web.yaml", path.read_text().replace("manual", "30 2 * * *"))
    wait_for(lambda: jobs(daemon)["web"]["next_due"], seconds=SOON, what="a due time")
    path.unlink()
    wait_for(lambda: not jobs(daemon), seconds=SOON, what="the job's removal")


def test_a_broken_file_keeps_its_last_good_version_and_harms_nobody(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "good", tree, destination)
    path = write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: len(jobs(daemon)) == 2, seconds=SOON, what="two jobs")
    write_job(daemon, "web.yaml", path.read_text().replace("include", "inklude"))
    (problem, *_) = wait_for(lambda: problems(daemon), seconds=SOON, what="a problem")
    assert (problem["file"], problem["line"], problem["loaded"]) == (str(path), 2, True)
    assert "include" in json.dumps(problem)
    assert jobs(daemon)["web"]["state"] == "broken"
    assert "inklude" in daemon.log()
    assert run(daemon, "web")["outcome"] == "success"
    assert run(daemon, "good")["outcome"] == "success"


def test_a_file_that_others_may_write_is_refused(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    write_yaml(daemon, "good", tree, destination)
    path = daemon.jobs / "web.yaml"
    path.write_text((daemon.jobs / "good.yaml").read_text())
    path.chmod(0o666)
    found = wait_for(lambda: problems(daemon), seconds=SOON, what="a problem")
    assert found[0]["file"] == str(path)
    assert not found[0]["loaded"]
    wait_for(lambda: set(jobs(daemon)) == {"good"}, seconds=SOON, what="the good job")


def test_two_files_of_one_name_are_a_problem(daemon: Daemon, tree: Path, destination: Path) -> None:
    write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON, what="the job")
    write_job(daemon, "web.py", 'SCHEDULE = "manual"\n')
    found = wait_for(lambda: problems(daemon), seconds=SOON, what="a problem")
    assert "web.py" in json.dumps(found)
    assert jobs(daemon)["web"]["language"] == "yaml"


def test_no_more_than_max_runs_are_on_and_the_others_follow_in_order(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.stop()
    daemon.start("--max-runs", "1")
    for name in ("a", "b", "c"):
        write_job(
            daemon,
            f"{name}.py",
            f"""\
            SCHEDULE = "manual"
            import os, time
            time.sleep(0.2)
            with open({str(tmp_path / "order")!r}, "a") as file:
                file.write("{name}")
            raise SystemExit(75)
            """,
        )
    wait_for(lambda: len(jobs(daemon)) == 3, seconds=SOON, what="three jobs")
    numbers = [daemon.request("POST", f"/jobs/{n}/runs")[1]["run"]["id"] for n in ("c", "a", "b")]
    assert daemon.request("GET", f"/runs/{numbers[2]}")[1]["state"] == "queued"
    assert [finished(daemon, number)["outcome"] for number in numbers] == ["skipped"] * 3
    assert (tmp_path / "order").read_text() == "cab"


def test_a_job_that_runs_is_not_started_again(daemon: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_sleeper(daemon, "slow", mark)
    run_id = started(daemon, "slow", mark)
    status, answer = daemon.request("POST", "/jobs/slow/runs")
    assert (status, answer["exit_code"]) == (409, 11)
    daemon.request("POST", f"/runs/{run_id}/cancel")
    assert finished(daemon, run_id)["outcome"] == "cancelled"


@pytest.mark.parametrize("overlap", ["queue", "skip"])
def test_a_job_that_is_due_while_it_runs_waits_or_is_skipped(
    daemon: Daemon, tmp_path: Path, overlap: str
) -> None:
    log = tmp_path / "log"
    write_job(
        daemon,
        "slow.py",
        f"""\
        SCHEDULE = "every 1s"
        OVERLAP = "{overlap}"
        import time
        with open({str(log)!r}, "a", buffering=1) as file:
            file.write("begin ")
            time.sleep(1.5)
            file.write("end ")
        raise SystemExit(75)
        """,
    )
    wait_for(lambda: log.exists() and log.read_text().count("end") >= 3, seconds=30, what="3 runs")
    runs = daemon.request("GET", "/runs?job=slow")[1]["runs"]
    (daemon.jobs / "slow.py").unlink()
    words = log.read_text().split()
    assert words == ["begin", "end"] * (len(words) // 2) + ["begin"] * (len(words) % 2)
    if overlap == "skip":
        collided = [each for each in runs if each["outcome"] == "skipped" and not each["begun_at"]]
        assert collided
        assert {each["collided_with"] for each in collided} <= {each["id"] for each in runs}
    else:
        begun = [each for each in runs if each["begun_at"]]
        assert any(_seconds(each["begun_at"]) > _seconds(each["queued_at"]) for each in begun)


def test_a_cancelled_run_leaves_no_process_behind(daemon: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_sleeper(daemon, "slow", mark)
    run_id = started(daemon, "slow", mark)
    assert daemon.request("POST", f"/runs/{run_id}/cancel")[0] == 202
    done = finished(daemon, run_id)
    assert (done["outcome"], done["exit_code"]) == ("cancelled", 143)
    assert daemon.processes() == []
    assert daemon.request("POST", f"/runs/{run_id}/cancel")[0] == 409


def test_a_run_that_takes_too_long_is_ended(daemon: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_sleeper(daemon, "slow", mark, 'TIMEOUT = "2s"')
    done = finished(daemon, started(daemon, "slow", mark))
    assert (done["outcome"], done["exit_code"]) == ("timeout", 124)
    assert daemon.processes() == []


def test_a_run_that_moves_no_byte_is_ended(daemon: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_sleeper(daemon, "slow", mark, 'IDLE_TIMEOUT = "1s"')
    done = finished(daemon, started(daemon, "slow", mark))
    assert (done["outcome"], done["exit_code"]) == ("timeout", 124)
    assert "without a byte" in done["message"]
    daemon.assert_alone()


def test_a_run_that_moves_bytes_or_waits_for_a_command_is_not_idle(
    daemon: Daemon, tmp_path: Path, destination: Path
) -> None:
    write_job(
        daemon,
        "slow.yaml",
        f"""\
        schedule: manual
        idle_timeout: 4s
        include:
        - new_dir: a
          run: "sleep 6; echo 1 > 1"
        save:
        - directory: {destination}
        """,
    )
    assert run(daemon, "slow")["outcome"] == "success"
    write_job(
        daemon,
        "many.py",
        f"""\
        SCHEDULE = "manual"
        IDLE_TIMEOUT = "4s"
        import time, storelet
        with storelet.ZipBackup("many") as backup:
            for number in range(10):
                time.sleep(0.5)
                with open("{tmp_path}/file", "w") as file:
                    file.write(str(number))
                backup.include_file("{tmp_path}/file", name=str(number))
            backup.save_to_directory("{destination}")
        """,
    )
    assert run(daemon, "many")["outcome"] == "success"


def test_a_daemon_that_is_told_to_end_ends_its_runs(daemon: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_sleeper(daemon, "slow", mark)
    run_id = started(daemon, "slow", mark)
    daemon.stop()
    daemon.assert_alone()
    daemon.start()
    assert finished(daemon, run_id)["outcome"] == "cancelled"


def test_a_killed_daemon_leaves_no_process_and_its_run_is_lost(
    daemon: Daemon, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    write_sleeper(daemon, "slow", mark)
    run_id = started(daemon, "slow", mark)
    daemon.kill()
    daemon.assert_alone()
    assert [p.name for p in daemon.socket.parent.glob("storelet-*")] == []
    daemon.start()
    done = finished(daemon, run_id)
    assert (done["outcome"], done["exit_code"]) == ("lost", 1)
    assert "was lost" in daemon.log()


@pytest.mark.parametrize(
    ("code", "outcome", "message"),
    [
        ("pass", "failed", "it saved nothing"),
        ("raise SystemExit(75)", "skipped", "status 75"),
        ("raise SystemExit(4)", "failed", "status 4"),
        ("1/0", "failed", "ZeroDivisionError: division by zero"),
        ("raise SystemExit('no such thing')", "failed", "status 1"),
        ("import os; os._exit(0)", "failed", "it saved nothing"),
        ("import os; os._exit(75)", "skipped", "status 75"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "signal 9"),
        (
            "raise __import__('storelet').StoreletError('no disk', hint='buy one')",
            "failed",
            "no disk",
        ),
    ],
)
def test_how_a_module_ends_is_its_runs_outcome(
    daemon: Daemon, code: str, outcome: str, message: str
) -> None:
    write_job(daemon, "module.py", f'SCHEDULE = "manual"\n{code}\n')
    done = run(daemon, "module")
    assert done["outcome"] == outcome
    assert message in done["message"]


SAVE = """
import os, signal, sys, threading, time, atexit
import storelet
SCHEDULE = "manual"
def save():
    with storelet.ZipBackup("module") as backup:
        backup.include_directory({tree!r})
        backup.save_to_directory({destination!r})
"""


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("threading.Thread(target=save).start()", "success"),
        ("atexit.register(save)", "success"),
        ("save(); os._exit(0)", "success"),
        ("save(); os.execvp('true', ['true'])", "success"),
        # what a forked process does or says is no part of the run
        ("save()\nif os.fork() == 0: time.sleep(0.5); sys.exit(4)", "success"),
        ("save()\nif os.fork() == 0: sys.exit(0)\nos.wait(); raise OSError('no')", "failed"),
        ("save()\nif os.fork() == 0: raise OSError('no')\nos.wait()", "success"),
        ("save()\nif os.fork() == 0: save(); sys.exit(0)\nos.wait()", "success"),
    ],
)
def test_a_module_runs_as_it_does_by_hand(
    daemon: Daemon, tree: Path, destination: Path, code: str, outcome: str
) -> None:
    text = SAVE.format(tree=str(tree), destination=str(destination))
    write_job(daemon, "module.py", f"{text}\n{code}\n")
    done = run(daemon, "module")
    assert (done["outcome"], len(done["archives"])) == (outcome, 1), done


def test_a_job_is_not_imported_in_the_place_of_a_module(
    daemon: Daemon, tree: Path, destination: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    text = f"open({str(mark)!r}, 'w').close()\nSCHEDULE = 'manual'\n"
    write_job(daemon, "colorsys.py", text)
    module = SAVE.format(tree=str(tree), destination=str(destination))
    write_job(daemon, "module.py", f"{module}\nimport colorsys\nsave()\n")
    assert run(daemon, "module")["outcome"] == "success"
    assert not mark.exists()


def test_nonsense_on_the_events_pipe_ends_nothing(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    module = SAVE.format(tree=str(tree), destination=str(destination))
    nonsense = [{"event": "Logged", "level": "x", "message": 1}, {"event": "Ended", "outcome": "b"}]
    lines = "".join(json.dumps(each) + "\n" for each in nonsense)
    write_job(
        daemon,
        "module.py",
        f"{module}\n"
        "for fd in range(3, 64):\n"
        "    try:\n"
        f"        os.write(fd, {lines!r}.encode())\n"
        "    except OSError: pass\n"
        "save()\n",
    )
    assert run(daemon, "module")["outcome"] == "success"
    assert "not an event" in daemon.log()


def test_a_file_named_like_an_archive_is_backed_up_all_the_same(daemon: Daemon, tree: Path) -> None:
    """And a destination that holds other things, too, is no reason to leave those out."""
    (tree / "web_20130421163000.zip").write_text("an ordinary file")
    (tree / "home").mkdir()
    (tree / "home" / "thesis.txt").write_text("years of work")
    write_yaml(daemon, "web", tree, tree / "home")
    for _ in range(2):
        assert run(daemon, "web")["outcome"] == "success"
    for archive in (tree / "home").glob("*.zip"):
        with zipfile.ZipFile(archive) as opened:
            assert {"web_20130421163000.zip", "home/thesis.txt"} <= set(opened.namelist())


def test_a_job_that_was_away_does_not_catch_up(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    path = write_yaml(daemon, "web", tree, destination)
    text = path.read_text().replace("manual", "every 1s")
    write_job(daemon, "web.yaml", text)
    wait_for(lambda: list(destination.iterdir()), seconds=20, what="an archive")
    path.rename(path.with_suffix(".disabled"))
    wait_for(lambda: not jobs(daemon), seconds=SOON, what="the job's removal")
    before = daemon.request("GET", "/runs?job=web&limit=1")[1]["runs"][0]["due"]["last"]
    time.sleep(3)
    write_job(daemon, "web.yaml", text)
    runs = wait_for(
        lambda: [
            each
            for each in daemon.request("GET", "/runs?job=web&limit=5")[1]["runs"]
            if each["due"]["first"] > before
        ],
        seconds=20,
        what="a new run",
    )
    assert _seconds(runs[-1]["due"]["first"]) - _seconds(before) >= 3
    assert runs[-1]["due"]["count"] == 1


def test_an_outcome_that_cannot_be_written_is_written_later(
    daemon: Daemon, tree: Path, destination: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "go"
    module = SAVE.format(tree=str(tree), destination=str(destination))
    write_job(
        daemon,
        "web.py",
        f"{module}\nsave()\nwhile not os.path.exists({str(mark)!r}): time.sleep(0.05)\n",
    )
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON, what="the job")
    run_id = daemon.request("POST", "/jobs/web/runs")[1]["run"]["id"]
    wait_for(lambda: list(destination.iterdir()), seconds=20, what="an archive")
    with sqlite3.connect(daemon.state / "history.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")  # as a disk that is full: nothing can be written
        mark.touch()
        wait_for(lambda: "is not in history yet" in daemon.log(), seconds=60, what="the failure")
        assert daemon.request("GET", f"/runs/{run_id}")[1]["outcome"] == "success"
        with socket.socket(socket.AF_UNIX) as follower:
            follower.settimeout(30)
            follower.connect(str(daemon.socket))
            follower.sendall(f"GET /runs/{run_id}/events HTTP/1.0\r\n\r\n".encode())
            heard = b"".join(iter(lambda: follower.recv(65536), b"")).decode()
        last = json.loads(heard.rpartition("data: ")[2])
        assert (last["state"], last["outcome"]) == ("finished", "success")
        other.execute("ROLLBACK")
    other.close()
    daemon.stop()
    daemon.start()
    done = daemon.request("GET", f"/runs/{run_id}")[1]
    assert (done["outcome"], len(done["archives"])) == ("success", 1)


def test_a_killed_keeper_ends_its_run(daemon: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_job(
        daemon,
        "slow.py",
        f"SCHEDULE = 'manual'\nimport time\nopen({str(mark)!r}, 'w').close()\ntime.sleep(1000)\n",
    )
    run_id = started(daemon, "slow", mark)
    (keeper,) = [each for each in daemon.processes() if "keeper.py" in each]
    os.kill(int(keeper.split()[0]), signal.SIGKILL)
    assert finished(daemon, run_id)["outcome"] == "failed"
    daemon.assert_alone()
    for left in daemon.socket.parent.glob("storelet-*"):
        left.rmdir()


def test_a_shell_command_is_a_failure_if_any_part_of_its_pipe_is(
    daemon: Daemon, destination: Path
) -> None:
    write_job(
        daemon,
        "database.yaml",
        f"""\
        schedule: manual
        include: [{{new_dir: dump, run: "PASSWORD=hunter2 false | gzip > dump.gz"}}]
        save: [{{directory: {destination}}}]
        """,
    )
    done = run(daemon, "database")
    assert (done["outcome"], list(destination.iterdir())) == ("failed", [])
    assert "hunter2" not in daemon.log() + json.dumps(done)


def test_all_destinations_that_failed_are_named(daemon: Daemon, tree: Path, tmp_path: Path) -> None:
    write_job(
        daemon,
        "web.yaml",
        f"""\
        schedule: manual
        include: [{{directory: {tree}}}]
        save: [{{directory: {tmp_path}/nowhere}}, {{directory: {tmp_path}/neither}}]
        """,
    )
    done = run(daemon, "web")
    assert (done["outcome"], done["exit_code"]) == ("failed", 10)
    assert f"{tmp_path}/nowhere" in done["message"]
    assert f"{tmp_path}/neither" in done["message"]


def test_what_a_job_prints_steers_no_terminal(daemon: Daemon) -> None:
    text = "SCHEDULE = 'manual'\nprint('\\x1b]0;title\\x07 \\r hello')\n"
    write_job(daemon, "loud.py", text)
    assert "\\x1b]0;title\\x07 \\r hello" in run(daemon, "loud")["output"]
    assert "\x1b" not in daemon.log()


@pytest.mark.parametrize("zone", ["EST5EDT,M3.2.0,M11.1.0", "Mars/Foo"])
def test_a_machine_whose_zone_has_no_name_runs_jobs_all_the_same(
    daemon: Daemon, tree: Path, destination: Path, zone: str
) -> None:
    daemon.stop()
    daemon.environment["TZ"] = zone
    daemon.start()
    write_yaml(daemon, "web", tree, destination, "timezone: Europe/Berlin\n")
    assert run(daemon, "web")["outcome"] == "success"


def test_a_command_fills_a_new_directory_and_sees_no_keys(
    daemon: Daemon, destination: Path
) -> None:
    daemon.stop()
    daemon.environment |= {"AWS_ACCESS_KEY_ID": "not-for-commands", "UNRELATED": "not-for-workers"}
    daemon.start()
    write_job(
        daemon,
        "database.yaml",
        f"""\
        schedule: manual
        environment: {{PGHOST: /run/postgresql}}
        include:
        - new_dir: shell
          run: env > {{dir}}/environment && echo said aloud
        - new_dir: list
          run: ["touch", "{{dir}}/a b"]
        save: [{{directory: {destination}}}]
        """,
    )
    done = run(daemon, "database")
    assert done["outcome"] == "success", done
    (archive,) = destination.iterdir()
    with zipfile.ZipFile(archive) as opened:
        assert "list/a b" in opened.namelist()
        environment = opened.read("shell/environment").decode()
    assert "PGHOST=/run/postgresql" in environment
    assert "not-for" not in environment
    assert "said aloud" in done["output"]


def test_a_command_that_fails_ends_the_run_and_nothing_is_saved(
    daemon: Daemon, destination: Path
) -> None:
    write_job(
        daemon,
        "database.yaml",
        f"""\
        schedule: manual
        include: [{{new_dir: dump, run: "echo no such database >&2; exit 3"}}]
        save: [{{directory: {destination}}}]
        """,
    )
    done = run(daemon, "database")
    assert (done["outcome"], list(destination.iterdir())) == ("failed", [])
    assert "status 3" in done["message"]
    assert "no such database" in done["output"]


def test_a_destination_inside_a_source_and_the_state_are_not_backed_up(
    daemon: Daemon, tree: Path
) -> None:
    (tree / "backups").mkdir()
    daemon.state.rename(tree / "state")
    daemon.state.symlink_to(tree / "state")
    write_yaml(daemon, "web", tree, tree / "backups")
    assert [run(daemon, "web")["outcome"] for _ in range(2)] == ["success"] * 2
    for archive in (tree / "backups").iterdir():
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
        assert "hello.txt" in names
        assert not [name for name in names if name.startswith(("backups/w", "state"))]


def test_one_destination_that_fails_does_not_keep_the_other_from_its_archive(
    daemon: Daemon, tree: Path, destination: Path, tmp_path: Path
) -> None:
    write_job(
        daemon,
        "web.yaml",
        f"""\
        schedule: manual
        include: [{{directory: {tree}}}]
        save: [{{directory: {tmp_path}/nowhere}}, {{directory: {destination}}}]
        """,
    )
    done = run(daemon, "web")
    assert done["outcome"] == "failed"
    assert f"{tmp_path}/nowhere" in done["message"]
    assert len(list(destination.iterdir())) == len(done["archives"]) == 1


def test_the_log_of_files_is_bounded(daemon: Daemon, tmp_path: Path, destination: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(1_200):
        (source / f"{number:04}").touch()
    write_yaml(daemon, "many", source, destination)
    assert run(daemon, "many")["files"]["read"] == 1_200
    assert daemon.log().count("Added file") == 1_000
    assert "Added 200 more files" in daemon.log()


def test_the_log_has_storelets_format(daemon: Daemon, tree: Path, destination: Path) -> None:
    write_yaml(daemon, "web", tree, destination)
    run(daemon, "web")
    line = next(line for line in daemon.log().splitlines() if "Added file" in line)
    date, clock, level, rest = line.split(" ", 3)
    assert (len(date), len(clock), level) == (10, 12, "[INFO]:")
    assert rest.startswith("web: Added file ")


def test_a_second_daemon_on_the_same_state_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    done = start_another(daemon, state=daemon.state, socket=tmp_path / "other.sock")
    assert done.returncode == 11
    assert str(daemon.state) in done.stderr


def test_a_second_daemon_on_the_same_socket_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    done = start_another(daemon, state=tmp_path / "other", socket=daemon.socket)
    assert done.returncode != 0
    assert str(daemon.socket) in done.stderr
    assert daemon.request("GET", "/health")[1]["pid"] == daemon.pid


def test_a_file_in_the_sockets_place_is_left_alone(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious")
    assert start_another(daemon, state=tmp_path / "other", socket=path).returncode != 0
    assert path.read_text() == "precious"


def test_a_stale_socket_is_replaced(daemon: Daemon) -> None:
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.request("GET", "/health")[0] == 200


def test_socket_and_state_are_not_for_everybody(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
    assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o700
    for path in daemon.state.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    daemon.stop()
    assert not daemon.socket.exists()


def test_neither_boto3_nor_a_jobs_code_is_ever_in_the_daemon(
    daemon: Daemon, tree: Path, destination: Path, tmp_path: Path
) -> None:
    """The daemon, run to its end after a run, lists what it has imported."""
    daemon.stop()
    report = tmp_path / "modules.json"
    program = (
        "import json, sys, storeletd.__main__ as m\n"
        "m.main()\n"
        f"open({str(report)!r}, 'w').write(json.dumps(sorted(sys.modules)))\n"
    )
    daemon.start(program=program)
    write_yaml(daemon, "web", tree, destination)
    assert run(daemon, "web")["outcome"] == "success"
    daemon.stop()
    imported = {name.partition(".")[0] for name in json.loads(report.read_text())}
    assert "storeletd" in imported
    assert not imported & {"boto3", "botocore", "deflate", "isal", "zlib_ng"}


def test_events_of_a_run_come_as_they_happen_and_end(daemon: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_sleeper(daemon, "slow", mark)
    run_id = started(daemon, "slow", mark)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(daemon.socket))
        connection.sendall(f"GET /runs/{run_id}/events HTTP/1.0\r\n\r\n".encode())
        received = b""
        while b"event: state" not in received:
            received += connection.recv(65536)
        daemon.request("POST", f"/runs/{run_id}/cancel")
        while more := connection.recv(65536):
            received += more
    last = received.decode().strip().rpartition("event: ")[2]
    assert last.startswith("finished")
    assert json.loads(last.partition("data: ")[2])["outcome"] == "cancelled"


def test_a_daemon_ends_though_somebody_follows_a_run(daemon: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_sleeper(daemon, "slow", mark)
    run_id = started(daemon, "slow", mark)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(f"GET /runs/{run_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert connection.recv(100)
        daemon.stop()


@pytest.mark.parametrize(
    ("method", "path", "status", "exit_code"),
    [
        ("GET", "/jobs/nobody", 404, 4),
        ("POST", "/jobs/nobody/runs", 404, 4),
        ("GET", "/runs/99", 404, 4),
        ("GET", "/runs/x", 400, 2),
        ("GET", "/runs?limit=x", 400, 2),
        ("GET", "/runs?job=nobody", 404, 4),
        ("GET", "/runs/99/events", 404, 4),
        ("POST", "/runs/99/cancel", 404, 4),
        ("GET", "/nothing", 404, 2),
        ("DELETE", "/jobs", 405, 2),
    ],
)
def test_wrong_requests_get_one_clear_answer(
    daemon: Daemon, method: str, path: str, status: int, exit_code: int
) -> None:
    got, answer = daemon.request(method, path)
    assert (got, answer["exit_code"]) == (status, exit_code)
    assert answer["error"]


def test_hangup_reloads(daemon: Daemon, tree: Path, destination: Path) -> None:
    os.kill(daemon.pid, signal.SIGHUP)
    write_yaml(daemon, "web", tree, destination)
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON, what="the job")


def start_another(
    daemon: Daemon, *options: str, state: Path, socket: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "storeletd",
            "--jobs",
            daemon.jobs,
            "--state",
            state,
            "--socket",
            str(socket),
            "--log-to",
            "stderr",
            *options,
        ],
        cwd=CLONE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _seconds(text: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(text).timestamp())
