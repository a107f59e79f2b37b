"""A check-up of a job: its sources, its secrets, the places it saves to, and what keys must be let.

It looks as whoever calls it, with the secrets that this process can resolve; a run of the daemon's
may see other things.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import storelet
from storeletd.destinations import make_destinations, resolve_password
from storeletd.dumping import ask, open_server
from storeletd.includes import (
    IncludeCommand,
    IncludeDirectory,
    IncludeFile,
    IncludeNewDir,
    IncludeSqlite,
    Server,
)
from storeletd.jobs import Job
from storeletd.saves import SaveS3

__all__ = ["check_places", "check_up", "examine_source", "least_policy"]

_ENVIRONMENT_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE")


def check_up(job: Job) -> Iterator[tuple[str, storelet.Finding]]:
    """Yield what is found out about a job of YAML, each with what it is about, in words."""
    for source in job.settings.include:
        match source:
            case IncludeDirectory():
                yield "sources", examine_source(source.directory, is_directory=True)
            case IncludeFile():
                yield "sources", examine_source(source.file, is_directory=False)
            case IncludeSqlite():
                yield "sources", examine_source(source.sqlite, is_directory=False)
            case IncludeNewDir(run=command) | IncludeCommand(command=command):
                if not isinstance(command, str):
                    yield "sources", _examine_command(command[0])
            case _:
                yield from (("sources", each) for each in _examine_server(job, source))
    yield from check_places(job)


def check_places(job: Job, *, quick: bool = False) -> Iterator[tuple[str, storelet.Finding]]:
    """Yield what is found out about a job's secrets and places; see `storelet.examine`."""
    yield from (("secrets", each) for each in _examine_secrets(job))
    destinations, failures = make_destinations(job)
    for failure in failures:
        yield "secrets", _fail("keys", failure)
    for destination in destinations:
        for finding in storelet.examine(destination, job.name, quick=quick):
            yield _name(destination), finding


def least_policy(job: Job) -> dict[str, Any] | None:
    """Return the IAM policy with the least that a job's keys must be allowed; None: no S3.

    Raises StoreletError.
    """
    settings, statements = job.settings, []
    deletes = settings.reuse or settings.keep is not None
    reads = deletes or settings.verify is not None
    places = [each for each in make_destinations(job)[0] if isinstance(each, storelet.S3)]
    policy: dict[str, Any] | None = None
    for number, place in enumerate(places, 1):
        policy = place.least_policy(job.name, reads=reads, deletes=deletes)
        for statement in policy["Statement"]:
            sid = statement["Sid"] if number == 1 else f"{statement['Sid']}{number}"
            statements.append({**statement, "Sid": sid})
    return None if policy is None else {**policy, "Statement": statements}


def examine_source(path: str, *, is_directory: bool) -> storelet.Finding:
    """See whether a directory or file is there and can be read."""
    try:
        if is_directory:
            with os.scandir(path) as entries:
                if next(entries, None) is None:
                    return storelet.Finding(
                        check="source",
                        state="warning",
                        message=f"{path} is empty",
                        hint="is it mounted?",
                    )
        else:
            with open(path, "rb", opener=_open_without_waiting):
                pass
    except FileNotFoundError:
        return _fail("source", storelet.SourceMissingError(f"{path} is not there"))
    except OSError as error:
        return _fail("source", storelet.SourceError(f"cannot read {path}: {error.strerror}"))
    return storelet.Finding(check="source", state="ok", message=path)


def _examine_command(program: str) -> storelet.Finding:
    found = shutil.which(program)
    if found is None:
        return storelet.Finding(
            check="command",
            state="warning",
            message=f"{program} is not found here",
            hint="say its whole path",
        )
    return storelet.Finding(check="command", state="ok", message=found)


def _examine_server(job: Job, server: Server) -> Iterator[storelet.Finding]:
    """See whether a database server answers, and has the databases that are to be dumped."""
    try:
        opened = open_server(job, server)
        calls = {each: opened.tools.find(each) for each in server.databases or ()}
        if server.databases is None:
            calls = {"all": opened.tools.find_all()}
        for name, call in calls.items():
            message = f"{server.kind}, database {name}" if server.databases else server.kind
            if call is None:
                hint = "a run will show whether it is there"
                yield storelet.Finding(check="database", state="note", message=message, hint=hint)
            elif ask(opened.starter, call).strip():
                yield storelet.Finding(check="database", state="ok", message=message)
            else:
                missing = storelet.SourceMissingError(f"{server.kind} has no database {name}")
                yield _fail("database", missing)
    except storelet.StoreletError as error:
        yield _fail("database", error)


def _examine_secrets(job: Job) -> Iterator[storelet.Finding]:
    if job.settings.encryption is not None:
        try:
            resolve_password(job.settings)
            yield storelet.Finding(check="password", state="ok", message="it is there")
        except storelet.StoreletError as error:
            yield _fail("password", error)
    by_chain = [e for e in job.settings.save if isinstance(e, SaveS3) and e.access_key is None]
    found = [name for name in _ENVIRONMENT_KEYS if name in os.environ]
    if by_chain and found:
        yield storelet.Finding(
            check="keys",
            state="note",
            message=f"those of {found[0]} in this environment; the daemon has its own",
            hint="say access_key and secret_key in the job",
        )


def _fail(check: str, error: storelet.StoreletError) -> storelet.Finding:
    return storelet.Finding(
        check=check, state="failed", message=error.message, hint=error.hint, error=error
    )


def _name(destination: storelet.S3 | storelet.Directory) -> str:
    prefix = getattr(destination, "prefix", "")
    return f"{destination}, {prefix}" if prefix else str(destination)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
