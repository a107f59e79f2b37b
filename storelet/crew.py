"""The crew: helper processes that pack batches of small files on all cores.

A helper is `python -m storelet.packer`, so a script needs no `__main__` guard. Task and answer lie
in memory that both have mapped, in one of SLOTS slots; over a pair of sockets goes only which
slot, and how much. A batch is given out when a slot is free, so memory is bounded by SLOTS times
SLOT_BYTES for each helper, and answers come back in the order of the batches.

Helpers end when their socket does: nothing of a crew outlives the process that has it.
"""

from __future__ import annotations

import logging
import marshal
import mmap
import os
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from storelet.deflate import Compression, count_cores
from storelet.errors import StoreletError

__all__ = ["ANSWER", "SLOT_BYTES", "TASK", "Answer", "Crew"]

SLOTS = 4  # of a helper: one is written out, one is being packed, two more keep both busy
SLOT_BYTES = 4 << 20
TASK = struct.Struct("<LL")  # slot, bytes of the marshalled batch in it
ANSWER = struct.Struct("<LLLL")  # slot, then bytes of data, catalogue and marshalled outcomes in it


_log = logging.getLogger("storelet")

Piece = TypeVar("Piece")


class Answer(NamedTuple):
    """A packed batch; `data` is gone when the next answer is asked for."""

    data: memoryview  # the members, one after the other
    central: memoryview  # their central headers, with offsets from the start of `data`
    outcomes: list[Any]  # what became of each entry


class Crew:
    """Helpers for one archive; a context manager that starts and ends them.

    Where none can be started, nothing is packed by them.
    """

    def __init__(self, compression: Compression) -> None:
        self._compression: Compression = compression
        self._helpers: list[_Helper] = []

    def __enter__(self) -> Crew:
        """Start a helper for each core."""
        try:
            for _ in range(count_cores()):
                self._helpers.append(_Helper(self._compression))
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

        A piece is anything, with a batch as marshal writes it. Without a batch, or where what
        a batch packs to is larger than a slot, the answer is None. Raises StoreletError when a
        helper dies.
        """
        waiting: deque[tuple[Any, _Helper | None]] = deque()
        for piece, batch in work:
            if batch is None or not self._helpers:
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

    def __init__(self, compression: Compression) -> None:
        self.free = deque(range(SLOTS))
        with ExitStack() as theirs:
            memory = os.memfd_create("storelet")
            theirs.callback(os.close, memory)
            os.ftruncate(memory, SLOTS * SLOT_BYTES)
            self._memory = memoryview(mmap.mmap(memory, SLOTS * SLOT_BYTES))
            self._socket, other = socket.socketpair()
            theirs.enter_context(other)
            self._process = self._start(compression, other.fileno(), memory)

    def _start(self, compression: Compression, *descriptors: int) -> subprocess.Popen[bytes]:
        # What can be imported here can be imported there, wherever Storelet lies.
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        command = [sys.executable, "-P", "-m", "storelet.packer", *map(str, descriptors)]
        try:
            return subprocess.Popen(
                [*command, compression],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
            )
        except OSError:
            self._socket.close()
            raise

    def give(self, batch: bytes) -> None:
        """Give out a batch; there must be a free slot."""
        slot = self.free.popleft()
        start = slot * SLOT_BYTES
        self._memory[start : start + len(batch)] = batch
        try:
            self._socket.sendall(TASK.pack(slot, len(batch)))
        except OSError as error:
            raise self._died() from error

    def take(self) -> Iterator[Answer | None]:
        """Yield the answer to the oldest batch that was given out; then its slot is free."""
        try:
            message = self._socket.recv(ANSWER.size, socket.MSG_WAITALL)
        except OSError as error:
            raise self._died() from error
        if len(message) < ANSWER.size:
            raise self._died()
        slot, data, central, outcomes = ANSWER.unpack(message)
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


def _take(waiting: deque[tuple[Any, _Helper | None]]) -> Iterator[tuple[Any, Answer | None]]:
    """Yield the oldest piece of work with its answer."""
    piece, helper = waiting.popleft()
    if helper is None:
        yield piece, None
        return
    for answer in helper.take():
        yield piece, answer
