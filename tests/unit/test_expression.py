"""Texts of schedules: what is read, and what is said of the rest."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storeletd.expression import ScheduleError, parse_duration, parse_expression


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("30 2 * * *", "30 2 * * *"),
        ("  30\t2 * *  MON-Fri\n", "30 2 * * mon-fri"),
        ("*/10 0-6/2,22 1,15 jan-mar 0,7", "*/10 0-6/2,22 1,15 jan-mar 0,7"),
        ("@Daily", "@daily"),
        ("02:30", "02:30"),
        ("2:30:00", "02:30"),
        ("mon..FRI 02:30", "Mon..Fri 02:30"),
        ("Mon, Wed..Thu  02:30:15", "Mon,Wed..Thu 02:30:15"),
        ("every 6h", "every 6h"),
        ("EVERY 90m", "every 1h30m"),
    ],
)
def test_a_text_has_one_canonical_form(text: str, canonical: str) -> None:
    assert parse_expression(text).text == canonical
    assert parse_expression(canonical).text == canonical


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("Mon..Fri 02:30", "Mon Tue Wed Thu Fri"),
        ("Mon,Wed 02:30", "Mon Wed"),
        ("Sat..Sun,Wed 02:30", "Wed Sat Sun"),
        ("Sun 02:30", "Sun"),
        ("02:30", "Mon Tue Wed Thu Fri Sat Sun"),
        ("0 0 * * 0", "Sun"),
        ("0 0 * * 7", "Sun"),
        ("0 0 * * sun-tue", "Mon Tue Sun"),
        ("0 0 * * 5-7", "Fri Sat Sun"),
        ("0 0 * * */7", "Sun"),  # `*` runs from 0 to 7
        ("0 0 * * 1-5/2", "Mon Wed Fri"),
    ],
)
def test_weekdays(text: str, days: str) -> None:
    week = [date(2026, 6, day) for day in range(1, 8)]  # begins with a Monday
    expression = parse_expression(text)
    found = [f"{day:%a}" for day in week if expression.seconds_of((day - date(1970, 1, 1)).days, 0)]
    assert found == days.split()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("61 * * * *", '"61 * * * *": minute "61": expected 0-59'),
        ("0 0 * 1-13 *", '"0 0 * 1-13 *": month "1-13": expected 1-12 or jan-dec'),
        ("0 0 * * mon-monday", "day of week"),
        ("0 0 0 * *", 'day of month "0": expected 1-31'),
        ("*/0 * * * *", 'minute "*/0": expected 0-59, with ranges (1-3), lists (1,3) and steps'),
        ("0 0 L * *", 'day of month "l": expected 1-31'),
        ("0 0 * * 1#2", 'day of week "1#2": expected 0-7 or sun-sat'),
        ("0 2,,3 * * *", 'hour "": expected 0-23'),
        ("* * * *", "4 fields: expected five: minute, hour, day of month, month, day of week"),
        (
            "0 30 2 * * *",
            "6 fields: expected five: minute, hour, day of month, month, day of week;",
        ),
        ("0 0 31 2 *", '"0 0 31 2 *": never fires'),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 0 30 2 */2", "never fires"),
        ("@reboot", '"@reboot": not supported, since a backup is due at a time'),
        ("@often", '"@often": expected one of @hourly, @daily,'),
        ("24:00", 'time "24:00": expected HH:MM or HH:MM:SS'),
        ("02:60", 'time "02:60": expected HH:MM'),
        ("Mon", 'time "mon": expected HH:MM'),
        ("Foo 02:30", 'weekdays "foo": expected Mon, Tue,'),
        ("2026-10-01 02:30", 'weekdays "2026-10-01": expected Mon, Tue,'),
        ("every 0s", '"every 0s": expected an interval from 1s to 366d'),
        ("every 367d", "expected an interval from 1s to 366d"),
        ("every 6", "expected whole numbers with w, d, h, m or s"),
        ("", 'expected crontab fields ("30 2 * * *")'),
        ("whenever", 'expected crontab fields ("30 2 * * *")'),
    ],
)
def test_an_unreadable_text_is_named_with_what_was_expected(text: str, error: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        parse_expression(text)
    assert str(caught.value).startswith(f'"{text}": ')
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("0 30 2 * * *", "30 2 * * *"),
        ("30 2 * * * root /usr/bin/backup", "30 2 * * *"),
        ("5/10 * * * *", "5-59/10 * * * *"),
        ("0 22-2 * * *", "0 22-23,0-2 * * *"),
        ("0 0 * nov-feb *", "0 0 * nov-dec,jan-feb *"),
        ("0 0 * * fri-mon", "0 0 * * fri-sat,sun-mon"),
        ("0 0 * * 5-0", "0 0 * * 5-6,0"),
        ("0 0 * * monday", "0 0 * * mon"),
        ("daily", "@daily"),
        ("monthly", "@monthly"),
        ("@dayly", "@daily"),
        ("@every 6h", "every 6h"),
        ("every day", "@daily"),
        ("every 6 hours", "every 6h"),
        ("Mon-Fri 02:30", "Mon..Fri 02:30"),
        ("Fri..Mon 02:30", "Fri..Sun,Mon 02:30"),
        ("Monday..Friday 02:30", "Mon..Fri 02:30"),
        ("*-*-* 02:30:00", "02:30"),
        ("02:30 Mon", "Mon 02:30"),
    ],
)
def test_the_nearest_readable_text_is_offered(text: str, nearest: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        parse_expression(text)
    assert str(caught.value).endswith(f'; did you mean "{nearest}"?')
    assert parse_expression(nearest).text == nearest


scraps = st.sampled_from(
    [
        "0",
        "61",
        "* ",
        "*/",
        "-",
        ",",
        "..",
        " 02:30",
        "mon",
        "Fri ",
        "L",
        "#",
        "@daily",
        "every ",
        "6h",
    ]
)


@given(st.one_of(st.text(max_size=20), st.lists(scraps, max_size=9).map("".join)))
def test_any_text_is_read_or_refused_with_its_name(text: str) -> None:
    try:
        expression = parse_expression(text)
    except ScheduleError as error:
        assert str(error).startswith(f'"{" ".join(text.split())}": ')
    else:
        again = parse_expression(expression.text)
        assert again.text == expression.text
        assert all(again.seconds_of(day, 0) == expression.seconds_of(day, 0) for day in range(31))


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("1h30m", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("1w", timedelta(weeks=1)),
        ("1w2d3h4m5s", timedelta(weeks=1, days=2, hours=3, minutes=4, seconds=5)),
        (" 0s ", timedelta(0)),
        (90, timedelta(seconds=90)),
    ],
)
def test_durations(text: str | int, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text", ["", "90", "1.5h", "-5m", "30m1h", "1mo", "1y", "999999999w", "²s"]
)
def test_an_unreadable_duration_is_named(text: str) -> None:
    with pytest.raises(ScheduleError, match="expected whole numbers") as caught:
        parse_duration(text)
    assert str(caught.value).startswith(f'"{text}": ')
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("6 hours", "6h"),
        ("5min", "5m"),
        ("1h 30m", "1h30m"),
        ("2 days, 1 hour", "2d1h"),
        ("6H", "6h"),
    ],
)
def test_the_nearest_duration_is_offered(text: str, nearest: str) -> None:
    with pytest.raises(ScheduleError, match=f'did you mean "{nearest}"'):
        parse_duration(text)


@pytest.mark.parametrize("value", [-1, True, 1.5, None, 10**9])
def test_a_duration_of_no_text_is_refused(value: object) -> None:
    with pytest.raises(ScheduleError, match="expected whole numbers"):
        parse_duration(value)  # type: ignore[arg-type]  # what a job file may hold
