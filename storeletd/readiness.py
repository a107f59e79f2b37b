"""Readiness: when a catch-up may start.

After a boot everything is late at once, and the network may not be up yet. So a catch-up waits
for its job's random delay, and then until all its destinations answer: a worker asks them, again
and again and ever less often. Only the question is repeated; no run fails meanwhile. An answer
that asking again will not change, such as a wrong key, is an answer: the run will say it better.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from storeletd import journal
from storeletd.errand import do_errand
from storeletd.jobs import Job, make_printable
from storeletd.order import Order

__all__ = ["Readiness"]

_log = logging.getLogger("storeletd.readiness")

_AT_ONCE = 2  # questions; each is a worker
_FIRST_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 300.0
_ASK_SECONDS = 60.0  # a question that takes longer has no answer


class Readiness:
    """The jobs that are to be made ready, and those that are. Lives on one event loop."""

    def __init__(self, state_directory: Path, *, ready: Callable[[str], None]) -> None:
        self._state_directory = state_directory
        self._tell = ready  # called with the name of a job that has become ready
        self._ready: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._asking = asyncio.Semaphore(_AT_ONCE)

    def is_ready(self, name: str) -> bool:
        """Whether a catch-up of the job may start."""
        return name in self._ready

    def reason(self, name: str) -> str | None:
        """Return what a catch-up of the job waits for."""
        return self._reasons.get(name)

    def want(self, job: Job, delay: timedelta) -> None:
        """Begin to make a job ready, unless that has begun."""
        if job.name not in self._tasks:
            self._reasons[job.name] = f"the random delay of {delay}" if delay else "an answer"
            task = asyncio.create_task(self._make_ready(job, delay), name=f"ready {job.name}")
            self._tasks[job.name] = task

    def forget(self, name: str) -> None:
        """Begin anew the next time: a run of the job has begun, or it is there no more."""
        self._ready.discard(name)
        self._reasons.pop(name, None)
        if task := self._tasks.pop(name, None):
            task.cancel()

    async def close(self) -> None:
        """Make nothing ready any more."""
        tasks = list(self._tasks.values())
        for name in list(self._tasks):
            self.forget(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make_ready(self, job: Job, delay: timedelta) -> None:
        await asyncio.sleep(delay.total_seconds())
        wait = _FIRST_WAIT_SECONDS
        while job.language == "yaml" and (reason := await self._ask(job)):
            if self._reasons[job.name] != reason:
                self._reasons[job.name] = reason
                message = f"A catch-up of {job.name} waits: {reason}"
                _log.warning(make_printable(message), extra=journal.fields(job=job.name))
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
        self._ready.add(job.name)
        self._reasons.pop(job.name, None)
        self._tell(job.name)

    async def _ask(self, job: Job) -> str | None:
        """Ask the destinations; return why they do not answer, if that may pass."""
        try:
            async with self._asking, asyncio.timeout(_ASK_SECONDS):
                order = Order(job=job, kind="ask")
                ended = await do_errand(
                    order, self._state_directory, lambda _event: None, lambda _line: None
                )
        except TimeoutError:
            return "no answer within a minute"
        except (OSError, ValueError) as error:  # the run will meet it, too, and say it
            _log.warning("Destinations of %s cannot be asked: %s", job.name, error)
            return None
        return ended.message if ended is not None and ended.is_temporary else None
