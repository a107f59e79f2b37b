"""The alarm clock: it rings, and decides nothing."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from storeletd.alarm import Alarm, _DueTrigger
from storeletd.jobfile import read_job
from storeletd.schedule import parse_schedule

BERLIN = ZoneInfo("Europe/Berlin")


def test_a_job_rings_at_its_due_times_until_it_is_gone(job_dir: Path) -> None:
    path = job_dir / "web.py"
    path.write_text('SCHEDULE = "every 1s"\n')
    path.chmod(0o600)
    job = read_job(path)

    async def ring_thrice() -> None:
        rung = asyncio.Semaphore(0)
        alarm = Alarm(rung.release)
        alarm.start()
        alarm.set_jobs({"web": job})
        for _ in range(3):
            await asyncio.wait_for(rung.acquire(), 10)
        alarm.set_jobs({"web": dataclasses.replace(job)})  # the same times: left alone
        await asyncio.wait_for(rung.acquire(), 10)
        alarm.set_jobs({})
        await asyncio.sleep(0)  # what was just ringing has rung
        before = rung._value
        await asyncio.sleep(1.5)
        assert rung._value == before
        alarm.stop()

    asyncio.run(ring_thrice())


def test_after_a_year_asleep_it_rings_once_and_not_for_each_missed_minute() -> None:
    trigger = _DueTrigger(parse_schedule("* * * * *"), BERLIN)
    now = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)
    due = trigger.get_next_fire_time(now - timedelta(days=365), now)
    assert due == datetime(2026, 11, 24, 12, 1, tzinfo=UTC)


def test_the_night_that_apschedulers_own_cron_loses_is_there() -> None:
    trigger = _DueTrigger(parse_schedule("30 0 * * *"), BERLIN)
    before = datetime(2026, 3, 29, 0, 30, tzinfo=BERLIN)
    assert trigger.get_next_fire_time(before, before) == datetime(2026, 3, 30, 0, 30, tzinfo=BERLIN)


def test_a_manual_job_never_rings() -> None:
    trigger = _DueTrigger(parse_schedule("manual"), BERLIN)
    assert trigger.get_next_fire_time(None, datetime.now(UTC)) is None
