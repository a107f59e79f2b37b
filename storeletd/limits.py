"""The time limits of a run: how long it may take, and how long it may move no byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

__all__ = ["TimeLimits"]


class TimeLimits:
    """Calls `end` with the reason when a limit is passed within the block; on an event loop.

    `is_idle` says whether it was the limit without a byte moved.
    """

    def __init__(
        self,
        *,
        timeout: timedelta | None,
        idle_timeout: timedelta | None,
        end: Callable[[str, bool], None],
    ) -> None:
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._end = end
        self._is_busy = False  # with a command: nobody sees what it moves
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._idle_timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> TimeLimits:
        if self._timeout is not None:
            why = f"ended after its timeout of {self._timeout}"
            seconds = self._timeout.total_seconds()
            self._timers.append(self._loop.call_later(seconds, self._end, why, False))
        self._wait_for_bytes()
        return self

    def __exit__(self, *_error: object) -> None:
        for timer in (*self._timers, *([self._idle_timer] if self._idle_timer else [])):
            timer.cancel()

    def see_bytes(self) -> None:
        """Take note that some bytes were moved."""
        self._wait_for_bytes()

    def set_busy(self, is_busy: bool) -> None:
        """Take note that a command is on, or none any more."""
        self._is_busy = is_busy
        self._wait_for_bytes()

    def _wait_for_bytes(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._idle_timeout is not None and not self._is_busy:
            why = f"ended after {self._idle_timeout} without a byte read or sent"
            seconds = self._idle_timeout.total_seconds()
            self._idle_timer = self._loop.call_later(seconds, self._end, why, True)
