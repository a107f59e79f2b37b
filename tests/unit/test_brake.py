"""The brake: what looks like a disaster, and what does not."""

from __future__ import annotations

import pytest

from storeletd.brake import Measure, find_anomaly

USUAL = Measure(bytes=1_000_000, seen=1_000, changed=10)


def measure(size: int = 1_000_000, seen: int = 1_000, changed: int = 10) -> Measure:
    return Measure(bytes=size, seen=seen, changed=changed)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (measure(size=499_999), "shrunk from 1,000,000 to 499,999 bytes"),
        (measure(size=0, seen=0, changed=0), "shrunk from 1,000,000 to 0 bytes"),
        (measure(changed=501), "501 of 1,000 files have changed at once"),
        (measure(size=9_000_000, seen=20, changed=20), "20 of 20 files"),
    ],
)
def test_a_disaster_is_known(now: Measure, reason: str) -> None:
    found = find_anomaly(USUAL, now)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (USUAL, USUAL),
        (None, measure(changed=1_000)),  # the first run
        (USUAL, measure(size=500_000)),
        (USUAL, measure(changed=500)),
        (USUAL, measure(size=10_000_000)),
        (measure(changed=1_000), measure(changed=990)),  # a dump of a database, each night
        (measure(seen=3, changed=1), measure(seen=19, changed=19)),  # too few to say
    ],
)
def test_what_is_usual_is_none(before: Measure | None, now: Measure) -> None:
    assert find_anomaly(before, now) is None
