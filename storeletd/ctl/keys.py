"""What opens archives: passwords, credentials of the service, a job's keys for a place."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storeletd.ctl.console import CommandError

if TYPE_CHECKING:
    from storeletd.jobs import Job

__all__ = ["find_credentials", "find_options_of", "read_password"]

_CREDENTIALS = ("/run/credentials/storeletd.service", "/etc/credstore")


def find_options_of(job: Job, url: str) -> dict[str, Any]:
    """Return the options of `S3` with which a job reaches a URL, where they are to be had."""
    import storelet
    from storeletd.destinations import find_options

    with suppress(storelet.CredentialsError):
        return find_options(job, url)
    return {}


def read_password(path: Path | None) -> str | None:
    """Return the password of a file, without the line end behind it, or of the environment."""
    if path is None:
        return os.environ.get("STORELET_PASSWORD")
    try:
        return path.read_text(errors="surrogateescape").rstrip("\r\n")
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", exit_code=12) from error


def find_credentials() -> None:
    """Let credentials of the service be found by a shell, which systemd gives none."""
    if "CREDENTIALS_DIRECTORY" not in os.environ:
        for directory in _CREDENTIALS:
            if os.path.isdir(directory):
                os.environ["CREDENTIALS_DIRECTORY"] = directory
                return
