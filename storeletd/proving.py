"""Proving: a job's newest archives are read back by a worker; what is right is proved.

At each destination it is the newest archive that this host made and that is not marked as bad. One
that is not right gets the mark. One that differs from its source gets none: it may well be the
source that has rotted.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import storelet
from storeletd.destinations import make_destinations, resolve_password
from storeletd.events import Proved
from storeletd.jobs import Job
from storeletd.order import Sample
from storeletd.proofs import CIRCLE

__all__ = ["verify_archives"]

_log = logging.getLogger("storeletd.proving")

_SHOWN = 20  # members that differ


def verify_archives(job: Job, sample: Sample, prove: Callable[[Proved], object]) -> None:
    """Verify a sample at each destination of a job; call `prove` with what is right.

    Raises StoreletError. What is not right at one destination does not keep it from the others.
    """
    destinations, failures = make_destinations(job)
    password = resolve_password(job.settings)
    for destination in destinations:
        try:
            archive = _find_newest(destination, job.name, password)
            prove(_verify(archive, job, sample, str(destination)))
        except storelet.StoreletError as error:
            failures.append(error)
    if failures:
        raise storelet.join_errors(failures)


def _find_newest(
    destination: storelet.S3 | storelet.Directory, name: str, password: str | None
) -> storelet.OpenedArchive:
    host = socket.gethostname()
    for archive in reversed(storelet.list_archives(destination, name, password=password)):
        if not archive.is_bad and archive.host == host:
            return archive
    raise storelet.ArchiveMissingError(
        f"no archive of {name} in {destination} that host {host} has made and that is not bad",
        hint=f"storeletctl run-now {name}",
    )


def _verify(archive: storelet.OpenedArchive, job: Job, sample: Sample, place: str) -> Proved:
    first = sample.firsts.get(place, 0)
    size = max(round(sample.part * CIRCLE), 1)
    compare = job.settings.verify is not None and job.settings.verify.compare_source
    result = archive.verify(sample=size / CIRCLE, start=first / CIRCLE, compare_source=compare)
    wrong = [*archive.problems, *(f"{name}: {reason}" for name, reason in result.refused)]
    if wrong:
        archive.mark_bad(wrong[0])
        raise storelet.DamagedArchiveError(
            f"{archive.url} is damaged: {_sum_up(wrong)}",
            hint=f"it is marked as bad, and the next run reads everything: storeletctl run-now"
            f" {job.name}",
        )
    different = [f"{name}: {reason}" for name, reason in result.different]
    if different:
        for each in different[:_SHOWN]:
            _log.error("Different from its source: %s", each)
        raise storelet.DamagedArchiveError(
            f"{archive.url} is whole, but differs from its sources: {_sum_up(different)}",
            hint="see which of the two is right: storeletctl dump ARCHIVE MEMBER",
        )
    compared = f", {result.compared:,} compared with their sources" if compare else ""
    _log.info(
        "Verified %s: %s members are right, %s bytes%s",
        *(archive.url, f"{result.files:,}", f"{result.size:,}", compared),
    )
    return Proved(place=place, archive=archive.url, first=first, size=size)


def _sum_up(wrong: list[str]) -> str:
    more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
    return f"{wrong[0]}{more}"
