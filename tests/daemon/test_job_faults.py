"""What may happen to the job directory and the control socket while the daemon runs."""

from __future__ import annotations

import os
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.test_daemon import (
    SOON,
    finished,
    jobs,
    problems,
    run,
    started,
    write_job,
    write_yaml,
)
from tests.helpers import Daemon, wait_for

DONE = "raise SystemExit(75)\n"  # nothing was to be saved
TICKER = f'SCHEDULE = "every 1s"\nOVERLAP = "queue"\n{DONE}'
IDLER = f'SCHEDULE = "manual"\n{DONE}'


def runs(daemon: Daemon, job: str) -> list[dict[str, Any]]:
    """Return the runs of a job, the oldest first."""
    answer = daemon.request("GET", f"/runs?job={job}&limit=1000")[1]  # an error: none, and no job
    found: list[dict[str, Any]] = answer.get("runs", [])
    return found[::-1]


def assert_no_due_time_is_lost(found: list[dict[str, Any]]) -> None:
    """Fail unless the rows of a job that is due each second count each second once."""
    dues = [each["due"] for each in found if each["due"]]
    seconds = [
        (time.mktime(time.strptime(due[end][:19], "%Y-%m-%dT%H:%M:%S")))
        for due in dues
        for end in ("first", "last")
    ]
    assert sum(due["count"] for due in dues) == seconds[-1] - seconds[0] + 1, dues
    assert seconds == sorted(seconds), dues


# The job directory


@pytest.mark.parametrize("how", ["removed", "unreadable", "unmounted"])
def test_a_job_directory_that_is_away_for_a_while_costs_no_job_and_no_due_time(
    daemon: Daemon, how: str
) -> None:
    write_job(daemon, "tick.py", TICKER)
    wait_for(lambda: runs(daemon, "tick") if "tick" in jobs(daemon) else None, what="a run")
    aside = daemon.jobs.with_name("aside")
    if how == "unreadable":
        daemon.jobs.chmod(0o722)  # others may write to it, so it is not trusted
    else:
        daemon.jobs.rename(aside)
    if how == "unmounted":
        daemon.jobs.touch()  # something else in its place
    wait_for(lambda: problems(daemon), seconds=SOON, what="a problem")
    assert "its jobs stay as they were" in problems(daemon)[0]["message"]
    count = len(runs(daemon, "tick"))
    wait_for(lambda: len(runs(daemon, "tick")) > count + 2, what="runs of the job meanwhile")
    if how == "unreadable":
        daemon.jobs.chmod(0o700)
    else:
        if how == "unmounted":
            daemon.jobs.unlink()
        aside.rename(daemon.jobs)
    wait_for(lambda: not problems(daemon), seconds=SOON, what="an end of the problem")
    count = len(runs(daemon, "tick"))
    wait_for(lambda: len(runs(daemon, "tick")) > count + 2, what="more runs")
    (daemon.jobs / "tick.py").unlink()
    wait_for(lambda: "tick" not in jobs(daemon), seconds=SOON, what="an end of the job")
    assert_no_due_time_is_lost(runs(daemon, "tick"))
    assert daemon.log().count("Job tick removed") == 1


def test_a_link_to_a_directory_that_is_trusted_may_take_its_place(daemon: Daemon) -> None:
    write_job(daemon, "web.py", IDLER)
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON, what="the job")
    real = daemon.jobs.with_name("real")
    daemon.jobs.rename(real)
    daemon.jobs.symlink_to(real)
    daemon.ctl("reload")
    assert list(jobs(daemon)) == ["web"]
    assert problems(daemon) == []
    write_job(daemon, "mail.py", IDLER)
    wait_for(lambda: list(jobs(daemon)) == ["mail", "web"], seconds=SOON, what="another job")
    daemon.jobs.unlink()
    real.rename(daemon.jobs)


def test_a_link_to_a_directory_of_others_is_refused_and_nothing_of_it_loaded(
    daemon: Daemon, tmp_path: Path
) -> None:
    write_job(daemon, "web.py", IDLER)
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON, what="the job")
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "web.py").write_text('SCHEDULE = "manual"\nraise SystemExit(66)\n')
    (evil / "more.py").write_text('SCHEDULE = "manual"\n')
    evil.chmod(0o777)
    real = daemon.jobs.with_name("real")
    daemon.jobs.rename(real)
    daemon.jobs.symlink_to(evil)
    daemon.ctl("reload", check=False)
    (problem,) = problems(daemon)
    assert "writable by everybody" in problem["message"]
    assert list(jobs(daemon)) == ["web"]
    assert run(daemon, "web")["exit_code"] == 75  # of the version that is loaded
    daemon.jobs.unlink()
    real.rename(daemon.jobs)


