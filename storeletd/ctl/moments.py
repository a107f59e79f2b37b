"""Which archive of a job a time means: JOB@2026-11-20, JOB@2026-11-20T12:00."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from storeletd.ctl.console import CommandError

if TYPE_CHECKING:
    import storelet

__all__ = ["ARCHIVE_FILE", "find_until"]

ARCHIVE_FILE = re.compile(r"(.+)_(\d{14})\.zip")

_USAGE = 2
_NO_SUCH = 4
_ZONES = timedelta(hours=26)  # that local times in archives' names can differ by


def find_until(
    archives: Sequence[storelet.OpenedArchive], when: str, job: str, hint: str
) -> storelet.OpenedArchive:
    """Return the newest archive that was begun not after a time, or not after a day."""
    limit = _read_limit(when)
    candidates = sorted(archives, key=_local_time, reverse=True)
    for archive in candidates:
        # Names have the time of some zone; what an archive says of itself takes a read.
        if _local_time(archive) - _ZONES <= limit.replace(tzinfo=None):
            started = archive.started or archive.modified
            if started <= limit:
                return archive
    oldest = min((_local_time(each) for each in archives), default=None)
    raise CommandError(
        f"job {job} has no archive from {when} or before",
        hint=f"{hint}; the oldest is from {oldest:%Y-%m-%d}",
        exit_code=_NO_SUCH,
    )


def _read_limit(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(
            f"no time: {text}",
            hint="JOB@latest, JOB@2026-11-20, JOB@2026-11-20T12:00",
            exit_code=_USAGE,
        ) from error
    if len(text) <= len("2026-11-20"):
        moment += timedelta(days=1, microseconds=-1)
    return moment.astimezone()


def _local_time(archive: storelet.OpenedArchive) -> datetime:
    named = ARCHIVE_FILE.fullmatch(archive.name)
    try:
        return datetime.strptime(named[2] if named else "", "%Y%m%d%H%M%S")  # noqa: DTZ007
    except ValueError:
        return archive.modified.astimezone().replace(tzinfo=None)
