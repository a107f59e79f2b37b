"""A YAML job's steps: its settings as calls of the library, word for word."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import storelet
from storeletd.commands import Starter, check_status, make_words, run_command
from storeletd.destinations import make_destinations, resolve_password
from storeletd.dumping import dump_server, dump_sqlite
from storeletd.includes import (
    Include,
    IncludeCommand,
    IncludeDirectory,
    IncludeFile,
    IncludeNewDir,
    IncludeSqlite,
)
from storeletd.jobs import Job
from storeletd.rights import User, UserError, find_other_user, hint_at_root
from storeletd.settings import Settings

__all__ = [
    "abort_uploads",
    "ask_destinations",
    "run_settings",
]

_HOW = ("compression", "reuse", "reread", "change_detection")


def run_settings(job: Job) -> None:
    """Back up what the job includes, to all that it saves to, in one stream.

    Raises StoreletError. A destination that fails does not keep the others from theirs.
    """
    destinations, failures = make_destinations(job)
    if destinations:
        try:
            with storelet.ZipBackup(
                job.name, destination=destinations, **_keywords(job.settings)
            ) as backup:
                for include in job.settings.include:
                    _include(job, backup, include)
        except storelet.DestinationError as error:
            failures.append(error)
    if failures:
        raise storelet.join_errors(failures)


def abort_uploads(job: Job) -> None:
    """Abort, at the buckets the job saves to, the uploads that `storelet.abandoned` names.

    Raises StoreletError. A bucket where that fails does not keep it from the others.
    """
    destinations, failures = make_destinations(job)
    for destination in destinations:
        if isinstance(destination, storelet.S3):
            try:
                destination.abort_abandoned()
            except storelet.StoreletError as error:
                failures.append(error)
    if failures:
        raise storelet.join_errors(failures)


def ask_destinations(job: Job) -> None:
    """See whether all that the job saves to answers. Raises StoreletError.

    What may pass by itself comes first: it is temporary as long as anything is. A directory that
    is not there may be about to be mounted; where it is `before` that mounts it, nobody knows.
    """
    destinations, failures = make_destinations(job)
    for destination in destinations:
        if isinstance(destination, storelet.Directory) and job.settings.before is not None:
            continue
        try:
            destination.list_archives(job.name)
        except storelet.StoreletError as error:
            if isinstance(destination, storelet.Directory):
                error.is_temporary = isinstance(error, storelet.DestinationMissingError)
            failures.append(error)
    if failures:
        raise storelet.join_errors([each for each in failures if each.is_temporary] or failures)


def _keywords(settings: Settings) -> dict[str, Any]:
    """Return what the job file says of the keywords of `ZipBackup`; else the library's hold.

    Raises CredentialsError where there is to be a password and none is to be had.
    """
    keywords = {name: getattr(settings, name) for name in _HOW if name in settings.model_fields_set}
    if "change_detection" in keywords:
        keywords["change_detection"] = settings.change_detection.model_dump()
    password = resolve_password(settings)
    if password is not None:
        keywords["encryption"] = storelet.Encryption(password)
    return keywords


def _include(job: Job, backup: storelet.ZipBackup, include: Include) -> None:
    match include:
        case IncludeDirectory():
            backup.include_directory(
                include.directory,
                preserve_paths=include.preserve_paths,
                name=include.name,
                exclude=include.exclude,
                exclude_caches=include.exclude_caches,
                exclude_if_present=include.exclude_if_present,
                one_file_system=include.one_file_system,
            )
        case IncludeFile():
            backup.include_file(include.file, name=include.name)
        case IncludeNewDir():
            with backup.include_new_dir(include.new_dir) as directory:
                _fill(job, include, directory.path)
        case IncludeCommand():
            user = find_other_user(include.user)
            start = Starter(job=job, user=user, privileged=include.privileged)
            backup.include_command(make_words(include.command), include.name, start=start)
        case IncludeSqlite():
            dump_sqlite(job, backup, include)
        case _:
            dump_server(job, backup, include)


def _fill(job: Job, include: IncludeNewDir, directory: str) -> None:
    """Run a command that fills `directory`, which is current and stands for `{dir}` in it."""
    what = f"the command of new_dir {include.new_dir}"
    with _as_user(include.user, directory) as user:
        status = run_command(
            job,
            _name_directory(include.run, directory),
            what=what,
            directory=directory,
            variables={},
            user=user,
            privileged=include.privileged,
        )
    check_status(status, what)


@contextmanager
def _as_user(name: str | None, directory: str) -> Iterator[User | None]:
    """Find a command's user and let him have the new directory. Raises StoreletError.

    It is in our temporary directory, which he may pass through meanwhile, and no more; his own is
    beside it, to be removed with ours.
    """
    user = find_other_user(name)
    if user is None:
        yield None
        return
    ours = os.path.dirname(directory)
    temporary = tempfile.mkdtemp(dir=ours)
    try:
        for each in (directory, temporary):
            os.chown(each, user.uid, user.gid)
        os.chown(ours, -1, user.gid)
        os.chmod(ours, 0o710)  # noqa: S103 - his group may pass through it, not list it
    except OSError as error:
        message = f"a command may not be run as user {name}: {error.strerror}"
        raise UserError(message, hint=hint_at_root()) from error
    try:
        yield replace(user, environment={**user.environment, "TMPDIR": temporary})
    finally:
        os.chmod(ours, 0o700)


def _name_directory(command: str | tuple[str, ...], directory: str) -> str | tuple[str, ...]:
    if isinstance(command, tuple):
        return tuple(each.replace("{dir}", directory) for each in command)
    return command.replace("{dir}", shlex.quote(directory))
