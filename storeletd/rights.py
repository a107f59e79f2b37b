"""Rights: as whom a run and its commands work, and what the unit must say for more.

Capabilities are those of capabilities(7). What the unit gives the daemon is ambient: all that is
executed has it, too, until it is taken away. Hints name the lines for `systemctl edit storeletd`
where the daemon is a service (systemd.exec(5): INVOCATION_ID).
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import pwd
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from storelet.errors import DestinationError, StoreletError

__all__ = [
    "User",
    "UserError",
    "find_other_user",
    "hint_at_rights",
    "hint_at_root",
    "keep_capabilities",
]

_PR_CAP_AMBIENT = 47  # <linux/prctl.h>
_IS_SET, _RAISE, _CLEAR_ALL = 1, 2, 4

_EDIT = "`systemctl edit storeletd`, there [Service]"
_ROOT = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID"
_CALLS = "@setuid @chown @resources capset"

_libc = ctypes.CDLL(None, use_errno=True)


class UserError(StoreletError):
    """A command cannot be another user's."""

    exit_code = 77


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user to run a command as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: Mapping[str, str]  # what says who he is


def _find_user(name: str) -> User:
    """Return the user of that name. Raises UserError."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise UserError(f"no such user: {name}", hint="see: getent passwd") from None
    return User(
        uid=found.pw_uid,
        gid=found.pw_gid,
        groups=tuple(os.getgrouplist(name, found.pw_gid)),
        environment={"HOME": found.pw_dir, "USER": name, "LOGNAME": name},
    )


def find_other_user(name: str | None) -> User | None:
    """Return the user of that name; None where it is nobody else than us. Raises UserError."""
    user = None if name is None else _find_user(name)
    return None if user is None or user.uid == os.geteuid() else user


@contextmanager
def keep_capabilities(keep: bool) -> Iterator[None]:
    """Unless they are to be kept, take ambient capabilities from what this thread starts.

    They are each thread's own, so nothing else loses any, and are ours again after the block.
    """
    taken = [] if keep else list(_find_ambient())
    if taken:
        _ask(_CLEAR_ALL, 0)
    try:
        yield
    finally:
        for each in taken:
            _ask(_RAISE, each)


def _find_ambient() -> Iterator[int]:
    """Yield the ambient capabilities of this thread.

    The kernel's last one is the last it answers for: a unit with ProcSubset=pid has no /proc/sys.
    """
    for each in itertools.count():
        try:
            is_set = _ask(_IS_SET, each)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return
            raise
        if is_set:
            yield each


def _ask(what: int, capability: int) -> int:
    """Call prctl(2), which Python does not have. Raises OSError."""
    answer: int = _libc.prctl(_PR_CAP_AMBIENT, what, capability, 0, 0)
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl")
    return answer


def hint_at_root() -> str:
    """Say how the daemon may work as other users."""
    if not _is_service():
        return "for that, run it as root"
    return f"{_EDIT}, User=root, CapabilityBoundingSet={_ROOT} and SystemCallFilter={_CALLS}"


def hint_at_rights(error: StoreletError, destinations: Iterable[str]) -> str | None:
    """Return the error's hint, or a better one where the unit is what forbids it.

    `destinations` are the directories that the job saves to.
    """
    if not _is_service():
        return error.hint
    if isinstance(error, DestinationError):
        closed = [each for each in destinations if _is_read_only(each)]
        if closed:
            paths = " ".join(map(_quote, closed))
            return f"{_EDIT} and ReadWritePaths={paths}"
        foreign = [each for each in destinations if not os.access(each, os.W_OK | os.X_OK)]
        if _is_refused(error) and foreign:
            return f"chown {_our_name()} {shlex.join(foreign)}; or {hint_at_root()}"
    return hint_at_root() if _is_refused(error) else error.hint


def _is_service() -> bool:
    return "INVOCATION_ID" in os.environ


def _is_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _is_refused(error: BaseException | None) -> bool:
    """Tell whether it was the kernel that refused something, not a store."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.EPERM, errno.EACCES}:
            return True
        error = error.__cause__
    return False


def _quote(path: str) -> str:
    """Write a path as a unit has it: systemd.syntax(7), and `%` of systemd.unit(5)."""
    text = path.replace("%", "%%")
    if not set(text) & set(" \t'\"\\"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _our_name() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
