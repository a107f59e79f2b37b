"""Where the daemon logs to."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from storeletd import journal
from tests.helpers import CLONE


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_only_what_is_known_becomes_a_field() -> None:
    assert journal.fields() == {}
    assert journal.fields(event="run-begun", job="web", run=7) == {
        "MESSAGE_ID": journal.MESSAGE_IDS["run-begun"],
        "STORELET_JOB": "web",
        "STORELET_RUN": "7",
    }


def test_message_ids_are_distinct_and_as_systemd_wants_them() -> None:
    ids = set(journal.MESSAGE_IDS.values())
    assert len(ids) == len(journal.MESSAGE_IDS)
    assert all(uuid.UUID(each).hex == each for each in ids)


def test_outside_systemd_the_log_is_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert journal.find_log_to() == "stderr"


def test_standard_error_has_storelets_format_and_the_jobs_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal.set_up_logging("stderr")
    logging.getLogger("storeletd").info("Added %s", "x%s", extra=journal.fields(job="web"))
    logging.getLogger("storeletd").debug("not shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("[INFO]: web: Added x%s")


@pytest.mark.skipif(
    os.path.exists(journal.JOURNAL_SOCKET), reason="this machine has a journal: nothing is missing"
)
def test_a_missing_journal_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    journal.set_up_logging("journal")
    logging.getLogger("storeletd").warning("precious")
    assert "precious" in capsys.readouterr().err


# In a mount namespace of its own, /run/systemd is empty and the journal's socket is ours.
_RECEIVER = """
import logging, os, socket, subprocess
from storeletd import journal
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
os.makedirs("/run/systemd/journal")
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind(journal.JOURNAL_SOCKET)
journal.set_up_logging("journal")
extra = journal.fields(event="run-finished", job="web", run=7, outcome="success")
logging.getLogger("storeletd.runner").warning("Run 7 of web: 100%: success", extra=extra)
print(receiver.recv(65536).decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a mount namespace")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_the_journal_gets_format_and_fields() -> None:
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", _RECEIVER],
        cwd=CLONE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.stderr.startswith("unshare: "):
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    sent = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert sent["MESSAGE"].endswith("[WARNING]: Run 7 of web: 100%: success")
    assert sent["PRIORITY"] == "4"
    assert sent["SYSLOG_IDENTIFIER"] == "storeletd"
    assert sent["MESSAGE_ID"] == journal.MESSAGE_IDS["run-finished"]
    assert (sent["STORELET_JOB"], sent["STORELET_RUN"]) == ("web", "7")
    assert sent["STORELET_OUTCOME"] == "success"
    assert sent.get("CODE_ARGS", "()") == "()"
