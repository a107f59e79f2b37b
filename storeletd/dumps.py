"""Dumps: by which commands databases are dumped and fed back. Nothing is run here.

A password is on no command line and in no environment: the command inherits a file without a name
that holds it, and SECRET_FILE stands for its path. Each kind of server has its own tools, which
know where it is when nobody says it.

What the options mean: the manuals of pg_dump, pg_restore, mariadb-dump, mysqldump and mongodump.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from storeletd.includes import (
    IncludeMariadb,
    IncludeMongodb,
    IncludeMysql,
    IncludePostgresql,
    IncludeSqlite,
    Server,
)

__all__ = [
    "SECRET_FILE",
    "Call",
    "Return",
    "Tools",
    "find_tools",
    "rename_database",
    "sqlite_call",
]

SECRET_FILE = "\0secret"  # noqa: S105 - no word of a job file has a NUL

_NAMING_BYTES = 1 << 10  # the longest beginning of a line that names a database, and more
_DATABASES = (
    "SELECT encode(convert_to(datname, getdatabaseencoding()), 'hex') FROM pg_database"
    " WHERE datallowconn AND NOT datistemplate ORDER BY datname"
)
_USER_SCHEMAS = (
    "SELECT HEX(schema_name) FROM information_schema.schemata WHERE schema_name NOT IN"
    " ('information_schema', 'mysql', 'performance_schema', 'sys') ORDER BY schema_name"
)
_USER_TABLES = (
    "SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
    " WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A command, what it finds in its environment, and what the file SECRET_FILE holds."""

    words: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """How a dump becomes a database again."""

    prepare: Call | None = None
    feed: Call  # reads the dump
    undo: Call | None = None  # where that failed, and the database was not there before
    leaves_half: bool = False  # of a database that was there, where it fails
    renames: bool = False  # the dump names its database, which is to have another name


class Tools(Protocol):
    """What a kind of server is spoken to with."""

    def find_all(self) -> Call | None:
        """Write the names of all databases, in hexadecimal, one a line; None: all are one dump."""

    def dump(self, database: str | None) -> Call:
        """Write a database, or all in one."""

    def dump_more(self) -> tuple[str, Call] | None:
        """Write what belongs to no database, under its name; None where there is no such thing."""

    def find(self, database: str) -> Call | None:
        """Write something where there is such a database; None: nobody can say."""

    def count(self, database: str) -> Call | None:
        """Write how many tables and the like a database has."""

    def bring_back(self, database: str, target: str, *, is_there: bool, overwrite: bool) -> Return:
        """Make the dump of a database the database `target`, which is there or not.

        `overwrite` says that what it holds may be replaced.
        """


def find_tools(server: Server, password: str | None) -> Tools:
    """Return the tools of a server, and what they know of it."""
    match server:
        case IncludePostgresql():
            return _Postgresql(server, password)
        case IncludeMariadb():
            return _Mysql(server, password, "mariadb", "mariadb-dump", has_users=True)
        case IncludeMysql():
            return _Mysql(server, password, "mysql", "mysqldump", has_users=False)
        case IncludeMongodb():
            return _Mongodb(server, password)


def sqlite_call(sqlite: IncludeSqlite) -> Call:
    """Write a database of SQLite as it is at one moment."""
    return Call(words=(sys.executable, "-I", "-m", "storeletd.sqlitecopy", sqlite.sqlite))


class _Postgresql:
    def __init__(self, server: IncludePostgresql, password: str | None) -> None:
        self._options = server.options
        known = {"PGHOST": server.host, "PGPORT": server.port, "PGUSER": server.username}
        self._known = {name: str(value) for name, value in known.items() if value is not None}
        if password is not None:  # libpq's password file: host, port, database and user, whichever
            escaped = password.replace("\\", "\\\\").replace(":", "\\:")
            self._known["PGPASSFILE"] = SECRET_FILE
            self._secret: str | None = f"*:*:*:*:{escaped}\n"
        else:
            self._secret = None

    def _call(self, *words: str, database: str = "postgres") -> Call:
        # As a variable, not as a word: there one that holds a `=` would be a list of parameters.
        variables = {**self._known, "PGDATABASE": database}
        return Call(words=(words[0], "--no-password", *words[1:]), variables=variables,
                    secret=self._secret)  # fmt: skip

    def _ask(self, query: str, database: str = "postgres") -> Call:
        words = ("psql", "--no-psqlrc", "--no-align", "--tuples-only", "--command", query)
        return self._call(*words, database=database)

    def find_all(self) -> Call:
        return self._ask(_DATABASES)

    def dump(self, database: str | None) -> Call:
        # Not compressed: the archive does that on all cores.
        words = ("pg_dump", "--format=custom", "--compress=0", *self._options)
        return self._call(*words, database=database or "postgres")

    def dump_more(self) -> tuple[str, Call]:
        return "globals.sql", self._call("pg_dumpall", "--globals-only")

    def find(self, database: str) -> Call:
        return self._ask(f"SELECT 1 FROM pg_database WHERE datname = {_quote(database)}")  # noqa: S608 - it is quoted

    def count(self, database: str) -> Call:
        return self._ask(_USER_TABLES, database)

    def bring_back(self, database: str, target: str, *, is_there: bool, overwrite: bool) -> Return:
        # By force: the server may not have seen yet that who restored is gone.
        drop = ("dropdb", "--force", "--if-exists", "--maintenance-db=postgres")
        undo = self._call(*drop, "--", target)
        if not is_there and database == target:  # with its encoding, owner, rights and settings
            feed = self._call("pg_restore", "--create", "--exit-on-error", "--dbname=postgres")
            return Return(feed=feed, undo=undo)
        create = self._call(
            "createdb", "--template=template0", "--maintenance-db=postgres", "--", target
        )
        escaped = target.replace("\\", "\\\\").replace("'", "\\'")
        feed = self._call(
            "pg_restore",
            "--clean",
            "--if-exists",
            "--single-transaction",  # ends at the first error, too
            f"--dbname=dbname='{escaped}'",
        )
        if is_there:
            return Return(feed=feed)
        return Return(prepare=create, feed=feed, undo=undo)


