"""The worker as a process, where no runner is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storeletd.events import EVENTS_FD, Busy, Ended, Event, Progress, decode
from storeletd.jobs import Job
from storeletd.order import Order
from storeletd.settings import Settings
from tests.helpers import CLONE

ENDING = """\
from storelet.observer import UploadEnded, report
for upload_id in ("one", "two"):
    report(UploadEnded(upload_id=upload_id))
    print("ended", upload_id)
"""
RAISING = """\
import storelet
error = storelet.DestinationError("no way", hint="wait")
error.is_temporary = {is_temporary}
raise error
"""


MOVING = """\
import storelet
from storelet.observer import Moved, report
report(Moved(bytes_read=5, bytes_sent=7))
with storelet.ZipBackup("example") as backup, backup.include_new_dir("d"):
    pass
"""


def start(source: str, directory: Path, events: int) -> subprocess.CompletedProcess[str]:
    """Do the run of a module, whose events go to a descriptor."""
    settings = Settings.model_validate({"schedule": "manual"})
    path = str(directory / "web.py")
    job = Job(name="web", path=path, language="python", settings=settings, source=source, lines={})
    return subprocess.run(
        [sys.executable, "-P", "-m", "storeletd.worker"],
        input=Order(job=job, kind="backup", uploads=()).to_json(),
        env={
            EVENTS_FD: str(events),
            "STATE_DIRECTORY": str(directory),
            "TMPDIR": str(directory),
            "PATH": os.environ["PATH"],
        },
        cwd=CLONE,
        pass_fds=[events],
        capture_output=True,
        text=True,
    )


def events_of(source: str, directory: Path) -> list[Event]:
    """Do the run of a module and return its events."""
    with (directory / "events").open("w+b") as file:
        start(source, directory, file.fileno())
        file.seek(0)
        return [decode(line) for line in file]


def test_a_worker_whose_daemon_is_gone_ends_all_its_uploads(tmp_path: Path) -> None:
    """A killed daemon's worker is told to end, and has several uploads to abort."""
    reading, writing = os.pipe()
    os.close(reading)
    done = start(ENDING, tmp_path, writing)
    os.close(writing)
    assert done.stdout.splitlines() == ["ended one", "ended two"]


@pytest.mark.parametrize("is_temporary", [True, False])
def test_the_last_word_of_a_worker_says_whether_its_error_may_pass(
    tmp_path: Path, is_temporary: bool
) -> None:
    assert events_of(RAISING.format(is_temporary=is_temporary), tmp_path)[-1] == Ended(
        outcome="failed", message="no way", hint="wait", exit_code=1, is_temporary=is_temporary
    )


def test_a_worker_says_what_has_moved_and_from_when_to_when_nothing_need(tmp_path: Path) -> None:
    first, *rest = events_of(MOVING, tmp_path)
    assert first == Progress(files=0, bytes_read=5, bytes_sent=7, reused=0, skipped=0, current=None)
    assert [each for each in rest if isinstance(each, Busy)] == [
        Busy(is_busy=True),
        Busy(is_busy=False),
    ]
