"""The keeper: starts a worker and sees that nothing of its run outlives it.

    python -I -S keeper.py LIFELINE_FD GRACE_SECONDS TEMPORARY_DIRECTORY [USER HINT] -- COMMAND…

1. it becomes a subreaper: whatever the worker starts, however it hides, has the keeper as its
   parent once its own is gone, so that it can be found;
2. it starts COMMAND, the worker, in a session of its own, with the keeper's input, outputs,
   environment and other inherited descriptors, all but the lifeline; where there is a USER, as
   that user, whose the temporary directory is then. Where that may not be, the run ends with an
   event that says so, with HINT;
3. it waits until the worker has ended, or until it is told to end the run: by the end of file of
   the lifeline (whoever held its other end is gone), by the byte `t` from it, or by a signal;
4. what is still there gets TERM (a stopped process is woken for it) and, after the grace, KILL,
   again and again until nothing is left: it may fork meanwhile;
5. it removes TEMPORARY_DIRECTORY, all but what is mounted there, by descriptors: whose it was
   must not lead a keeper of root's elsewhere;
6. it exits with the worker's status, or 128 + n if that died by signal n; 127 and 126 mean, as in
   a shell, that COMMAND was not found or could not be executed.

Not guaranteed: the end of a process that the keeper may not signal (sudo's) or that hangs in the
kernel (a dead network file system). After GIVE_UP_SECONDS without any progress it says so and
ends. And if the keeper itself is killed by KILL, only the worker is told, by TERM.

Standard library only, and little of it: a run waits for the imports.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
import time

TYPE_CHECKING = False  # as type checkers know it: typing takes 8 ms to import, signal 5
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Sequence
    from typing import NoReturn

    Place = tuple[str, ...]  # a directory: that of the run, then name after name
else:
    import _signal as signal  # what signal wraps with enumerations

__all__ = ["main"]

LEFT_SECONDS = 2.0  # grace for what a worker leaves behind when it ends by itself
GIVE_UP_SECONDS = 10.0  # after KILL, without any process ending
_KILL_AGAIN_SECONDS = 0.05  # from one look for processes to the next

_TOLD_BY = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
# What Python ignores when it starts; a worker must not inherit that.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_EVENTS_FD = b"STORELET_EVENTS_FD"  # as in `events`
_NOT_PERMITTED, _WRONG_JOB = 77, 78  # exit codes, as in README.rst
_AT = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: Sequence[str]) -> int:
    """Do the run of the command line (see above); return the exit status."""
    end = arguments.index("--")
    lifeline, grace_seconds, directory, *user = arguments[:end]
    directory = os.path.realpath(directory)  # now: later the run could have made it a link
    os.set_inheritable(int(lifeline), False)
    _set_process_option(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        keeper = _Keeper(arguments[end + 1 :], int(lifeline), (directory, *user))
        try:
            keeper.wait_for_worker()
        finally:
            keeper.end_run(float(grace_seconds))
    finally:
        _remove(directory)
    return keeper.exit_status


class _Keeper:
    """The worker, all that came of it, and what tells the keeper of them."""

    def __init__(self, command: Sequence[str], lifeline: int, rights: Sequence[str]) -> None:
        self._told = False  # to end the run
        self._status: int | None = None  # the worker's, as wait(2) has it
        self._lifeline = lifeline
        # Until the worker runs no signal may come: in the child it would be taken for ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD_BY)
        self._signals = _open_signals()
        self._poll = select.poll()
        self._poll.register(lifeline, select.POLLIN)
        self._poll.register(self._signals, select.POLLIN)
        self._worker = _start(command, rights)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    @property
    def exit_status(self) -> int:
        """The worker's exit status; that of a killed one if it could not be ended."""
        status = signal.SIGKILL if self._status is None else self._status
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def wait_for_worker(self) -> None:
        """Wait until the worker has ended or the keeper is told to end the run."""
        while self._reap() and self._status is None and not self._told:
            self._wait(None)

    def end_run(self, grace_seconds: float) -> None:
        """End all that is left of the run."""
        if not self._told:
            grace_seconds = min(grace_seconds, LEFT_SECONDS)
        deadline = time.monotonic() + grace_seconds
        told: set[int] = set()
        while self._reap() and (seconds := deadline - time.monotonic()) > 0:
            # Later only orphans are new to us: what was being forked when its parent was told.
            # What has a parent may be how that ends in order, and must not be disturbed.
            processes = set(_find_orphans() if told else _find_descendants()) - told
            _signal(processes, signal.SIGTERM, signal.SIGCONT)
            told |= processes
            self._wait(seconds)
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while self._reap():
            processes = set(_find_descendants())
            _signal(processes, signal.SIGKILL)
            if self._wait(_KILL_AGAIN_SECONDS):
                deadline = time.monotonic() + GIVE_UP_SECONDS
            elif time.monotonic() > deadline:
                _say(f"cannot end these processes, which go on: {sorted(processes)}")
                return

    def _reap(self) -> bool:
        """Collect the children that have ended; return whether there are others.

        None are left only if nothing of the run is: orphans become our children.
        """
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._worker:
                    self._status = status
        except ChildProcessError:
            return False

    def _wait(self, seconds: float | None) -> bool:
        """Wait until something happens, not longer than that; return whether a child ended."""
        signals = b""
        for descriptor, _ in self._poll.poll(None if seconds is None else seconds * 1000):
            if descriptor == self._signals:
                signals = os.read(self._signals, 4096)
            elif os.read(self._lifeline, 1) in (b"t", b""):
                self._told = True
                self._poll.unregister(self._lifeline)  # at its end it would wake us for ever
        self._told = self._told or any(number in signals for number in _TOLD_BY)
        return signal.SIGCHLD in signals


