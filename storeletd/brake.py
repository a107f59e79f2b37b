"""The brake: what makes a run look like a disaster, so that older archives are kept; pure.

An archive that shrinks to less than half, or most files changed at once, may be an empty mount, a
mistake or somebody who encrypts what there is. The run is what it is; but no archive is deleted
until somebody has looked.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Measure", "find_anomaly"]

_FEW_FILES = 20  # of so few, most may well change in a night


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What a run found."""

    bytes: int  # of its largest archive
    seen: int  # files
    changed: int  # files that were read: they are new or have changed


def find_anomaly(before: Measure | None, now: Measure) -> str | None:
    """Return what is not as it was in the run before, if it is to be looked at.

    Where most files change each night, or all are read anew, it is no news.
    """
    if before is None:
        return None
    if now.bytes * 2 < before.bytes:
        return f"the archive has shrunk from {before.bytes:,} to {now.bytes:,} bytes"
    if now.seen >= _FEW_FILES and _is_most(now) and not _is_most(before):
        return f"{now.changed:,} of {now.seen:,} files have changed at once"
    return None


def _is_most(measure: Measure) -> bool:
    return measure.changed * 2 > measure.seen
