"""A job's commands: each run with its user's rights, in the environment that the job gives.

A command is a list of words, or one text for a shell. Its output is ours, which the runner takes
down. No message has its text, which may hold secrets.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping

import storelet
from storeletd.jobs import Job
from storeletd.rights import User, keep_capabilities

__all__ = ["CommandFailedError", "check_status", "run_command"]

_log = logging.getLogger("storeletd.commands")

_BASH = "/bin/bash"


class CommandFailedError(storelet.StoreletError):
    """A command of a job did not end well."""


def run_command(
    job: Job,
    command: str | tuple[str, ...],
    *,
    what: str,
    directory: str,
    variables: Mapping[str, str],
    user: User | None = None,
    privileged: bool = False,
) -> int:
    """Run a command in `directory`; return its status, or -n where signal n ended it.

    `what` names it in messages; `variables` it gets beside the job's environment. Raises
    CommandFailedError where it cannot be run.
    """
    _log.info("Running %s", what)
    environment = {**_make_environment(job), **variables, **(user.environment if user else {})}
    try:
        with keep_capabilities(privileged):
            return subprocess.run(
                _make_arguments(command),
                cwd=directory,
                env=environment,
                check=False,
                user=user.uid if user else None,
                group=user.gid if user else None,
                extra_groups=user.groups if user else None,
            ).returncode
    except OSError as error:
        raise CommandFailedError(
            f"cannot run {what}: {error.strerror}", hint="is it installed, and on the PATH?"
        ) from error


def check_status(status: int, what: str) -> None:
    """Raise CommandFailedError where a command did not end well."""
    if status:
        how = f"status {status}" if status > 0 else f"signal {-status}"
        raise CommandFailedError(f"{what} ended with {how}", hint="its output says why")


def _make_environment(job: Job) -> dict[str, str]:
    """Return a command's: no AWS_* variables, no credentials, nothing only a secret asked for."""
    withheld = {"CREDENTIALS_DIRECTORY"} | job.environment_names - job.settings.environment.keys()
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and name not in withheld
    }


def _make_arguments(command: str | tuple[str, ...]) -> list[str]:
    if isinstance(command, tuple):
        return list(command)
    if os.path.exists(_BASH):
        # Else `pg_dump … | gzip > …` is a success though pg_dump failed; sh has no such option.
        return [_BASH, "-o", "pipefail", "-c", command]
    return ["/bin/sh", "-c", command]
