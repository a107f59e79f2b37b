"""What the service manager is told: ready, reloading, stopping, the next run, still alive.

sd_notify(3). Where no service manager listens, nothing happens.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta

from systemd import daemon as systemd

from storeletd.daemon import Daemon

__all__ = ["Notice"]

STATUS_SECONDS = 5  # between looks at what the status line should say


class Notice:
    """Tells the service manager about one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._status = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Say that the jobs are loaded and the socket listens; from now on, say we live."""
        _notify("READY=1")
        self._task = asyncio.create_task(self._tell(), name="tell systemd")

    async def stop(self) -> None:
        """Say that we end."""
        _notify("STOPPING=1")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def reload(self) -> None:
        """Reload the jobs, as SIGHUP asks for."""
        _notify("RELOADING=1")
        await self._daemon.reload()
        _notify("READY=1")

    async def _tell(self) -> None:
        """Feed the watchdog from the event loop: if that hangs, so does this."""
        every = _watchdog_interval() or timedelta(seconds=STATUS_SECONDS)
        while True:
            _notify("WATCHDOG=1")
            status = self._describe()
            if status != self._status:
                _notify(f"STATUS={status}")
                self._status = status
            await asyncio.sleep(min(every.total_seconds(), STATUS_SECONDS))

    def _describe(self) -> str:
        running = [run.job for run in self._daemon.runner.active() if run.state == "running"]
        if running:
            return f"running {', '.join(running)}"
        coming = self._daemon.next_run()
        if coming is None:
            return f"{len(self._daemon.jobs)} jobs, none scheduled"
        start, name = coming
        return f"next run: {name} {start.astimezone():%a %Y-%m-%d %H:%M:%S %Z}"


def _watchdog_interval() -> timedelta | None:
    """Return half of what sd_watchdog_enabled(3) allows between two signs of life."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return timedelta(microseconds=int(microseconds) / 2) if microseconds.isdigit() else None


def _notify(state: str) -> None:
    try:
        systemd.notify(state)
    except OSError:  # the service manager's socket is gone; telling must not stop backups
        return
