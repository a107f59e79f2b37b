"""The time limits of a run, on a real event loop with short times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

from storeletd.limits import TimeLimits

SHORT = timedelta(seconds=0.2)
LONG = timedelta(hours=1)


def live(
    act: Callable[[TimeLimits], None],
    *,
    timeout: timedelta | None = None,
    idle_timeout: timedelta | None = None,
    seconds: float = 0.5,
) -> list[tuple[str, bool]]:
    """Act again and again within the limits for some time; return what they said."""
    said: list[tuple[str, bool]] = []

    async def act_on() -> None:
        limits = TimeLimits(
            timeout=timeout,
            idle_timeout=idle_timeout,
            end=lambda why, is_idle: said.append((why, is_idle)),
        )
        end = time.monotonic() + seconds
        with limits:
            while time.monotonic() < end and not said:
                act(limits)
                await asyncio.sleep(0.01)
        before = list(said)
        await asyncio.sleep(0.3)
        assert said == before, "it is over, and nothing may end it any more"

    asyncio.run(act_on())
    return said


def nothing(_limits: TimeLimits) -> None:
    pass


def test_a_run_may_take_its_timeout_and_no_longer() -> None:
    assert live(nothing, timeout=SHORT) == [("ended after its timeout of 0:00:00.200000", False)]
    assert live(TimeLimits.see_bytes, timeout=SHORT, idle_timeout=SHORT) == [
        ("ended after its timeout of 0:00:00.200000", False)
    ]


def test_without_limits_it_may_take_for_ever() -> None:
    assert live(nothing) == []
    assert live(nothing, timeout=LONG, idle_timeout=LONG) == []
    assert live(nothing, timeout=SHORT, seconds=0.02) == []  # its timer ends with it


def test_a_run_that_moves_no_byte_is_ended() -> None:
    why = "ended after 0:00:00.200000 without a byte read or sent"
    assert live(nothing, idle_timeout=SHORT) == [(why, True)]


def test_a_run_that_moves_bytes_is_not_idle() -> None:
    assert live(TimeLimits.see_bytes, idle_timeout=SHORT, seconds=0.7) == []


def test_while_a_command_runs_nobody_sees_what_it_moves() -> None:
    says = iter([True])

    def start_a_command(limits: TimeLimits) -> None:
        for is_busy in says:
            limits.set_busy(is_busy)

    assert live(start_a_command, idle_timeout=SHORT) == []
    says = iter([True, False])
    ((_, is_idle),) = live(start_a_command, idle_timeout=SHORT)
    assert is_idle


def test_bytes_beside_a_command_begin_no_watch_over_it() -> None:
    def run_beside(limits: TimeLimits) -> None:
        if not begun:
            begun.append(True)
            limits.set_busy(True)
            limits.see_bytes()

    begun: list[bool] = []
    assert live(run_beside, idle_timeout=SHORT) == []


def test_a_command_counts_against_the_timeout() -> None:
    ((_, is_idle),) = live(lambda limits: limits.set_busy(True), timeout=SHORT, idle_timeout=SHORT)
    assert not is_idle