def test_five_thousand_files_at_once_are_all_loaded_and_the_daemon_answers_meanwhile(
    daemon: Daemon, tmp_path: Path
) -> None:
    crowd = tmp_path / "crowd"
    crowd.mkdir(mode=0o700)
    for number in range(5_000):
        path = crowd / f"job{number:04}.yaml"
        path.write_text(
            f"schedule: '{number % 60} 3 * * 0'\ninclude:\n- directory: /srv/{number}\n"
            "save:\n- directory: /backup\n"
        )
        path.chmod(0o600)
    crowd.rename(daemon.jobs)  # an empty directory may be replaced
    seen = set()

    def look() -> bool:
        health = daemon.request("GET", "/health")[1]  # it must answer, whatever it is doing
        seen.add(health["jobs"])
        return bool(health["jobs"] == 5_000)

    wait_for(look, seconds=60, what="5,000 jobs")
    assert seen <= {0, 5_000}
    assert problems(daemon) == []
    assert len(jobs(daemon)) == 5_000
    daemon.jobs.rename(crowd)
    daemon.jobs.mkdir(mode=0o700)
    wait_for(lambda: not jobs(daemon), seconds=60, what="an end of them all")


# A job's file


def test_a_run_goes_on_with_the_text_it_began_with_and_the_next_has_the_new_one(
    daemon: Daemon, tmp_path: Path
) -> None:
    begun, going = tmp_path / "begun", tmp_path / "go"
    text = (
        'SCHEDULE = "manual"\nimport os, time\n'
        f"open({str(begun)!r}, 'w').close()\n"
        f"while not os.path.exists({str(going)!r}): time.sleep(0.02)\n"
        "print('{}')\n"
    )
    write_job(daemon, "web.py", text.format("old text"))
    first = started(daemon, "web", begun)
    write_job(daemon, "web.py", text.format("new text"))
    wait_for(lambda: "Job web changed" in daemon.log(), seconds=SOON, what="the new text")
    going.touch()
    assert finished(daemon, first)["output"] == ["old text"]
    assert run(daemon, "web")["output"] == ["new text"]


def test_a_run_of_a_job_whose_file_is_removed_goes_on(daemon: Daemon, tmp_path: Path) -> None:
    begun, going = tmp_path / "begun", tmp_path / "go"
    path = write_job(
        daemon,
        "web.py",
        'SCHEDULE = "manual"\nimport os, time\n'
        f"open({str(begun)!r}, 'w').close()\n"
        f"while not os.path.exists({str(going)!r}): time.sleep(0.02)\n{DONE}",
    )
    run_id = started(daemon, "web", begun)
    path.unlink()
    wait_for(lambda: "web" not in jobs(daemon), seconds=SOON, what="an end of the job")
    going.touch()
    assert finished(daemon, run_id)["exit_code"] == 75


