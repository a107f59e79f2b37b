"""The alarm clock: it rings, and decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from storeletd.alarm import Alarm

SOON = timedelta(seconds=0.2)
DAY = timedelta(days=1)


class Bell:
    """Counts how often it was rung."""

    def __init__(self) -> None:
        self.count = 0
        self._rung = asyncio.Semaphore(0)

    def ring(self) -> None:
        asyncio.get_running_loop()  # on the loop's thread, where the daemon lives
        self.count += 1
        self._rung.release()

    async def wait(self) -> None:
        await asyncio.wait_for(self._rung.acquire(), 10)


def with_alarm(act: Callable[[Alarm, Bell], Awaitable[None]]) -> None:
    async def act_on() -> None:
        bell = Bell()
        alarm = Alarm(bell.ring)
        alarm.start()
        try:
            await act(alarm, bell)
        finally:
            alarm.stop()

    asyncio.run(act_on())


def now() -> datetime:
    return datetime.now(UTC)


def test_it_rings_at_the_time_and_again_at_the_next() -> None:
    async def act(alarm: Alarm, bell: Bell) -> None:
        for _ in range(3):
            at = now() + SOON
            alarm.set(at)
            await bell.wait()
            assert now() >= at
        assert bell.count == 3

    with_alarm(act)


def test_a_time_that_is_over_rings_at_once() -> None:
    async def act(alarm: Alarm, bell: Bell) -> None:
        at = now() - DAY
        for _ in range(2):  # and again where it is set again: something was left undone
            alarm.set(at)
            await bell.wait()

    with_alarm(act)


def test_only_the_last_time_that_was_set_rings() -> None:
    async def act(alarm: Alarm, bell: Bell) -> None:
        alarm.set(now() + DAY)
        alarm.set(now() + SOON)
        alarm.set(now() + SOON * 2)
        await bell.wait()
        alarm.set(now() + SOON)
        alarm.set(None)
        alarm.set(None)
        await asyncio.sleep(0.5)
        assert bell.count == 1
        alarm.set(now() + SOON)
        await bell.wait()

    with_alarm(act)


def test_it_rings_now_and_then_whatever_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a machine that was suspended, or whose clock was set."""
    monkeypatch.setattr("storeletd.alarm.HEARTBEAT_SECONDS", 0.1)

    async def act(_alarm: Alarm, bell: Bell) -> None:
        for _ in range(3):
            await bell.wait()

    with_alarm(act)


def test_who_is_about_to_be_rung_may_still_say_that_nothing_is_due() -> None:
    """APScheduler has let go of an alarm by then that has not rung yet."""

    async def act(alarm: Alarm, bell: Bell) -> None:
        alarm.set(now() - DAY)
        for _ in range(50):
            alarm.set(None)
            alarm.set(now())
            await asyncio.sleep(0)
        alarm.set(None)

    with_alarm(act)
