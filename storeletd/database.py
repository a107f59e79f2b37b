"""The history's database: opened, brought up to date, asked and changed by statements.

In WAL mode with full syncs: what was committed survives a power cut. Whatever fails raises
HistoryError and changes nothing. A database that is damaged is kept aside under another name, for
somebody to look at, and a new one is begun: backups must go on. So it is where somebody removed it.
Used from one thread. One that nobody is to remember is in memory, at the path `IN_MEMORY`.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from storelet import StoreletError
from storeletd.schema import MIGRATIONS

__all__ = ["IN_MEMORY", "Database", "HistoryError", "HistoryUnusableError"]

_log = logging.getLogger("storeletd.database")

IN_MEMORY = Path(":memory:")  # as SQLite calls it: there is no such file

_BUSY_SECONDS = 3.0  # of waiting for somebody who looks into the database with another program
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}  # by another program
_PASSING = {*_HELD, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}  # a full disk may be either


class HistoryError(StoreletError):
    """The history cannot be read or written."""


class HistoryUnusableError(HistoryError):
    """What stands in the history's place cannot be used as one."""

    exit_code = 78


class Database:
    """An SQLite database with the tables of `schema`."""

    def __init__(self, path: Path) -> None:
        """Open the database, made if it does not exist.

        Raises HistoryUnusableError, and another HistoryError where it may be opened later.
        """
        self.path = path
        self.renewals = 0  # how often a new one was begun: rows of before are gone then
        self._is_held = False  # by another program, when it was last to be changed
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not _is(error, _DAMAGED):
                raise _unusable(path, error) from error
            self._keep_aside(error)
        except OSError as error:
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def rows(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """Return what a query finds."""
        with self._own_errors():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """Commit what the block does, all or nothing."""
        with self._own_errors():
            self._begin(kind)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                self._connection.rollback()  # nothing, where it is committed

    def change(self, statement: str, *values: object) -> int:
        """Do one statement by itself; return how many rows it has changed."""
        with self.transaction() as connection:
            return connection.execute(statement, values).rowcount

    def _open(self) -> None:
        """Open it at its path. Raises OSError, sqlite3.Error, and HistoryUnusableError."""
        self._connection = _connect(self.path)
        self._identity = _identity(self.path)

    def _begin(self, kind: str) -> None:
        """Begin a transaction; wait for another program that holds the database, but only once.

        Two hundred jobs that are due and would each wait for it hold up everything else.
        """
        wait = 0 if self._is_held else _BUSY_SECONDS
        self._connection.execute(f"PRAGMA busy_timeout = {int(wait * 1000)}")
        try:
            self._connection.execute(f"BEGIN {kind}")
        except sqlite3.Error as error:
            self._is_held = _is(error, _HELD)
            raise
        self._is_held = False

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        try:
            self._check_place()
            yield
        except sqlite3.Error as error:
            hint = "does another program hold it?" if _is(error, _HELD) else "is the disk full?"
            if _is(error, _DAMAGED):
                self._connection.close()
                self._keep_aside(error)
                hint = "it is kept aside, and a new one was begun"
            raise HistoryError(f"cannot use history {self.path}: {error}", hint=hint) from error

    def _check_place(self) -> None:
        """Begin a new one where this one is not at its path any more.

        SQLite would go on with a file that has no name, and nobody would see it again. Raises
        sqlite3.Error and HistoryError.
        """
        if self.path == IN_MEMORY or _identity(self.path) == self._identity:
            return
        self._connection.close()
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise _unusable(self.path, error) from error
        self.renewals += 1
        _log.error(
            "History %s was removed, and a new one begun; what it knew of earlier runs is shown no"
            " more",
            self.path,
        )

    def _keep_aside(self, error: sqlite3.Error) -> None:
        """Move the damaged database away and begin a new one. Raises HistoryError."""
        aside = f"{self.path}.damaged-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%f')}"
        _log.error(
            "History %s is damaged (%s): it is kept as %s, and a new one begun; what it knew of"
            " earlier runs is shown no more",
            *(self.path, error, aside),
        )
        try:
            for suffix in ("-wal", "-shm", ""):  # SQLite knows these by the name of the database
                with suppress(FileNotFoundError):
                    os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
            self._open()
        except (OSError, sqlite3.Error) as second:
            raise _unusable(self.path, second) from second
        self.renewals += 1


def _connect(path: Path) -> sqlite3.Connection:
    """Open the database and bring it up to date.

    Raises OSError, sqlite3.Error, and HistoryUnusableError.
    """
    if path != IN_MEMORY:
        _make_private(path)
    with ExitStack() as stack:
        connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS)
        stack.callback(connection.close)
        connection.row_factory = sqlite3.Row
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise HistoryUnusableError(
                f"history {path} is of a newer Storelet (version {version})",
                hint="update storeletd, or give another --state",
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            _migrate(connection, statements, number)
        stack.pop_all()
    return connection


def _make_private(path: Path) -> None:
    """Make the file, if need be, its owner's alone; SQLite gives its -wal and -shm that mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)


def _migrate(connection: sqlite3.Connection, statements: Sequence[str], number: int) -> None:
    version_of = f"PRAGMA user_version = {number}"
    for statement in ("BEGIN IMMEDIATE", *statements, version_of, "COMMIT"):
        connection.execute(statement)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells one file from another, for as long as it is open."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _is(error: sqlite3.Error, codes: Container[int]) -> bool:
    # Extended codes, such as SQLITE_CORRUPT_INDEX, have the primary one in their lowest byte.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in codes


def _unusable(path: Path, error: OSError | sqlite3.Error) -> HistoryError:
    """Return what to raise: a service manager starts those again that may pass."""
    if isinstance(error, OSError):
        is_passing, why = error.errno in (errno.ENOSPC, errno.EDQUOT), error.strerror or str(error)
    else:
        is_passing, why = _is(error, _PASSING), str(error)
    message = f"cannot open history {path}: {why}"
    if is_passing:
        return HistoryError(message, hint="is the disk full, or does another program hold it?")
    return HistoryUnusableError(message, hint="move it away, or give another --state")
