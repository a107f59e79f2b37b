"""What is wanted of an archive, and what stands against it, before anything is written.

The catalogue is gone through once. Members that overlap, that share a name, that would lie outside
the target or that cannot be read are refused. Where the target has something already, it is
decided here what becomes of it:

- the same file, by size, time, mode and CRC, stays: so a restore that was interrupted goes on;
- another one stays and the member is refused, unless it may be replaced.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from storelet.restore.content import check_readable, crc_of
from storelet.restore.listing import Listing, StoredMember
from storelet.restore.paths import RefusedError
from storelet.restore.reading import Wanted
from storelet.restore.target import Target

__all__ = ["Overwrite", "Survey", "Verdict", "survey"]

Overwrite = Literal["never", "if-newer", "always"]
_LOCAL_HEADER_BYTES = 30
_ELSEWHERE = 1 << 62  # for what is in no archive
_SET_ID = stat.S_ISUID | stat.S_ISGID


class Verdict:
    """What becomes of a member."""

    UNWANTED = 0
    RESTORE = 1
    THERE = 2  # the target has it already
    KEPT = 3  # the target has a newer one
    REFUSED = 4


@dataclass(slots=True)
class Survey:
    """What was found; members count from 0 in the order of the catalogue."""

    verdicts: bytearray = field(default_factory=bytearray)
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)  # name and reason
    files: int = 0  # files and symbolic links to restore
    size: int = 0  # bytes of their content
    links: dict[bytes, Wanted] = field(default_factory=dict)  # what is there of hard links

    def take(self, member: StoredMember, verdict: int) -> None:
        """Note what becomes of the next member."""
        self.verdicts.append(verdict)
        self._count(member, verdict, 1)

    def refuse(self, number: int, member: StoredMember, reason: str) -> None:
        """Refuse a member that was noted before."""
        self._count(member, self.verdicts[number], -1)
        self.verdicts[number] = Verdict.REFUSED
        self.refused.setdefault(number, (member.name, reason))

    def _count(self, member: StoredMember, verdict: int, times: int) -> None:
        if verdict == Verdict.RESTORE and not member.is_directory:
            self.files += times
            self.size += times * member.size


class _Extents:
    """Where members lie: no two may share bytes."""

    def __init__(self) -> None:
        self._starts = array("Q")
        self._ends = array("Q")  # at least

    def add(self, member: StoredMember) -> None:
        if not 0 <= member.offset < _ELSEWHERE:
            self._starts.append(_ELSEWHERE)
            self._ends.append(_ELSEWHERE)
            return
        self._starts.append(member.offset)
        head = _LOCAL_HEADER_BYTES + len(member.raw_name)
        self._ends.append(member.offset + head + member.stored_size)

    def overlapping(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of members that overlap."""
        starts, ends = self._starts, self._ends
        furthest = -1
        for number in sorted(range(len(starts)), key=starts.__getitem__):
            if furthest >= 0 and starts[number] < ends[furthest]:
                yield furthest, number
            if furthest < 0 or ends[number] > ends[furthest]:
                furthest = number


def survey(
    listing: Listing,
    is_wanted: Callable[[StoredMember], bool],
    find_path: Callable[[StoredMember], str],
    target: Target | None,
    overwrite: Overwrite,
) -> Survey:
    """Go through the catalogue; `target` is None where nothing can be there yet.

    `find_path` says where a member belongs, or raises RefusedError.
    """
    result = Survey()
    extents = _Extents()
    owners: dict[str, tuple[int, StoredMember]] = {}  # who has a path
    for number, member in enumerate(listing.members()):
        extents.add(member)
        if not is_wanted(member):
            result.take(member, Verdict.UNWANTED)
            continue
        try:
            path = find_path(member)
            _check(member, listing)
            verdict = _judge(path, member, target, overwrite)
            result.take(member, verdict)
            if verdict == Verdict.THERE and member.link:
                result.links.setdefault(member.link, Wanted(number, path, member))
        except RefusedError as error:
            result.take(member, Verdict.REFUSED)
            result.refuse(number, member, str(error))
            continue
        owner = owners.setdefault(path, (number, member))
        if owner[0] != number and not (member.is_directory and owner[1].is_directory):
            for each in (owner, (number, member)):
                result.refuse(*each, "another member has the same name")
    _refuse_overlapping(result, listing, extents)
    return result


def _check(member: StoredMember, listing: Listing) -> None:
    """Raise RefusedError where a member cannot be what its catalogue says."""
    check_readable(member)
    end = member.offset + _LOCAL_HEADER_BYTES + len(member.raw_name) + member.stored_size
    if member.offset < 0 or end > listing.end:
        raise RefusedError("its catalogue says it is where the archive has no members")


def _refuse_overlapping(result: Survey, listing: Listing, extents: _Extents) -> None:
    overlapping = {each for pair in extents.overlapping() for each in pair}
    if not overlapping:
        return
    for number, member in enumerate(listing.members()):
        if number in overlapping and result.verdicts[number] != Verdict.UNWANTED:
            result.refuse(number, member, "it shares bytes with another member")


def _judge(path: str, member: StoredMember, target: Target | None, overwrite: Overwrite) -> int:
    """Return what becomes of a member whose place may be taken. Raises RefusedError."""
    found = None if target is None else target.find(path)
    if found is None or target is None:
        return Verdict.RESTORE
    if member.is_directory or stat.S_ISDIR(found.st_mode):
        if member.is_directory and stat.S_ISDIR(found.st_mode):
            return Verdict.RESTORE
        what = "a directory" if stat.S_ISDIR(found.st_mode) else "no directory"
        raise RefusedError(f"what is there is {what}")
    if _is_same(path, member, target, found):
        return Verdict.THERE
    if member.is_symlink and stat.S_ISLNK(found.st_mode) and overwrite == "never":
        return Verdict.RESTORE  # where it points to is looked at when it is made
    if overwrite == "if-newer" and member.mtime_ns <= found.st_mtime_ns:
        return Verdict.KEPT
    if overwrite == "never":
        raise RefusedError("something else is there already")
    return Verdict.RESTORE


def _is_same(path: str, member: StoredMember, target: Target, found: os.stat_result) -> bool:
    """Tell whether what is there is what the member would become.

    Of symbolic links, and of encrypted members, which have no CRC, the content is not compared.
    """
    if (found.st_size, found.st_mtime_ns) != (member.size, member.mtime_ns):
        return False
    if stat.S_ISLNK(found.st_mode):
        return member.is_symlink
    return (
        stat.S_ISREG(found.st_mode)
        and (found.st_mode | _SET_ID) == (member.mode | _SET_ID)
        and (not member.has_crc or crc_of(target.read(path)) == member.crc)
    )