def test_a_file_that_is_half_written_harms_nothing_and_is_loaded_when_it_is_whole(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    path = write_yaml(daemon, "web", tree, destination)
    run(daemon, "web")
    whole = f"schedule: manual\nreuse: false\n{path.read_text().split(chr(10), 1)[1]}"
    half = whole.index("save:") + 8
    with path.open("w") as file:  # as an editor that writes in place, and slowly
        file.write(whole[:half])
        file.flush()
        wait_for(lambda: problems(daemon), seconds=SOON, what="a problem")
        assert problems(daemon)[0]["loaded"]
        assert run(daemon, "web")["outcome"] == "success"
        file.write(whole[half:])
    wait_for(lambda: not problems(daemon), seconds=SOON, what="an end of the problem")
    settings = daemon.request("GET", "/jobs/web")[1]["settings"]
    assert settings["reuse"]["value"] is False
    for archive in destination.iterdir():
        assert zipfile.ZipFile(archive).testzip() is None


def test_a_file_whose_permissions_are_lost_keeps_its_last_good_version(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    path = write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON, what="the job")
    path.chmod(0o666)
    wait_for(lambda: problems(daemon), seconds=SOON, what="a problem")
    assert jobs(daemon)["web"]["state"] == "broken"
    assert run(daemon, "web")["outcome"] == "success"
    path.chmod(0o600)
    wait_for(lambda: not problems(daemon), seconds=SOON, what="an end of the problem")


# The control socket


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen there as another program."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        yield other


def answers(daemon: Daemon) -> bool:
    try:
        return bool(daemon.request("GET", "/health")[1]["pid"] == daemon.pid)
    except OSError:
        return False


def test_a_control_socket_that_is_removed_is_bound_anew(daemon: Daemon, tmp_path: Path) -> None:
    write_job(daemon, "tick.py", TICKER)
    begun = tmp_path / "begun"
    run_id = started(daemon, "slow", begun) if write_sleeping(daemon, begun) else 0
    with socket.socket(socket.AF_UNIX) as follower:
        follower.settimeout(60)
        follower.connect(str(daemon.socket))
        follower.sendall(f"GET /runs/{run_id}/events HTTP/1.0\r\n\r\n".encode())
        daemon.socket.unlink()
        wait_for(lambda: answers(daemon), seconds=30, what="a new socket")
        assert "The control socket was gone" in daemon.log()
        assert daemon.socket.stat().st_mode & 0o777 == 0o660
        assert daemon.request("POST", f"/runs/{run_id}/cancel")[0] == 202
        heard = b"".join(iter(lambda: follower.recv(65536), b"")).decode()
        assert "cancelled" in heard.rpartition("event: finished")[2]  # it followed all the time
    for _ in range(2):
        daemon.socket.unlink()
        wait_for(lambda: answers(daemon), seconds=30, what="a new socket")
    count = count_sockets(daemon)
    daemon.socket.unlink()
    wait_for(lambda: answers(daemon), seconds=30, what="a new socket")
    assert count_sockets(daemon) <= count + 1
    (daemon.jobs / "tick.py").unlink()
    wait_for(lambda: "tick" not in jobs(daemon), seconds=SOON, what="an end of the job")
    assert_no_due_time_is_lost(runs(daemon, "tick"))


def write_sleeping(daemon: Daemon, mark: Path) -> Path:
    text = f"SCHEDULE = 'manual'\nimport time\nopen({str(mark)!r}, 'w')\ntime.sleep(1000)\n"
    return write_job(daemon, "slow.py", text)


def count_sockets(daemon: Daemon) -> int:
    """Count the sockets that the daemon has open; others may come and go meanwhile."""
    count = 0
    for each in fds(daemon):
        with suppress(FileNotFoundError):
            count += "socket" in os.readlink(each)
    return count


def fds(daemon: Daemon) -> list[Path]:
    return list(Path(f"/proc/{daemon.pid}/fd").iterdir())


@pytest.mark.parametrize("taker", ["another daemon", "a file"])
def test_a_place_that_is_taken_is_left_alone_until_it_is_free(daemon: Daemon, taker: str) -> None:
    write_job(daemon, "tick.py", TICKER)
    wait_for(lambda: runs(daemon, "tick") if "tick" in jobs(daemon) else None, what="a run")
    daemon.socket.unlink()
    said = "is no socket and is left alone" if taker == "a file" else "another storeletd listens"
    if taker == "a file":
        daemon.socket.write_text("mine")
        wait_for(lambda: said in daemon.log(), seconds=30, what="a word about it")
        assert daemon.socket.read_text() == "mine"
    else:
        with listening(daemon.socket) as other:
            own = daemon.socket.stat().st_ino
            wait_for(lambda: said in daemon.log(), seconds=30, what="a word about it")
            assert daemon.socket.stat().st_ino == own
            other.settimeout(10)
            other.accept()[0].close()  # the question whether it listens
    before = daemon.log().count("begins (schedule)")
    wait_for(lambda: daemon.log().count("begins (schedule)") > before + 1, what="more runs")
    assert daemon.log().count(said) == 1
    daemon.socket.unlink()
    wait_for(lambda: answers(daemon), seconds=30, what="a socket of its own again")


def test_a_socket_is_bound_anew_where_its_directory_was_removed(daemon: Daemon) -> None:
    place = daemon.socket.parent
    aside = place.with_name(f"{place.name}-aside")
    place.rename(aside)
    wait_for(lambda: answers(daemon), seconds=30, what="a new socket")
    daemon.socket.unlink()
    place.rmdir()
    aside.rename(place)
    wait_for(lambda: answers(daemon), seconds=30, what="a new socket")


def test_what_is_in_the_place_at_the_end_is_left_alone(daemon: Daemon) -> None:
    daemon.socket.unlink()
    daemon.socket.write_text("mine")
    daemon.stop()
    assert daemon.socket.read_text() == "mine"
    daemon.socket.unlink()
    shutil.rmtree(daemon.state)
    daemon.start()
