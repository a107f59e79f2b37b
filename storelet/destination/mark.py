"""Marks of bad archives: a small file `<archive>.bad` beside an archive that is not to be trusted.

Its name alone makes the mark, so one listing tells of archives and marks, and a text that is cut
short does no harm. Whatever the order of events, a bad archive must never look like a good one.
"""

from __future__ import annotations

import socket
from collections.abc import Container, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from storelet.destination.contract import Stored

__all__ = ["is_mark", "look_for_marks", "mark_name", "mark_text", "marked_by"]

_ENDING = ".bad"
_BEGINNING = "Storelet found this archive bad"


def mark_name(archive: str) -> str:
    """Return the file name of an archive's mark."""
    return archive + _ENDING


def marked_by(file_name: str) -> str | None:
    """Return the name of the archive that a file of such a name marks; None for other files."""
    return file_name.removesuffix(_ENDING) if file_name.endswith(_ENDING) else None


def mark_text(reason: str) -> bytes:
    """Return what stands in a mark, one line: when it was made, by which host, and why."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    why = " ".join(reason.split())
    return f"{_BEGINNING} at {now} on {socket.gethostname()}: {why}\n".encode()


def is_mark(data: bytes) -> bool:
    """Tell whether a file that begins with `data` is a mark that Storelet has made."""
    return data.startswith(_BEGINNING.encode())


def look_for_marks(archives: Iterable[Stored], names: Container[str]) -> list[Stored]:
    """Return archives, oldest first, with what the names beside them tell: which are bad."""
    looked = (replace(each, is_bad=mark_name(each.name) in names) for each in archives)
    return sorted(looked, key=lambda each: (each.modified, each.name))
