"""The verbs pause, resume and resume-prune: what a job does by itself, or does not."""

from __future__ import annotations

from collections.abc import Sequence

import click

from storeletd.ctl import console
from storeletd.ctl.arguments import read_coming_time
from storeletd.ctl.formats import describe_time, escape
from storeletd.ctl.invocation import Invocation, json_option, pass_invocation
from storeletd.ctl.names import JOB
from storeletd.ctl.replies import Job

__all__ = ["pause", "resume", "resume_prune"]


@click.command()
@click.argument("jobs", type=JOB, nargs=-1, required=True, metavar="JOB...")
@click.option("--until", metavar="TIME", help="ISO 8601, or HH:MM for the next such time.")
@json_option
@pass_invocation
def pause(invocation: Invocation, jobs: Sequence[str], until: str | None, as_json: bool) -> None:
    """Start no run of each JOB that is due from now on.

    A pause lasts until the job is resumed, and survives restarts. What is due in it is recorded as
    skipped, and not caught up. A run that is on goes on, and run-now starts others.
    """
    from storeletd.schedule import local_timezone

    end = None
    if until is not None:
        end = read_coming_time(until, local_timezone(), "--until").isoformat()
    client = invocation.client()
    answers = [client.pause(job, end) for job in jobs]
    _print(answers, as_json)


@click.command()
@click.argument("jobs", type=JOB, nargs=-1, required=True, metavar="JOB...")
@json_option
@pass_invocation
def resume(invocation: Invocation, jobs: Sequence[str], as_json: bool) -> None:
    """End a pause of each JOB."""
    client = invocation.client()
    answers = [client.resume(job) for job in jobs]
    _print(answers, as_json)


@click.command("resume-prune")
@click.argument("jobs", type=JOB, nargs=-1, required=True, metavar="JOB...")
@json_option
@pass_invocation
def resume_prune(invocation: Invocation, jobs: Sequence[str], as_json: bool) -> None:
    """Let archives of each JOB be pruned again.

    When an archive shrinks to less than half, or most files change at once, the daemon deletes no
    archive of that job any more, until somebody has looked and says so.
    """
    client = invocation.client()
    answers = [client.resume_prune(job) for job in jobs]
    if as_json:
        console.print_json(answers)
        return
    for job in answers:
        console.print_line(f"{escape(job['name'])}: pruned again after its next success")


def _print(jobs: Sequence[Job], as_json: bool) -> None:
    if as_json:
        console.print_json(jobs)
        return
    for job in jobs:
        console.print_line(f"{escape(job['name'])}: {describe_pause(job)}")


def describe_pause(job: Job) -> str:
    """Return how a job is paused, or when it goes on."""
    if job["paused"]:
        end = job["paused_until"]
        return f"paused until {describe_time(end)}" if end else "paused"
    return f"next {describe_time(job['next_start'])}" if job["next_start"] else "not scheduled"
