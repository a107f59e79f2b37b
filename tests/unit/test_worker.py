"""The worker as a process, where no runner is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from storeletd.events import EVENTS_FD
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


def test_a_worker_whose_daemon_is_gone_ends_all_its_uploads(tmp_path: Path) -> None:
    """A killed daemon's worker is told to end, and has several uploads to abort."""
    settings = Settings.model_validate({"schedule": "manual"})
    path = str(tmp_path / "web.py")
    job = Job(name="web", path=path, language="python", settings=settings, source=ENDING, lines={})
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "storeletd.worker"],
        input=Order(job=job, kind="backup", uploads=()).to_json(),
        env={
            EVENTS_FD: str(writing),
            "STATE_DIRECTORY": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "PATH": os.environ["PATH"],
        },
        cwd=CLONE,
        pass_fds=[writing],
        capture_output=True,
        text=True,
    )
    os.close(writing)
    assert done.stdout.splitlines() == ["ended one", "ended two"]
