"""The job directory: which jobs there are now, and what is wrong with their files.

`scan` is the truth; `watch` only says when a scan may find something new. What holds:

- a file, and all on the way to it, belongs to root or `owner` and is writable by nobody else
  (`trust`), or it is refused; a symbolic link is followed where that holds for its target too;
- a file that is broken or not trusted leaves its last good version loaded; when the file is
  gone, its job is removed;
- two files of one job name: the one that is loaded stays, the others are refused; where none is,
  all are, as any choice would be arbitrary;
- what was checked is what is read: the directory is opened once and its files in it, by their
  descriptors, and whatever is put in the place of either meanwhile is not seen;
- a directory that is missing, unreadable or not trusted is one problem, and every job stays as
  it is: an unmounted file system must not silently end all backups.

Only what changed is read again. `watch` does not see changes of a link's target, or of who may
write to a parent directory: the next scan does.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import os
import stat
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from watchfiles import awatch

from storeletd.jobfile import (
    SUFFIXES,
    check_regular,
    explain_os_error,
    open_job_file,
    parse_job,
    read_opened,
)
from storeletd.jobs import Job, JobFileError, JobProblem
from storeletd.trust import DistrustedError, judge, open_trusted

__all__ = ["Change", "JobDirectory", "open_trusted_file"]

_log = logging.getLogger("storeletd.jobdir")

_PASSED_OVER = (".*", "*~", "*.disabled", "*.dpkg-*", "*.rpm*", "*.swp")
_SETTLED_NS = 2_000_000_000  # a file may change twice within one tick of its file system's clock

_WAKE_MS = 100  # at most one wake-up in this time
_LOOK_MS = 1_000  # between looks whether the directory is still the one that is watched
_ABSENT_SECONDS = 1.0  # between looks for a directory that is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a scan found: names of jobs, and all problems there are now."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    problems: tuple[JobProblem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What a file was when last looked at."""

    path: Path
    state: tuple[int, ...] | None = None  # of its stat; None: not to be relied upon
    data: bytes | None = None
    job: Job | None = None
    problems: tuple[JobProblem, ...] = ()


