"""Keeper and worker as processes: start, input, events, output, the order to end.

The daemon holds the writing end of the lifeline pipe and nobody else does: when it is gone,
however it went, the keeper sees the pipe's end and ends the run. All else about the end of a
run's processes is the keeper's.

A worker finds the number of the events pipe in its environment, under `EVENTS_FD`, and inherits
the pipe; it must call `os.set_inheritable(number, False)` before it starts anything. Python's
subprocess would close the pipe in what it starts, but `os.system` and C libraries do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen
from typing import Any

from storeletd.events import EVENTS_FD

__all__ = ["WorkerProcess"]

LINE_BYTES = 8 << 10  # of output; a longer line goes on as another one
EVENT_BYTES = 1 << 20  # the same of an event, where no whole one is that long
_CHUNK_BYTES = 64 << 10
_LINES_AT_ONCE = 100
# For what is still in the pipes when the keeper has ended: only a process that the keeper could
# not end holds one open longer.
_DRAIN_SECONDS = 5.0
_KEEPER = Path(__file__).with_name("keeper.py")


class WorkerProcess:
    """A worker under its keeper; made by `start`. Lives on one event loop.

    When all its processes are gone everything is let go of, waited for or not.
    """

    def __init__(
        self,
        keeper: Popen[bytes],
        lifeline: _Lifeline,
        pipes: Sequence[_Pipe],
        cleanup: ExitStack,
    ) -> None:
        self.pid = keeper.pid  # the keeper's
        self._keeper = keeper
        self._lifeline = lifeline
        self._events, *self._outputs = pipes
        self._end = asyncio.create_task(self._see_out(cleanup), name=f"keeper {keeper.pid}")

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        stdin: bytes,
        environment: Mapping[str, str],
        grace_seconds: float,
        temporary_directory: Path,
        user: tuple[str, str] | None = None,
    ) -> WorkerProcess:
        """Start `command` with `stdin` as its input and `environment` as its environment.

        `temporary_directory` is made and is its TMPDIR; the keeper removes it. `grace_seconds`
        lie between TERM and KILL. `user` is the name of the user to run it as, and a hint for
        where that may not be. Raises OSError; a command that cannot be executed is no error
        but ends with status 126 or 127.
        """
        with ExitStack() as ours, ExitStack() as theirs:
            _make_directory(temporary_directory, ours)
            lifeline = await _Lifeline.open(ours, theirs)
            pipes = [await _Pipe.open(ours, theirs) for _ in ("events", "stdout", "stderr")]
            events, stdout, stderr = (pipe.theirs for pipe in pipes)
            # Not asyncio's: what that makes is killed, so that it could end nothing any more,
            # when the loop ends before it.
            keeper = _start_keeper(
                [str(lifeline.theirs), str(grace_seconds), str(temporary_directory)],
                [*(user or ()), "--", *command],
                stdin=_hold(stdin, theirs),
                stdout=stdout,
                stderr=stderr,
                env={**environment, "TMPDIR": str(temporary_directory), EVENTS_FD: str(events)},
                pass_fds=(lifeline.theirs, events),
            )
            return cls(keeper, lifeline, pipes, ours.pop_all())

    async def read_events(self, take: Callable[[bytes], None]) -> None:
        """Hand each line of the events pipe to `take`, until its end."""
        async for line in _read_lines(self._events.reader, EVENT_BYTES):
            take(line)

    async def read_output(self, take: Callable[[str], None]) -> None:
        """Hand each line of standard output and error to `take`, until the end of both."""
        async with asyncio.TaskGroup() as group:
            for pipe in self._outputs:
                group.create_task(_take_lines(pipe, take))

    async def see_through(
        self, take_event: Callable[[bytes], None], take_output: Callable[[str], None]
    ) -> int:
        """Hand on events and output until all is gone; return the worker's exit status.

        Where that is broken off, the processes are ended first.
        """
        try:
            await asyncio.gather(self.read_events(take_event), self.read_output(take_output))
            return await self.wait()
        except BaseException:  # they must not go on without us
            self.terminate()
            await self.wait()
            raise

    def terminate(self) -> None:
        """Have the run's processes ended; may be called at any time and more than once."""
        if not self._lifeline.transport.is_closing():
            self._lifeline.transport.write(b"t")

    async def wait(self) -> int:
        """Wait until all the run's processes are gone; return the worker's exit status.

        128 + n says that signal n ended it. May be called more than once; cancelling it lets the
        run go on.
        """
        return await asyncio.shield(self._end)

    async def _see_out(self, cleanup: ExitStack) -> int:
        """Wait for the end and let go of everything."""
        lost = [pipe.lost for pipe in (self._events, *self._outputs)]
        with cleanup:
            await self._lifeline.lost
            status = self._keeper.wait()  # at once: it lost the lifeline by ending
            await asyncio.wait(lost, timeout=_DRAIN_SECONDS)
        await asyncio.wait(lost)
        return status if status >= 0 else 128 - status


