"""Times, spans, sizes and problems as storeletctl writes them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storeletd.ctl.formats import (
    describe_bytes,
    describe_count,
    describe_elapsed,
    describe_problem,
    describe_span,
    describe_time,
    escape,
    shorten_path,
)
from storeletd.ctl.replies import Problem


@pytest.fixture
def local_zone_is_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("größe ✓", "größe ✓"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("two\nlines\t\r", r"two\nlines\t\r"),
        ("\x9b31m", r"\x9b31m"),  # the C1 form of ESC [
        ("\u202egnp.exe", r"\u202egnp.exe"),  # right-to-left override
        (b"caf\xe9".decode(errors="surrogateescape"), r"caf\xe9"),
    ],
)
def test_what_could_steer_a_terminal_is_written_out(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@given(st.text(alphabet=st.characters()))
def test_escaped_text_is_one_printable_line(text: str) -> None:
    assert escape(text).isprintable()


@pytest.mark.usefixtures("local_zone_is_berlin")
def test_a_time_is_shown_in_the_local_zone() -> None:
    assert describe_time("2026-11-25T01:30:00+00:00") == "Wed 2026-11-25 02:30"
    assert describe_time("2026-11-25T01:30:59+00:00") == "Wed 2026-11-25 02:30"


def test_an_exact_time_has_its_seconds_and_its_zone() -> None:
    zone = ZoneInfo("Europe/London")
    due = datetime(2026, 6, 1, 1, 30, tzinfo=UTC)
    assert describe_time(due, zone, exact=True) == "Mon 2026-06-01 02:30 BST"
    due = datetime(2026, 6, 1, 1, 30, 15, tzinfo=UTC)
    assert describe_time(due, zone, exact=True) == "Mon 2026-06-01 02:30:15 BST"


@pytest.mark.parametrize(
    ("seconds", "span"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (250, "4m10s"),
        (300, "5m"),
        (3599, "59m"),
        (5400, "1h30m"),
        (3600, "1h"),
        (54_300, "15h"),
        (86_399, "23h"),
        (86_400, "1d"),
        (90_000, "1d1h"),
        (172_800, "2d"),
        (86_400 * 400, "400d"),
    ],
)
def test_a_span_shows_as_much_as_matters(seconds: float, span: str) -> None:
    assert describe_span(seconds) == span


@pytest.mark.parametrize(
    ("seconds", "elapsed"),
    [(0.0, "0s"), (0.42, "0.4s"), (3.0, "3s"), (42.9, "42s"), (184, "3m04s"), (7500, "2h05m")],
)
def test_elapsed_time_is_exact_to_the_second(seconds: float, elapsed: str) -> None:
    assert describe_elapsed(seconds) == elapsed


@pytest.mark.parametrize(
    ("count", "size"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (1_288_490_189, "1.2 GiB"),
        (1024**5, "1.0 PiB"),
        (99.9 * 1024, "99.9 KiB"),
        (99.96 * 1024, "100 KiB"),
        (597_688_320, "570 MiB"),
        (1023.4 * 1024**2, "1023 MiB"),
        (1023.6 * 1024**2, "1.0 GiB"),
        (2048 * 1024**5, "2048.0 PiB"),
    ],
)
def test_sizes_are_binary(count: float, size: str) -> None:
    assert describe_bytes(count) == size


def test_counts_have_a_plural() -> None:
    assert describe_count(1, "file") == "1 file"
    assert describe_count(1204, "file") == "1,204 files"
    assert describe_count(0, "entry") == "0 entries"


def _problem(*, line: int | None, key: str | None, message: str) -> Problem:
    return Problem(
        file="/etc/storelet.d/a.yaml", line=line, key=key, message=message, hint=None, loaded=False
    )


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (
            _problem(line=3, key="schedul", message="no such key"),
            "/etc/storelet.d/a.yaml:3: schedul: no such key",
        ),
        (
            _problem(line=None, key=None, message="writable by others"),
            "/etc/storelet.d/a.yaml: writable by others",
        ),
        (_problem(line=1, key=None, message="a\nb"), r"/etc/storelet.d/a.yaml:1: a\nb"),
    ],
)
def test_a_problem_is_one_line_as_of_a_compiler(problem: Problem, text: str) -> None:
    assert describe_problem(problem) == text


def test_of_a_long_path_the_end_is_kept() -> None:
    assert shorten_path("/srv/www/index.html", 30) == "/srv/www/index.html"
    assert shorten_path("/srv/www/index.html", 19) == "/srv/www/index.html"
    assert shorten_path("/srv/www/index.html", 11) == "…index.html"
