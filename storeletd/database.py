"""The history's database: opened, brought up to date, asked and changed by statements.

In WAL mode with full syncs: what was committed survives a power cut. Whatever fails raises
HistoryError and changes nothing. Used from one thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from storelet import StoreletError
from storeletd.schema import MIGRATIONS

__all__ = ["Database", "HistoryError", "HistoryUnusableError"]

_BUSY_SECONDS = 10.0  # of waiting for somebody who looks into the database with another program


class HistoryError(StoreletError):
    """The history cannot be read or written."""


class HistoryUnusableError(HistoryError):
    """What stands in the history's place cannot be used as one."""

    exit_code = 78


class Database:
    """An SQLite database with the tables of `schema`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open the database, made if it does not exist. Raises HistoryUnusableError."""
        try:
            # SQLite gives its -wal and -shm files the mode of the database.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)
            os.close(descriptor)
            with ExitStack() as stack:
                connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS)
                stack.callback(connection.close)
                database = cls(path, connection)
                database._set_up()
                stack.pop_all()
        except (OSError, sqlite3.Error) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise HistoryUnusableError(
                f"cannot open history {path}: {why}", hint="move it away, or give another --state"
            ) from error
        return database

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
            self._connection.execute(f"BEGIN {kind}")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                self._connection.rollback()  # nothing, where it is committed

    def change(self, statement: str, *values: object) -> int:
        """Do one statement by itself; return how many rows it has changed."""
        with self.transaction() as connection:
            return connection.execute(statement, values).rowcount

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise HistoryError(
                f"cannot use history {self.path}: {error}", hint="is the disk full?"
            ) from error

    def _set_up(self) -> None:
        """Bring the database up to date. Raises sqlite3.Error, and HistoryUnusableError."""
        self._connection.row_factory = sqlite3.Row
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise HistoryUnusableError(
                f"history {self.path} is of a newer Storelet (version {version})",
                hint="update storeletd, or give another --state",
            )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            self._migrate(statements, number)

    def _migrate(self, statements: Sequence[str], number: int) -> None:
        version_of = f"PRAGMA user_version = {number}"
        for statement in ("BEGIN IMMEDIATE", *statements, version_of, "COMMIT"):
            self._connection.execute(statement)
