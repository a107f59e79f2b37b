"""`python -m storeletd.sqlitecopy FILE`: a database of SQLite, as it is at one moment, on stdout.

SQLite's online backup writes a file, so one is made among the temporary files, for as long as it
takes: https://www.sqlite.org/backup.html. All of it is copied in one step, for one that is broken
off by a writer begins anew and would never end. Writers of a database without a write-ahead log
wait meanwhile.

It needs nothing of ours, since another user may run it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import sys
import tempfile
import time
from contextlib import closing
from urllib.parse import quote

__all__ = ["copy_database", "main"]

_PATIENCE_SECONDS = 300.0  # with a writer that locks everybody out: a large import, say
_LOGS = ("-wal", "-journal")


def main() -> int:
    """Copy the database; say what is wrong on standard error."""
    path = sys.argv[1]
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would be waited for
            raise OSError(f"not a file: {path}")
        descriptor, name = tempfile.mkstemp(prefix="storelet-", suffix=".db")
        with open(descriptor, "rb") as copy:
            try:
                target = sqlite3.connect(name)
            finally:
                os.unlink(name)  # nothing is left of it, however this ends
            with closing(target):
                target.execute("PRAGMA journal_mode=off")  # it would be beside what has no name
                _copy(path, target)
            shutil.copyfileobj(copy, sys.stdout.buffer, 1 << 20)
    except (OSError, sqlite3.Error) as error:
        print(error, file=sys.stderr)  # noqa: T201 - that is where it goes
        return 1
    return 0


def copy_database(
    source: sqlite3.Connection, target: sqlite3.Connection, patience_seconds: float
) -> None:
    """Make a database what another one is. Raises sqlite3.Error, also where one stays locked."""
    begun = time.monotonic()

    def see(status: int, _left: int, _all: int) -> None:
        """Without it, `backup` tries for ever, and takes no signal meanwhile."""
        is_locked = status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        if is_locked and time.monotonic() - begun > patience_seconds:
            raise sqlite3.OperationalError("database is locked")

    source.backup(target, progress=see)


def _copy(path: str, target: sqlite3.Connection) -> None:
    try:
        _back_up(path, target, "mode=ro")
    except sqlite3.OperationalError:
        # To read one with a write-ahead log, a log must be made where there is none, which we may
        # not where the directory is not ours. But then nobody has it open, and its file is all; it
        # is not where there is a log of what a writer that died has left undone.
        if any(os.path.exists(path + log) for log in _LOGS):
            raise
        found = os.stat(path)
        _back_up(path, target, "mode=ro&immutable=1")
        now = os.stat(path)
        if (found.st_ino, found.st_mtime_ns) != (now.st_ino, now.st_mtime_ns):
            raise


def _back_up(path: str, target: sqlite3.Connection, how: str) -> None:
    with closing(sqlite3.connect(f"file:{quote(path)}?{how}", uri=True)) as source:
        copy_database(source, target, _PATIENCE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