class JobDirectory:
    """Keeps the last good version of each job. `scan` may run in a thread, one at a time."""

    def __init__(self, path: Path, *, owner: int | None = None) -> None:
        self.path = Path(os.path.abspath(path))
        self._owner = os.geteuid() if owner is None else owner
        self._looks: dict[Path, _Look] = {}
        self._scanning = threading.Lock()
        self._jobs: Mapping[str, Job] = {}
        self._problems: tuple[JobProblem, ...] = ()

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The last good version of each job, sorted by name; a scan makes it anew."""
        return self._jobs

    @property
    def problems(self) -> tuple[JobProblem, ...]:
        """What is wrong now."""
        return self._problems

    def scan(self) -> Change:
        """Bring `jobs` and `problems` up to date. Blocks on the file system; never raises."""
        with self._scanning:
            before, problem = self._jobs, self._look_at_all()
            if problem is not None:
                self._problems = (problem,)
            else:
                self._jobs, self._problems = self._choose_jobs()
            return _compare(before, self._jobs, self._problems)

    async def watch(self) -> AsyncIterator[None]:
        """Yield whenever a scan may find something new; never ends, never raises.

        Yields once after it began, too: what changed before that it cannot know.
        """
        while True:
            watched = self._identity()
            if watched is not None:
                async with aclosing(self._watch_while(watched)) as wakes:
                    async for _ in wakes:
                        yield
            if self._identity() in {None, watched}:
                await asyncio.sleep(_ABSENT_SECONDS)

    async def _watch_while(self, watched: tuple[int, int]) -> AsyncGenerator[None, None]:
        """Yield at changes until the directory is gone or another, and once more then."""
        wakes = awatch(
            self.path,
            watch_filter=None,
            recursive=False,
            debounce=_WAKE_MS,
            step=_WAKE_MS,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
        )
        is_first = True
        try:
            async with aclosing(wakes):
                async for changes in wakes:
                    is_same = self._identity() == watched
                    if changes or is_first or not is_same:
                        yield
                    is_first = False
                    if not is_same:
                        return
        except (OSError, RuntimeError) as error:  # gone just now; no inotify watches left
            _log.debug("Cannot watch %s: %s", self.path, error)
            yield

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return (found.st_dev, found.st_ino)

    def _look_at_all(self) -> JobProblem | None:
        """Look at each job file there is; return why the directory cannot say which."""
        try:
            with open_trusted(str(self.path), self._owner) as directory:
                found = [
                    self._look(self.path / name, directory)
                    for name in sorted(os.listdir(directory))
                    if _is_job_file(name)
                ]
        except DistrustedError as error:
            message = f"job directory is refused: {error}{self._explain_jobs()}"
            return JobProblem(file=str(self.path), message=message, hint=error.distrust.hint)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            message = f"job directory cannot be read: {reason}{self._explain_jobs()}"
            return JobProblem(file=str(self.path), message=message)
        self._looks = {look.path: look for look in found if look is not None}
        return None

    def _explain_jobs(self) -> str:
        """Say what becomes of the jobs, where there are any, when their directory cannot say."""
        return "; its jobs stay as they were" if self._jobs else ""

    def _look(self, path: Path, directory: int) -> _Look | None:
        """Read a file if it changed; return nothing where it is gone since it was listed."""
        before = self._looks.get(path)
        try:
            with self._open(path, directory) as descriptor:
                state = _state(os.fstat(descriptor))
                if before is not None and state is not None and before.state == state:
                    return before
                data = read_opened(descriptor, path)
        except JobFileError as error:
            return None if _is_gone(path, directory) else _Look(path=path, problems=error.problems)
        if before is not None and before.data == data:
            return replace(before, state=state)
        look = _Look(path=path, state=state, data=data)
        try:
            return replace(look, job=parse_job(path, data))
        except JobFileError as error:
            return replace(look, problems=error.problems)

    @contextmanager
    def _open(self, path: Path, directory: int) -> Iterator[int]:
        """Open a file in the opened directory. Raises JobFileError where it is not trusted, too.

        The directory is trusted, so a plain name in it is; a link leads elsewhere.
        """
        if not _is_link(path, directory):
            with open_job_file(path, directory) as descriptor:
                distrust = judge(str(path), os.fstat(descriptor), self._owner)
                if distrust is not None:
                    raise _fail(path, distrust.reason, distrust.hint)
                yield descriptor
            return
        with open_trusted_file(path, self._owner) as descriptor:
            yield descriptor

    def _choose_jobs(self) -> tuple[dict[str, Job], tuple[JobProblem, ...]]:
        """Choose the version of each job from what the files were when last looked at."""
        named = defaultdict(list)
        for look in self._looks.values():
            named[look.path.stem].append(look)
        jobs: dict[str, Job] = {}
        problems: list[JobProblem] = []
        for name, looks in sorted(named.items()):
            loaded = self._jobs.get(name)
            ours = [look for look in looks if loaded and loaded.path == str(look.path)]
            for look in looks:
                problems += look.problems
                if len(looks) > 1 and look not in ours:
                    problems.append(_duplicate(look, looks))
            job = (ours or looks)[0].job if ours or len(looks) == 1 else None
            if job is None and ours:
                job = loaded
            if job is not None:
                jobs[name] = loaded if loaded == job else job
        return jobs, tuple(problems)


@contextmanager
def open_trusted_file(path: Path, owner: int) -> Iterator[int]:
    """Open a job file where nobody else could change it, nor anything on the way there.

    `path` is absolute. Raises JobFileError.
    """
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(open_trusted(str(path), owner))
        except DistrustedError as error:
            own = error.distrust.path == str(path)
            message = error.distrust.reason if own else str(error)
            raise _fail(path, message, error.distrust.hint) from error
        except OSError as error:
            raise _fail(path, explain_os_error(path, error)) from error
        check_regular(os.fstat(descriptor), path)
        yield descriptor


def _is_job_file(name: str) -> bool:
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in _PASSED_OVER):
        return False
    return os.path.splitext(name)[1] in SUFFIXES


def _is_link(path: Path, directory: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:  # opening it will say why
        return False


def _is_gone(path: Path, directory: int) -> bool:
    """Whether there is surely no such file; one that cannot be seen is not gone."""
    try:
        os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _fail(path: Path, message: str, hint: str | None = None) -> JobFileError:
    return JobFileError([JobProblem(file=str(path), message=message, hint=hint)])


def _state(found: os.stat_result) -> tuple[int, ...] | None:
    """Return what changes when a file does, unless it may change again without a trace."""
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _SETTLED_NS:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _duplicate(look: _Look, looks: Sequence[_Look]) -> JobProblem:
    others = ", ".join(each.path.name for each in looks if each is not look)
    return JobProblem(
        file=str(look.path),
        message=f"job {look.path.stem} is declared by {others} too",
        hint="rename or remove one of the files",
    )


def _compare(
    before: Mapping[str, Job], now: Mapping[str, Job], problems: tuple[JobProblem, ...]
) -> Change:
    return Change(
        added=tuple(name for name in now if name not in before),
        changed=tuple(name for name in now if name in before and now[name] != before[name]),
        removed=tuple(name for name in before if name not in now),
        problems=problems,
    )
