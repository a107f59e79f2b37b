"""The unpacker: a helper process, `python -m storelet.restore.unpacker SOCKET MEMORY TARGET`.

For each span of an archive that it is given it writes the files into the target, whose root is
the descriptor TARGET, or only checks them where that is `-`; it answers with what became of each.
It ends with its socket.

Nobody imports this module.
"""

from __future__ import annotations

import marshal
import sys
from collections.abc import Sequence

from storelet.crew import Work, serve
from storelet.restore.comparing import Comparison
from storelet.restore.target import Target
from storelet.restore.unpacking import unpack_task

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Unpack spans until the socket ends."""
    descriptor, memory, root, replace = arguments
    sink = Comparison() if root == "-" else Target(int(root), replace=replace == "replace")

    def prepare(secret: bytes) -> Work:
        def work(room: memoryview, size: int) -> tuple[int, int, int]:
            outcomes = marshal.dumps(unpack_task(room[:size], secret, sink))
            room[: len(outcomes)] = outcomes
            return 0, 0, len(outcomes)

        return work

    serve(int(descriptor), int(memory), prepare)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
