"""Schedules: the due times that their texts mean.

Owns every computation of a due time; the forms of a text are the expressions', and what becomes
of a due time is the planner's. Pure: the time is always an argument.

An expression gives days and times of the local clock, and one rule puts all of them on the time
line:

- a fixed time is due at the first moment the local clock shows it or has passed it: in spring's
  skipped hour that is just after the gap, in autumn's repeated hour it is the first of the two;
- a cron line whose minute or hour field begins with `*` goes by the clock as it runs: it has
  nothing in the gap and goes on through the repeated hour.

That is cron(8) of Debian, except that it takes a change of more than three hours for a clock put
right: here the day that Samoa skipped is a gap like any other. cronsim's own iteration over a
time zone is not used: 2.8 returns times that do not exist (midnight in Chile), passes over 03:00
on Lord Howe Island, and looks back in the repeated hour.

Beware that Python compares and subtracts two times of one time zone by what their clocks show,
which is wrong in the repeated hour: turn due times into UTC first.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from storeletd.expression import (
    EXPECTED,
    Expression,
    ScheduleError,
    parse_duration,
    parse_expression,
)

__all__ = [
    "Due",
    "Schedule",
    "ScheduleError",
    "due_between",
    "local_timezone",
    "next_due",
    "parse_duration",
    "parse_schedule",
]

_DAY = 86_400  # seconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST = int(datetime(2, 1, 1, tzinfo=UTC).timestamp())  # away from the ends of the calendar
_LATEST = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp())


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a job is due; made by `parse_schedule`."""

    texts: tuple[str, ...]  # canonical; a moment that several of them mean is one due time

    @property
    def is_manual(self) -> bool:
        """Whether there are no due times at all."""
        return self.texts == ("manual",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Neighbouring due times of one schedule."""

    first: datetime
    last: datetime
    count: int  # at least 1


def parse_schedule(value: str | Sequence[str]) -> Schedule:
    """Read a schedule or a list of them; raises ScheduleError, also where one never fires."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = tuple(dict.fromkeys(_canonical(text) for text in values))
    if not texts:
        raise ScheduleError(f"an empty list: expected {EXPECTED}")
    if "manual" in texts and len(texts) > 1:
        raise ScheduleError('"manual" means no due times: expected it alone, not in a list')
    return Schedule(texts=texts)


def _canonical(value: object) -> str:
    if not isinstance(value, str):  # such as 750: what YAML makes of 12:30 without quotes
        raise ScheduleError(f"{value!r}: expected {EXPECTED}; quote it if it is one of these")
    return "manual" if value.strip().lower() == "manual" else parse_expression(value).text


def next_due(schedule: Schedule, timezone: ZoneInfo, after: datetime) -> datetime | None:
    """Return the first due time later than `after`, in `timezone`; None where there is none."""
    begin = _epoch_second(after) + 1  # due times are whole seconds
    for origin, seconds in _due_seconds(schedule, timezone, begin, _LATEST):
        if seconds:
            return datetime.fromtimestamp(origin + seconds[0], timezone)
    return None


def due_between(
    schedule: Schedule, timezone: ZoneInfo, after: datetime, until: datetime
) -> Due | None:
    """Sum up the due times later than `after` and not later than `until`, in `timezone`.

    It counts by days, not by due times: a year of every minute takes 2 ms.
    """
    begin, end = _epoch_second(after) + 1, _epoch_second(until) + 1
    first = last = None
    count = 0
    for origin, seconds in _due_seconds(schedule, timezone, begin, end):
        if seconds:
            first = origin + seconds[0] if first is None else first
            last = origin + seconds[-1]
            count += len(seconds)
    if first is None or last is None:
        return None
    return Due(
        first=datetime.fromtimestamp(first, timezone),
        last=datetime.fromtimestamp(last, timezone),
        count=count,
    )


# A moment is an epoch second. What the local clock shows is counted like one, as if the clock
# stood in UTC: so a local day has a number, and a local time is a second of it.


class _Stretch(NamedTuple):
    """A piece of time in which the local clock runs evenly."""

    begin: int
    end: int  # the first moment after it
    offset: int  # seconds that the local clock is ahead
    skipped: int  # seconds that the local clock left out when it came to `begin`
    is_repeated: bool  # the local clock has shown all of it before


def _epoch_second(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _due_seconds(
    schedule: Schedule, timezone: ZoneInfo, begin: int, end: int
) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the due times of [begin, end) in order, as some moment and seconds from there."""
    if schedule.is_manual:
        return
    expressions = [parse_expression(text) for text in schedule.texts]
    begin, end = max(begin, _EARLIEST), min(end, _LATEST)
    for stretch in _stretches(timezone, begin, end):
        since = max(stretch.begin, begin)
        if since == stretch.begin and _is_owed(expressions, stretch):
            yield since, (0,)
            since += 1
        running = [e for e in expressions if not (stretch.is_repeated and e.is_fixed)]
        for day in _days(since + stretch.offset, stretch.end + stretch.offset):
            midnight = day * _DAY - stretch.offset
            seconds = _union([expression.seconds_of(day, midnight) for expression in running])
            yield midnight, _cut(seconds, since - midnight, stretch.end - midnight)


def _is_owed(expressions: Sequence[Expression], stretch: _Stretch) -> bool:
    """Whether a fixed time is among what the clock left out before `stretch`."""
    end = stretch.begin + stretch.offset
    begin = end - stretch.skipped
    return any(
        _cut(expression.seconds_of(day, 0), begin - day * _DAY, end - day * _DAY)
        for expression in expressions
        if expression.is_fixed
        for day in _days(begin, end)
    )


def _stretches(timezone: ZoneInfo, begin: int, end: int) -> Iterator[_Stretch]:
    """Yield what covers [begin, end), cut where the local clock is changed and once a week."""
    at = begin - 2 * _DAY  # no clock was ever set back by more than a day
    latest = _local(timezone, at)  # what the local clock has come to so far
    while at < end:
        change = _change(timezone, at, min(at + 7 * _DAY, end))
        offset = _local(timezone, at) - at
        anew = min(max(latest - offset, at), change)  # when it shows what it never has
        if at < anew:
            yield _Stretch(at, anew, offset, skipped=0, is_repeated=True)
        if anew < change:
            skipped = max(at + offset - latest, 0)
            yield _Stretch(anew, change, offset, skipped, is_repeated=False)
        at, latest = change, max(latest, change + offset)


def _change(timezone: ZoneInfo, at: int, end: int) -> int:
    """Return the first moment after `at` with another offset, or `end`.

    One look a day is enough: no two changes in the time zone database are nearer than 3.9 days.
    """
    offset = _local(timezone, at) - at

    def is_changed(moment: int) -> bool:
        return _local(timezone, moment) - moment != offset

    while at < end:
        ahead = min(at + _DAY, end)
        if is_changed(ahead):
            return at + bisect_left(range(at, ahead), True, key=is_changed)
        at = ahead
    return end


def _local(timezone: ZoneInfo, moment: int) -> int:
    return int(datetime.fromtimestamp(moment, timezone).replace(tzinfo=UTC).timestamp())


def _days(begin: int, end: int) -> range:
    return range(begin // _DAY, -(-end // _DAY)) if begin < end else range(0)


def _cut(seconds: Sequence[int], begin: int, end: int) -> Sequence[int]:
    return seconds[bisect_left(seconds, begin) : bisect_left(seconds, end)]


def _union(several: Sequence[Sequence[int]]) -> Sequence[int]:
    return several[0] if len(several) == 1 else sorted(set[int]().union(*several))


# The machine's time zone


def local_timezone(
    environment: Mapping[str, str] = os.environ, etc: Path = Path("/etc")
) -> ZoneInfo:
    """Return the machine's time zone: TZ, the link localtime, the name in timezone, or UTC.

    Raises ScheduleError where TZ names no time zone: backups at a guessed hour help nobody.
    """
    if (name := environment.get("TZ")) is not None:
        zone = _timezone(name.removeprefix(":") or "UTC")  # an empty TZ is UTC, says tzset(3)
        if zone is None:
            raise ScheduleError(f'TZ="{name}": expected a time zone\'s name, such as Europe/Berlin')
        return zone
    localtime, timezone = etc / "localtime", etc / "timezone"
    names = [os.readlink(localtime), os.path.realpath(localtime)] if localtime.is_symlink() else []
    names += timezone.read_text().split()[:1] if timezone.is_file() else []
    for zone in map(_timezone, names):
        if zone is not None:
            return zone
    if localtime.is_file():  # a copy of a zone's file, which does not say the name
        with localtime.open("rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    return ZoneInfo("UTC")


def _timezone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name.rpartition("zoneinfo/")[2])
    except (KeyError, ValueError, OSError):  # unknown; outside the database; a directory
        return None
