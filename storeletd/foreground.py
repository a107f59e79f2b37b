"""A run in the foreground: of one job file, without a daemon, for other schedulers.

1. the file is opened where nobody else could have changed it, read, and held by a lock (flock(2))
   until the run is over: so no lock file is left, and none can be put there by anybody else;
2. the run is a daemon's (`run`), on a history in memory: with a keeper, timeouts and an outcome;
3. SIGINT and SIGTERM end it in order.

Nothing is remembered. So a run is not repeated, uploads that a killed machine leaves are not
aborted later, and no archives are held. Not guaranteed: that two runs of a job exclude each other
where one is a daemon's, or its file was replaced meanwhile; their archives have names of their own.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storeletd.database import IN_MEMORY, Database
from storeletd.events import Ended
from storeletd.history import History
from storeletd.jobdir import open_trusted_file
from storeletd.jobfile import parse_job, read_opened
from storeletd.jobs import Job
from storeletd.jobstate import JobStates
from storeletd.messages import describe_message, describe_run_whole
from storeletd.run import ActiveRun
from storeletd.runner import AlreadyRunningError

__all__ = ["ForegroundRun", "open_run"]

# 130, as a shell has it for ^C, and EXIT_CODES the other.
_ENDINGS = {
    signal.SIGINT: Ended(outcome="cancelled", message="interrupted", exit_code=130),
    signal.SIGTERM: Ended(outcome="cancelled", message="told to end by SIGTERM"),
}


@contextmanager
def open_run(path: Path) -> Iterator[ForegroundRun]:
    """Begin a run of a job file, which is held until the block ends.

    Raises JobFileError, and AlreadyRunningError where another one holds it.
    """
    # The memory of a run may hold secrets. What we start inherits it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (
        open_trusted_file(path.absolute(), os.geteuid()) as descriptor,
        closing(Database(IN_MEMORY)) as database,
    ):
        job = parse_job(path, read_opened(descriptor, path))
        _hold(descriptor, job)
        yield ForegroundRun(job, database)


def _hold(descriptor: int, job: Job) -> None:
    """Lock the job file for as long as it is open. Raises AlreadyRunningError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise AlreadyRunningError(
            f"job {job.name} is running already: another one holds {job.path}",
            hint=f"see who does: fuser -v {shlex.quote(job.path)}",
        ) from error
    except OSError:  # a file system without locks keeps no backup from being made
        pass


class ForegroundRun:
    """A run that has yet to do its work."""

    def __init__(self, job: Job, database: Database) -> None:
        self._job = job
        self._history = History(database)
        self._states = JobStates(database)
        self._run = self._history.begin(
            job=job.name, cause="manual", due=None, now=datetime.now(UTC)
        )

    def describe(self) -> dict[str, Any]:
        """Return how it stands, with all that is known of it, as JSON."""
        skipped = self._history.skipped_entries(self._run.id)
        return describe_run_whole(self._run, skipped, self._history.output(self._run.id))

    def work(self, show: Callable[[str, dict[str, Any]], None]) -> None:
        """Do the run to its outcome and show what happens, by the names of a run's events.

        What `show` raises is raised when the run is over: a log on a full disk ends no backup.
        """
        asyncio.run(self._work(show))

    async def _work(self, show: Callable[[str, dict[str, Any]], None]) -> None:
        active = ActiveRun(self._job, self._run, self._history, self._states)
        for number, ending in _ENDINGS.items():
            asyncio.get_running_loop().add_signal_handler(number, active.end, ending)
        work = asyncio.create_task(active.work(), name="run")
        await asyncio.sleep(0)  # it runs then, and is not shown as one that waits for its turn
        try:
            async for message in active.follow():
                show(message.kind, describe_message(message))
        finally:
            await work
            self._run = active.run
