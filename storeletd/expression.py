"""Expressions: one text of a schedule, read as days and times of the local clock.

Owns the forms a text may have and what is said of one that cannot be read; where the local clock
stands, and what happens when it is changed, is the schedule's. cronsim says which days and times
a cron line means, once the line has been found to be crontab(5) and none of cronsim's extensions
(seconds, `L`, `#`).

A canonical text means what the text it was made from means, and is read as itself again.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

__all__ = [
    "EXPECTED",
    "ClockExpression",
    "Expression",
    "IntervalExpression",
    "ScheduleError",
    "parse_duration",
    "parse_expression",
]

EXPECTED = (
    'crontab fields ("30 2 * * *"), @daily and its like, "Mon..Fri 02:30", "every 6h",'
    ' a list of these, or "manual"'
)

_DAY_SECONDS = 86_400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


class ScheduleError(ValueError):
    """A schedule or duration that cannot be read; the message says what was expected."""

    def __init__(self, message: str, *, nearest: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.nearest = tuple(nearest)  # what may have been meant; not all of it can be read


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockExpression:
    """Days and times of the local clock."""

    text: str  # canonical
    is_due_on: Callable[[date], bool]
    seconds: tuple[int, ...]  # of a day, ascending
    is_fixed: bool  # due once whatever the clock does; otherwise it goes by the clock

    def seconds_of(self, day: int, midnight: int) -> Sequence[int]:
        """Return the due seconds of a local day, ascending.

        `day` is counted from 1970-01-01; it begins at the epoch second `midnight`.
        """
        return self.seconds if self.is_due_on(date.fromordinal(_EPOCH_ORDINAL + day)) else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalExpression:
    """Every so many seconds since the epoch, whatever a clock shows."""

    text: str  # canonical
    period: int  # seconds
    is_fixed: bool = False

    def seconds_of(self, day: int, midnight: int) -> Sequence[int]:
        """Return the due seconds of a local day that begins at the epoch second `midnight`."""
        return range(-midnight % self.period, _DAY_SECONDS, self.period)


Expression = ClockExpression | IntervalExpression


def parse_expression(text: str) -> Expression:
    """Read one text of a schedule, `manual` excepted; raises ScheduleError."""
    text = " ".join(text.split())
    try:
        return _read(text)
    except ScheduleError as error:
        hint = _did_you_mean(error, lambda nearest: _read(nearest).text)
        raise ScheduleError(f'"{text}": {error}{hint}') from None


def parse_duration(text: str | int) -> timedelta:
    """Read a duration such as `1h30m`; a bare number is seconds. Raises ScheduleError."""
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text < 10**9:
        return timedelta(seconds=text)
    if not isinstance(text, str):
        raise ScheduleError(f"{text!r}: expected {_DURATIONS}")
    try:
        return timedelta(seconds=_read_duration(text.strip()))
    except ScheduleError as error:
        hint = _did_you_mean(error, lambda nearest: _duration_text(_read_duration(nearest)))
        raise ScheduleError(f'"{text}": {error}{hint}') from None


def _did_you_mean(error: ScheduleError, canonical: Callable[[str], str]) -> str:
    for text in error.nearest:
        with suppress(ScheduleError):
            return f'; did you mean "{canonical(text)}"?'
    return ""


@lru_cache(maxsize=1024)  # due times are computed anew all the time, and cron lines cost 70 µs
def _read(text: str) -> Expression:
    word = text.lower()
    if word.startswith("every "):
        return _read_interval(text[len("every ") :])
    if word.startswith("@"):
        return _read_macro(word)
    if ":" in word or word[:3] in _WEEKDAYS:
        return _read_weekdays(word)
    return _read_cron(word)


# Cron lines


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """One of crontab(5)'s five."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # of the values from `low` on

    def number(self, value: str) -> int | None:
        """Return what a number or name stands for, None where it is not of this field."""
        if value in self.names:
            return self.low + self.names.index(value)
        if value.isdigit() and len(value) <= 2 and self.low <= int(value) <= self.high:
            return int(value)
        return None

    @property
    def values(self) -> str:
        """What numbers and names there are, in words."""
        names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"{self.low}-{self.high}{names}"


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FIELDS = (
    _Field(name="minute", low=0, high=59),
    _Field(name="hour", low=0, high=23),
    _Field(name="day of month", low=1, high=31),
    _Field(name="month", low=1, high=12, names=_MONTHS),
    _Field(name="day of week", low=0, high=7, names=("sun", *_WEEKDAYS[:-1])),
)
_TERM = re.compile(r"(?:\*|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/([1-9][0-9]{0,3}))?")
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


