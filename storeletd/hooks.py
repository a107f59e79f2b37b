"""Hooks: the commands `before`, `after` and `on_failure` around a run, as workers run them.

`before` decides: a run whose disk cannot be mounted must not go on. The others only warn: what was
saved is saved.
"""

from __future__ import annotations

from collections.abc import Iterator

import storelet
from storeletd.commands import check_status, run_command
from storeletd.jobs import Job, make_printable
from storeletd.order import Summary

__all__ = ["run_after", "run_before"]


_SKIP = 75  # EX_TEMPFAIL of sysexits.h: not now
_FAILURES = {"failed", "partial", "timeout"}


def run_before(job: Job, summary: Summary) -> bool:
    """Run `before`; return whether the run is to go on. Raises StoreletError."""
    assert job.settings.before is not None  # noqa: S101 - else there is nothing to run
    status = _run(job, job.settings.before, "before", summary)
    if status != _SKIP:
        check_status(status, _name("before"))
    return status != _SKIP


def run_after(job: Job, summary: Summary) -> Iterator[str]:
    """Run `after` and, where the run went wrong, `on_failure`; yield what went wrong with them.

    In this order: what cannot report a failure must not keep a disk mounted.
    """
    hooks = {"after": job.settings.after}
    if summary.outcome in _FAILURES:
        hooks["on_failure"] = job.settings.on_failure
    for name, command in hooks.items():
        if command is not None:
            try:
                check_status(_run(job, command, name, summary), _name(name))
            except storelet.StoreletError as error:
                yield error.message


def _run(job: Job, command: str | tuple[str, ...], hook: str, summary: Summary) -> int:
    variables = {
        "STORELET_JOB": job.name,
        "STORELET_RUN": str(summary.run_id),
        "STORELET_KIND": summary.kind,
        "STORELET_OUTCOME": summary.outcome,
        # A module's errors may hold anything, also what no variable can.
        "STORELET_MESSAGE": make_printable(summary.message),
        "STORELET_ARCHIVES": "\n".join(map(make_printable, summary.archives)),
    }
    return run_command(job, command, what=_name(hook), directory="/", variables=variables)


def _name(hook: str) -> str:
    return f"the command of {hook}"
