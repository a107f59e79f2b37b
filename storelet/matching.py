"""Which members of the previous archive are what goes into the new one.

A streamed backup compares what `lstat` says, and reads nothing: size, mtime, ctime and inode must
be equal, and the times older than that archive's start by more than RACY_NS, since a file that
changed in the very moment when it was read may have changed once more. A spooled one has read
everything and compares size, CRC and time; encrypted members have no CRC, so of them it compares
what a streamed one does.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from storelet.catalogue import Header
from storelet.plan import Facts, Plan, Shelf
from storelet.previous import Members, PreviousArchive
from storelet.reuse import Span
from storelet.zipformat import CHANGED, RACY_NS, TRUNCATED

__all__ = ["REREAD", "Match", "PlanMatch", "ReusePolicy", "SpoolMatch"]

REREAD = timedelta(days=30)

_NOT_WHOLE = CHANGED | TRUNCATED
# Where things stand in a fingerprint.
_MTIME, _CTIME, _INODE, _SIZE = slice(0, 8), slice(8, 16), slice(16, 24), slice(24, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusePolicy:
    """What may be reused."""

    reread: timedelta = REREAD  # what was read from its source longer ago is read anew
    ctime: bool = True  # whether the ctime must be equal; some network file systems make it up
    inode: bool = True


class Match(Protocol):
    """A comparison of what there is now with a previous archive."""

    def find_live(self, previous: PreviousArchive) -> bytearray:
        """Return a 1 for each of its members that may be copied, 0 for others; called once.

        Raises DamagedError.
        """


class PlanMatch:
    """The comparison of a plan; `policy` says of what."""

    def __init__(self, plan: Plan, policy: ReusePolicy) -> None:
        self._plan = plan
        self._policy = policy
        self._numbers = array("q")  # of each previous member's entry: twice, 1 more for directories

    def find_live(self, previous: PreviousArchive) -> bytearray:
        """See Match."""
        newest = previous.record.started_ns - RACY_NS

        def is_live(header: Header) -> bool:
            found = self._plan.find(header.name)
            if found is None:
                self._numbers.append(-1)
                return False
            shelf, number = found
            self._numbers.append(number * 2 + (shelf is self._plan.directories))
            return not header.flags & _NOT_WHOLE and self._is_same(header, shelf, number, newest)

        return previous.members.find_live(is_live)

    def wanted(self, spans: Iterable[Span]) -> dict[Shelf, bytearray]:
        """Return for both shelves a 1 for each entry whose member is in none of the spans."""
        directories, files = self._plan.directories, self._plan.files
        wanted = {each: bytearray(b"\1") * each.count for each in (directories, files)}
        for span in spans:
            for packed in self._numbers[span.first : span.stop]:
                wanted[directories if packed & 1 else files][packed >> 1] = 0
        return wanted

    def _is_same(self, header: Header, shelf: Shelf, number: int, newest: int) -> bool:
        found, kept = shelf.fingerprint(number), header.fingerprint
        mtime, ctime = _times_of(found)
        policy = self._policy
        if mtime >= newest or (policy.ctime and ctime >= newest):
            return False
        if policy.ctime and found == kept and shelf.is_plain(number):  # nearly always
            return not (header.raw_name or header.link_group)
        facts, kept_facts = shelf.facts(number), _facts_of(header)
        if facts.link_group and found != kept:  # links must go on to share what tells they are
            return False
        return (
            facts[:2] == kept_facts[:2]  # raw name and link group
            and found[_MTIME] == kept[_MTIME]
            and found[_SIZE] == kept[_SIZE]
            and (not policy.inode or found[_INODE] == kept[_INODE])
            and (found[_CTIME] == kept[_CTIME] if policy.ctime else facts == kept_facts)
        )


class SpoolMatch:
    """The comparison of an archive that is whole already, in a temporary file."""

    def __init__(self, spooled: Members) -> None:
        self._numbers = array("q")  # of each previous member, its own; -1 for none
        self._contents: dict[str, tuple[int, object]] = {}

        def note(header: Header) -> bool:
            self._contents[header.name] = len(self._contents), _content(header)
            return True

        self._wanted = spooled.find_live(note)

    def find_live(self, previous: PreviousArchive) -> bytearray:
        """See Match."""
        self._numbers = array("q")
        newest = previous.record.started_ns - RACY_NS

        def is_live(header: Header) -> bool:
            number, content = self._contents.get(header.name, (-1, None))
            self._numbers.append(number)
            return (
                content == _content(header)
                and not header.flags & _NOT_WHOLE
                and not (header.encrypted and max(_times_of(header.fingerprint)) >= newest)
            )

        return previous.members.find_live(is_live)

    def wanted(self, spans: Iterable[Span]) -> bytearray:
        """Return a 1 for each member that is in none of the spans."""
        wanted = bytearray(self._wanted)
        for span in spans:
            for number in self._numbers[span.first : span.stop]:
                wanted[number] = 0
        return wanted


def _content(header: Header) -> tuple[object, ...]:
    """Return what two members share that are the same file, whenever each was read."""
    mark = header.fingerprint
    # Links to one file must go on to share what tells that they are.
    if not (header.link_group or header.encrypted):
        mark = mark[_MTIME]
    return header.size, header.crc, mark, _facts_of(header)


def _times_of(mark: bytes) -> tuple[int, int]:
    """Return the mtime and ctime of a fingerprint, in ns."""
    mtime, ctime = struct.unpack_from("<qq", mark)
    return mtime, ctime


def _facts_of(header: Header) -> Facts:
    raw_name = zlib.crc32(header.raw_name) if header.raw_name else 0
    return Facts(raw_name, header.link_group, header.uid, header.gid, header.mode)
