"""Where the daemon logs to: journald with fields, or standard error.

Both use storelet's logging defaults. A record's job, run and outcome travel as journal fields;
standard error has no fields, so there the job's name stands before a run's lines. Whatever a record
says, and whoever said it first, its message is one line that steers no terminal.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Literal

from storelet import LOGGING_DEFAULTS
from storeletd.jobs import make_printable

__all__ = ["MESSAGE_IDS", "LogTo", "fields", "find_log_to", "set_up_logging"]

LogTo = Literal["journal", "stderr"]

IDENTIFIER = "storeletd"
JOURNAL_SOCKET = "/run/systemd/journal/socket"

# One for each kind of event, for `journalctl MESSAGE_ID=…`; they never change.
MESSAGE_IDS = {
    "daemon-started": "6f3e0a5b1d7c4f0e9a52c1f07d3b8e11",
    "daemon-stopped": "0b8d4c2f5e9a4a63b7f1d20c96e3a722",
    "jobs-changed": "c2a97e10f4564b8d8e0b3a6d15f7c933",
    "job-broken": "9d51f3b8a0274e6cbb48e7d2036fc144",
    "job-overdue": "7d0c9be25a1f4f8c8e36b04d91a2f588",
    "job-recovered": "a83f1e6c40d94d0fb7c25e9d63b81f99",
    "job-paused": "1c6e5d97b2f04a3e9f84d7205e3ca0aa",
    "job-resumed": "f25a8b0369e7412d86d0c1fb47e95dbb",
    "run-begun": "3b7ac9e2d86f4f15a1c04d9b52e87f55",
    "run-finished": "e4f08b61c9d34b7d9c3a5f827b10d666",
    "prune-held": "a94f0c6be1d54d27b8a3e60f5c1d2a88",
    "prune-resumed": "a94f0c6be1d54d27b8a3e60f5c1d2a99",
    "run-lost": "51c6d9f7023e4e8fa6b9d3c4870ea777",
}


def fields(
    *,
    event: str | None = None,
    job: str | None = None,
    run: int | None = None,
    outcome: str | None = None,
) -> dict[str, str]:
    """Return the `extra` of a log record: the journal fields that are known."""
    named = {
        "MESSAGE_ID": MESSAGE_IDS[event] if event else None,
        "STORELET_JOB": job,
        "STORELET_RUN": None if run is None else str(run),
        "STORELET_OUTCOME": outcome,
    }
    return {name: value for name, value in named.items() if value is not None}


def find_log_to() -> LogTo:
    """Return the journal under systemd, standard error elsewhere.

    sd_journal_print(3) says nothing when nobody listens, and JournalHandler drops the record
    without a word: so the socket must be there.
    """
    under_systemd = "JOURNAL_STREAM" in os.environ or "INVOCATION_ID" in os.environ
    return "journal" if under_systemd and os.path.exists(JOURNAL_SOCKET) else "stderr"


def set_up_logging(log_to: LogTo) -> None:
    """Send every record of this process to `log_to`, in storelet's format."""
    handler: logging.Handler
    if log_to == "journal" and os.path.exists(JOURNAL_SOCKET):
        from systemd.journal import JournalHandler

        handler = JournalHandler(SYSLOG_IDENTIFIER=IDENTIFIER)
        handler.setFormatter(_Formatter(LOGGING_DEFAULTS["format"]))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_StderrFormatter(LOGGING_DEFAULTS["format"]))
    logging.basicConfig(level=LOGGING_DEFAULTS["level"], handlers=[handler], force=True)
    for chatty in ("apscheduler", "asyncio", "uvicorn", "watchfiles"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if log_to == "journal" and not os.path.exists(JOURNAL_SOCKET):
        logging.getLogger(__name__).warning(
            "No journal at %s: logging to standard error", JOURNAL_SOCKET
        )


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = "\t".join(map(make_printable, record.message.split("\t")))
        return super().formatMessage(record)


class _StderrFormatter(_Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        job: Any = getattr(record, "STORELET_JOB", None)
        if job is not None and not hasattr(record, "MESSAGE_ID"):  # events name the job themselves
            record.message = f"{job}: {record.message}"
        return super().formatMessage(record)
