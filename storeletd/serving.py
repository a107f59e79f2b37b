"""HTTP as the daemon serves it: uvicorn that keeps quiet while nobody asks.

Which requests are answered, and how, is the application's; from whom and how much is taken in is
`intake`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

from storeletd.intake import BoundedBodies, Protocol

__all__ = ["HttpServer"]

SHUTDOWN_SECONDS = 3  # for event streams to end
QUEUE = 2048  # clients that wait to be taken in; where it is full the next one fails
AT_ONCE = 16  # taken in before it is seen that there are too many; asyncio calls it backlog


class HttpServer:
    """Serves one application on a socket that listens already."""

    def __init__(self, app: Starlette, *, name: str) -> None:
        config = uvicorn.Config(
            BoundedBodies(app),
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            backlog=AT_ONCE,
            date_header=False,  # it would have to be made anew each second
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        self._name = name
        self._server = _QuietServer(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self, listening: socket.socket) -> None:
        """Serve from now on."""
        serving = self._server.serve(sockets=[listening])
        self._serving = asyncio.create_task(serving, name=self._name)
        await self._server.ready.wait()

    async def move(self, listening: socket.socket) -> None:
        """Answer on this socket from now on; connections of the one before go on."""
        await self._server.startup([listening])

    async def stop(self) -> None:
        """Serve no more; event streams are ended within SHUTDOWN_SECONDS."""
        self._server.ending.set()
        if self._serving is not None:
            await self._serving


class _QuietServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests on these sockets from now on; connections of others go on."""
        before = self.servers if self.started else []
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(QUEUE)  # again, as asyncio made it as short as AT_ONCE
        for server in before:
            server.close()
        self.ready.set()

    async def main_loop(self) -> None:
        """Wait for the end; uvicorn's own looks for it ten times a second, day and night."""
        await self.on_tick(0)
        await self.ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `__main__`."""
        yield
