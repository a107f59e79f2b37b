"""The directory in which a benchmark keeps all that it makes."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["open_workplace"]


@contextmanager
def open_workplace(parent: Path | None) -> Iterator[Path]:
    """Make it in `parent`, else in $TMPDIR; it is gone when the block ends, as it does on SIGTERM.

    Servers and contenders are stopped on the way out by who started them.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="storelet-bench-", dir=parent) as made:
        yield Path(made)
