"""Trust: whether anybody else could change a file, or put another in its place.

Job files are executed with the daemon's rights. So the file, and each directory and symbolic
link on the way to it, must belong to root or to the trusted user and be writable by nobody else.
A parent directory that anybody may write to is fine where it is sticky, as /tmp is.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import stat
from dataclasses import dataclass

__all__ = ["Distrust", "find_distrust", "judge"]

_MOST_LINKS = 40  # as in the kernel: path_resolution(7)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH  # an ACL that lets others write shows as the group's


@dataclass(frozen=True, slots=True, kw_only=True)
class Distrust:
    """Why a file or directory is not trusted."""

    path: str  # of what is at fault, perhaps a parent or the target of a link
    reason: str
    hint: str  # the command that mends it


def find_distrust(path: str, owner: int) -> Distrust | None:
    """Follow the absolute `path` step by step; return the first reason to distrust it.

    Everything but its end is a parent. Raises OSError where it cannot be followed.
    """
    at, steps, links = "/", _split(path), 0
    found = os.lstat(at)
    distrust = judge(at, found, owner, is_parent=True)
    while steps and distrust is None:
        step, *steps = steps
        if step == "..":
            at = os.path.dirname(at)
            continue
        child = os.path.join(at, step)
        found = os.lstat(child)
        distrust = judge(child, found, owner, is_parent=True)
        if not stat.S_ISLNK(found.st_mode):
            at = child
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(child)
        at = "/" if target.startswith("/") else at
        steps = _split(target) + steps
    return distrust or judge(at, os.lstat(at), owner)


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
