"""The aftermath of a run: its hooks and its ping, in a worker of their own.

Not in the run's: that may have crashed, been killed, or be told to end within seconds, and a disk
is to be unmounted all the same. Only where the daemon itself is killed there is none. Whatever
fails here is a warning and nothing more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from storeletd.errand import do_errand, why_not_done
from storeletd.events import Event, Logged, Noted
from storeletd.jobs import Job
from storeletd.order import Order, Summary

__all__ = ["Aftermath"]

_log = logging.getLogger("storeletd.aftermath")

HURRY_SECONDS = 45.0  # the service manager waits 90 s for all that is on, then it kills


class Aftermath:
    """What comes after one run; `take` gets what it logs and notes. Lives on one event loop."""

    def __init__(
        self,
        job: Job,
        state_directory: Path | None,
        *,
        take: Callable[[Event], None],
        take_output: Callable[[str], None],
    ) -> None:
        self._job = job
        self._state_directory = state_directory
        self._take = take
        self._take_output = take_output
        self._is_in_a_hurry = False
        self._limit: asyncio.Timeout | None = None  # while it is on

    def hurry(self) -> None:
        """Leave it no more than `HURRY_SECONDS` from now: somebody waits for its end."""
        self._is_in_a_hurry = True
        if self._limit is not None and not self._limit.expired():
            ends = [self._limit.when(), asyncio.get_running_loop().time() + HURRY_SECONDS]
            self._limit.reschedule(min(end for end in ends if end is not None))

    async def see_through(self, summary: Summary) -> None:
        """Have a worker do what there is to do."""
        settings = self._job.settings
        if not (settings.after or settings.on_failure or settings.healthchecks):
            return
        try:
            async with asyncio.timeout(self._find_seconds()) as self._limit:
                order = Order(job=self._job, kind="after", summary=summary)
                ended = await do_errand(
                    order, self._state_directory, self._take_event, self._take_output
                )
                why = why_not_done(ended)
        except TimeoutError:
            why = "it took too long"
        except OSError as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - every run gets an outcome
            _log.exception("What comes after run %d broke off", summary.run_id)
            why = f"storeletd failed: {error!r}"
        finally:
            self._limit = None
        if why is not None:
            message = f"what comes after the run was not done to its end: {why}"
            self._take(Logged(level=logging.WARNING, message=message))
            self._take(Noted(message=message))

    def _take_event(self, event: Event) -> None:
        if isinstance(event, Logged | Noted):
            self._take(event)

    def _find_seconds(self) -> float | None:
        if self._is_in_a_hurry:
            return HURRY_SECONDS
        timeout = self._job.settings.timeout
        return None if timeout is None else timeout.total_seconds()
