"""What people see of a real storeletd on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storeletd.database import Database
from storeletd.events import SavedArchive
from storeletd.history import History
from tests.helpers import Daemon, wait_for
from tests.terminal import read_terminal, run_on_terminal, show, spawn

WriteJob = Callable[..., None]


@pytest.fixture
def write_job(daemon: Daemon, job_dir: Path, tree: Path, destination: Path) -> WriteJob:
    """Return what writes a job that saves `tree` and loads it."""

    def write(name: str, **more: object) -> None:
        job = {
            "schedule": "manual",
            "include": [{"directory": str(tree)}],
            "save": [{"directory": str(destination)}],
            **more,
        }
        (job_dir / f"{name}.yaml").write_text(json.dumps(job))
        daemon.ctl("reload", check=False)

    return write


def remember(daemon: Daemon, job: str, *, took: float, reused: int, files: int = 10) -> None:
    """Put a good backup into the history of a daemon that is stopped."""
    now = datetime.now(UTC)
    archive = SavedArchive(
        url="/nowhere/x.zip", bytes=2000, bytes_reused=1000, bytes_sent=1000, requests=1
    )
    with closing(Database(daemon.state / "history.sqlite")) as database:
        history = History(database)
        run = history.begin(job=job, cause="schedule", due=None, now=now)
        run = history.start(run, now=now - timedelta(seconds=took))
        run = replace(run, state="finished", outcome="success", exit_code=0, finished_at=now)
        run = replace(run, files=files, bytes_read=1000, reused=reused, archives=(archive,))
        history.finish(run)


@contextmanager
def following(daemon: Daemon, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run storeletctl on a terminal beside the test: the process and the terminal."""
    master, slave = pty.openpty()
    options = ("--socket", str(daemon.socket))
    with spawn(*options, *arguments, output=slave, errors=slave, COLUMNS="80") as process:
        os.close(slave)
        try:
            yield process, master
        finally:
            process.kill()
            os.close(master)


def read_until(master: int, pattern: str) -> str:
    """Return what is written to the terminal until something is there."""
    shown = b""
    while not re.search(pattern, shown.decode(errors="replace")):
        chunk = read_terminal(master)
        assert chunk, shown
        shown += chunk
    return shown.decode()


@pytest.mark.parametrize(("reused", "is_told"), [(90, True), (0, False)])
def test_a_run_says_how_long_it_takes_as_the_last_one_tells(
    daemon: Daemon, write_job: WriteJob, tmp_path: Path, reused: int, is_told: bool
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    daemon.stop()
    remember(daemon, "website", took=600, reused=reused)
    daemon.start()
    write_job("website", before=f"cat {gate}")
    with following(daemon, "run-now", "website") as (process, master):
        wait_for(lambda: any("cat" in each for each in daemon.processes()))
        shown = read_until(master, "website  0 files.*\r\x1b")
        assert ("  9m left" in shown) is is_told
        gate.write_text("go\n")
        read_until(master, r"website: \S*success")
        assert process.wait(10) == 0


def test_list_shows_as_much_as_there_is_room_for(daemon: Daemon, write_job: WriteJob) -> None:
    write_job("website", schedule="30 2 * * *")
    daemon.ctl("run-now", "website")
    where = ("--socket", str(daemon.socket))
    titles, row = show(*where, "list", columns=80).splitlines()
    assert " ".join(titles.split()) == "NAME STATE LAST NEXT LEFT SIZE AGE PROVED"
    titles, row = show(*where, "list", columns=160).splitlines()
    assert " ".join(titles.split()) == ("NAME STATE LAST WHEN NEXT LEFT SIZE SENT FILES AGE PROVED")
    assert row.index("success") == titles.index("LAST")
    titles, row = show(*where, "list", columns=60).splitlines()
    assert " ".join(titles.split()) == "NAME STATE LAST NEXT SIZE AGE"
    assert row.startswith("website  idle")


@pytest.mark.parametrize("setting", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
@pytest.mark.parametrize("verb", ["list", "status", "history"])
def test_a_terminal_without_colours_gets_none(
    daemon: Daemon, write_job: WriteJob, verb: str, setting: dict[str, str]
) -> None:
    write_job("website", before="exit 1")
    daemon.ctl("run-now", "website", check=False)
    where = ("--socket", str(daemon.socket))
    assert "\x1b[31mfailed" in run_on_terminal(*where, verb)
    plain = run_on_terminal(*where, verb, **setting)
    assert "failed" in plain
    assert "\x1b" not in plain


def test_an_archive_of_its_own_is_listed_alone(
    daemon: Daemon, write_job: WriteJob, destination: Path
) -> None:
    write_job("website")
    daemon.ctl("run-now", "website")
    daemon.ctl("run-now", "website")
    first, second = sorted(map(str, destination.iterdir()))
    for what, meant in (
        (first, first),
        (f"file://{first}", first),
        (first.rpartition("/")[2], first),
        ("website@latest", second),
    ):
        _titles, row = daemon.ctl("archives", what).stdout.splitlines()
        assert row.split()[-1] == meant
    assert len(daemon.ctl("archives", "website").stdout.splitlines()) == 3
    assert daemon.ctl("find", first, "hello.txt").stdout.splitlines()[1].split()[4] == "1"


def test_next_shows_no_due_time_in_a_pause(daemon: Daemon, write_job: WriteJob) -> None:
    write_job("website", schedule="0 2 * * *", timezone="UTC")
    daemon.ctl("pause", "website")
    assert daemon.ctl("next", "--json").stdout == "[]\n"
    assert daemon.ctl("next", "website").stderr == "website is paused\n"
    daemon.ctl("pause", "website", "--until", "2126-06-01T02:30Z")
    (due,) = json.loads(daemon.ctl("next", "website", "--json").stdout)
    assert due["due"] == "2126-06-02T02:00:00+00:00"


def test_a_broken_file_says_how_many_problems_it_has(
    daemon: Daemon, write_job: WriteJob, job_dir: Path
) -> None:
    write_job("website", schedule="often", keep=3)
    done = daemon.ctl("status", "website", check=False)
    assert done.stderr.endswith(
        f" (and 1 more)\nTry: storeletctl validate {job_dir}/website.yaml\n"
    )


@pytest.mark.parametrize("verb", ["run-now", "restore"])
def test_the_cursor_is_back_when_it_is_told_to_end(
    daemon: Daemon, write_job: WriteJob, tmp_path: Path, verb: str
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    if verb == "run-now":
        write_job("website", before=f"cat {gate}")
        arguments = ("run-now", "website")
    else:
        archive = tmp_path / "large.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("large", bytes(512 << 20))  # takes a second
        arguments = ("restore", str(archive), "--target", str(tmp_path / "target"))
    with following(daemon, *arguments) as (process, master):
        read_until(master, r"\x1b\[\?25l[\s\S]*0 files|of 1 file")
        process.terminate()
        shown = read_until(master, r"\x1b\[\?25h")
        assert "Traceback" not in shown
        assert process.wait(10) == 143
    if verb == "run-now":
        daemon.ctl("cancel", "website")
