"""The crew: helper processes that do batches of small files on all cores.

A helper is `python -m` of a module that calls `serve`, so a script needs no `__main__` guard. Task
and answer lie in memory that both have mapped, in one of SLOTS slots; over a pair of sockets goes
only which slot, and how much, and before that the password, which is not for others to see as
arguments are. A batch is given out when a slot is free, so memory is bounded by SLOTS times
SLOT_BYTES for each helper, and answers come back in the order of the batches.

Helpers end when their socket does: nothing of a crew outlives the process that has it.
"""

from __future__ import annotations

import logging
import marshal
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from storelet.deflate import count_cores
from storelet.errors import StoreletError

__all__ = ["Answer", "Crew", "Work", "serve"]

SLOTS = 4  # of a helper: one is written out, one is being packed, two more keep both busy
SLOT_BYTES = 4 << 20
_SECRET = struct.Struct("<H")  # bytes of it, which follow
_TASK = struct.Struct("<LL")  # slot, bytes of the marshalled batch in it
# Slot, then bytes of data, catalogue and marshalled outcomes in it.
_ANSWER = struct.Struct("<LLLL")


_log = logging.getLogger("storelet")

Piece = TypeVar("Piece")
Work = Callable[[memoryview, int], tuple[int, int, int]]


class Answer(NamedTuple):
    """A packed batch; `data` is gone when the next answer is asked for."""

    data: memoryview  # the members, one after the other
    central: memoryview  # their central headers, with offsets from the start of `data`
    outcomes: list[Any]  # what became of each entry


class Crew:
    """Helpers for one archive; a context manager that starts and ends them.

    A helper is `module` with the numbers of its socket and memory and then `arguments`; it has
    `descriptors` open, too. Where none can be started, nothing is packed by them.
    """

    def __init__(
        self, module: str, *arguments: str, descriptors: Sequence[int] = (), secret: bytes = b""
    ) -> None:
        self._command = (module, arguments, tuple(descriptors), secret)
        self._helpers: list[_Helper] = []

    def __enter__(self) -> Crew:
        """Start a helper for each core."""
        try:
            for _ in range(count_cores()):
                self._helpers.append(_Helper(*self._command))
        except (OSError, AttributeError) as error:  # memfd_create is Linux's
            _log.warning("No helper process can be started, so one core does it all: %s", error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the helpers."""
        for helper in self._helpers:
            helper.close()

    def pack(
        self, work: Iterable[tuple[Piece, bytes | None]]
    ) -> Iterator[tuple[Piece, Answer | None]]:
        """Yield each piece of work with the answer to its batch, in order.

        A piece is anything, with a batch as marshal writes it. Without a batch, or where it or what
        it packs to is larger than a slot, the answer is None. Raises StoreletError when a
        helper dies.
        """
        waiting: deque[tuple[Any, _Helper | None]] = deque()
        for piece, batch in work:
            if batch is None or len(batch) > SLOT_BYTES or not self._helpers:
                if not waiting:
                    yield piece, None
                    continue
                waiting.append((piece, None))
                if len(waiting) > SLOTS * len(self._helpers):
                    yield from _take(waiting)
                continue
            while (helper := self._find_free()) is None:
                yield from _take(waiting)
            helper.give(batch)
            waiting.append((piece, helper))
        while waiting:
            yield from _take(waiting)

    def _find_free(self) -> _Helper | None:
        """Return the helper with most free slots, None where all are taken."""
        helper = max(self._helpers, key=lambda each: len(each.free))
        return helper if helper.free else None


class _Helper:
    """One helper process and the memory shared with it."""

    def __init__(
        self, module: str, arguments: Sequence[str], descriptors: tuple[int, ...], secret: bytes
    ) -> None:
        self.free = deque(range(SLOTS))
        with ExitStack() as theirs:
            memory = os.memfd_create("storelet")
            theirs.callback(os.close, memory)
            os.ftruncate(memory, SLOTS * SLOT_BYTES)
            self._memory = memoryview(mmap.mmap(memory, SLOTS * SLOT_BYTES))
            self._socket, other = socket.socketpair()
            theirs.enter_context(other)
            self._socket.sendall(_SECRET.pack(len(secret)) + secret)
            ours = (other.fileno(), memory)
            command = [module, *map(str, ours), *arguments]
            self._process = self._start(command, (*ours, *descriptors))

    def _start(self, command: Sequence[str], descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        # What can be imported here can be imported there, wherever Storelet lies.
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        # A terminal interrupts all at once: a helper must not hear it before `serve` sees to that.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", *command],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def give(self, batch: bytes) -> None:
        """Give out a batch; there must be a free slot."""
        slot = self.free.popleft()
        start = slot * SLOT_BYTES
        self._memory[start : start + len(batch)] = batch
        try:
            self._socket.sendall(_TASK.pack(slot, len(batch)))
        except OSError as error:
            raise self._died() from error

    def take(self) -> Iterator[Answer | None]:
        """Yield the answer to the oldest batch that was given out; then its slot is free."""
        try:
            message = self._socket.recv(_ANSWER.size, socket.MSG_WAITALL)
        except OSError as error:
            raise self._died() from error
        if len(message) < _ANSWER.size:
            raise self._died()
        slot, data, central, outcomes = _ANSWER.unpack(message)
        if not outcomes:
            yield None
        else:
            memory = self._memory[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]
            end = data + central
            said = marshal.loads(memory[end : end + outcomes])  # noqa: S302 - from our helper
            yield Answer(memory[:data], memory[data:end], said)
        self.free.append(slot)

    def close(self) -> None:
        """End the process and let go of the memory."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _died(self) -> StoreletError:
        self._process.kill()
        status = self._process.wait()
        return StoreletError(
            f"a helper process ended with status {status}", hint="did memory run out? see dmesg"
        )


def serve(descriptor: int, memory_descriptor: int, prepare: Callable[[bytes], Work]) -> None:
    """Do, in a helper, what it is given until its socket ends.

    `prepare` is given the secret, and what it returns a slot and how many bytes of that are a task;
    it writes the answer there and returns the lengths of its parts, zeros where it does not fit.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that has us decides
    logging.disable(logging.CRITICAL)  # it says what there is to say
    memory = memoryview(mmap.mmap(memory_descriptor, 0))
    with socket.socket(fileno=descriptor) as tasks:
        (length,) = _SECRET.unpack(tasks.recv(_SECRET.size, socket.MSG_WAITALL))
        work = prepare(tasks.recv(length, socket.MSG_WAITALL) if length else b"")
        while len(task := tasks.recv(_TASK.size, socket.MSG_WAITALL)) == _TASK.size:
            slot, size = _TASK.unpack(task)
            room = memory[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]
            answer = _ANSWER.pack(slot, *work(room, size))
            try:
                tasks.sendall(answer)
            except OSError:  # who has us is gone
                return


def _take(waiting: deque[tuple[Any, _Helper | None]]) -> Iterator[tuple[Any, Answer | None]]:
    """Yield the oldest piece of work with its answer."""
    piece, helper = waiting.popleft()
    if helper is None:
        yield piece, None
        return
    for answer in helper.take():
        yield piece, answer