def _read_macro(word: str) -> Expression:
    if word in _MACROS:
        cron = _read_cron(_MACROS[word])
        return replace(cron, text=word)
    if word == "@reboot":
        raise ScheduleError(
            "not supported, since a backup is due at a time, not when the machine starts: expected"
            ' @daily or the like, with "catch_up: true" for due times while the machine was off'
        )
    nearest = [f"every {word[1:].removeprefix('every ')}", *_macros_like(word)]
    raise ScheduleError(f"expected one of {', '.join(_MACROS)}", nearest=nearest)


def _macros_like(word: str) -> list[str]:
    return difflib.get_close_matches(word, _MACROS, n=1, cutoff=0.8)


def _read_cron(line: str) -> ClockExpression:
    parts = line.split(" ")
    if len(parts) != len(_FIELDS):
        raise _field_count_error(parts)
    fields = [
        ",".join(_check_term(field, term, line) for term in part.split(","))
        for field, part in zip(_FIELDS, parts, strict=True)
    ]
    try:
        cron = CronSim(" ".join(fields), datetime(2000, 1, 1))  # noqa: DTZ001 - of no time zone
        next(cron)
    except (CronSimError, StopIteration):
        raise ScheduleError("never fires: expected a day that its month has") from None
    return ClockExpression(
        text=line,
        is_due_on=lambda day: day.month in cron.months and cron.match_day(day),
        seconds=tuple(h * 3600 + m * 60 for h in sorted(cron.hours) for m in sorted(cron.minutes)),
        is_fixed=not (parts[0].startswith("*") or parts[1].startswith("*")),
    )


def _field_count_error(parts: list[str]) -> ScheduleError:
    if len(parts) < 3:  # hardly a cron line
        return ScheduleError(f"expected {EXPECTED}", nearest=_macros_like(f"@{parts[0]}"))
    names = ", ".join(field.name for field in _FIELDS)
    # seconds in front, as Quartz has them; or a user and command behind, as in /etc/crontab
    nearest = [" ".join(parts[1:]), " ".join(parts[:5])]
    return ScheduleError(f"{len(parts)} fields: expected five: {names}", nearest=nearest)


def _check_term(field: _Field, term: str, line: str) -> str:
    """Return `term`, of a list in `field` of `line`, for cronsim; raises ScheduleError."""

    def error(expected: str, *meant: str) -> ScheduleError:
        nearest = [line.replace(term, text, 1) for text in meant]
        return ScheduleError(f'{field.name} "{term}": expected {expected}', nearest=nearest)

    match = _TERM.fullmatch(term)
    if match is None:
        raise error(f"{field.values}, with ranges (1-3), lists (1,3) and steps (*/2)")
    first, last, step = match.groups()
    for value in (first, last):
        if value is not None and field.number(value) is None:
            raise error(field.values, term.replace(value, value[:3]))
    if first and not last and step:  # Vixie's cron silently drops such a step
        raise error("a range before the step", f"{first}-{field.high}/{step}")
    if first is None or last is None:
        return term
    if field.number(first) == field.number(last):
        return first  # cronsim 2.8 takes 3-3/2 for 3/2, and that for 3-7/2
    if (field.number(first) or 0) > (field.number(last) or 0):
        names = field.names if first.isalpha() else ()
        size = len(field.names) or field.high - field.low + 1
        ends = (names[-1], names[0]) if names else (field.low + size - 1, field.low)
        meant = f"{first}-{ends[0]},{ends[1]}-{last}"
        meant = meant.removeprefix(f"{ends[0]}-").removesuffix(f"-{ends[1]}")
        raise error("a range that goes up", meant)
    return term


# Weekdays and times


