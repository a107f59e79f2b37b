"""What arguments mean that several verbs have: times, durations, the job directory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

import click

__all__ = ["JOBS", "jobs_option", "read_coming_time", "read_duration", "read_time"]

JOBS = "/etc/storelet.d"  # where job files are when nobody says otherwise

_Command = TypeVar("_Command", bound=Callable[..., object])


def jobs_option(command: _Command) -> _Command:
    """Give a verb that needs no daemon the option --jobs."""
    return click.option(
        "--jobs",
        "directory",
        type=click.Path(path_type=Path),
        default=JOBS,
        show_default=True,
        metavar="DIR",
        help="Where job files are.",
    )(command)


def read_time(text: str, zone: ZoneInfo, option: str) -> datetime:
    """Read a time in ISO 8601, without offset one of `zone`. Raises BadParameter."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"no time: {text}: expected one such as 2026-03-28T12:00 or 2026-03-28T12:00Z"
        raise click.BadParameter(message, param_hint=option) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def read_coming_time(text: str, zone: ZoneInfo, option: str) -> datetime:
    """Read a time in ISO 8601, or `HH:MM`: the next such time. Raises BadParameter."""
    try:
        local = time.fromisoformat(text) if len(text) <= len("HH:MM:SS") else None
    except ValueError:
        local = None
    now = datetime.now(UTC)
    if local is None:
        moment = read_time(text, zone, option)
    else:
        days = (
            datetime.combine(now.astimezone(zone).date() + timedelta(n), local, zone)
            for n in range(3)
        )
        moment = next(each for each in days if each.astimezone(UTC) > now)
    if moment.astimezone(UTC) <= now:
        raise click.BadParameter(f"{text} is past", param_hint=option)
    return moment


def read_duration(text: str, option: str) -> timedelta:
    """Read a duration such as 1h30m. Raises BadParameter."""
    from storeletd.schedule import ScheduleError, parse_duration

    try:
        return parse_duration(text)
    except ScheduleError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
