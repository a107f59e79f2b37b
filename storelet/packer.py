"""The packer: a helper process of a crew, `python -m storelet.packer SOCKET MEMORY COMPRESSION`.

For each batch of entries that it is given it writes, into the slot the batch lay in, a piece of
an archive: members, their central headers, and what became of each. It ends with its socket.

Nobody imports this module.
"""

from __future__ import annotations

import logging
import marshal
import mmap
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from storelet.crew import ANSWER, SLOT_BYTES, TASK
from storelet.deflate import Engine, find_engine
from storelet.packing import pack
from storelet.source import Entry

__all__ = ["main"]


class _FullError(Exception):
    """The slot has no room for what its batch packs to."""


class _Slot:
    """A slot as a sink."""

    def __init__(self, memory: memoryview) -> None:
        self.size = 0
        self._memory = memory

    def write(self, data: bytes | memoryview) -> None:
        end = self.size + len(data)
        if end > len(self._memory):
            raise _FullError
        self._memory[self.size : end] = data
        self.size = end


def main(arguments: Sequence[Any]) -> int:
    """Pack batches until the socket ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that has us decides
    logging.disable(logging.CRITICAL)  # it says what there is to say
    descriptor, memory_descriptor, compression = arguments
    engine = find_engine(compression)
    memory = memoryview(mmap.mmap(int(memory_descriptor), 0))
    with socket.socket(fileno=int(descriptor)) as tasks:
        while len(task := tasks.recv(TASK.size, socket.MSG_WAITALL)) == TASK.size:
            slot, size = TASK.unpack(task)
            room = memory[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]
            batch = marshal.loads(room[:size])  # noqa: S302 - from the process that has us
            try:
                lengths = _pack(batch, room, engine)
            except _FullError:
                lengths = (0, 0, 0)
            tasks.sendall(ANSWER.pack(slot, *lengths))
    return 0


def _pack(batch: Sequence[Any], room: memoryview, engine: Engine) -> tuple[int, int, int]:
    """Write a piece of an archive; return the lengths of its parts."""
    slot = _Slot(room)
    headers, outcomes = [], []
    for fields in batch:
        header, outcome = pack(Entry._make(fields), engine, slot.size, slot.write)
        headers.append(header)
        outcomes.append(outcome)
    data = slot.size
    slot.write(b"".join(headers))
    central = slot.size - data
    slot.write(marshal.dumps(outcomes))
    return data, central, slot.size - data - central


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
