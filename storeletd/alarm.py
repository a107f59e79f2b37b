"""The alarm clock: APScheduler wakes the planner when the next thing is due.

It decides nothing. APScheduler's own handling of late, missed and overlapping runs loses some of
them, so each alarm only says "look now", and another every HEARTBEAT seconds says so too: its
waits stand still while the machine is suspended and do not see the clock being set.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

__all__ = ["Alarm"]

HEARTBEAT_SECONDS = 30
_NEXT = "next"


class Alarm:
    """Calls `wake`, on the event loop, whenever something may be due."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._at: datetime | None = None
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        """Begin ringing; needs a running event loop."""
        heartbeat = IntervalTrigger(seconds=HEARTBEAT_SECONDS, timezone=UTC)
        self._scheduler.add_job(self._ring, heartbeat)
        self._scheduler.start()

    def stop(self) -> None:
        """Ring no more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def set(self, at: datetime | None) -> None:
        """Ring at that time, too, and at no other that was set before."""
        if at == self._at:
            self._scheduler.wakeup()  # the clock may have been set: wait anew
            return
        self._at = at
        if at is None:
            with suppress(JobLookupError):  # it is about to ring
                self._scheduler.remove_job(_NEXT)
        else:
            self._scheduler.add_job(
                self._ring_once, DateTrigger(at, UTC), id=_NEXT, replace_existing=True
            )

    async def _ring(self) -> None:
        self._wake()  # in a coroutine: APScheduler calls plain functions in a thread

    async def _ring_once(self) -> None:
        self._at = None
        self._wake()
