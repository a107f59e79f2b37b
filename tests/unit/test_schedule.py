"""Due times: crontab(5), the days the clocks change, counting, the machine's time zone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storeletd.schedule import (
    Due,
    Schedule,
    ScheduleError,
    due_between,
    local_timezone,
    next_due,
    parse_schedule,
)

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)

# The moments at which some clocks are changed
CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00Z"),
    ("America/New_York", "2026-03-08T07:00Z"),
    ("America/New_York", "2026-11-01T06:00Z"),
    ("Europe/London", "2026-03-29T01:00Z"),
    ("Europe/London", "2026-10-25T01:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30Z"),  # half an hour
    ("Australia/Lord_Howe", "2026-04-04T15:00Z"),
    ("America/Santiago", "2026-09-06T04:00Z"),  # at midnight
    ("America/Santiago", "2026-04-05T03:00Z"),
    ("Asia/Beirut", "2026-03-28T22:00Z"),
    ("Asia/Beirut", "2026-10-24T21:00Z"),
    ("America/St_Johns", "2010-11-07T02:31Z"),  # back over midnight, at 00:01
    ("Pacific/Apia", "2011-12-30T10:00Z"),  # over a whole day
    ("Pacific/Kwajalein", "1993-08-21T12:00Z"),
    ("UTC", "2026-01-01T00:00Z"),  # never
]


def iterate(schedule: Schedule, timezone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    due = next_due(schedule, timezone, after)
    while due is not None:
        yield due
        due = next_due(schedule, timezone, due)


def due_texts(text: str | list[str], timezone: str, after: str, count: int) -> list[str]:
    times = iterate(parse_schedule(text), ZoneInfo(timezone), datetime.fromisoformat(after))
    return [
        due.isoformat(timespec="seconds" if due.second else "minutes")
        for due in islice(times, count)
    ]


# crontab(5) and cron(8), as they stand in the manual


class Crontab:
    """A line of crontab(5)."""

    RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    MONTHS = tuple(f"{date(2026, month, 1):%b}".lower() for month in range(1, 13))
    WEEKDAYS = tuple(f"{date(2026, 2, day):%a}".lower() for day in range(1, 8))  # from Sunday

    def __init__(self, line: str) -> None:
        fields = line.lower().split()
        # "a field may be an asterisk" is, to cron itself, a field that begins with one
        self.is_wild = fields[0][0] == "*" or fields[1][0] == "*"
        self.is_any_day = fields[2][0] == "*" or fields[4][0] == "*"
        self.minutes, self.hours, self.days, self.months, self.weekdays = (
            {
                value
                for term in field.split(",")
                for value in self.values(term, *self.RANGES[position])
            }
            for position, field in enumerate(fields)
        )

    def values(self, term: str, low: int, high: int) -> range:
        part, _, step = term.partition("/")
        first, _, last = part.partition("-")
        if first == "*":
            return range(low, high + 1, int(step or 1))
        return range(self.number(first), self.number(last or first) + 1, int(step or 1))

    def number(self, text: str) -> int:
        if text in self.MONTHS:
            return self.MONTHS.index(text) + 1
        return self.WEEKDAYS.index(text) if text in self.WEEKDAYS else int(text)

    def has_day(self, day: date) -> bool:
        in_month = day.day in self.days
        in_week = bool({day.isoweekday(), day.isoweekday() % 7} & self.weekdays)
        in_both = (in_month and in_week) if self.is_any_day else (in_month or in_week)
        return day.month in self.months and in_both

    def has(self, shown: datetime) -> bool:
        return shown.minute in self.minutes and shown.hour in self.hours and self.has_day(shown)


def cron_next(line: Crontab, after: datetime) -> datetime | None:
    """The next time, minute by minute, in a time zone whose clocks are never changed."""
    midnight = after.replace(hour=0, minute=0, second=0, microsecond=0)
    for _ in range(45 * 366):  # February 29 is a Sunday every 28 years, or 40 about 2100
        if line.has_day(midnight):
            for minute in range(24 * 60):
                if (now := midnight + minute * MINUTE) > after and line.has(now):
                    return now
        midnight += DAY
    return None


@lru_cache(maxsize=64)
def minutes_around(timezone: str, change: str) -> list[tuple[datetime, datetime]]:
    """Five days of minutes, with what the local clock shows."""
    begin = datetime.fromisoformat(change) - 3 * DAY
    minutes = [begin + minute * MINUTE for minute in range(5 * 24 * 60)]
    zone = ZoneInfo(timezone)
    return [(now, now.astimezone(zone).replace(tzinfo=None, fold=0)) for now in minutes]


def cron_around(line: Crontab, timezone: str, change: str) -> list[datetime]:
    """What cron(8) would start, looking at the clock each minute.

    Skipped minutes are made up for and repeated ones are not, but for lines with a wildcard.
    """
    started = []
    minutes = minutes_around(timezone, change)
    reached = minutes[0][1] - MINUTE
    for now, shown in minutes:
        if line.is_wild:
            is_due = line.has(shown)
        else:
            missed = range(1, int((shown - reached) / MINUTE) + 1)
            is_due = any(line.has(reached + minute * MINUTE) for minute in missed)
        reached = max(reached, shown)
        if is_due:
            started.append(now)
    return started


@st.composite
def terms(draw: st.DrawFn, low: int, high: int, names: Sequence[str] = ()) -> str:
    """A number, name, range or asterisk, with or without a step."""

    def text(value: int) -> str:
        name = names[value - low] if value - low < len(names) else str(value)
        return draw(st.sampled_from([str(value), f"{value:02}", name, name.upper()]))

    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    part = draw(st.sampled_from(["*", text(first), f"{text(first)}-{text(last)}"]))
    if part == "*" or "-" in part:
        part += draw(st.sampled_from(["", "", f"/{draw(st.integers(1, high + 1))}"]))
    return part


def fields(low: int, high: int, names: Sequence[str] = ()) -> st.SearchStrategy[str]:
    return st.lists(terms(low, high, names), min_size=1, max_size=3).map(",".join)


def cron_lines(*, every_month: bool = False) -> st.SearchStrategy[str]:
    """Lines of crontab(5); those of every month have no day that never comes."""
    return st.tuples(
        fields(0, 59),
        fields(0, 23),
        st.one_of(st.just("*"), fields(1, 31)),
        st.just("*") if every_month else st.one_of(st.just("*"), fields(1, 12, Crontab.MONTHS)),
        st.one_of(st.just("*"), fields(0, 7, Crontab.WEEKDAYS)),
    ).map(" ".join)


weekday_lists = st.lists(
    st.sampled_from(["Mon", "Tue..Wed", "Thu", "Fri..Sun"]), min_size=1, unique=True
).map(",".join)
clock_texts = st.builds(
    "{} {:02}:{:02}:{:02}".format,
    weekday_lists,
    st.integers(0, 3) | st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 59),
)
intervals = st.integers(1, 200_000).map("every {}s".format)
schedules = st.lists(
    st.one_of(cron_lines(every_month=True), clock_texts, intervals, st.just("@daily")),
    min_size=1,
    max_size=3,
)
around_a_change = st.tuples(st.sampled_from(CHANGES), st.integers(-86_400, 86_400))


def near(change: str, seconds: int) -> datetime:
    return datetime.fromisoformat(change) + timedelta(seconds=seconds)


@settings(max_examples=300)
@given(
    cron_lines(),
    st.integers(0, 10 * 366 * 86_400).map(lambda s: datetime(2024, 1, 1, tzinfo=UTC) + s * SECOND),
)
def test_next_due_agrees_with_crontab5(line: str, after: datetime) -> None:
    expected = cron_next(Crontab(line), after)
    if expected is None:
        with pytest.raises(ScheduleError, match="never fires"):
            parse_schedule(line)
    else:
        assert next_due(parse_schedule(line), ZoneInfo("UTC"), after) == expected


@settings(max_examples=200)
@given(cron_lines(every_month=True), around_a_change)
def test_next_due_agrees_with_cron8_where_clocks_are_changed(
    line: str, moment: tuple[tuple[str, str], int]
) -> None:
    (timezone, change), seconds = moment
    after = near(change, seconds)
    until = datetime.fromisoformat(change) + 2 * DAY - MINUTE
    expected = [now for now in cron_around(Crontab(line), timezone, change) if now > after]
    schedule, zone = parse_schedule(line), ZoneInfo(timezone)

    found = [due.astimezone(UTC) for due in islice(iterate(schedule, zone, after), 30)]
    assert [due for due in found if due <= until] == expected[:30]
    due = due_between(schedule, zone, after, until)
    assert (due.count if due else 0) == len(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # both restricted: either will do
        ("0 0 13 * 5", "2026-02-06 2026-02-13 2026-02-20 2026-02-27 2026-03-06"),
        # one of them begins with an asterisk: both must match
        ("0 0 */2 * 1", "2026-02-09 2026-02-23 2026-03-09 2026-03-23 2026-04-13"),
        ("0 0 13 * */2", "2026-06-13 2026-08-13 2026-09-13 2026-10-13 2026-12-13"),
        # restricted, though the list holds an asterisk
        ("0 0 13 * 5,*", "2026-02-02 2026-02-03 2026-02-04 2026-02-05 2026-02-06"),
        ("0 0 29 2 *", "2028-02-29 2032-02-29 2036-02-29 2040-02-29 2044-02-29"),
        ("0 0 31 * *", "2026-03-31 2026-05-31 2026-07-31 2026-08-31 2026-10-31"),
        ("0 0 * * 7", "2026-02-08 2026-02-15 2026-02-22 2026-03-01 2026-03-08"),
        ("@weekly", "2026-02-08 2026-02-15 2026-02-22 2026-03-01 2026-03-08"),
        ("@monthly", "2026-03-01 2026-04-01 2026-05-01 2026-06-01 2026-07-01"),
        ("@yearly", "2027-01-01 2028-01-01 2029-01-01 2030-01-01 2031-01-01"),
        ("@annually", "2027-01-01 2028-01-01 2029-01-01 2030-01-01 2031-01-01"),
    ],
)
def test_days(line: str, expected: str) -> None:
    found = due_texts(line, "UTC", "2026-02-01T12:00Z", 5)
    assert found == [f"{day}T00:00+00:00" for day in expected.split()]


def test_weekdays_of_spring_in_london() -> None:
    assert due_texts("30 2 * * 1-5", "Europe/London", "2026-03-28T12:00Z", 5) == [
        "2026-03-30T02:30+01:00",
        "2026-03-31T02:30+01:00",
        "2026-04-01T02:30+01:00",
        "2026-04-02T02:30+01:00",
        "2026-04-03T02:30+01:00",
    ]


DAILY = ["{minute} {hour} * * *", "{hour:02}:{minute:02}", "Mon..Sun {hour:02}:{minute:02}"]


@pytest.mark.parametrize("form", DAILY)
@pytest.mark.parametrize(
    ("timezone", "at", "before", "expected"),
    [
        # clock, the day before, due on the day of the change and on the day after
        ("Europe/Berlin", (2, 30), "2026-03-28T12:00Z", "29T03:00+02:00 30T02:30+02:00"),
        ("Europe/Berlin", (2, 0), "2026-03-28T12:00Z", "29T03:00+02:00 30T02:00+02:00"),
        ("Europe/Berlin", (3, 0), "2026-03-28T12:00Z", "29T03:00+02:00 30T03:00+02:00"),
        ("Europe/Berlin", (2, 30), "2026-10-24T12:00Z", "25T02:30+02:00 26T02:30+01:00"),
        ("Europe/Berlin", (3, 0), "2026-10-24T12:00Z", "25T03:00+01:00 26T03:00+01:00"),
        ("America/New_York", (2, 30), "2026-03-07T18:00Z", "08T03:00-04:00 09T02:30-04:00"),
        ("America/New_York", (1, 30), "2026-10-31T18:00Z", "01T01:30-04:00 02T01:30-05:00"),
        ("Europe/London", (1, 30), "2026-03-28T12:00Z", "29T02:00+01:00 30T01:30+01:00"),
        ("Europe/London", (1, 30), "2026-10-24T12:00Z", "25T01:30+01:00 26T01:30+00:00"),
        ("Australia/Lord_Howe", (2, 15), "2026-10-03T02:00Z", "04T02:30+11:00 05T02:15+11:00"),
        ("Australia/Lord_Howe", (3, 0), "2026-10-03T02:00Z", "04T03:00+11:00 05T03:00+11:00"),
        ("Australia/Lord_Howe", (1, 45), "2026-04-04T02:00Z", "05T01:45+11:00 06T01:45+10:30"),
        ("America/Santiago", (0, 0), "2026-09-05T12:00Z", "06T01:00-03:00 07T00:00-03:00"),
        ("America/Santiago", (0, 0), "2026-04-04T12:00Z", "05T00:00-04:00 06T00:00-04:00"),
        ("America/Santiago", (23, 30), "2026-04-04T12:00Z", "04T23:30-03:00 05T23:30-04:00"),
        ("Asia/Beirut", (0, 0), "2026-03-28T12:00Z", "29T01:00+03:00 30T00:00+03:00"),
        ("Asia/Beirut", (23, 30), "2026-10-24T12:00Z", "24T23:30+03:00 25T23:30+02:00"),
        ("Pacific/Apia", (2, 30), "2011-12-29T20:00Z", "31T00:00+14:00 31T02:30+14:00"),
    ],
)
def test_a_fixed_time_runs_once_where_clocks_are_changed(
    form: str, timezone: str, at: tuple[int, int], before: str, expected: str
) -> None:
    text = form.format(hour=at[0], minute=at[1])
    assert [due[8:] for due in due_texts(text, timezone, before, 2)] == expected.split()


@pytest.mark.parametrize(
    ("text", "timezone", "after", "expected"),
    [
        ("*/30 * * * *", "Europe/Berlin", "2026-03-29T01:10+01:00", "01:30+01:00 03:00+02:00"),
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T01:50+02:00",
            "02:00+02:00 02:30+02:00 02:00+01:00 02:30+01:00 03:00+01:00",
        ),
        ("0 * * * *", "Europe/Berlin", "2026-10-25T01:50+02:00", "02:00+02:00 02:00+01:00"),
        ("@hourly", "America/Santiago", "2026-09-05T22:30-04:00", "23:00-04:00 01:00-03:00"),
        (
            "*/10 1-2 * * *",
            "Australia/Lord_Howe",
            "2026-04-05T01:45+11:00",
            "01:50+11:00 01:30+10:30 01:40+10:30 01:50+10:30 02:00+10:30",
        ),
        (
            "*/10 * * * *",
            "Australia/Lord_Howe",
            "2026-10-04T01:45+10:30",
            "01:50+10:30 02:30+11:00",
        ),
        # what cronsim 2.8 by itself gets wrong
        (
            "*/30 3 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T22:00+10:30",
            "03:00+11:00 03:30+11:00",
        ),
        ("0 * * * sun", "America/Santiago", "2026-09-05T22:00-04:00", "01:00-03:00 02:00-03:00"),
    ],
)
def test_a_wildcard_goes_by_the_clock(text: str, timezone: str, after: str, expected: str) -> None:
    found = due_texts(text, timezone, after, len(expected.split()))
    assert [due[11:] for due in found] == expected.split()


def test_a_wildcard_has_nothing_in_the_gap() -> None:
    found = due_texts("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", 1)
    assert found == ["2026-03-30T02:00+02:00"]


def test_several_times_in_the_gap_are_one() -> None:
    found = due_texts("0,15,30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00Z", 4)
    assert [due[8:] for due in found] == [
        "29T03:00+02:00",
        "29T03:15+02:00",
        "29T03:30+02:00",
        "30T02:00+02:00",
    ]
    found = due_texts(["02:30", "10 2 * * *", "@hourly"], "Europe/Berlin", "2026-03-29T00:30Z", 2)
    assert [due[8:] for due in found] == ["29T03:00+02:00", "29T04:00+02:00"]


def test_a_time_just_after_the_gap_is_not_counted_again_for_the_gap() -> None:
    berlin, begin = ZoneInfo("Europe/Berlin"), datetime(2026, 3, 28, 12, tzinfo=UTC)
    due = due_between(parse_schedule("0 2,3 * * *"), berlin, begin, begin + DAY)
    only = datetime(2026, 3, 29, 3, tzinfo=berlin)
    assert due == Due(first=only, last=only, count=1)


def test_the_repeated_hour_counts_once_wherever_counting_begins() -> None:
    schedule, berlin = parse_schedule("30 2 * * *"), ZoneInfo("Europe/Berlin")
    nights = [datetime(2026, 10, day, 2, 30, tzinfo=berlin) for day in range(15, 28)]
    for minutes in range(0, 12 * 24 * 60, 20):
        after = datetime(2026, 10, 15, tzinfo=UTC) + minutes * MINUTE
        due = due_between(schedule, berlin, after, nights[-1])
        assert due is not None
        assert due.count == sum(night.astimezone(UTC) > after for night in nights)


def test_the_gap_keeps_seconds_of_later_days() -> None:
    found = due_texts("Sun 02:30:15", "Europe/Berlin", "2026-03-28T12:00Z", 2)
    assert found == ["2026-03-29T03:00+02:00", "2026-04-05T02:30:15+02:00"]


def test_a_fixed_time_is_not_due_again_in_the_repeated_hour() -> None:
    for after in ("2026-10-25T02:50+02:00", "2026-10-25T02:10+01:00"):
        assert due_texts("30 2 * * *", "Europe/Berlin", after, 1) == ["2026-10-26T02:30+01:00"]


def test_a_date_that_was_skipped_is_due_after_it() -> None:
    found = due_texts("0 3 30 12 *", "Pacific/Apia", "2011-12-01T00:00Z", 2)
    assert found == ["2011-12-31T00:00+14:00", "2012-12-30T03:00+14:00"]


def test_a_clock_set_back_over_midnight_does_not_repeat_the_day() -> None:
    found = due_texts("@daily", "America/St_Johns", "2010-11-06T12:00Z", 2)
    assert found == ["2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"]


def test_intervals_count_from_the_epoch_and_know_no_clock() -> None:
    assert due_texts("every 6h", "Europe/Berlin", "2026-03-28T20:00Z", 3) == [
        "2026-03-29T01:00+01:00",
        "2026-03-29T08:00+02:00",
        "2026-03-29T14:00+02:00",
    ]
    assert due_texts("every 1w", "UTC", "2026-01-01T00:00Z", 1) == ["2026-01-08T00:00+00:00"]
    assert due_texts("every 45s", "UTC", "1969-12-31T23:59Z", 2) == [
        "1969-12-31T23:59:15+00:00",
        "1970-01-01T00:00+00:00",
    ]


def test_a_list_is_due_when_any_of_it_is_and_once_at_the_same_moment() -> None:
    found = due_texts(["Sat,Sun 12:00", "0 */12 * * *"], "UTC", "2026-01-02T13:00Z", 4)
    assert found == [
        "2026-01-03T00:00+00:00",
        "2026-01-03T12:00+00:00",
        "2026-01-04T00:00+00:00",
        "2026-01-04T12:00+00:00",
    ]


@given(schedules, around_a_change)
def test_due_times_ascend_in_their_time_zone(
    schedule: list[str], moment: tuple[tuple[str, str], int]
) -> None:
    (timezone, change), seconds = moment
    zone, after = ZoneInfo(timezone), near(change, seconds)
    times = [after, *islice(iterate(parse_schedule(schedule), zone, after), 20)]
    assert all(due.tzinfo is zone for due in times[1:])
    # in UTC: Python compares two times of one time zone by what their clocks show
    utc = [due.astimezone(UTC) for due in times]
    assert all(earlier < later for earlier, later in pairwise(utc))
    assert utc[1:] == [due.astimezone(zone).astimezone(UTC) for due in times[1:]]  # it exists


@given(schedules, around_a_change, st.integers(1, 40), st.integers(0, 999_999))
def test_due_between_agrees_with_next_due(
    schedule: list[str], moment: tuple[tuple[str, str], int], count: int, microseconds: int
) -> None:
    (timezone, change), seconds = moment
    zone, after = ZoneInfo(timezone), near(change, seconds)
    parsed = parse_schedule(schedule)
    times = list(islice(iterate(parsed, zone, after), count))
    until = times[-1].astimezone(UTC) + timedelta(microseconds=microseconds)
    due = due_between(parsed, zone, after, until)
    assert due == Due(first=times[0], last=times[-1], count=count)
    assert due_between(parsed, zone, times[-1], until) is None


@given(schedules, around_a_change, st.lists(st.integers(0, 3_000_000), min_size=3, max_size=3))
def test_due_between_adds_up(
    schedule: list[str], moment: tuple[tuple[str, str], int], steps: list[int]
) -> None:
    (timezone, change), seconds = moment
    parsed, zone = parse_schedule(schedule), ZoneInfo(timezone)
    times = [near(change, seconds + step) for step in (0, *sorted(steps))]
    counts = [
        due.count if (due := due_between(parsed, zone, after, until)) else 0
        for after, until in [*pairwise(times), (times[0], times[-1])]
    ]
    assert sum(counts[:-1]) == counts[-1]


def test_due_between_includes_its_end_and_not_its_beginning() -> None:
    schedule, utc = parse_schedule("@hourly"), ZoneInfo("UTC")
    one, two = (datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (1, 2))
    assert due_between(schedule, utc, one, two) == Due(first=two, last=two, count=1)
    assert due_between(schedule, utc, one, two - timedelta.resolution) is None
    assert due_between(schedule, utc, two, one) is None
    assert due_between(schedule, utc, one - timedelta.resolution, one) == Due(
        first=one, last=one, count=1
    )


def test_a_year_of_every_minute_is_counted_at_once() -> None:
    schedule, berlin = parse_schedule("* * * * *"), ZoneInfo("Europe/Berlin")
    after, seconds = datetime(2025, 12, 31, 23, tzinfo=UTC), []
    for _ in range(3):
        begun = time.perf_counter()
        due = due_between(schedule, berlin, after, after + 365 * DAY)
        seconds.append(time.perf_counter() - begun)
    assert due is not None
    assert due.count == 365 * 24 * 60
    assert min(seconds) < 0.1  # it takes 0.002


def test_manual_has_no_due_times() -> None:
    schedule, utc = parse_schedule(" Manual "), ZoneInfo("UTC")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert schedule == parse_schedule(["manual"]) == Schedule(texts=("manual",))
    assert schedule.is_manual
    assert not parse_schedule("@daily").is_manual
    assert next_due(schedule, utc, now) is None
    assert due_between(schedule, utc, now, now + 1000 * DAY) is None


def test_the_ends_of_the_calendar_have_no_due_times() -> None:
    schedule, zone = parse_schedule("@daily"), ZoneInfo("Pacific/Apia")
    earliest, latest = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert next_due(schedule, zone, earliest) is not None
    assert next_due(schedule, zone, latest) is None
    assert due_between(schedule, zone, latest - 5 * DAY, latest) is None


def test_a_list_is_kept_in_order_without_doubles() -> None:
    schedule = parse_schedule(["02:30", "@daily", "2:30:00", "every 60m"])
    assert schedule == Schedule(texts=("02:30", "@daily", "every 1h"))
    assert parse_schedule(schedule.texts) == schedule


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([], "an empty list: expected crontab fields"),
        (["manual", "@daily"], '"manual" means no due times: expected it alone'),
        (["@daily", "61 * * * *"], '"61 \\* \\* \\* \\*": minute "61": expected 0-59'),
        (750, "750: expected crontab fields .*; quote it"),  # YAML's reading of 12:30
        (None, "None: expected crontab fields"),
        ([["@daily"]], "expected crontab fields"),
    ],
)
def test_an_unreadable_schedule_is_refused(value: object, error: str) -> None:
    with pytest.raises(ScheduleError, match=error):
        parse_schedule(value)  # type: ignore[arg-type]  # what a job file may hold


# The machine's time zone


def zone_file(name: str) -> Path:
    return Path("/usr/share/zoneinfo", name)


def test_tz_names_the_time_zone(tmp_path: Path) -> None:
    (tmp_path / "timezone").write_text("Europe/Berlin\n")
    for name in ("Asia/Tokyo", ":Asia/Tokyo", "/usr/share/zoneinfo/Asia/Tokyo"):
        assert local_timezone({"TZ": name}, tmp_path) == ZoneInfo("Asia/Tokyo")
    assert local_timezone({"TZ": ""}, tmp_path) == ZoneInfo("UTC")


@pytest.mark.parametrize("name", ["Mars/Olympus", "CET-1CEST,M3.5.0,M10.5.0/3", "/etc/passwd", "."])
def test_a_tz_that_names_no_time_zone_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match="expected a time zone's name"):
        local_timezone({"TZ": name}, tmp_path)


def test_the_link_localtime_names_the_time_zone(tmp_path: Path) -> None:
    (tmp_path / "localtime").symlink_to("../usr/share/zoneinfo/Europe/Berlin")
    (tmp_path / "timezone").write_text("Asia/Tokyo\n")
    assert local_timezone({}, tmp_path) == ZoneInfo("Europe/Berlin")


def test_the_file_timezone_names_the_time_zone_of_a_copy(tmp_path: Path) -> None:
    (tmp_path / "localtime").write_bytes(b"")
    (tmp_path / "timezone").write_text("Asia/Tokyo\n")
    assert local_timezone({}, tmp_path) == ZoneInfo("Asia/Tokyo")


@pytest.mark.skipif(not zone_file("Asia/Tokyo").exists(), reason="no time zone files here")
def test_a_copied_time_zone_is_used_without_its_name(tmp_path: Path) -> None:
    shutil.copy(zone_file("Asia/Tokyo"), tmp_path / "localtime")
    zone = local_timezone({}, tmp_path)
    assert zone.key == "localtime"
    assert datetime(2026, 1, 1, tzinfo=zone).utcoffset() == timedelta(hours=9)


def test_a_machine_that_knows_nothing_is_in_utc(tmp_path: Path) -> None:
    assert local_timezone({}, tmp_path) == ZoneInfo("UTC")