def _start(command: Sequence[str], rights: Sequence[str]) -> int:
    """Start the worker; return its process id. Raises OSError if there can be no process."""
    keeper = os.getpid()
    worker = os.fork()
    if worker == 0:
        _become_worker(command, keeper, rights)
    # The input is the worker's alone: it may be a pipe that means something when it is closed.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    return worker


def _become_worker(command: Sequence[str], keeper: int, rights: Sequence[str]) -> NoReturn:
    try:
        os.setsid()
        environment = _read_environment()
        if len(rights) > 1:
            environment |= _become_user(rights, int(environment[_EVENTS_FD]))
        # A last help should the keeper be killed: nothing relies on it.
        _set_process_option(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != keeper:
            os._exit(128 + signal.SIGTERM)
        for number in (*_TOLD_BY, *_IGNORED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(command[0], list(command), environment)  # noqa: S606 - no shell here
    except OSError as error:
        _say(f"cannot start {command[0]}: {error.strerror}")
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _become_user(rights: Sequence[str], events: int) -> dict[bytes, bytes]:
    """Become the user for good, who owns the directory then; return what is his environment.

    The groups first: who is not root any more could not change them.
    """
    import pwd

    directory, name, hint = rights
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        _refuse(events, f"no such user: {name}", "see: getent passwd", _WRONG_JOB)
    if user.pw_uid != os.geteuid():
        try:
            os.chown(directory, user.pw_uid, user.pw_gid)
            os.initgroups(name, user.pw_gid)
            os.setresgid(*[user.pw_gid] * 3)
            os.setresuid(*[user.pw_uid] * 3)
            # Only root's go with the user id.
            _set_process_option(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        except OSError as error:
            message = f"the run may not become user {name}: {error.strerror}"
            _refuse(events, message, hint, _NOT_PERMITTED)
    account = os.fsencode(user.pw_name)
    return {b"HOME": os.fsencode(user.pw_dir), b"USER": account, b"LOGNAME": account}


def _refuse(events: int, message: str, hint: str, exit_code: int) -> NoReturn:
    """End instead of becoming a worker; the event is what a worker would have said."""
    import json

    ended = {"message": message, "hint": hint, "exit_code": exit_code}
    line = json.dumps({"event": "Ended", "outcome": "failed", **ended})
    _try(os.write, events, f"{line}\n".encode("ascii"))
    os._exit(126)


def _read_environment() -> dict[bytes, bytes]:
    """Return the environment as it was given: in the C locale Python adds LC_CTYPE to its own."""
    with open("/proc/self/environ", "rb") as file:
        variables = file.read().split(b"\0")
    return {name: value for name, found, value in (v.partition(b"=") for v in variables) if found}


def _set_process_option(option: int, value: int) -> None:
    """Call prctl(2), which Python does not have."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl")


def _open_signals() -> int:
    """Return a descriptor from which the numbers of the signals that come can be read."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # full of SIGCHLD: no loss
    for number in (*_TOLD_BY, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    return reading


def _signal(processes: Iterable[int], *numbers: int) -> None:
    for process in processes:
        for number in numbers:
            _try(os.kill, process, number)  # it may have ended, or be another user's


def _find_orphans() -> list[int]:
    """Return our children: the worker, and what has become ours since its parent ended."""
    return _find_children().get(os.getpid(), [])


def _find_descendants() -> list[int]:
    """Return the children, their children, and so on."""
    children = _find_children()
    found = children.pop(os.getpid(), [])
    for process in found:  # grows as we go
        found += children.pop(process, ())
    return found


def _find_children() -> dict[int, list[int]]:
    """Return the children of each process, as far as /proc shows them, and all of our own."""
    children = {os.getpid(): _find_hidden_children()}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := _find_parent(name)) is not None:
            children.setdefault(parent, []).append(int(name))
    return children


def _find_parent(process: str) -> int | None:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            # proc(5): pid (name) state ppid …, where the name may hold anything, `)` too.
            return int(file.read().rpartition(b")")[2].split(None, 2)[1])
    except OSError:  # it has ended
        return None


def _find_hidden_children() -> list[int]:
    """Return the children as the kernel lists them, where it was built to.

    Under systemd's ProtectProc=invisible, /proc does not show those of other users and those that
    hide their memory, such as ssh-agent. Once their parents are killed all of them are children.
    """
    try:
        with open("/proc/thread-self/children", "rb") as file:
            return [int(process) for process in file.read().split()]
    except OSError:
        return []


def _remove(directory: str) -> None:
    """Remove the directory with all in it; say so if something has to stay.

    What is mounted in it is left alone: it may be the very files that were to be backed up.
    """
    mounted = _find_mount_points()
    _try(os.unlink, directory)  # the run could have put a link or a file in its place
    left: list[Place] = [(directory,)]
    for place in left:  # grows as we go
        if os.path.join(*place) not in mounted:
            left += _empty(place)
    failures = [(p, failure) for p in reversed(left) if (failure := _try(_remove_empty, p))]
    if os.path.lexists(directory):
        place, failure = failures[0]
        _say(f"cannot remove {os.path.join(*place)}: {failure.strerror}")


def _open(place: Place) -> int:
    """Return a descriptor of the directory, to which no link has led. Raises OSError."""
    at = os.open(place[0], _AT)
    for name in place[1:]:
        above = at
        try:
            at = os.open(name, _AT, dir_fd=above)
        finally:
            os.close(above)
    return at


def _empty(place: Place) -> list[Place]:
    """Remove what is in the directory but the directories; return those."""
    try:
        at = _open(place)
    except OSError:
        return []
    found: list[Place] = []
    try:
        # Commands make some that nobody may write. fchmod(2) would need the right to read it.
        _try(os.chmod, f"/proc/self/fd/{at}", 0o700)
        inside = os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=at)
        try:
            for entry in list(os.scandir(inside)):
                if entry.is_dir(follow_symlinks=False):
                    found.append((*place, entry.name))
                else:
                    os.unlink(entry.name, dir_fd=inside)
        finally:
            os.close(inside)
    except OSError:  # rmdir(2) will say what stays
        pass
    finally:
        os.close(at)
    return found


def _remove_empty(place: Place) -> None:
    if len(place) == 1:
        os.rmdir(place[0])
        return
    above = _open(place[:-1])
    try:
        os.rmdir(place[-1], dir_fd=above)
    finally:
        os.close(above)


def _find_mount_points() -> set[str]:
    """Return where something is mounted."""
    with open("/proc/self/mountinfo", "rb") as file:
        fields = [line.split()[4] for line in file]
    # proc(5): blanks and the like are written as a backslash and three octal digits.
    return {os.fsdecode(field.decode("unicode_escape").encode("latin-1")) for field in fields}


def _say(message: str) -> None:
    """Write a line among the output of the run, if anybody reads that."""
    _try(os.write, 2, f"storelet: {message}\n".encode(errors="surrogateescape"))


def _try(call: Callable[..., object], *arguments: object) -> OSError | None:
    """Call and return the OSError, if any; contextlib, with `suppress`, takes long to import."""
    try:
        call(*arguments)
    except OSError as error:
        return error
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
