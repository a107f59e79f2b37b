"""The verb doctor: whether a job could run, and what its places are like. It needs no daemon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from storeletd.ctl import console
from storeletd.ctl.arguments import jobs_option
from storeletd.ctl.console import CommandError
from storeletd.ctl.findings import (
    describe_finding,
    exit_code_of,
    print_finding,
    say_whose_rights,
)
from storeletd.ctl.formats import describe_count, escape
from storeletd.ctl.invocation import Invocation, json_option, pass_invocation
from storeletd.ctl.names import JOB
from storeletd.ctl.reach import Reach, translating

if TYPE_CHECKING:
    import storelet
    from storeletd.jobs import Job

__all__ = ["doctor"]

_USAGE = 2


@click.command()
@click.argument("job", type=JOB, metavar="JOB|FILE")
@click.option("--policy", is_flag=True, help="Only print the least IAM policy for its keys.")
@jobs_option
@json_option
@pass_invocation
def doctor(
    invocation: Invocation, job: str, policy: bool, directory: Path, as_json: bool
) -> int | None:
    """See whether a job could run.

    Its sources, its keys and what its places can do are looked at. A small trial archive is
    written to each place, read, copied and deleted again, and the bucket is asked for its
    versions, lifecycle rules and clock. All is done as the caller. Exit code 0, or that of what
    failed.
    """
    from storeletd.checkup import check_up, least_policy

    reach = Reach(
        invocation=invocation, jobs=directory, endpoint_url=None, password=None, is_silent=as_json
    )
    with translating():
        declared = reach.job_of(Path(job)) if "/" in job else reach.job(job)
        _require_yaml(declared)
        if policy:
            return _print_policy(declared)
        findings: list[storelet.Finding] = []
        told = []
        last = ""
        for about, finding in check_up(declared):
            findings.append(finding)
            told.append({"about": about, **describe_finding(finding)})
            if not as_json:
                if about != last:
                    console.print_line(console.bold(escape(about)))
                print_finding(finding)
            last = about
        code = exit_code_of(findings)
        if as_json:
            console.print_json(
                {
                    "job": declared.name,
                    "path": declared.path,
                    "findings": told,
                    "policy": least_policy(declared),
                    "exit_code": code,
                }
            )
        else:
            console.print_line(_sum_up(findings))
            say_whose_rights(invocation)
    return code


def _require_yaml(job: Job) -> None:
    if job.language == "python":
        raise CommandError(
            f"what {job.name} does is known to its code alone",
            hint="storelet.examine, from Python, examines a destination",
            exit_code=_USAGE,
        )


def _print_policy(job: Job) -> int:
    from storeletd.checkup import least_policy

    found = least_policy(job)
    if found is None:
        raise CommandError(f"job {job.name} saves to no S3 that could be reached")
    console.print_json(found)
    return 0


def _sum_up(findings: Sequence[storelet.Finding]) -> str:
    failed = sum(each.state == "failed" for each in findings)
    warnings = sum(each.state == "warning" for each in findings)
    checks = describe_count(len(findings), "check")
    said = f"{failed:,} of {checks} failed" if failed else f"A run can go well: {checks}"
    return said + (f", {describe_count(warnings, 'warning')}" if warnings else "")
