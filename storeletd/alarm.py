"""The alarm clock: APScheduler wakes the planner at each job's next due time.

It decides nothing. APScheduler's own handling of late, missed and overlapping runs loses some of
them, so each alarm only says "look now", and another every HEARTBEAT seconds says so too: its
waits stand still while the machine is suspended and do not see the clock being set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from storeletd.jobs import Job
from storeletd.schedule import Schedule, next_due

__all__ = ["Alarm"]

HEARTBEAT_SECONDS = 30


class _DueTrigger(BaseTrigger):  # type: ignore[misc] # apscheduler 3 has no types
    """APScheduler's question for the next time, answered by `next_due`."""

    def __init__(self, schedule: Schedule, timezone: ZoneInfo) -> None:
        self._schedule = schedule
        self._timezone = timezone

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        """Return the next due time; never one behind us, or a year asleep rings for a year."""
        return next_due(self._schedule, self._timezone, max(previous or now, now))


class Alarm:
    """Calls `wake`, on the event loop, whenever something may be due."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._set: dict[str, tuple[Schedule, ZoneInfo]] = {}
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

    def set_jobs(self, jobs: Mapping[str, Job]) -> None:
        """Set an alarm for each job; those whose times did not change are left alone."""
        wanted = {
            name: (job.settings.schedule, job.settings.timezone) for name, job in jobs.items()
        }
        for name in self._set.keys() - wanted.keys():
            self._scheduler.remove_job(name)
        for name, times in wanted.items():
            if self._set.get(name) != times:
                self._scheduler.add_job(
                    self._ring, _DueTrigger(*times), id=name, replace_existing=True
                )
        self._set = wanted

    async def _ring(self) -> None:
        self._wake()  # in a coroutine: APScheduler calls plain functions in a thread
