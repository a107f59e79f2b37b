"""The metrics as a file, for the textfile collector of Prometheus' node_exporter.

It is written under another name and renamed, so that nobody reads half of it: when a run has
ended, when job files were read, and every minute. It goes when the daemon ends in order, since what
it says is not so any more; one that a killed daemon left is known by its age.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from storelet import StoreletError
from storeletd.daemon import Daemon
from storeletd.metrics import describe_metrics

__all__ = ["Textfile"]

_log = logging.getLogger("storeletd.textfile")

EVERY_SECONDS = 60  # also where no job file can be read, or none ever is


class Textfile:
    """Keeps the metrics of one daemon in a file. Where it cannot, backups go on."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self._daemon = daemon
        self._path = path
        self._has_warned = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Keep it up to date from now on."""
        self._write()
        self._task = asyncio.create_task(self._keep(), name="write the metrics")

    async def stop(self) -> None:
        """Remove it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(OSError):
            self._path.unlink()

    async def _keep(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._daemon.news.wait(), EVERY_SECONDS)
            self._daemon.news.clear()
            self._write()

    def _write(self) -> None:
        try:
            _replace(self._path, describe_metrics(self._daemon))
            self._has_warned = False
        except (OSError, StoreletError) as error:
            if not self._has_warned:
                why = getattr(error, "strerror", None) or error
                _log.warning("The metrics cannot be written to %s now: %s", self._path, why)
            self._has_warned = True


def _replace(path: Path, text: str) -> None:
    """Write a file that everybody may read. No sync: after a crash it is written anew."""
    # The collector reads what ends in .prom: not this name.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o644)  # it is another user's collector
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
