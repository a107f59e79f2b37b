"""How long a run will take: nothing without a basis, nothing below nothing, and no jumps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from storeletd.ctl.forecast import Forecast, find_basis
from storeletd.ctl.replies import Bytes, BytesSoFar, Files, Progress, Run

BEGUN = datetime(2026, 11, 25, 2, 30, tzinfo=UTC)


def run(
    *, took: float = 600, read: int = 1000, size: int = 10**9, reused: int = 5, **changes: str
) -> Run:
    """Make a good backup; a changed field may be any of its texts."""
    values = {
        "kind": "backup",
        "outcome": "success",
        "begun_at": BEGUN.isoformat(),
        "finished_at": (BEGUN + timedelta(seconds=took)).isoformat(),
        "files": Files(seen=read + reused, reused=reused, read=read, skipped=0),
        "bytes": Bytes(archive=size, reused=0, read=size, sent=size // 2),
    }
    return {**values, **changes}  # type: ignore[typeddict-item, return-value]


def done(part: float, *, of: Run | None = None) -> Progress:
    """Make the progress of a run that has done a part of another one."""
    like = of or run()
    return Progress(
        files=Files(seen=0, reused=0, read=int(like["files"]["read"] * part), skipped=0),
        bytes=BytesSoFar(
            read=int(like["bytes"]["read"] * part), sent=int(like["bytes"]["sent"] * part)
        ),
        current=None,
    )


def follow(
    forecast: Forecast, *, wait: int = 0, takes: int, until: float = 1
) -> list[float | None]:
    """Return what is said each second of a run that waits, and then does its work evenly."""
    said = []
    for second in range(wait + takes):
        forecast.see(done(max(second - wait, 0) / takes * until), second)
        said.append(forecast.left(second))
    return said


def test_only_a_run_that_is_like_the_next_one_is_a_basis() -> None:
    whole, usual, failed = run(reused=0), run(reused=9, size=7), run(outcome="failed")
    assert find_basis([]) is None
    assert find_basis([failed, run(kind="verify"), usual]) is usual
    assert find_basis([run(outcome="partial"), usual]) == run(outcome="partial")
    assert find_basis([whole]) is None  # the first one: the next one reuses
    assert find_basis([whole, usual]) is None
    assert find_basis([whole, failed, run(reused=0, size=7)]) is whole  # they never reuse


@pytest.mark.parametrize("wait", [0, 120])
def test_a_run_like_the_last_one_is_told_all_the_time(wait: int) -> None:
    said = follow(Forecast(run(took=wait + 480)), wait=wait, takes=480)
    for second, left in enumerate(said[:-2]):
        assert left == pytest.approx(wait + 480 - second, abs=5)


@pytest.mark.parametrize("takes", [150, 300, 1200, 2400])
def test_a_run_at_another_pace_is_told_better_and_better(takes: int) -> None:
    said = follow(Forecast(run(took=600)), takes=takes)
    for part, wrong_by in ((0.5, 0.5), (0.75, 0.3), (0.9, 0.3)):
        left, truth = said[int(takes * part)], takes * (1 - part)
        assert left == pytest.approx(truth, rel=wrong_by)


@pytest.mark.parametrize("takes", [60, 150, 600, 2400])
@pytest.mark.parametrize("until", [0.2, 1, 3])
def test_what_is_said_is_never_negative_and_never_jumps(takes: int, until: float) -> None:
    said = follow(Forecast(run(took=600)), wait=30, takes=takes, until=until)
    assert said[0] == pytest.approx(600)
    for before, after in pairwise(said):
        assert after is None or after >= 1
        if before is not None and after is not None:
            assert after - before < 30
            assert before - after < 60


def test_nothing_is_said_of_a_run_that_does_more_than_the_last_one() -> None:
    forecast = Forecast(run())
    forecast.see(done(0.5), 100)
    assert forecast.left(100) is not None
    forecast.see({**done(0.5), "files": done(1.1)["files"]}, 101)
    assert forecast.left(101) is None
    forecast.see(done(0.6), 102)  # not any more
    assert forecast.left(102) is None


def test_nothing_is_said_when_the_time_of_the_last_run_is_over_before_anything_is_done() -> None:
    forecast = Forecast(run(took=600))
    forecast.see(done(0), 599.5)
    assert forecast.left(599.5) is None
    forecast.see(done(0.1), 700)
    assert forecast.left(700) is None


def test_a_run_that_has_sent_nothing_is_not_said_to_be_nearly_over() -> None:
    forecast = Forecast(run(took=600))  # a script reads everything first, and then sends
    for second in range(100):
        read = done(second / 100)
        forecast.see({**read, "bytes": {**read["bytes"], "sent": 0}}, second)
    assert forecast.left(100) == pytest.approx(500, abs=5)


def test_where_the_last_run_did_nothing_its_time_counts_down() -> None:
    forecast = Forecast(run(took=60, read=0, size=0))
    forecast.see(done(0), 20)
    assert forecast.left(20) == 40
