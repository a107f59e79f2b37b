"""A run, and what its followers get, as JSON.

Times are ISO 8601 in the machine's zone, with offset.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from storeletd.events import Logged, Progress, SavedArchive, SkippedEntry
from storeletd.records import Run
from storeletd.run import Message

__all__ = [
    "describe_archive",
    "describe_message",
    "describe_run",
    "describe_run_whole",
    "to_iso",
]


def describe_run(run: Run) -> dict[str, Any]:
    """Return a run as JSON."""
    due = run.due
    return {
        "id": run.id,
        "job": run.job,
        "kind": run.kind,
        "cause": run.cause,
        "state": run.state,
        "outcome": run.outcome,
        "exit_code": run.exit_code,
        "due": due and {"first": to_iso(due.first), "last": to_iso(due.last), "count": due.count},
        "queued_at": to_iso(run.queued_at),
        "begun_at": to_iso(run.begun_at),
        "finished_at": to_iso(run.finished_at),
        "message": run.message,
        "hint": run.hint,
        **_describe_figures(run),
        "notes": list(run.notes),
        "archives": [describe_archive(each) for each in run.archives],
        "collided_with": run.collided_with,
        "repeats": run.repeats,
        "attempt": run.attempt,
        "retry_at": to_iso(run.retry_at),
    }


def describe_run_whole(
    run: Run, skipped: Sequence[SkippedEntry], lines: Sequence[str]
) -> dict[str, Any]:
    """Return a run with its skipped entries and last lines."""
    return {
        **describe_run(run),
        "skipped_entries": [{"path": each.path, "reason": each.reason} for each in skipped],
        "output": list(lines),
    }


def describe_message(message: Message) -> dict[str, Any]:
    """Return what a follower of a run gets."""
    match message.data:
        case Run():
            return describe_run(message.data)
        case Logged(level=level, message=text):
            return {"level": logging.getLevelName(level), "message": text}
        case Progress(bytes_read=read, bytes_sent=sent, current=current):
            files = _describe_files(message.data)
            return {"files": files, "bytes": {"read": read, "sent": sent}, "current": current}


def _describe_figures(run: Run) -> dict[str, Any]:
    """Return what was done, over all archives of the run."""
    return {
        "files": _describe_files(run),
        "bytes": {
            "archive": sum(each.bytes for each in run.archives),
            "reused": sum(each.bytes_reused for each in run.archives),
            "read": run.bytes_read,
            "sent": sum(each.bytes_sent for each in run.archives),
        },
        "requests": sum(each.requests for each in run.archives),
    }


def _describe_files(of: Run | Progress) -> dict[str, int]:
    return {
        "seen": of.files + of.reused + of.skipped,
        "reused": of.reused,
        "read": of.files,
        "skipped": of.skipped,
    }


def describe_archive(archive: SavedArchive) -> dict[str, Any]:
    """Return an archive that a run saved."""
    return {
        "url": archive.url,
        "bytes": archive.bytes,
        "bytes_reused": archive.bytes_reused,
        "bytes_sent": archive.bytes_sent,
        "requests": archive.requests,
    }


def to_iso(time: datetime | None) -> str | None:
    """Return a time as JSON has it."""
    return None if time is None else time.astimezone().isoformat(timespec="milliseconds")
