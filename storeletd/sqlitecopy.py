"""`python -m storeletd.sqlitecopy FILE`: a database of SQLite, as it is at one moment, on stdout.

SQLite's online backup writes a file, so one is made among the temporary files, for as long as it
takes: https://www.sqlite.org/backup.html. All of it is copied in one step, for one that is broken
off by a writer begins anew and would never end. Writers of a database without a write-ahead log
wait meanwhile.

Nobody imports this module; it needs nothing of ours, since another user may run it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from contextlib import closing
from urllib.parse import quote

__all__ = ["main"]


def main() -> int:
    """Copy the database; say what is wrong on standard error."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the copy is removed
    path = sys.argv[1]
    try:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no such file: {path}")
        with tempfile.NamedTemporaryFile(prefix="storelet-", suffix=".db") as copy:
            _copy(path, copy.name)
            shutil.copyfileobj(copy, sys.stdout.buffer, 1 << 20)
            sys.stdout.flush()
    except BrokenPipeError:
        return 1
    except (OSError, sqlite3.Error) as error:
        print(error, file=sys.stderr)  # noqa: T201 - that is where it goes
        return 1
    return 0


def _copy(path: str, target: str) -> None:
    try:
        _back_up(path, target, "mode=ro")
    except sqlite3.OperationalError:
        # To read one with a write-ahead log, a log must be made where there is none, which we may
        # not where the directory is not ours. But then nobody has it open, and its file is all.
        if os.path.exists(f"{path}-wal"):
            raise
        found = os.stat(path)
        _back_up(path, target, "mode=ro&immutable=1")
        now = os.stat(path)
        if (found.st_ino, found.st_mtime_ns) != (now.st_ino, now.st_mtime_ns):
            raise


def _back_up(path: str, target: str, how: str) -> None:
    source = sqlite3.connect(f"file:{quote(path)}?{how}", uri=True)
    with closing(source), closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


if __name__ == "__main__":
    sys.exit(main())
