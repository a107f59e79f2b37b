"""The names of jobs and archives on a command line, and how a shell completes them.

What is completed comes from the daemon alone: a destination would take too long to ask. Where it
is not there, or anything else is wrong, nothing is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from storeletd.ctl.console import CommandError
from storeletd.ctl.invocation import Invocation, default_socket

__all__ = ["ARCHIVE", "JOB"]

if TYPE_CHECKING:
    _Type = click.ParamType[str]
else:
    _Type = click.ParamType  # no generic in click 8.1

_LOOK_BACK = 50  # runs of a job whose archives are completed


class _Name(_Type):
    """What may be the name of a job; the daemon knows the jobs."""

    name = "name"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            found = self.find(_invocation(ctx), incomplete)
            return [CompletionItem(name) for name in found if name.startswith(incomplete)]
        except CommandError:
            return []

    def find(self, invocation: Invocation, incomplete: str) -> Iterable[str]:
        """Return the names that may be meant. Raises CommandError."""
        raise NotImplementedError


class _Job(_Name):
    name = "job"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            self.fail("the name is empty: is a variable of the shell not set?", param, ctx)
        return value

    def find(self, invocation: Invocation, incomplete: str) -> Iterable[str]:
        return [job["name"] for job in invocation.client().jobs()["jobs"]]


class _Archive(_Name):
    """A job, which stands for its newest archive, or an archive by the name of its file."""

    name = "archive"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if "/" in incomplete:
            return [CompletionItem(incomplete, type="file")]
        return super().shell_complete(ctx, param, incomplete)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value

    def find(self, invocation: Invocation, incomplete: str) -> Iterable[str]:
        client = invocation.client()
        jobs = [job["name"] for job in client.jobs()["jobs"]]
        named = [job for job in jobs if incomplete.startswith(f"{job}_")]
        if not named:
            return jobs
        runs = client.runs(max(named, key=len), limit=_LOOK_BACK)
        urls = [archive["url"] for run in runs for archive in run["archives"]]
        return dict.fromkeys(url.rpartition("/")[2] for url in urls)


def _invocation(ctx: click.Context) -> Invocation:
    """Return the invocation that is being typed: the group has not been called for it."""
    said = ctx.find_root().params.get("socket_path")
    path = said or os.environ.get("STORELET_SOCKET") or default_socket()
    return Invocation(socket_path=path)


JOB = _Job()
ARCHIVE = _Archive()
