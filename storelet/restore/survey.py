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
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from storelet.catalogue import DamagedError
from storelet.restore.content import check_readable, crc_of, end_of, find_data
from storelet.restore.listing import Listing, Read, StoredMember
from storelet.restore.paths import RefusedError, TakenError
from storelet.restore.reading import Wanted
from storelet.restore.target import Target

__all__ = ["Overwrite", "Survey", "Verdict", "survey"]

Overwrite = Literal["never", "if-newer", "always"]
_ELSEWHERE = 1 << 62  # for what is in no archive
_MOST_LOOKED_AT = 100  # members that overlap; each costs a request
_MOST_TRIED = 5  # members that a password is tried on; each costs a request
_SHARES = "it shares bytes with another member"
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
    taken: int = 0  # that are refused for what is there, which may be replaced
    encrypted: list[StoredMember] = field(default_factory=list)  # some, to try a password on
    links: dict[bytes, Wanted] = field(default_factory=dict)  # what is there of hard links

    def take(self, member: StoredMember, verdict: int) -> None:
        """Note what becomes of the next member."""
        self.verdicts.append(verdict)
        self._count(member, verdict, 1)
        if member.encryption and verdict == Verdict.RESTORE and len(self.encrypted) < _MOST_TRIED:
            self.encrypted.append(member)

    def refuse(self, number: int, member: StoredMember, reason: str) -> None:
        """Refuse a member that was noted before, if it is wanted."""
        if self.verdicts[number] == Verdict.UNWANTED:
            return
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

    def add(self, member: StoredMember, end: int) -> None:
        """Add the next member; where it cannot be, before `end`, it is in nobody's way."""
        start, stop = member.offset, end_of(member)
        if start < 0 or stop > end:
            start = stop = _ELSEWHERE
        self._starts.append(start)
        self._ends.append(stop)

    def overlapping(self) -> set[int]:
        """Return all members that overlap with others."""
        starts, ends = self._starts, self._ends
        found = set()
        furthest = -1
        for number in sorted(range(len(starts)), key=starts.__getitem__):
            if furthest >= 0 and starts[number] < ends[furthest]:
                found |= {furthest, number}
            if furthest < 0 or ends[number] > ends[furthest]:
                furthest = number
        return found


def survey(
    read: Read,
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
    marks = array("q")  # of their paths: those themselves would take ten times as much memory
    for number, member in enumerate(listing.members()):
        extents.add(member, listing.end)
        marks.append(number)
        if not is_wanted(member):
            result.take(member, Verdict.UNWANTED)
            continue
        try:
            path = find_path(member)
            check_readable(member, listing.end)
            verdict = _judge(path, member, target, overwrite)
            result.take(member, verdict)
            if verdict == Verdict.THERE and member.link:
                result.links.setdefault(member.link, Wanted(number, path, member))
        except RefusedError as error:
            result.take(member, Verdict.REFUSED)
            result.refuse(number, member, str(error))
            result.taken += isinstance(error, TakenError)
            continue
        marks[number] = hash(path)
    _refuse_twins(result, listing, find_path, marks)
    _refuse_overlapping(read, result, listing, extents)
    return result


def _refuse_twins(
    result: Survey, listing: Listing, find_path: Callable[[StoredMember], str], marks: array[int]
) -> None:
    """Refuse those that share a path, but for directories."""
    ordered = sorted(range(len(marks)), key=marks.__getitem__)
    alike = {
        each for pair in pairwise(ordered) if marks[pair[0]] == marks[pair[1]] for each in pair
    }
    owners: dict[str, list[tuple[int, StoredMember]]] = {}
    for number, member in listing.chosen(alike.__contains__):
        if result.verdicts[number] not in (Verdict.UNWANTED, Verdict.REFUSED):
            owners.setdefault(find_path(member), []).append((number, member))
    for twins in owners.values():
        if len(twins) > 1 and not all(member.is_directory for _, member in twins):
            for number, member in twins:
                result.refuse(number, member, "another member has the same name")


def _refuse_overlapping(read: Read, result: Survey, listing: Listing, extents: _Extents) -> None:
    """Refuse those that are not where they should be, and of the others who has one inside.

    So what is left shares nothing, and a member that lies about its place or its size takes no
    other with it.
    """
    overlapping = extents.overlapping()
    if not overlapping:
        return
    suspects = listing.chosen(overlapping.__contains__)
    there: list[tuple[int, StoredMember]] = []
    for looked_at, (number, member) in enumerate(suspects):
        try:
            if looked_at < _MOST_LOOKED_AT:
                find_data(read(member.offset, member.head_bytes), member)
            there.append((number, member))
        except DamagedError as error:
            result.refuse(number, member, str(error))
    there.sort(key=lambda each: each[1].offset)
    for one, other in pairwise(there):
        if end_of(one[1]) > other[1].offset:
            result.refuse(*one, _SHARES)
        if one[1].offset == other[1].offset:
            result.refuse(*other, _SHARES)


def _judge(path: str, member: StoredMember, target: Target | None, overwrite: Overwrite) -> int:
    """Return what becomes of a member whose place may be taken. Raises RefusedError."""
    if not path:
        return Verdict.THERE  # the target itself, which stays as it is
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
        raise TakenError("something else is there already")
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
