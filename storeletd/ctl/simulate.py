"""The verb simulate: what would happen to jobs over some days. It needs no daemon."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from storeletd.ctl import console
from storeletd.ctl.arguments import jobs_option, read_duration, read_time
from storeletd.ctl.console import CommandError
from storeletd.ctl.formats import describe_count, describe_time
from storeletd.ctl.invocation import json_option
from storeletd.ctl.names import JOB
from storeletd.ctl.tables import Column, print_table

if TYPE_CHECKING:
    from storeletd.jobs import Job
    from storeletd.simulation import Downtime, Happening

__all__ = ["simulate"]

_NO_SUCH_JOB = 4

_COLUMNS = (
    Column(title="WHEN"),
    Column(title="JOB", name=True),
    Column(title="WHAT", words=True),
    Column(title="DUE"),
    Column(title="WHY"),
)


@click.command()
@click.argument("jobs", type=JOB, nargs=-1, metavar="[JOB]...")
@click.option("--from", "begin", metavar="TIME", help="ISO 8601.  [default: now]")
@click.option(
    "--days",
    type=click.IntRange(1, 3660),
    metavar="N",
    default=7,
    show_default=True,
    help="How many.",
)
@click.option("--down", metavar="HH:MM-HH:MM", help="When the machine is off or asleep, each day.")
@click.option(
    "--takes", metavar="DURATION", default="10m", show_default=True, help="How long a run takes."
)
@jobs_option
@json_option
def simulate(
    jobs: Sequence[str],
    begin: str | None,
    days: int,
    down: str | None,
    takes: str,
    directory: Path,
    as_json: bool,
) -> None:
    """Show what would run, be caught up, collide or be missed. Needs no daemon.

    Over days on which clocks change, with a machine that sleeps at night, with runs that take
    longer than the schedule allows: each JOB, or every one of the job directory, is taken through
    them by what decides in the daemon. It starts nothing.
    """
    from storeletd.schedule import local_timezone

    zone = local_timezone()
    first = datetime.now(zone) if begin is None else read_time(begin, zone, "--from")
    chosen = _choose(directory, jobs)
    happenings = list(
        _happen(
            chosen,
            first,
            first + timedelta(days),
            _read_down(down),
            read_duration(takes, "--takes"),
        )
    )
    totals = _count(happenings)
    if as_json:
        console.print_json({"happenings": [_to_json(each) for each in happenings], "due": totals})
        return
    if happenings:
        print_table(_COLUMNS, [_row(each) for each in happenings])
        console.print_line()
    console.print_line(_describe(totals))


def _choose(directory: Path, names: Sequence[str]) -> list[Job]:
    from storeletd.jobdir import JobDirectory

    found = JobDirectory(directory)
    found.scan()
    for problem in found.problems:
        console.print_remark(str(problem))
    missing = [name for name in names if name not in found.jobs]
    if missing:
        raise CommandError(
            f"no such job: {', '.join(missing)}",
            hint=f"storeletctl validate --jobs {directory}",
            exit_code=_NO_SUCH_JOB,
        )
    return [job for name, job in found.jobs.items() if not names or name in names]


def _happen(
    jobs: Sequence[Job],
    begin: datetime,
    end: datetime,
    down: Downtime | None,
    takes: timedelta,
) -> Iterator[Happening]:
    from storeletd import simulation

    host = simulation.find_host()
    each = [
        simulation.simulate(job, begin=begin, end=end, takes=takes, down=down, host=host)
        for job in jobs
    ]
    return heapq.merge(*each, key=lambda happening: happening.at)


def _count(happenings: Sequence[Happening]) -> dict[str, int]:
    """Return how many due times there were, and what became of them."""
    counts = Counter[str]()
    for each in happenings:
        if each.due is not None:
            counts[each.kind] += each.due.count
    return {"total": sum(counts.values()), **counts}


def _describe(totals: dict[str, int]) -> str:
    words = {"run": "run", "catch-up": "caught up", "skipped": "skipped", "missed": "missed"}
    parts = [f"{totals[kind]:,} {word}" for kind, word in words.items() if totals.get(kind)]
    if not parts:
        return "no due times"
    return f"{describe_count(totals['total'], 'due time')}: {', '.join(parts)}"


def _row(each: Happening) -> Sequence[str]:
    due = ""
    if each.due is not None:
        due = describe_time(each.due.first, each.due.first.tzinfo, exact=True)  # the job's zone
        due += f" and {each.due.count - 1:,} more" if each.due.count > 1 else ""
    return (describe_time(each.at, exact=True), each.job, each.kind, due, each.why or "")


def _to_json(each: Happening) -> dict[str, object]:
    due = each.due and {
        "first": each.due.first.isoformat(),
        "last": each.due.last.isoformat(),
        "count": each.due.count,
    }
    at = each.at.astimezone().isoformat()
    return {"at": at, "job": each.job, "kind": each.kind, "due": due, "why": each.why}


def _read_down(text: str | None) -> Downtime | None:
    from storeletd.schedule import local_timezone
    from storeletd.simulation import Downtime

    if text is None:
        return None
    try:
        begin, end = map(time.fromisoformat, text.split("-"))
    except ValueError:
        begin = end = time()
    if begin == end:
        raise click.BadParameter(f"{text}: expected hours such as 23:00-07:00", param_hint="--down")
    return Downtime(begin=begin, end=end, timezone=local_timezone())
