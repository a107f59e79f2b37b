"""Pruning: the archives of a backup that its retention lets go are deleted at a destination.

An archive counts where its own record says that this host made it for this backup; what merely has
such a name is left alone. `retention` decides; here its decisions are carried out, the oldest
archive first, so that what is broken off has deleted nothing that is newer than what stays.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo

from storelet.destination.contract import Destination, Stored
from storelet.errors import PermissionDeniedError
from storelet.label import find_record
from storelet.observer import Deleted, NotPruned, report
from storelet.retention import Candidate, Keep, decide
from storelet.zipformat import ArchiveRecord

__all__ = ["PrunedArchive", "prune"]

_READS_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedArchive:
    """An archive, and what retention says of it."""

    url: str
    name: str  # of its file
    size: int  # bytes
    started: datetime | None  # when its backup began; None where it does not say
    is_kept: bool
    reasons: tuple[str, ...]  # which rules keep it, or why none does
    is_deleted: bool = False


def prune(
    destination: Destination,
    name: str,
    keep: Keep,
    *,
    zone: tzinfo | None = None,
    dry_run: bool = False,
) -> list[PrunedArchive]:
    """Delete what `keep` lets go of the archives of the backup `name`; return all, newest first.

    Call it after a backup that went well. Hours, days and weeks are those of `zone`, by default
    this machine's. Where the key may not delete, that is reported and nothing is. Raises
    StoreletError.
    """
    stored = destination.list_archives(name)
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        records = list(pool.map(lambda each: _read_record(destination, each), stored))
    now = datetime.now(zone).astimezone(zone)
    ours = {}
    found = []
    for archive, record in zip(stored, records, strict=True):
        if record is None or (record.job, record.host) != (name, socket.gethostname()):
            found.append(_leave_alone(destination, archive, record))
        else:
            ours[archive.name] = archive, datetime.fromtimestamp(record.started_ns / 1e9, UTC)
    candidates = [
        Candidate(name=archive.name, started=started, is_good=not archive.is_bad)
        for archive, started in ours.values()
    ]
    for decision in decide(keep, candidates, zone=now.tzinfo or UTC, now=now):
        archive, started = ours[decision.candidate.name]
        found.append(
            PrunedArchive(
                url=destination.url_of(archive),
                name=archive.name,
                size=archive.size,
                started=started,
                is_kept=decision.is_kept,
                reasons=decision.reasons,
            )
        )
    if not dry_run:
        archives = {each.name: each for each in stored}
        found = _delete(destination, archives, found, name)
    return sorted(found, key=lambda each: (each.started or _NEVER, each.name), reverse=True)


_NEVER = datetime.min.replace(tzinfo=UTC)


def _read_record(destination: Destination, archive: Stored) -> ArchiveRecord | None:
    def read(offset: int, size: int) -> bytes:
        return destination.read(archive, offset, max(min(size, archive.size - offset), 0))

    return find_record(read, archive.size)


def _leave_alone(
    destination: Destination, archive: Stored, record: ArchiveRecord | None
) -> PrunedArchive:
    reason = "no archive of Storelet's"
    if record is not None:
        reason = f"made by host {record.host} for {record.job}"
    started = None if record is None else datetime.fromtimestamp(record.started_ns / 1e9, UTC)
    return PrunedArchive(
        url=destination.url_of(archive),
        name=archive.name,
        size=archive.size,
        started=started,
        is_kept=True,
        reasons=(reason,),
    )


def _delete(
    destination: Destination, archives: dict[str, Stored], found: Sequence[PrunedArchive], name: str
) -> list[PrunedArchive]:
    """Delete what is not kept, the oldest first; return all, with what became of them."""
    let_go = [each for each in reversed(found) if not each.is_kept]
    there: set[str] = set()
    try:
        destination.delete_archives([archives[each.name] for each in let_go])
    except PermissionDeniedError as error:
        report(NotPruned(destination=str(destination), reason=str(error)))
        there = {each.name for each in destination.list_archives(name)}
    deleted = {each.name for each in let_go} - there
    for each in let_go:
        if each.name in deleted:
            report(Deleted(url=each.url, bytes=each.size, reason="; ".join(each.reasons)))
    return [replace(each, is_deleted=each.name in deleted) for each in found]