class _Mysql:
    def __init__(
        self,
        server: IncludeMariadb | IncludeMysql,
        password: str | None,
        client: str,
        dumper: str,
        *,
        has_users: bool,
    ) -> None:
        self._options, self._client, self._dumper = server.options, client, dumper
        self._has_users = has_users
        host = server.host or ""
        known = {
            "socket" if host.startswith("/") else "host": host or None,
            "port": server.port,
            "user": server.username,
            "password": password,
        }
        lines = [f"{key}={_quote_option(str(value))}\n" for key, value in known.items() if value]
        self._secret = f"[client]\n{''.join(lines)}" if lines else None

    def _call(self, *words: str) -> Call:
        # It must be the first option.
        own = () if self._secret is None else (f"--defaults-extra-file={SECRET_FILE}",)
        return Call(words=(words[0], *own, *words[1:]), secret=self._secret)

    def _ask(self, query: str) -> Call:
        # No locale, of which a service may have none, says how the query is written.
        how = ("--default-character-set=utf8mb4", "--batch", "--skip-column-names", "--execute")
        return self._call(self._client, *how, query)

    def find_all(self) -> Call:
        return self._ask(_USER_SCHEMAS)

    def dump(self, database: str | None) -> Call:
        how = ("--single-transaction", "--routines", "--events", "--no-tablespaces")
        # What a row takes at most, which is the server's to limit.
        limits = ("--default-character-set=utf8mb4", "--max-allowed-packet=1G")
        names = ("--databases", "--", database or "")
        return self._call(self._dumper, *how, *limits, *self._options, *names)

    def dump_more(self) -> tuple[str, Call] | None:
        if not self._has_users:
            return None
        # In a directory of its own: a database may be called users.
        return "server/users.sql", self._call(self._dumper, "--system=users")

    def find(self, database: str) -> Call:
        schema = "SELECT 1 FROM information_schema.schemata WHERE schema_name ="
        return self._ask(f"{schema} {_quote(database, backslashes=True)}")

    def count(self, database: str) -> Call:
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema ="
        return self._ask(f"{tables} {_quote(database, backslashes=True)}")

    def bring_back(self, database: str, target: str, *, is_there: bool, overwrite: bool) -> Return:
        name = target.replace("`", "``")
        undo = None if is_there else self._ask(f"DROP DATABASE IF EXISTS `{name}`")
        return Return(
            feed=self._call(self._client, "--binary-mode"),
            undo=undo,
            leaves_half=is_there,
            renames=database != target,
        )


class _Mongodb:
    def __init__(self, server: IncludeMongodb, password: str | None) -> None:
        known = {"host": server.host, "port": server.port, "username": server.username}
        own = [f"--{name}={value}" for name, value in known.items() if value is not None]
        self._secret = None
        if password is not None:
            own.append(f"--config={SECRET_FILE}")
            # YAML, which knows no halves of a character.
            self._secret = f"password: {json.dumps(password, ensure_ascii=False)}\n"
        self._own = (*own, *server.options)

    def find_all(self) -> None:
        return None

    def dump(self, database: str | None) -> Call:
        which = () if database is None else (f"--db={database}",)
        words = ("mongodump", "--archive", *self._own, *which)
        return Call(words=words, secret=self._secret)

    def dump_more(self) -> None:
        return None

    def find(self, _database: str) -> None:
        return None

    def count(self, _database: str) -> None:
        return None

    def bring_back(self, database: str, target: str, *, is_there: bool, overwrite: bool) -> Return:
        names = [f"--nsInclude={database}.*"]
        if database != target:
            names += [f"--nsFrom={database}.*", f"--nsTo={target}.*"]
        drop = ("--drop",) if overwrite else ()
        words = ("mongorestore", "--archive", "--stopOnError", *self._own, *names, *drop)
        return Return(feed=Call(words=words, secret=self._secret), leaves_half=True)


def rename_database(blocks: Iterable[bytes], name: str, target: str) -> Iterator[bytes]:
    r"""Put `target` where a dump of MySQL names its database: in lines of these beginnings alone.

    What a table holds stands in lines that begin otherwise, for its line ends are written `\n`.
    """
    old, new = (b"`" + each.replace("`", "``").encode() + b"`" for each in (name, target))
    naming = re.compile(
        rb"\n(USE |ALTER DATABASE |CREATE DATABASE (?:/\*[^`\n]*\*/ )?)" + re.escape(old)
    )
    held, before = b"", b"\n"
    for block in chain(blocks, [b""]):
        held += block
        end = held.rfind(b"\n") + 1 if block else len(held)
        if not end and len(held) > _NAMING_BYTES:  # a line that is no such one any more
            end = len(held)
        renamed = naming.sub(lambda found: b"\n" + found[1] + new, before + held[:end])
        yield renamed[1:]
        if end:
            before = b"\n" if held[end - 1 : end] == b"\n" else b" "
        held = held[end:]


def _quote(text: str, *, backslashes: bool = False) -> str:
    """Write text as SQL has it; MySQL takes backslashes in it for more."""
    escaped = text.replace("\\", "\\\\") if backslashes else text
    return "'" + escaped.replace("'", "''") + "'"


def _quote_option(value: str) -> str:
    """Write a value as an option file of MySQL has it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
