"""A run in words."""

from __future__ import annotations

from typing import cast

import click
import pytest

from storeletd.ctl.replies import Files, Run, RunDetails, SkippedEntry
from storeletd.ctl.runs import worst_exit_code
from storeletd.ctl.summaries import (
    describe_outcome,
    describe_run,
    describe_runs,
    describe_skipped,
)

URL = "s3://my-bucket/web/website_20261125023000.zip"


def files(*, skipped: int = 0) -> Files:
    return Files(seen=66_034 + skipped, reused=65_374, read=660, skipped=skipped)


def _run(**fields: object) -> Run:
    success = Run(
        id=43,
        job="website",
        kind="backup",
        cause="schedule",
        state="finished",
        outcome="success",
        exit_code=0,
        due={"first": "2026-11-25T02:30:00Z", "last": "2026-11-25T02:30:00Z", "count": 1},
        queued_at="2026-11-25T02:30:00Z",
        begun_at="2026-11-25T02:30:00Z",
        finished_at="2026-11-25T02:33:04Z",
        message=None,
        hint=None,
        files=files(),
        bytes={
            "archive": 597_688_320,
            "reused": 585_105_408,
            "read": 31_457_280,
            "sent": 12_582_912,
        },
        requests=1031,
        notes=[],
        archives=[
            {
                "url": URL,
                "bytes": 597_688_320,
                "bytes_reused": 585_105_408,
                "bytes_sent": 12_582_912,
                "requests": 1031,
            }
        ],
        collided_with=None,
        repeats=None,
        attempt=1,
        retry_at=None,
    )
    return cast(Run, {**success, **fields})


FAILED = _run(
    id=42,
    outcome="failed",
    exit_code=1,
    message="no such bucket: my-\x1bbucket",
    hint="aws s3 mb s3://my-bucket",
    archives=[],
    finished_at="2026-11-25T02:30:02Z",
)
MISSED = _run(
    id=41,
    outcome="missed",
    begun_at=None,
    due={"first": "2026-11-20T02:30:00Z", "last": "2026-11-24T02:30:00Z", "count": 5},
    message="nothing was running to start it",
    archives=[],
)
RUNNING = _run(id=44, state="running", outcome=None, finished_at=None, archives=[])


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (
            _run(),
            "website: success in 3m04s: read 660 of 66,034 files, sent 12.0 MiB of 570 MiB\n"
            f"  {URL}",
        ),
        (
            _run(
                outcome="partial",
                files=files(skipped=2),
                message="2 entries are not in the archive",
            ),
            "website: partial in 3m04s: read 660 of 66,036 files, sent 12.0 MiB of 570 MiB,"
            f" 2 skipped\n  {URL}",
        ),
        (FAILED, r"website: failed in 2s: no such bucket: my-\x1bbucket"),
        (
            _run(begun_at=None, outcome="cancelled", message="cancelled by you", archives=[]),
            "website: cancelled: cancelled by you",
        ),
    ],
)
def test_an_outcome_is_one_line_and_one_for_each_archive(run: Run, line: str) -> None:
    assert click.unstyle("\n".join(describe_outcome(run))) == line


def test_runs_are_aligned_and_say_why_they_failed() -> None:
    lines = [click.unstyle(line) for line in describe_runs([RUNNING, _run(), FAILED, MISSED])]
    assert [line.split("  ")[0] for line in lines if not line.startswith(" ")] == [
        "44",
        "43",
        "42",
        "41",
    ]
    assert lines[0].endswith("  read 660 of 66,034")
    assert lines[1].endswith("  read 660 of 66,034, sent 12.0 MiB")
    assert len(lines[1]) <= 78  # status indents it by two
    assert r"no such bucket: my-\x1bbucket" in lines[2]
    assert lines[3] == "    Try: aws s3 mb s3://my-bucket"
    assert lines[4].endswith("nothing was running to start it, 5 due times")


def test_the_first_skipped_entries_are_shown_and_the_rest_is_counted() -> None:
    entries = [SkippedEntry(path=f"/srv/{n}", reason="permission denied") for n in range(1000)]
    lines = describe_skipped(_run(files=files(skipped=1204)), entries, most=2)
    assert lines == [
        "skipped /srv/0: permission denied",
        "skipped /srv/1: permission denied",
        "and 1,202 more: storeletctl history --run 43",
    ]


def test_nobody_is_sent_for_skipped_entries_that_were_not_kept() -> None:
    entries = [SkippedEntry(path=f"/srv/{n}", reason="permission denied") for n in range(1000)]
    *lines, last = describe_skipped(_run(files=files(skipped=1204)), entries, most=1000)
    assert (len(lines), last) == (1000, "and 204 more")


def test_all_of_a_run_is_shown() -> None:
    details = cast(
        RunDetails,
        {
            **_run(outcome="partial", files=files(skipped=1), notes=["not reused: \x1b[2J"]),
            "skipped_entries": [{"path": "/srv/\x1b[2J", "reason": "permission denied"}],
            "output": [f"line {n}\t\x07" for n in range(9)],
        },
    )
    lines = [click.unstyle(line) for line in describe_run(details)]
    assert lines[0] == "run 43 of website: partial"
    assert "  files:    66,035 seen: 65,374 reused, 660 read (30.0 MiB), 1 skipped" in lines
    assert "  sent:     12.0 MiB of 570 MiB in 1,031 requests, 558 MiB reused" in lines
    assert f"  archive:  {URL} (570 MiB)" in lines
    assert r"  note:     not reused: \x1b[2J" in lines
    assert r"  skipped /srv/\x1b[2J: permission denied" in lines
    assert lines[-9:] == [rf"    line {n}  \x07" for n in range(9)]
    assert all(line.isprintable() for line in lines)
    assert len(list(describe_run(details, brief=True))) == len(lines) - 4


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ([], 0),
        ([0, 75], 75),
        ([75, 3, 0], 3),
        ([3, 143], 143),
        ([143, 124, 3], 124),
        ([124, 1, 143], 1),
        ([0, 11], 11),
        ([4, 1], 1),
    ],
)
def test_of_several_exit_codes_the_worst_counts(codes: list[int], worst: int) -> None:
    assert worst_exit_code(codes) == worst