def _read_weekdays(text: str) -> ClockExpression:
    text = re.sub(r" ?(,|\.\.) ?", r"\1", text)
    days_text, _, time_text = text.rpartition(" ")
    try:
        days = _read_days(days_text) if days_text else frozenset(range(7))
        at = _read_time(time_text)
    except ScheduleError as error:
        nearest = [
            *(f"{meant} {time_text}" for meant in error.nearest),
            text.replace("-", ".."),  # crontab's ranges
            re.sub(r"\b(mon|tue|wed|thu|fri|sat|sun)[a-z]+", r"\1", text),
            text.removeprefix("*-*-* "),  # systemd's every day
            " ".join(reversed(text.split(" "))),
            *_macros_like(f"@{text}"),
        ]
        raise ScheduleError(str(error), nearest=nearest) from None
    time_text = f"{at:%H:%M:%S}" if at.second else f"{at:%H:%M}"
    return ClockExpression(
        text=f"{days_text.title()} {time_text}".lstrip(),
        is_due_on=lambda day: day.weekday() in days,
        seconds=(at.hour * 3600 + at.minute * 60 + at.second,),
        is_fixed=True,
    )


def _read_days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for item in text.split(","):
        first, dots, last = item.partition("..")
        last = last if dots else first
        if first not in _WEEKDAYS or last not in _WEEKDAYS:
            raise ScheduleError(f'weekdays "{item}": expected Mon, Tue, … or a range, Mon..Fri')
        begin, end = _WEEKDAYS.index(first), _WEEKDAYS.index(last)
        if begin > end:
            meant = f"{first}..sun,mon..{last}".removeprefix("sun..").removesuffix("..mon")
            raise ScheduleError(
                f'weekdays "{item}": expected a range that goes up, from Mon to Sun',
                nearest=[text.replace(item, meant, 1)],
            )
        days.update(range(begin, end + 1))
    return frozenset(days)


def _read_time(text: str) -> time:
    match = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?", text)
    with suppress(ValueError):
        if match is not None:
            hour, minute, second = (int(number or 0) for number in match.groups())
            return time(hour, minute, second)
    raise ScheduleError(f'time "{text}": expected HH:MM or HH:MM:SS, from 00:00 to 23:59:59')


# Intervals


_UNITS = {"w": 7 * _DAY_SECONDS, "d": _DAY_SECONDS, "h": 3600, "m": 60, "s": 1}
_UNIT_WORDS = ("weeks", "days", "hours", "minutes", "seconds")
_DURATION = re.compile("".join(rf"(?:([0-9]{{1,8}}){unit})?" for unit in _UNITS))
_DURATIONS = 'whole numbers with w, d, h, m or s, the largest first, such as "90s" or "1h30m"'
_LONGEST_DAYS = 366


def _read_interval(text: str) -> IntervalExpression:
    try:
        period = _read_duration(text)
    except ScheduleError as error:
        nearest = [f"every {meant}" for meant in error.nearest] + _macros_like(f"@{text}ly")
        raise ScheduleError(str(error), nearest=nearest) from None
    if not 1 <= period <= _LONGEST_DAYS * _DAY_SECONDS:
        raise ScheduleError(f"expected an interval from 1s to {_LONGEST_DAYS}d")
    return IntervalExpression(text=f"every {_duration_text(period)}", period=period)


def _read_duration(text: str) -> int:
    """Return seconds."""
    match = _DURATION.fullmatch(text)
    if text and match is not None:
        numbers = (int(number or 0) for number in match.groups())
        return sum(n * unit for n, unit in zip(numbers, _UNITS.values(), strict=True))
    nearest = []
    if re.fullmatch(r"(?:[0-9]+ ?[a-z]+[ ,]*)+", text.lower()):
        parts = re.findall(r"([0-9]+) ?([a-z]+)", text.lower())
        nearest = ["".join(number + _unit_of(word) for number, word in parts)]
    raise ScheduleError(f"expected {_DURATIONS}", nearest=nearest)


def _unit_of(word: str) -> str:
    """Return the unit that `word` may stand for, such as m for mins, or nothing."""
    stem = word.removesuffix("s") or word
    for unit, full in zip(_UNITS, _UNIT_WORDS, strict=True):
        if full.startswith(stem):
            return unit
    return ""


def _duration_text(seconds: int) -> str:
    text = ""
    for unit, size in _UNITS.items():
        number, seconds = divmod(seconds, size)
        text += f"{number}{unit}" if number else ""
    return text or "0s"
