"""A job's commands: each run with its user's rights, in the environment that the job gives.

A command is a list of words, or one text for a shell. Its output is ours, which the runner takes
down. No message has its text, which may hold secrets.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import storelet
from storeletd.jobs import Job
from storeletd.rights import User, keep_capabilities

__all__ = [
    "CommandFailedError",
    "Starter",
    "check_status",
    "describe_end",
    "make_words",
    "run_command",
]

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
    start = Starter(job=job, variables=variables, user=user, privileged=privileged)
    try:
        with start(make_words(command), cwd=directory) as process:
            try:
                return process.wait()
            except BaseException:
                process.kill()
                raise
    except OSError as error:
        raise CommandFailedError(
            f"cannot run {what}: {error.strerror}", hint="is it installed, and on the PATH?"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """Starts commands as `subprocess.Popen` does, with a user's rights, in a job's environment."""

    job: Job
    variables: Mapping[str, str] = field(default_factory=dict)  # beside the environment
    user: User | None = None
    privileged: bool = False  # keeps the daemon's capabilities

    def __call__(self, words: Sequence[str], **pipes: Any) -> subprocess.Popen[bytes]:
        """Start a command. Raises OSError."""
        of_user = self.user.environment if self.user else {}
        with keep_capabilities(self.privileged):
            return subprocess.Popen(
                words,
                env={**_make_environment(self.job), **self.variables, **of_user},
                user=self.user.uid if self.user else None,
                group=self.user.gid if self.user else None,
                extra_groups=self.user.groups if self.user else None,
                **pipes,
            )


def make_words(command: str | tuple[str, ...]) -> list[str]:
    """Return the words of a command, those of a shell where it is one text."""
    if isinstance(command, tuple):
        return list(command)
    if os.path.exists(_BASH):
        # Else `pg_dump … | gzip > …` is a success though pg_dump failed; sh has no such option.
        return [_BASH, "-o", "pipefail", "-c", command]
    return ["/bin/sh", "-c", command]


def check_status(status: int, what: str) -> None:
    """Raise CommandFailedError where a command did not end well."""
    if status:
        raise CommandFailedError(describe_end(what, status), hint="its output says why")


def describe_end(what: str, status: int) -> str:
    """Return how a command ended: its status, or -n where signal n ended it."""
    return f"{what} ended with " + (f"status {status}" if status > 0 else f"signal {-status}")


def _make_environment(job: Job) -> dict[str, str]:
    """Return a command's: no AWS_* variables, no credentials, nothing only a secret asked for."""
    withheld = {"CREDENTIALS_DIRECTORY"} | job.environment_names - job.settings.environment.keys()
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and name not in withheld
    }
