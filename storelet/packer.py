"""The packer: a helper process of a crew, `python -m storelet.packer SOCKET MEMORY COMPRESSION`.

For each batch of entries that it is given it writes, into the slot the batch lay in, a piece of
an archive: members, their central headers, and what became of each. It ends with its socket.

Nobody imports this module.
"""

from __future__ import annotations

import marshal
import sys
from collections.abc import Sequence
from typing import Any

from storelet.crew import Work, serve
from storelet.deflate import find_engine
from storelet.encryption import Encryption
from storelet.entry import Entry
from storelet.packing import Packing

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
    descriptor, memory, compression = arguments
    engine = find_engine(compression)

    def prepare(secret: bytes) -> Work:
        password = secret.decode(errors="surrogateescape")
        packing = Packing(engine, Encryption(password) if password else None)

        def work(room: memoryview, size: int) -> tuple[int, int, int]:
            batch = marshal.loads(room[:size])  # noqa: S302 - from the process that has us
            try:
                return _pack(batch, room, packing)
            except _FullError:
                return 0, 0, 0

        return work

    serve(int(descriptor), int(memory), prepare)
    return 0


def _pack(batch: Sequence[Any], room: memoryview, packing: Packing) -> tuple[int, int, int]:
    """Write a piece of an archive; return the lengths of its parts."""
    slot = _Slot(room)
    headers, outcomes = [], []
    for fields in batch:
        header, outcome = packing.pack(Entry._make(fields), slot.size, slot.write)
        headers.append(header)
        outcomes.append(outcome)
    data = slot.size
    slot.write(b"".join(headers))
    central = slot.size - data
    slot.write(marshal.dumps(outcomes))
    return data, central, slot.size - data - central


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
