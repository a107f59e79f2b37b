"""The alarm clock: it rings when it is told to, and decides nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from storeletd.alarm import Alarm


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=0.2)


async def rings(rung: asyncio.Semaphore) -> bool:
    """Whether it rings within two seconds."""
    try:
        await asyncio.wait_for(rung.acquire(), 2)
    except TimeoutError:
        return False
    return True


def test_it_rings_once_for_each_time_that_it_is_set() -> None:
    async def main() -> None:
        rung = asyncio.Semaphore(0)
        alarm = Alarm(rung.release)
        alarm.start()
        for _ in range(3):
            alarm.set(soon())
            assert await rings(rung)
        assert not await rings(rung)
        alarm.stop()

    asyncio.run(main())


def test_what_is_past_rings_at_once() -> None:
    async def main() -> None:
        rung = asyncio.Semaphore(0)
        alarm = Alarm(rung.release)
        alarm.start()
        alarm.set(datetime(2020, 1, 1, tzinfo=UTC))
        assert await rings(rung)
        alarm.stop()

    asyncio.run(main())


def test_another_time_takes_the_place_of_the_one_before() -> None:
    async def main() -> None:
        rung = asyncio.Semaphore(0)
        alarm = Alarm(rung.release)
        alarm.start()
        alarm.set(soon())
        alarm.set(soon() + timedelta(days=1))
        assert not await rings(rung)
        alarm.set(soon())
        alarm.set(None)
        assert not await rings(rung)
        alarm.set(soon())
        assert await rings(rung)
        alarm.stop()

    asyncio.run(main())
