"""Trust: whether anybody else could change a file, or put another in its place.

Job files are executed with the daemon's rights. So the file, and each directory and symbolic
link on the way to it, must belong to root or to the trusted user and be writable by nobody else.
A parent directory that anybody may write to is fine where it is sticky, as /tmp is.

What is checked is what is used: each step is opened in the directory before it, judged by its
descriptor and gone on from there, so that nothing can be put in its place in between.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

__all__ = ["Distrust", "DistrustedError", "judge", "open_trusted"]

_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_MOST_LINKS = 40  # as in the kernel: path_resolution(7)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH  # an ACL that lets others write shows as the group's


@dataclass(frozen=True, slots=True, kw_only=True)
class Distrust:
    """Why a file or directory is not trusted."""

    path: str  # of what is at fault, perhaps a parent or the target of a link
    reason: str
    hint: str  # the command that mends it


class DistrustedError(Exception):
    """What was to be opened is not trusted."""

    def __init__(self, distrust: Distrust) -> None:
        super().__init__(f"{distrust.path} {distrust.reason}")
        self.distrust = distrust


@contextmanager
def open_trusted(path: str, owner: int) -> Iterator[int]:
    """Follow the absolute `path` step by step; open the file or directory that it leads to.

    Of what is neither, the descriptor only says what it is (O_PATH of open(2)). Raises
    DistrustedError with the first reason for that, OSError where it cannot be followed or read.
    """
    with ExitStack() as stack:
        way = _follow(path, owner, stack)
        at, last = way[-1]
        found = os.fstat(last)
        _check(at, found, owner)
        if stat.S_ISDIR(found.st_mode):
            last = _open(".", _READING | os.O_DIRECTORY, last, stack)
        elif stat.S_ISREG(found.st_mode):
            last = _open(os.path.basename(at), _READING, way[-2][1], stack)
            if not os.path.samestat(found, os.fstat(last)):
                raise OSError(errno.ESTALE, "it was replaced just now", path)
        yield last


def _follow(path: str, owner: int, stack: ExitStack) -> list[tuple[str, int]]:
    """Return the directories from the root on to the end, and that; links are not among them."""
    way = [("/", _open("/", os.O_PATH | os.O_CLOEXEC, None, stack))]
    _check("/", os.fstat(way[0][1]), owner, is_parent=True)
    steps, links = _split(path), 0
    while steps:
        step, *steps = steps
        at, above = way[-1]
        if step == "..":
            way = way[:-1] or way  # above the root is the root
            continue
        child = os.path.join(at, step)
        opened = _open(step, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, above, stack)
        found = os.fstat(opened)
        _check(child, found, owner, is_parent=True)
        if not stat.S_ISLNK(found.st_mode):
            way.append((child, opened))
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink("", dir_fd=opened)  # of the very link that was judged
        way = way[:1] if target.startswith("/") else way
        steps = _split(target) + steps
    return way


def _open(name: str, flags: int, directory: int | None, stack: ExitStack) -> int:
    descriptor = os.open(name, flags, dir_fd=directory)
    stack.callback(os.close, descriptor)
    return descriptor


def _check(path: str, found: os.stat_result, owner: int, *, is_parent: bool = False) -> None:
    distrust = judge(path, found, owner, is_parent=is_parent)
    if distrust is not None:
        raise DistrustedError(distrust)


def judge(
    path: str, found: os.stat_result, owner: int, *, is_parent: bool = False
) -> Distrust | None:
    """Return the reason to distrust what has the stat `found`."""
    quoted = shlex.quote(path)
    if found.st_uid not in {0, owner}:
        others = "root" if owner == 0 else f"root or {_user(owner)}"
        return Distrust(
            path=path,
            reason=f"belongs to {_user(found.st_uid)}, not to {others}",
            hint=f"chown {_user(owner)} {quoted}",
        )
    mode = stat.S_IMODE(found.st_mode)
    is_sticky = is_parent and stat.S_ISDIR(found.st_mode) and mode & stat.S_ISVTX
    if stat.S_ISLNK(found.st_mode) or not mode & _OTHERS_WRITE or is_sticky:
        return None
    who = "everybody" if mode & stat.S_IWOTH else "its group"
    return Distrust(
        path=path,
        reason=f"is writable by {who} (mode {mode:04o})",
        hint=f"chmod go-w {quoted}",
    )


def _split(path: str) -> list[str]:
    return [step for step in path.split("/") if step not in {"", "."}]


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
