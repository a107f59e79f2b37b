"""The verbs about due times: next, calendar. Both compute them here; calendar needs no daemon."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from storeletd.ctl import console
from storeletd.ctl.arguments import read_time
from storeletd.ctl.console import CommandError
from storeletd.ctl.formats import describe_span, describe_time
from storeletd.ctl.invocation import Invocation, json_option, pass_invocation
from storeletd.ctl.names import JOB
from storeletd.ctl.tables import Column, print_table

if TYPE_CHECKING:
    from storeletd.ctl.replies import Job
    from storeletd.schedule import Schedule

__all__ = ["calendar", "show_next"]

_COUNT = click.IntRange(1, 10_000)  # all of every hour's for a year; that takes 5 s

_DUE = Column(title="DUE")
_LEFT = Column(title="LEFT", right=True)
_JOB = Column(title="JOB", name=True)


@click.command("next")
@click.argument("job", type=JOB, required=False)
@click.option(
    "--count",
    type=_COUNT,
    metavar="N",
    default=1,
    show_default=True,
    help="Due times of each job.",
)
@json_option
@pass_invocation
def show_next(invocation: Invocation, job: str | None, count: int, as_json: bool) -> None:
    """Show when JOB, or every job, is due next.

    In the order of time; what is due in a pause is not run, and not shown.
    """
    client = invocation.client()
    jobs = client.jobs()["jobs"] if job is None else [client.job(job)]
    now = datetime.now(UTC)
    coming = sorted(
        ((due, each["name"]) for each in jobs for due in islice(_due_times_of(each, now), count)),
        # in UTC: within one zone Python compares what the clocks show
        key=lambda entry: (entry[0].astimezone(UTC), entry[1]),
    )
    if as_json:
        console.print_json([{"job": name, "due": due.isoformat()} for due, name in coming])
    elif coming:
        rows = [(describe_time(due, exact=True), _left(due, now), name) for due, name in coming]
        print_table((_DUE, _LEFT, _JOB), rows)
    else:
        why = "paused" if job and jobs[0]["paused"] else "never due" if job else "due"
        console.print_remark(f"{job or 'no job'} is {why}")


def _due_times_of(job: Job, after: datetime) -> Iterator[datetime]:
    from storeletd.schedule import parse_schedule

    if job["schedule"] == ["manual"]:
        return iter(())
    if job["paused"]:
        if job["paused_until"] is None:
            return iter(())
        after = max(after, datetime.fromisoformat(job["paused_until"]))
    return _due_times(parse_schedule(job["schedule"]), _timezone_of(job), after)


def _timezone_of(job: Job) -> ZoneInfo:
    from storeletd.schedule import local_timezone

    if job["timezone"] == "localtime":  # of /etc/localtime, which does not say the zone's name
        return local_timezone(environment={})
    try:
        return ZoneInfo(job["timezone"])
    except (KeyError, ValueError, OSError) as error:
        raise CommandError(
            f"job {job['name']} has a time zone that is not known here: {job['timezone']}",
            hint="install the time zone database that storeletd has: apt install tzdata",
        ) from error


def _due_times(schedule: Schedule, timezone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    from storeletd.schedule import next_due

    due = next_due(schedule, timezone, after)
    while due is not None:
        yield due
        due = next_due(schedule, timezone, due)


def _left(due: datetime, now: datetime) -> str:
    left = (due.astimezone(UTC) - now).total_seconds()
    return describe_span(left) if left >= 0 else ""  # calendar may look back


@click.command()
@click.argument("expression", metavar="EXPR")
@click.option("--timezone", metavar="TZ", help="Time zone.  [default: this machine's]")
@click.option("--after", metavar="TIME", help="Later than this, ISO 8601.  [default: now]")
@click.option(
    "--count", type=_COUNT, metavar="N", default=10, show_default=True, help="Due times to show."
)
@json_option
def calendar(
    expression: str, timezone: str | None, after: str | None, count: int, as_json: bool
) -> None:
    """Show when a schedule is due. Needs no daemon.

    EXPR is what a job file has after `schedule:`: "30 2 * * *", @daily, "Mon..Fri 02:30",
    "every 6h". A TIME without offset is one of the time zone.
    """
    schedule = _read_schedule(expression)
    zone = _read_timezone(timezone)
    now = datetime.now(UTC)
    due_times = list(
        islice(
            _due_times(schedule, zone, now if after is None else read_time(after, zone, "--after")),
            count,
        )
    )
    if as_json:
        console.print_json([due.isoformat() for due in due_times])
    elif due_times:
        rows = [(describe_time(due, zone, exact=True), _left(due, now)) for due in due_times]
        print_table((_DUE, _LEFT), rows)
    else:
        console.print_remark(f"{expression} has no due times")


def _read_schedule(expression: str) -> Schedule:
    from storeletd.schedule import ScheduleError, parse_schedule

    try:
        return parse_schedule(expression)
    except ScheduleError as error:
        raise click.BadParameter(str(error), param_hint="EXPR") from error


def _read_timezone(name: str | None) -> ZoneInfo:
    from storeletd.schedule import ScheduleError, local_timezone

    try:
        return local_timezone() if name is None else ZoneInfo(name)
    except ScheduleError as error:  # the variable TZ names none
        raise click.BadParameter(str(error), param_hint="--timezone") from error
    except (KeyError, ValueError, OSError) as error:  # OSError: a directory, such as Europe
        message = f"no such time zone: {name}: expected one such as Europe/Berlin"
        raise click.BadParameter(message, param_hint="--timezone") from error
