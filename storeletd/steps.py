"""A YAML job's steps: its settings as calls of the library, word for word."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from typing import Any

from pydantic import SecretStr

import storelet
from storeletd import secrets
from storeletd.items import IncludeDirectory, IncludeFile, IncludeNewDir, SaveDirectory, SaveS3
from storeletd.jobs import Job
from storeletd.settings import Settings

__all__ = ["CommandFailedError", "abort_uploads", "ask_destinations", "run_settings"]

_log = logging.getLogger("storeletd.steps")

_BASH = "/bin/bash"
_HOW = ("compression", "reuse", "reread", "change_detection")


class CommandFailedError(storelet.StoreletError):
    """A command under `run:` did not end well."""


def run_settings(job: Job) -> None:
    """Back up what the job includes, to all that it saves to, in one stream.

    Raises StoreletError. A destination that fails does not keep the others from theirs.
    """
    destinations, failures = _make_destinations(job)
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
    destinations, failures = _make_destinations(job)
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
    is not there may be about to be mounted.
    """
    destinations, failures = _make_destinations(job)
    for destination in destinations:
        try:
            destination.list_archives(job.name)
        except storelet.StoreletError as error:
            if isinstance(destination, storelet.Directory):
                error.is_temporary = isinstance(error, storelet.DestinationMissingError)
            failures.append(error)
    if failures:
        raise storelet.join_errors([each for each in failures if each.is_temporary] or failures)


def _keywords(settings: Settings) -> dict[str, Any]:
    """Return what the job file says of the keywords of `ZipBackup`; else the library's hold."""
    keywords = {name: getattr(settings, name) for name in _HOW if name in settings.model_fields_set}
    if "change_detection" in keywords:
        keywords["change_detection"] = settings.change_detection.model_dump()
    return keywords


def _make_destinations(
    job: Job,
) -> tuple[list[storelet.S3 | storelet.Directory], list[storelet.StoreletError]]:
    """Return the destinations, and why others cannot be: their secrets are not to be had."""
    destinations: list[storelet.S3 | storelet.Directory] = []
    failures: list[storelet.StoreletError] = []
    for save in job.settings.save:
        try:
            match save:
                case SaveDirectory():
                    destinations.append(storelet.Directory(save.directory))
                case SaveS3():
                    destinations.append(storelet.S3(save.s3, **_options(save)))
        except storelet.StoreletError as error:
            _log.error("%s", error)
            failures.append(error)
    return destinations, failures


def _include(
    job: Job,
    backup: storelet.ZipBackup,
    include: IncludeDirectory | IncludeFile | IncludeNewDir,
) -> None:
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
                _run_command(job, include, directory.path)


def _run_command(job: Job, include: IncludeNewDir, directory: str) -> None:
    """Run a command that fills `directory`, which is current and stands for `{dir}` in it.

    It gets no AWS_* variables, no credentials, and nothing that only a secret asked for. Its
    output is ours, which the runner takes down. No message has its text, which may hold secrets.
    """
    withheld = {"CREDENTIALS_DIRECTORY"} | job.environment_names - job.settings.environment.keys()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and name not in withheld
    }
    arguments = _make_arguments(include.run, directory)
    what = f"the command of new_dir {include.new_dir}"
    _log.info("Running %s", what)
    try:
        ended = subprocess.run(arguments, cwd=directory, env=environment, check=False)
    except OSError as error:
        raise CommandFailedError(
            f"cannot run {what}: {error.strerror}", hint="is it installed, and on the PATH?"
        ) from error
    if ended.returncode:
        number = ended.returncode
        how = f"status {number}" if number > 0 else f"signal {-number}"
        raise CommandFailedError(f"{what} ended with {how}", hint="its output says why")


def _make_arguments(command: str | tuple[str, ...], directory: str) -> list[str]:
    if isinstance(command, tuple):
        return [each.replace("{dir}", directory) for each in command]
    text = command.replace("{dir}", shlex.quote(directory))
    if os.path.exists(_BASH):
        # Else `pg_dump … | gzip > …` is a success though pg_dump failed; sh has no such option.
        return [_BASH, "-o", "pipefail", "-c", text]
    return ["/bin/sh", "-c", text]


def _options(save: SaveS3) -> dict[str, Any]:
    """Return the keywords of `S3`, secrets in their place."""
    options: dict[str, Any] = {}
    for name, value in save:
        if value is None or name == "s3":
            continue
        if name == "upload":
            options[name] = value.model_dump(exclude_none=True)
        elif isinstance(value, secrets.SecretReference | SecretStr):
            options[name] = secrets.resolve(value)
        else:
            options[name] = value
    return options
