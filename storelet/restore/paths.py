"""Where a member belongs in a tree, or why nowhere.

Whoever made the archive may mean ill: what leads out of the tree is refused, never mended.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence

from storelet.restore.listing import StoredMember

__all__ = ["Origin", "RefusedError", "TakenError", "place", "temporary_name"]

_MOST_BYTES = 4095  # of a path, and of what a symbolic link points to: Linux's PATH_MAX
_TEMPORARY = re.compile(r"\.storelet-[0-9a-f]{16}\.part")

_KINDS = {
    stat.S_IFREG: None,
    stat.S_IFDIR: None,
    stat.S_IFLNK: None,
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class RefusedError(Exception):
    """A member is not restored; the message is the reason."""


class TakenError(RefusedError):
    """A member is not restored since something else is there, which may be replaced."""


def place(member: StoredMember) -> str:
    """Return the path of a member, relative and without `.`, `..` and empty parts.

    It is empty for a directory that is the target itself. Raises RefusedError.
    """
    kind = _KINDS.get(stat.S_IFMT(member.mode), "of no known type")
    if kind is not None:
        raise RefusedError(f"it is {kind}")
    name = member.name
    if name.startswith("/"):
        raise RefusedError("its name is absolute")
    if "\0" in name:
        raise RefusedError("its name holds a zero byte")
    if "//" not in name and "./" not in name and not name.endswith("/."):  # nearly always
        path = name.removesuffix("/")
    else:
        path = "/".join(part for part in name.split("/") if part not in ("", "."))
    if path == ".." or path.startswith("../") or "/../" in path or path.endswith("/.."):
        raise RefusedError("its name leads out of the target")
    if path in ("", ".") and not (name and member.is_directory):
        raise RefusedError("it has no name")
    if len(path.encode(errors="surrogateescape")) > _MOST_BYTES:
        raise RefusedError("its name is longer than a path can be")
    if path.endswith(".part") and _TEMPORARY.fullmatch(path.rpartition("/")[2]):
        raise RefusedError("its name is one of Storelet's own, for files that are not whole")
    if member.is_symlink and not 0 < member.size <= _MOST_BYTES:
        raise RefusedError("it is a symbolic link to nothing, or to more than a path can be")
    return path


def temporary_name(name: str) -> str:
    """Return the name that a file has until it is whole, where it must have one.

    It is always the same, so that what a killed restore has left is found by the next one.
    """
    mark = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return f".storelet-{mark[:16]}.part"


class Origin:
    """Where members came from, as paths relative to the root of the file system.

    `sources` are those of the archive's record.
    """

    def __init__(self, sources: Sequence[tuple[str, str]]) -> None:
        self._paths: dict[str, set[str]] = {}
        for prefix, path in sources:
            real = os.path.realpath(path) if path and "\0" not in path else ""
            self._paths.setdefault(prefix.removesuffix("/"), set()).add(real)

    def place(self, member: StoredMember) -> str:
        """Return where a member belongs. Raises RefusedError."""
        name = place(member)
        for prefix in _beginnings(name):
            if prefix not in self._paths:
                continue
            path, *others = self._paths[prefix]
            if others:
                raise RefusedError("it may have come from several places; restore it to a target")
            if not path:
                raise RefusedError("it was made for the backup and has no place of its own")
            return os.path.join(path, name[len(prefix) :].removeprefix("/")).strip("/")
        raise RefusedError("the archive does not say where it came from; restore it to a target")


def _beginnings(name: str) -> Iterator[str]:
    """Yield a name, all directories that it is in, and nothing: the longest first."""
    while name:
        yield name
        name = name.rpartition("/")[0]
    yield name