class _Pipe(asyncio.StreamReaderProtocol):
    """The reading end of a pipe."""

    theirs: int  # the other end's descriptor, closed here once the keeper has it

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.lost = asyncio.get_running_loop().create_future()  # done at the end, and closed
        super().__init__(self.reader)

    @classmethod
    async def open(cls, ours: ExitStack, theirs: ExitStack) -> _Pipe:
        """Open a pipe whose ends the stacks close."""
        reading, writing = os.pipe()
        theirs.callback(os.close, writing)
        file = ours.enter_context(os.fdopen(reading, "rb", buffering=0))
        transport, pipe = await asyncio.get_running_loop().connect_read_pipe(cls, file)
        ours.callback(transport.close)
        pipe.theirs = writing
        return pipe

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self.lost.done():  # it is cancelled when the loop ends
            self.lost.set_result(None)


class _Lifeline(asyncio.BaseProtocol):
    """The writing end of the lifeline. As only the keeper has the other one, it ends with it."""

    theirs: int  # the other end's descriptor, closed here once the keeper has it
    transport: asyncio.WriteTransport

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()  # done when the keeper has ended

    @classmethod
    async def open(cls, ours: ExitStack, theirs: ExitStack) -> _Lifeline:
        """Open the pipe, whose ends the stacks close."""
        reading, writing = os.pipe()
        theirs.callback(os.close, reading)
        file = ours.enter_context(os.fdopen(writing, "wb", buffering=0))
        transport, lifeline = await asyncio.get_running_loop().connect_write_pipe(cls, file)
        ours.callback(transport.close)
        lifeline.theirs, lifeline.transport = reading, transport
        return lifeline

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


def _start_keeper(arguments: Sequence[str], command: Sequence[str], **options: Any) -> Popen[bytes]:
    keeper = [sys.executable, "-I", "-S", str(_KEEPER), *arguments, *command]
    # In a session of its own ^C on a terminal is the daemon's alone.
    return Popen(keeper, start_new_session=True, **options)


def _make_directory(path: Path, ours: ExitStack) -> None:
    """Make the temporary directory, to be removed here if no keeper comes to know of it."""
    path.mkdir(mode=0o700)

    def remove_empty() -> None:
        with contextlib.suppress(OSError):
            path.rmdir()

    ours.callback(remove_empty)


def _hold(data: bytes, theirs: ExitStack) -> int:
    """Return a descriptor to read `data` from.

    A file in memory, not a pipe: nobody has to write while the other one reads, and the secrets
    of a job are on no disk.
    """
    file = theirs.enter_context(os.fdopen(os.memfd_create("job"), "w+b", buffering=0))
    file.write(data)
    file.seek(0)
    return file.fileno()


async def _take_lines(pipe: _Pipe, take: Callable[[str], None]) -> None:
    async for line in _read_lines(pipe.reader, LINE_BYTES):
        take(line.decode(errors="replace"))


async def _read_lines(reader: asyncio.StreamReader, limit: int) -> AsyncIterator[bytes]:
    """Yield lines without their newlines; one longer than `limit` bytes comes in several."""
    rest = b""
    while chunk := await reader.read(_CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for number, line in enumerate(lines, 1):
            if number % _LINES_AT_ONCE == 0:
                await asyncio.sleep(0)  # whoever prints a million must not hold up everybody
            for start in range(0, len(line) or 1, limit):
                yield line[start : start + limit]
        while len(rest) > limit:  # at `limit` its newline may be all that is to come
            yield rest[:limit]
            rest = rest[limit:]
    if rest:
        yield rest
