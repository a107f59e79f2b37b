"""A YAML job's destinations: what it says under `save` as the library's, with their secrets."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from pydantic import BaseModel, SecretStr

import storelet
from storeletd import secrets
from storeletd.jobs import Job, Settings
from storeletd.saves import Lock, SaveDirectory, SaveS3

__all__ = [
    "find_directories",
    "find_options",
    "make_destinations",
    "prune_archives",
    "resolve_password",
    "set_environment",
]

_log = logging.getLogger("storeletd.destinations")

Pruned = tuple[str, list[storelet.PrunedArchive]]  # a place in words, and its archives


def set_environment(job: Job) -> None:
    """Set the variables that the job file gives, in this process. Raises CredentialsError."""
    for name, value in job.settings.environment.items():
        os.environ[name] = secrets.resolve(value) if not isinstance(value, str) else value
    time.tzset()  # TZ may be among them


def find_directories(job: Job) -> list[str]:
    """Return the directories that the job saves to."""
    return [each.directory for each in job.settings.save if isinstance(each, SaveDirectory)]


def find_options(job: Job, url: str) -> dict[str, Any]:
    """Return the keywords with which the job reaches what is at an s3:// URL, if it saves there.

    Raises CredentialsError.
    """
    for save in job.settings.save:
        if isinstance(save, SaveS3) and url.startswith(f"s3://{save.s3}/{save.prefix}"):
            options = _options(save)
            return {name: options[name] for name in options.keys() - {"prefix", "lock"}}
    return {}


def make_destinations(
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


def resolve_password(settings: Settings) -> str | None:
    """Return what a job's archives are encrypted with; None: they are not.

    Raises CredentialsError.
    """
    if settings.encryption is None:
        return None
    return secrets.resolve(settings.encryption.password)


def prune_archives(job: Job, *, dry_run: bool = False) -> tuple[list[Pruned], list[str]]:
    """Delete the archives that the job's `keep` lets go, wherever it saves to.

    Returns for each place all its archives, and why others could not be pruned.
    """
    pruned: list[Pruned] = []
    destinations, failures = make_destinations(job)
    reasons = [str(each) for each in failures]
    if job.settings.keep is None:
        return pruned, reasons
    keep = storelet.Keep(**dict(job.settings.keep))
    for destination in destinations:
        try:
            found = storelet.prune(
                destination, job.name, keep, zone=job.settings.timezone, dry_run=dry_run
            )
            pruned.append((str(destination), found))
        except storelet.StoreletError as error:
            reasons.append(f"{destination}: {error}")
    return pruned, reasons


def _options(save: SaveS3) -> dict[str, Any]:
    """Return the keywords of `S3`, secrets in their place. Raises CredentialsError."""
    options = _resolve_all(save)
    del options["s3"]
    return options


def _resolve_all(model: BaseModel) -> dict[str, Any]:
    """Return what is not left out of a model, secrets in their place."""
    values: dict[str, Any] = {}
    for name, value in model:
        match value:
            case None:
                continue
            case Lock():
                values[name] = _make_lock(value)
            case BaseModel():
                values[name] = _resolve_all(value)
            case secrets.SecretReference() | SecretStr():
                values[name] = secrets.resolve(value)
            case _:
                values[name] = value
    return values


def _make_lock(lock: Lock) -> storelet.Lock:
    if lock.mode == "governance":
        return storelet.Lock(mode="GOVERNANCE", retain=lock.retain)
    return storelet.Lock(mode="COMPLIANCE", retain=lock.retain)
