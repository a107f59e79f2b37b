"""Notifications: somebody is told of a job's troubles, once each, and when they are over.

What is to be told follows from what is so (`troubles`), not from events: a letter that cannot be
sent, because the network is what is down, is sent when it can be, also by the next daemon. Letters
are sent by workers, which alone know secrets. Whatever fails here is a warning and nothing more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from storeletd import journal
from storeletd.errand import do_errand, why_not_done
from storeletd.events import Event, Logged
from storeletd.history import History
from storeletd.jobs import Job, make_printable
from storeletd.jobstate import JobState, JobStates
from storeletd.order import Order
from storeletd.troubles import (
    Letter,
    Trouble,
    find_run_troubles,
    find_state_troubles,
    write_letters,
)

__all__ = ["Notifier"]

_log = logging.getLogger("storeletd.notifying")

_AT_ONCE = 2  # workers that send
_SEND_SECONDS = 120.0
_FIRST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(hours=1)


class Notifier:
    """Tells somebody of the jobs that say `notify`. Lives on one event loop."""

    def __init__(
        self,
        states: JobStates,
        history: History,
        *,
        host: str,
        told: Callable[[], None],
    ) -> None:
        self._states = states
        self._history = history
        self._host = host
        self._look_again = told  # called when somebody was told, or that has failed
        self._troubles: dict[str, dict[str, Trouble | None]] = {}  # of runs, as history has them
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waits: dict[str, tuple[datetime, timedelta]] = {}  # where sending has failed
        self._sending = asyncio.Semaphore(_AT_ONCE)

    def touch(self, name: str) -> None:
        """Ask history again: a run of the job has ended."""
        self._troubles.pop(name, None)

    def look(self, jobs: Iterable[Job], now: datetime) -> None:
        """Begin to tell what is to be told. Raises HistoryError."""
        for job in jobs:
            state = self._states.get(job.name)
            if job.settings.notify is None or state is None or job.name in self._tasks:
                continue
            if job.name in self._waits and now < self._waits[job.name][0]:
                continue
            letters = dict(self._find_letters(job, state))
            if letters:
                task = asyncio.create_task(self._tell(job, letters), name=f"tell of {job.name}")
                self._tasks[job.name] = task

    def next_look(self, now: datetime) -> datetime | None:
        """Return when to look again, if nothing happens until then."""
        return min((again for again, _ in self._waits.values() if again > now), default=None)

    async def close(self) -> None:
        """Tell nobody any more; what was to be told is told by the next daemon."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _find_letters(self, job: Job, state: JobState) -> Iterable[tuple[str, Letter]]:
        if job.name not in self._troubles:
            self._troubles[job.name] = find_run_troubles(self._history, job.name)
        troubles = self._troubles[job.name] | find_state_troubles(job, state)
        return write_letters(job.name, self._host, troubles, state.told)

    async def _tell(self, job: Job, letters: dict[str, Letter]) -> None:
        try:
            await self._try_to_tell(job, letters)
        finally:
            self._tasks.pop(job.name, None)
        self._look_again()

    async def _try_to_tell(self, job: Job, letters: dict[str, Letter]) -> None:
        """Send letters, and remember that they were; or else when to try again."""
        assert job.settings.notify is not None  # noqa: S101 - else nobody is to be told
        wanted = [each for each in letters.values() if each.word in job.settings.notify.on]
        reason = await self._send(job, wanted) if wanted else None
        if reason is None:
            self._waits.pop(job.name, None)
            self._remember(job.name, letters)
            for letter in wanted:
                self._say(job, logging.INFO, f"Told: {letter.title}")
            return
        _, wait = self._waits.get(job.name, (None, _FIRST_WAIT))
        self._waits[job.name] = (datetime.now(UTC) + wait, min(wait * 2, _LONGEST_WAIT))
        self._say(job, logging.WARNING, f"Nobody could be told of {job.name} yet: {reason}")

    def _remember(self, name: str, letters: dict[str, Letter]) -> None:
        state = self._states.get(name)
        if state is None:
            return
        told = {topic: word for topic, word in state.told.items() if topic not in letters}
        for topic, letter in letters.items():
            if letter.word != "recovered":
                told[topic] = letter.word
        self._states.put(replace(state, told=told))

    async def _send(self, job: Job, letters: list[Letter]) -> str | None:
        """Have a worker send letters; return why they are not sent."""

        def take(event: Event) -> None:
            if isinstance(event, Logged) and event.level >= logging.WARNING:
                self._say(job, event.level, event.message)

        def take_output(line: str) -> None:
            self._say(job, logging.WARNING, line)

        try:
            async with self._sending, asyncio.timeout(_SEND_SECONDS):
                order = Order(job=job, kind="notify", letters=tuple(letters))
                ended = await do_errand(order, self._history.directory, take, take_output)
        except TimeoutError:
            return "no answer within two minutes"
        except (OSError, ValueError) as error:
            return str(error)
        return why_not_done(ended)

    def _say(self, job: Job, level: int, message: str) -> None:
        _log.log(level, make_printable(message), extra=journal.fields(job=job.name))
