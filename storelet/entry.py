"""An entry: what is to become a member, before it is read.

Nearly always a file that was found in a source, with what `lstat` said of it; else what a command
will say, of which next to nothing is known.
"""

from __future__ import annotations

import os
import stat
import time
from typing import NamedTuple

__all__ = ["UNKNOWN_BYTES", "Entry"]

UNKNOWN_BYTES = (1 << 64) - 1  # size of an entry where nobody knows it before it is read


class Entry(NamedTuple):
    """A file found in a source, with what `lstat` said of it."""

    path: str
    name: str  # as a member, `/` at the end for a directory
    mode: int
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int
    device: int
    inode: int
    links: int
    uid: int
    gid: int

    @classmethod
    def of(cls, path: str, name: str, found: os.stat_result) -> Entry:
        """Make the entry for `path` from its stat."""
        return cls(
            path,
            name,
            found.st_mode,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_dev,
            found.st_ino,
            found.st_nlink,
            found.st_uid,
            found.st_gid,
        )

    @classmethod
    def to_come(cls, name: str) -> Entry:
        """Make the entry for what somebody will produce, when the archive comes to it."""
        now = time.time_ns()
        mode = stat.S_IFREG | 0o600
        ids = os.geteuid(), os.getegid()
        return cls(name, name, mode, UNKNOWN_BYTES, now, now, 0, 0, 1, *ids)

    @property
    def is_to_come(self) -> bool:
        """Tell whether this is no file, but what somebody will produce."""
        return self.size == UNKNOWN_BYTES

    @property
    def is_directory(self) -> bool:
        """Tell whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Tell whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def link_group(self) -> int:
        """A number for what has several hard links, 0 for all else.

        It stands for the device, so that a member that is copied and one that is read anew still
        agree: links share it, the inode, and the ctime, since inodes are used again.
        """
        if self.links < 2 or self.is_directory:
            return 0
        return (self.device & 0xFFFFFFFF) or 1
