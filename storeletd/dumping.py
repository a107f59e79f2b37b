"""Dumping: the databases of a job go into its archive, and are fed back from it.

By which commands is `dumps`' matter; here they are run, with the rights and in the environment that
the job says.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Any

import storelet
from storeletd import secrets
from storeletd.commands import CommandFailedError, Starter
from storeletd.dumps import SECRET_FILE, Call, Tools, find_tools, sqlite_call
from storeletd.includes import SERVER_KINDS, IncludeSqlite, Server
from storeletd.jobs import Job
from storeletd.rights import find_other_user

__all__ = ["OpenedServer", "ask", "dump_server", "dump_sqlite", "feed", "open_server"]

_LAST_BYTES = 4096  # of what a command says on standard error


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedServer:
    """A database server that a job includes, and how its tools are started."""

    kind: str
    directory: str  # of the archive
    databases: Sequence[str] | None  # None: all
    tools: Tools
    starter: Starter

    def member(self, database: str | None) -> str:
        """Return the name of a dump in the archive; None: that of all databases in one."""
        name = ".all" if database is None else database.replace("%", "%25").replace("/", "%2F")
        return f"{self.directory}/{name}{self.tools.suffix}"

    def database_of(self, member: str) -> str | None:
        """Return the database whose dump has such a name, as far as `member` gives it one."""
        name = member.removeprefix(f"{self.directory}/").removesuffix(self.tools.suffix)
        database = name.replace("%2F", "/").replace("%25", "%")
        return database if self.member(database) == member else None


def open_server(job: Job, server: Server) -> OpenedServer:
    """Return what a server is spoken to with. Raises StoreletError."""
    (kind,) = SERVER_KINDS & server.model_fields_set
    names: str | tuple[str, ...] = getattr(server, kind)
    password = None if server.password is None else secrets.resolve(server.password)
    return OpenedServer(
        kind=kind,
        directory=server.name or kind,
        databases=None if names == "all" else (names,) if isinstance(names, str) else names,
        tools=find_tools(server, password),
        starter=Starter(job=job, user=find_other_user(server.user)),
    )


def dump_server(job: Job, backup: storelet.ZipBackup, server: Server) -> None:
    """Include the databases of a server. Raises StoreletError."""
    opened = open_server(job, server)
    tools = opened.tools
    calls = {opened.member(each): tools.dump(each) for each in _find_databases(opened)}
    more = tools.dump_more()
    if opened.databases is None and more is not None:
        calls[f"{opened.directory}/{more[0]}"] = more[1]
    for member, call in calls.items():
        backup.include_command(call.words, member, start=partial(_start, opened.starter, call))


def dump_sqlite(job: Job, backup: storelet.ZipBackup, sqlite: IncludeSqlite) -> None:
    """Include a database of SQLite. Raises StoreletError."""
    call, user = sqlite_call(sqlite), find_other_user(sqlite.user)
    # It reads what a file of the job's is read with, and it is our own.
    start = partial(_start, Starter(job=job, user=user, privileged=user is None), call)
    backup.include_command(call.words, sqlite.member, start=start)


def ask(starter: Starter, call: Call) -> str:
    """Run a command and return what it writes. Raises CommandFailedError."""
    with _running(starter, call, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        return process.stdout.read().decode(errors="surrogateescape")


def feed(starter: Starter, call: Call, blocks: Iterable[bytes]) -> None:
    """Run a command that reads `blocks`. Raises CommandFailedError, and what they raise.

    Then it is killed before its input ends: half a dump must not pass for a whole one.
    """
    with _running(starter, call, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):  # it has ended; its status says why
            for block in blocks:
                process.stdin.write(block)
            process.stdin.close()


def _find_databases(server: OpenedServer) -> Sequence[str | None]:
    """Return the databases to dump one by one; None stands for all in one dump."""
    if server.databases is not None:
        return server.databases
    call = server.tools.find_all()
    return [None] if call is None else ask(server.starter, call).splitlines()


@contextmanager
def _running(starter: Starter, call: Call, **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and see that it ends well. Raises CommandFailedError."""
    name = call.words[0]
    with tempfile.TemporaryFile() as errors:
        try:
            process = _start(starter, call, call.words, stderr=errors, **pipes)
        except OSError as error:
            hint = "is it installed, and on the PATH?"
            message = f"cannot run {name}: {error.strerror}"
            raise CommandFailedError(message, hint=hint) from error
        try:
            yield process
        except BaseException:
            process.kill()
            process.wait()
            raise
        status = process.wait()
        if status:
            how = f"status {status}" if status > 0 else f"signal {-status}"
            raise CommandFailedError(f"{name} ended with {how}{_find_reason(errors)}")


def _find_reason(errors: IO[bytes]) -> str:
    """Return, of what was said, the last line that speaks of an error, or else the last one."""
    errors.seek(max(errors.seek(0, os.SEEK_END) - _LAST_BYTES, 0))
    lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    speaking = [line for line in lines if "error" in line.lower()]
    return "".join(f": {line.strip()}" for line in (speaking or lines)[-1:])


def _start(
    starter: Starter, call: Call, _words: Sequence[str], **pipes: Any
) -> subprocess.Popen[bytes]:
    """Start a command that finds its secret in a file without a name. Raises OSError."""
    if call.secret is None:
        return replace(starter, variables=call.variables)(call.words, cwd="/", **pipes)
    descriptor = os.memfd_create("storelet")
    try:
        os.write(descriptor, call.secret.encode())
        os.fchmod(descriptor, 0o400)  # libpq wants a password file to be its reader's alone
        if starter.user is not None:
            os.fchown(descriptor, starter.user.uid, starter.user.gid)
        path = f"/proc/self/fd/{descriptor}"
        words = [each.replace(SECRET_FILE, path) for each in call.words]
        variables = {k: v.replace(SECRET_FILE, path) for k, v in call.variables.items()}
        starter = replace(starter, variables=variables)
        return starter(words, cwd="/", pass_fds=(descriptor,), **pipes)
    finally:
        os.close(descriptor)
