"""What an archive holds beside the source it came from, where that has not changed since.

It has not where size, mtime and ctime are those that the archive has. Then the bytes must be the
same: if they are not, one of the two has rotted, and nobody can tell which.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import BinaryIO

from storelet.restore.listing import StoredMember

__all__ = ["Comparison", "DifferentError"]

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DifferentError(Exception):
    """A member is not what its source is; the message says so."""


class Comparison:
    """Takes the place of a `Target` where members are only checked; it writes nothing."""

    def close(self) -> None:
        """Nothing is held open."""

    def write(self, path: str, member: StoredMember, content: Iterable[bytes]) -> bool:
        """Read `content` to its end, and tell whether it was compared with the source at `path`.

        `path` is relative to the root of the file system; empty for what has no source. What
        `content` raises comes through: whether the member is whole is told first. Raises
        DifferentError.
        """
        source = _open_unchanged(path, member) if path else None
        if source is None:
            for _ in content:
                pass
            return False
        with source:
            is_same = True
            for data in content:
                is_same = is_same and _read(source, len(data)) == data
            if not _is_unchanged(os.fstat(source.fileno()), member):
                return False
        if not is_same:
            raise DifferentError(f"it is not what /{path} holds, which shows no change")
        return True


def _read(source: BinaryIO, size: int) -> bytes:
    """Read from a file; what a failing disk cannot read is nothing that anything equals."""
    try:
        return source.read(size)
    except OSError:
        return b""


def _open_unchanged(path: str, member: StoredMember) -> BinaryIO | None:
    try:
        descriptor = os.open(f"/{path}", _FLAGS)
    except OSError:
        return None
    if _is_unchanged(os.fstat(descriptor), member):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def _is_unchanged(found: os.stat_result, member: StoredMember) -> bool:
    return (
        stat.S_ISREG(found.st_mode)
        and stat.S_ISREG(member.mode)
        and member.is_whole
        and (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        == (member.size, member.mtime_ns, member.ctime_ns)
    )
