"""Dumping: the databases of a job go into its archive, and are fed back from it.

By which commands is `dumps`' matter; here they are run, with the rights and in the environment that
the job says.
"""

from __future__ import annotations

import errno
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
from storeletd.commands import CommandFailedError, Starter, describe_end
from storeletd.dumps import SECRET_FILE, Call, Tools, find_tools, sqlite_call
from storeletd.includes import IncludeSqlite, Server
from storeletd.jobs import Job
from storeletd.rights import find_other_user, hint_at_root

__all__ = ["OpenedServer", "ask", "dump_server", "dump_sqlite", "feed", "open_server"]

_PASSWORD_CHARACTERS = 1_000
_LAST_BYTES = 4096  # of what a command says on standard error


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedServer:
    """What a database server is spoken to with, and how that is started."""

    tools: Tools
    starter: Starter


def open_server(job: Job, server: Server) -> OpenedServer:
    """Return what a server is spoken to with. Raises StoreletError."""
    password = None if server.password is None else secrets.resolve(server.password)
    if password is not None and ("\n" in password or len(password) > _PASSWORD_CHARACTERS):
        # The tools read it from a line of a file, and what does not fit they would say.
        raise storelet.CredentialsError(
            f"no password in {server.password}: it is longer than a line of"
            f" {_PASSWORD_CHARACTERS:,} characters"
        )
    return OpenedServer(
        tools=find_tools(server, password),
        starter=Starter(job=job, user=find_other_user(server.user)),
    )


def dump_server(job: Job, backup: storelet.ZipBackup, server: Server) -> None:
    """Include the databases of a server. Raises StoreletError."""
    opened = open_server(job, server)
    tools = opened.tools
    databases = _find_databases(opened) if server.databases is None else server.databases
    calls = {server.member(each): tools.dump(each) for each in databases}
    more = tools.dump_more()
    if server.databases is None and more is not None:
        calls[f"{server.place}/{more[0]}"] = more[1]
    for member, call in calls.items():
        backup.include_command(call.words, member, start=partial(_start, opened.starter, call))


def dump_sqlite(job: Job, backup: storelet.ZipBackup, sqlite: IncludeSqlite) -> None:
    """Include a database of SQLite. Raises StoreletError."""
    call, user = sqlite_call(sqlite), find_other_user(sqlite.user)
    # It reads what a file of the job's is read with, and it is our own.
    start = partial(_start, Starter(job=job, user=user, privileged=user is None), call)
    backup.include_command(call.words, sqlite.place, start=start)


def ask(starter: Starter, call: Call) -> str:
    """Run a command and return what it writes. Raises CommandFailedError."""
    with tempfile.TemporaryFile() as errors:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        with _running(starter, call, errors, **pipes) as process:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            return process.stdout.read().decode(errors="surrogateescape")


def feed(starter: Starter, call: Call, blocks: Iterable[bytes]) -> str:
    """Run a command that reads `blocks`; return the last line of what it says.

    Raises CommandFailedError, and what the blocks raise. Then it is killed before its input ends:
    half a dump must not pass for a whole one.
    """
    with tempfile.TemporaryFile() as errors:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        with _running(starter, call, errors, **pipes) as process:
            assert process.stdin is not None  # noqa: S101 - it is a pipe
            with suppress(BrokenPipeError):  # it has ended; its status says why
                for block in blocks:
                    process.stdin.write(block)
                process.stdin.close()
        return _find_reason(errors)


def _find_databases(server: OpenedServer) -> Sequence[str | None]:
    """Return all databases to dump one by one; None stands for all in one dump."""
    call = server.tools.find_all()
    if call is None:
        return [None]
    return [os.fsdecode(bytes.fromhex(name)) for name in ask(server.starter, call).split()]


@contextmanager
def _running(
    starter: Starter, call: Call, errors: IO[bytes], **pipes: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and see that it ends well. Raises CommandFailedError."""
    process = _start(starter, call, call.words, stderr=errors, **pipes)
    try:
        yield process
    except BaseException:
        process.kill()
        process.wait()
        raise
    status = process.wait()
    if status:
        reason = _find_reason(errors)
        end = describe_end(call.words[0], status)
        raise CommandFailedError(f"{end}: {reason}" if reason else end)


def _find_reason(errors: IO[bytes]) -> str:
    """Return, of what was said, the last line that speaks of an error, or else the last one."""
    errors.seek(max(errors.seek(0, os.SEEK_END) - _LAST_BYTES, 0))
    lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    speaking = [line for line in lines if "error" in line.lower()]
    return "".join((speaking or lines)[-1:]).strip()


def _start(
    starter: Starter, call: Call, _words: Sequence[str], **pipes: Any
) -> subprocess.Popen[bytes]:
    """Start a command. Raises CommandFailedError."""
    try:
        return _give_secret(starter, call, cwd="/", **pipes)
    except OSError as error:
        is_refused = starter.user is not None and error.errno == errno.EPERM
        hint = hint_at_root() if is_refused else "is it installed, and on the PATH?"
        message = f"cannot run {call.words[0]}: {error.strerror}"
        raise CommandFailedError(message, hint=hint) from error


def _give_secret(starter: Starter, call: Call, **pipes: Any) -> subprocess.Popen[bytes]:
    """Start a command that finds its secret in a file without a name. Raises OSError."""
    if call.secret is None:
        return replace(starter, variables=call.variables)(call.words, **pipes)
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
        return starter(words, pass_fds=(descriptor,), **pipes)
    finally:
        os.close(descriptor)
