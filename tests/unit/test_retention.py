"""Retention: what is kept whatever the rules say, what each rule keeps, and what restic keeps."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storelet.errors import UsageError
from storelet.retention import Candidate, Decision, Keep, decide

BERLIN = ZoneInfo("Europe/Berlin")
NEAR = {  # moments in UTC near which it is easy to be wrong about a zone
    UTC: "2024-12-30 00:00",  # 2025 begins, for ISO weeks
    BERLIN: "2026-10-25 01:00",  # an hour comes twice
    ZoneInfo("Australia/Lord_Howe"): "2026-04-04 15:00",  # half an hour comes twice
    ZoneInfo("America/St_Johns"): "2011-11-06 02:31",  # a day goes on after the next has begun
    ZoneInfo("Pacific/Apia"): "2011-12-30 10:00",  # a day that never was
}
COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
PERIODS = {  # what tells the periods of each rule apart
    "hourly": lambda local: (local.date(), local.hour),
    "daily": lambda local: local.date(),
    "weekly": lambda local: local.isocalendar()[:2],
    "monthly": lambda local: (local.year, local.month),
    "yearly": lambda local: local.year,
}
NOW = datetime(2026, 12, 1, tzinfo=UTC)


def moment(candidate: Candidate) -> datetime:
    return candidate.started.astimezone(UTC)


def names(candidates: Iterable[Candidate]) -> list[str]:
    return [each.name for each in candidates]


def ask(keep: Keep, candidates: Iterable[Candidate], zone: Any = UTC) -> list[Decision]:
    return decide(keep, candidates, zone=zone, now=NOW)


def kept_of(decisions: Iterable[Decision]) -> list[Candidate]:
    return [each.candidate for each in decisions if each.is_kept]


def at(*texts: str, zone: Any = UTC) -> list[Candidate]:
    """Make good archives that began at these times of the clock in `zone`, named after them."""
    times = [datetime.fromisoformat(text).replace(tzinfo=zone) for text in texts]
    return [
        Candidate(name=text, started=time, is_good=True)
        for text, time in zip(texts, times, strict=True)
    ]


def table(decisions: Iterable[Decision]) -> dict[str, tuple[bool, str]]:
    return {each.candidate.name: (each.is_kept, ", ".join(each.reasons)) for each in decisions}


@st.composite
def archives(draw: st.DrawFn, *, all_good: bool = False) -> tuple[Any, list[Candidate]]:
    """Make a zone, and archives in any order, whose times are said in UTC or in that zone.

    Many are near a change of clocks, some began at once, and some have times to come.
    """
    zone, near = draw(st.sampled_from([*NEAR.items()]))
    start = datetime.fromisoformat(near).replace(tzinfo=UTC)
    lengths = {"minutes": 10, "hours": 3, "days": 11, "weeks": 9}.items()
    steps = st.sampled_from([timedelta(**{unit: length}) for unit, length in lengths])
    times = st.builds(lambda step, count: start + step * count, steps, st.integers(-15, 15))
    said = st.builds(datetime.astimezone, times, st.sampled_from([UTC, zone]))
    goodness = st.just(True) if all_good else st.sampled_from([True, True, True, False])
    drawn = draw(st.lists(st.tuples(said, goodness), max_size=30))
    return zone, [
        Candidate(name=f"web_{number:02}.zip", started=time, is_good=is_good)
        for number, (time, is_good) in enumerate(drawn)
    ]


@st.composite
def keeps(draw: st.DrawFn) -> Keep:
    counts = {rule: draw(st.sampled_from([0, 0, 1, 2, 3, 5, 9])) for rule in COUNTS[1:]}
    hours = st.integers(1, 3000).map(lambda hours: timedelta(hours=hours))
    return Keep(last=draw(st.integers(1, 5)), within=draw(st.none() | hours), **counts)


def newest_good(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return those that count for rules, the newest first."""
    counted = [each for each in candidates if each.is_good and moment(each) <= NOW]
    return sorted(counted, key=lambda each: (moment(each), each.name), reverse=True)


# whatever the rules say


@given(keeps(), archives())
def test_each_archive_is_decided_on_once_the_newest_first_with_a_reason(
    keep: Keep, drawn: tuple[Any, list[Candidate]]
) -> None:
    zone, candidates = drawn
    decisions = ask(keep, candidates, zone)
    ordered = sorted(candidates, key=lambda each: (moment(each), each.name))
    assert [each.candidate for each in decisions] == ordered[::-1]
    assert all(each.reasons and all(each.reasons) for each in decisions)


@given(keeps(), archives())
def test_the_newest_good_ones_are_kept(keep: Keep, drawn: tuple[Any, list[Candidate]]) -> None:
    zone, candidates = drawn
    kept = names(kept_of(ask(keep, candidates, zone)))
    assert set(names(newest_good(candidates)[: keep.last])) <= set(kept)


@given(keeps(), archives(), st.randoms(use_true_random=False))
def test_the_order_they_are_given_in_does_not_matter(
    keep: Keep, drawn: tuple[Any, list[Candidate]], chance: random.Random
) -> None:
    zone, candidates = drawn
    shuffled = chance.sample(candidates, len(candidates))
    assert ask(keep, shuffled, zone) == ask(keep, candidates, zone)


@given(keeps(), archives(), st.data())
def test_a_rule_more_lets_no_more_go(
    keep: Keep, drawn: tuple[Any, list[Candidate]], data: st.DataObject
) -> None:
    zone, candidates = drawn
    rule = data.draw(st.sampled_from([*COUNTS, "within"]))
    more = data.draw(st.integers(1, 9))
    value = (keep.within or timedelta(0)) + timedelta(days=more)
    if rule != "within":
        value = getattr(keep, rule) + more
    kept = set(names(kept_of(ask(keep, candidates, zone))))
    assert kept <= set(names(kept_of(ask(replace(keep, **{rule: value}), candidates, zone))))


@given(keeps(), archives())
def test_what_was_kept_is_kept_when_asked_again(
    keep: Keep, drawn: tuple[Any, list[Candidate]]
) -> None:
    zone, candidates = drawn
    kept = kept_of(ask(keep, candidates, zone))
    assert kept_of(ask(keep, kept, zone)) == kept


@given(keeps(), archives(all_good=True))
def test_pruning_every_night_loses_nothing_that_pruning_once_would_keep(
    keep: Keep, drawn: tuple[Any, list[Candidate]]
) -> None:
    zone, candidates = drawn
    there: list[Candidate] = []
    for tonight in sorted(candidates, key=lambda each: (moment(each), each.name)):
        now = moment(tonight)
        there = kept_of(decide(keep, [*there, tonight], zone=zone, now=now))
    once = decide(keep, candidates, zone=zone, now=max(map(moment, candidates), default=NOW))
    assert set(names(kept_of(once))) <= set(names(there))


# what each rule keeps


@given(st.sampled_from(COUNTS[1:]), st.integers(1, 9), archives())
def test_a_rule_of_periods_keeps_the_newest_of_each_and_the_oldest_while_they_are_few(
    rule: str, count: int, drawn: tuple[Any, list[Candidate]]
) -> None:
    zone, candidates = drawn
    counted = newest_good(candidates)
    newest: dict[object, str] = {}
    for each in counted:
        newest.setdefault(PERIODS[rule](each.started.astimezone(zone)), each.name)
    expected = set(list(newest.values())[:count])
    if len(newest) < count:
        expected.update(names(counted[-1:]))
    decisions = ask(Keep(last=1, **{rule: count}), candidates, zone)
    by_rule = [each for each in decisions if any(rule in reason for reason in each.reasons)]
    assert {each.candidate.name for each in by_rule} == expected
    assert all(each.is_kept for each in by_rule)
    others = set(names(counted[1:])) - expected
    assert not others.intersection(names(kept_of(decisions)))


@given(st.integers(1, 500), archives())
def test_within_counts_hours_back_from_the_newest_good_one(
    hours: int, drawn: tuple[Any, list[Candidate]]
) -> None:
    zone, candidates = drawn
    counted = newest_good(candidates)
    kept = kept_of(ask(Keep(last=1, within=timedelta(hours=hours)), candidates, zone))
    for each in counted:
        age = moment(counted[0]) - moment(each)
        assert (each in kept) == (age < timedelta(hours=hours) or each is counted[0])


@given(st.integers(1, 5), archives())
def test_a_bad_one_goes_when_enough_good_ones_are_newer(
    last: int, drawn: tuple[Any, list[Candidate]]
) -> None:
    zone, candidates = drawn
    every_rule = dict.fromkeys(COUNTS[1:], 99)
    for keep in (Keep(last=last), Keep(last=last, within=timedelta(days=9999), **every_rule)):
        kept = kept_of(ask(keep, candidates, zone))
        for each in candidates:
            if not each.is_good and moment(each) <= NOW:
                place = (moment(each), each.name)
                newer = [e for e in newest_good(candidates) if (moment(e), e.name) > place]
                assert (each in kept) == (len(newer) < last)


@given(keeps(), archives())
def test_what_counts_for_no_rule_changes_nothing_for_others(
    keep: Keep, drawn: tuple[Any, list[Candidate]]
) -> None:
    zone, candidates = drawn
    counted = newest_good(candidates)
    with_others = [each for each in ask(keep, candidates, zone) if each.candidate in counted]
    assert with_others == ask(keep, counted, zone)


def test_reasons_say_which_rules_keep_it_and_why_one_goes() -> None:
    keep = Keep(last=2, hourly=2, daily=2, weekly=2, monthly=2, yearly=2, within=timedelta(days=1))
    candidates = at(
        "2025-12-28 12:00", "2025-12-28 12:30", "2025-12-29 12:00",  # a Monday: 2026-W01
        "2025-12-31 10:00", "2025-12-31 11:00",
        "2026-01-01 09:00", "2026-01-01 10:40", "2026-01-01 10:50",
    )  # fmt: skip
    assert table(ask(keep, candidates)) == {
        "2026-01-01 10:50": (
            True,
            "last 1, hourly 2026-01-01 10:00, daily 2026-01-01, weekly 2026-W01,"
            " monthly 2026-01, yearly 2026, within",
        ),
        "2026-01-01 10:40": (True, "last 2, within"),
        "2026-01-01 09:00": (True, "hourly 2026-01-01 09:00, within"),
        "2025-12-31 11:00": (True, "daily 2025-12-31, monthly 2025-12, yearly 2025, within"),
        "2025-12-31 10:00": (False, "no rule keeps it"),
        "2025-12-29 12:00": (False, "no rule keeps it"),
        "2025-12-28 12:30": (True, "weekly 2025-W52"),
        "2025-12-28 12:00": (False, "no rule keeps it"),
    }


def test_the_oldest_stays_until_a_rule_has_all_its_periods() -> None:
    candidates = at("2026-03-01", "2026-03-02", "2026-10-01", "2026-10-02")
    assert table(ask(Keep(last=1, yearly=2), candidates)) == {
        "2026-10-02": (True, "last 1, yearly 2026"),
        "2026-10-01": (False, "no rule keeps it"),
        "2026-03-02": (False, "no rule keeps it"),
        "2026-03-01": (True, "oldest yearly"),
    }
    assert names(kept_of(ask(Keep(last=1, yearly=1), candidates))) == ["2026-10-02"]


def test_three_are_kept_where_nothing_is_said() -> None:
    candidates = at("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")
    assert names(kept_of(ask(Keep(), candidates))) == ["2026-11-04", "2026-11-03", "2026-11-02"]


def test_a_bad_one_waits_for_good_ones_to_replace_it() -> None:
    candidates = at("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")
    candidates[0] = replace(candidates[0], is_good=False)
    candidates[2] = replace(candidates[2], is_good=False)
    assert table(ask(Keep(last=2, daily=9), candidates)) == {
        "2026-11-04": (True, "last 1, daily 2026-11-04"),
        "2026-11-03": (True, "bad; newer good ones: 1 of 2"),
        "2026-11-02": (True, "last 2, daily 2026-11-02"),
        "2026-11-01": (False, "bad; newer good ones: 2 of 2"),
    }


def test_where_none_is_good_none_goes() -> None:
    candidates = [replace(each, is_good=False) for each in at("2026-11-01", "2026-11-02")]
    assert all(each.is_kept for each in ask(Keep(last=1), candidates))


def test_a_clock_that_once_showed_2036_lets_no_archive_go() -> None:
    candidates = at("2026-11-01", "2026-11-02", "2036-01-01", "2036-01-02")
    assert table(ask(Keep(last=1), candidates)) == {
        "2036-01-02": (True, "its time is still to come"),
        "2036-01-01": (True, "its time is still to come"),
        "2026-11-02": (True, "last 1"),
        "2026-11-01": (False, "no rule keeps it"),
    }


def test_a_clock_that_shows_1970_lets_no_archive_go() -> None:
    candidates = at("2026-11-01", "2026-11-02")
    decisions = decide(Keep(last=1), candidates, zone=UTC, now=datetime(1970, 1, 1, tzinfo=UTC))
    assert all(each.is_kept for each in decisions)


def test_one_that_began_now_counts() -> None:
    (candidate,) = at("2026-12-01")
    assert table(ask(Keep(), [candidate])) == {candidate.name: (True, "last 1")}


def test_of_the_hour_that_comes_twice_the_second_is_newer() -> None:
    first, second, earlier = at("2026-10-25 02:50", "2026-10-25 02:10", "2026-10-25 01:50")
    first, earlier = (
        replace(each, started=each.started.replace(tzinfo=BERLIN)) for each in (first, earlier)
    )
    second = replace(second, started=second.started.replace(tzinfo=BERLIN, fold=1))
    assert table(ask(Keep(last=1, hourly=2), [first, second, earlier], BERLIN)) == {
        second.name: (True, "last 1, hourly 2026-10-25 02:00"),
        first.name: (False, "no rule keeps it"),
        earlier.name: (True, "hourly 2026-10-25 01:00"),
    }
    within = Keep(last=1, within=timedelta(minutes=20))  # 20 minutes passed, not minus 40
    assert names(kept_of(ask(within, [first, second], BERLIN))) == [second.name]


def test_days_are_those_of_the_zone() -> None:
    candidates = at("2026-11-01 22:30", "2026-11-01 23:30")
    assert len(kept_of(ask(Keep(last=1, daily=2), candidates, BERLIN))) == 2
    decisions = ask(Keep(last=1, weekly=1), candidates, BERLIN)  # 23:30 is Monday there
    assert decisions[0].reasons == ("last 1", "weekly 2026-W45")


def test_of_two_that_began_at_once_the_greater_name_is_newer() -> None:
    (one,) = at("2026-11-01")
    pair = [
        replace(one, name=name) for name in ("web_20261101000001.zip", "web_20261101000000.zip")
    ]
    assert names(kept_of(ask(Keep(last=1, daily=1), pair))) == ["web_20261101000001.zip"]


def test_a_year_and_a_half_of_nights_is_thinned() -> None:
    first = datetime(2025, 5, 31, 2, 30, tzinfo=BERLIN)
    keep = Keep(last=3, daily=7, weekly=4, monthly=12, yearly=3)
    there: list[Candidate] = []
    for night in range(548):
        started = first + timedelta(days=night)  # the same time of the clock every night
        there.append(Candidate(name=f"{started:%Y-%m-%d}", started=started, is_good=True))
        there = kept_of(decide(keep, there, zone=BERLIN, now=started))
    assert names(there) == [
        "2026-11-29", "2026-11-28", "2026-11-27", "2026-11-26", "2026-11-25", "2026-11-24",
        "2026-11-23", "2026-11-22", "2026-11-15", "2026-11-08",
        "2026-10-31", "2026-09-30", "2026-08-31", "2026-07-31", "2026-06-30", "2026-05-31",
        "2026-04-30", "2026-03-31", "2026-02-28", "2026-01-31", "2025-12-31",
        "2025-05-31",
    ]  # fmt: skip


def test_nothing_is_decided_about_nothing() -> None:
    assert ask(Keep(yearly=3, within=timedelta(days=1)), []) == []


# rules that cannot mean anything


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"last": 0}, "last=0"),
        ({"last": True}, "last=True"),
        ({"daily": -1}, "daily=-1"),
        ({"hourly": "5"}, "hourly='5'"),
        ({"monthly": 1.0}, "monthly=1.0"),
        ({"weekly": None}, "weekly=None"),
        ({"yearly": False}, "yearly=False"),
        ({"within": timedelta(0)}, "within=datetime.timedelta(0)"),
        ({"within": timedelta(days=-1)}, "within=datetime.timedelta(days=-1)"),
        ({"within": 7}, "within=7"),
    ],
)
def test_rules_that_mean_nothing_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        Keep(**rules)
    assert raised.value.hint


def test_any_rule_may_be_as_wide_as_it_likes() -> None:
    keep = Keep(last=10**9, **dict.fromkeys(COUNTS[1:], 10**9), within=timedelta.max)
    assert all(each.is_kept for each in ask(keep, at("1970-01-01", "2026-01-01")))


# what restic keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Restic:
    """A repository of restic's, and sets of its snapshots, by the tags that they have."""

    path: Path
    sets: dict[str, list[Candidate]]

    def find_kept(self, tag: str, keep: Keep) -> set[datetime]:
        """Return when those of a set began that restic would keep."""
        rules = [f"--keep-{rule}={getattr(keep, rule)}" for rule in COUNTS]
        if keep.within is not None:
            rules.append(f"--keep-within={keep.within // timedelta(hours=1)}h")
        what = ("--dry-run", "--json", "--group-by=", f"--tag={tag}")
        (group,) = json.loads(run_restic(self.path, "forget", *what, *rules))
        return {datetime.fromisoformat(each["time"]) for each in group["keep"]}

    def back_up(self, snapshot: Candidate) -> None:
        """Make a snapshot; its periods are by the clock of the zone that restic was in then."""
        local = snapshot.started.astimezone(BERLIN)
        hours = (local.utcoffset() or timedelta()) // timedelta(hours=1)
        tags = [f"--tag={tag}" for tag, those in self.sets.items() if snapshot in those]
        what = (f"--time={local:%Y-%m-%d %H:%M:%S}", "--exclude=*", str(self.path))
        run_restic(self.path, "backup", *what, *tags, timezone=f"Etc/GMT-{hours}")


def run_restic(path: Path, *arguments: str, timezone: str = "Europe/Berlin") -> str:
    environment = {"PATH": os.environ["PATH"], "RESTIC_PASSWORD": "x", "TZ": timezone}
    command = ("restic", "--quiet", "--no-cache", f"--repo={path}", *arguments)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def keeps_the_oldest() -> bool:
    """Tell whether this restic keeps the oldest where a rule has few periods."""
    said = subprocess.check_output(["restic", "version"], text=True)
    found = re.match(r"restic (\d+)\.(\d+)", said)
    assert found, said
    return (int(found[1]), int(found[2])) >= (0, 16)


def draw_snapshots(chance: random.Random) -> list[Candidate]:
    """Draw some around both changes of clocks in Berlin, and within the first week of 2025."""
    middles = at("2024-10-27 01:00", "2025-01-01 00:00", "2025-03-30 01:00")
    reaches = [timedelta(hours=1), timedelta(hours=3), timedelta(days=3), timedelta(days=500)]
    drawn = set[datetime]()
    for number in range(24):
        seconds = reaches[number % 4] // timedelta(seconds=1)
        aside = timedelta(seconds=chance.randint(-seconds, seconds))
        drawn.add(middles[number % 3].started + aside)
    return [Candidate(name=str(each), started=each, is_good=True) for each in sorted(drawn)]


def draw_keeps(chance: random.Random) -> list[Keep]:
    """Draw rules, most of them alone: together, some keep what another should have."""
    hours = [timedelta(hours=chance.randint(1, 9000)) for _ in range(2)]
    alone = [{rule: count} for rule in COUNTS[1:] for count in (chance.randint(1, 4), 25)]
    together = dict(zip(COUNTS[1:], (3, 2, 3, 2, 1), strict=True))
    return [
        Keep(last=4),
        *(Keep(last=1, **rule) for rule in alone),
        Keep(last=1, within=hours[0]),
        Keep(last=2, within=hours[1], **together),
    ]


@pytest.fixture(scope="module")
def restic(tmp_path_factory: pytest.TempPathFactory) -> Restic:
    if shutil.which("restic") is None:
        pytest.skip("restic is not installed")
    if not Path("/usr/share/zoneinfo/Etc/GMT-1").exists():
        pytest.skip("no time zone files for restic here")
    chance = random.Random(6)  # noqa: S311 - no secret
    snapshots = draw_snapshots(chance)
    sets = {f"set{number}": chance.sample(snapshots, 14 + 2 * number) for number in range(5)}
    restic = Restic(path=tmp_path_factory.mktemp("restic"), sets=sets)
    run_restic(restic.path, "init")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(restic.back_up, snapshots))
    return restic


def test_restic_keeps_the_same(restic: Restic) -> None:
    chance = random.Random(60)  # noqa: S311 - no secret
    keeps_oldest = keeps_the_oldest()
    for number, keep in enumerate(draw_keeps(chance)):
        tag, candidates = [*restic.sets.items()][number % len(restic.sets)]
        decisions = ask(keep, candidates, BERLIN)
        if not keeps_oldest:
            decisions = [each for each in decisions if not is_kept_as_oldest(each)]
        assert {moment(each) for each in kept_of(decisions)} == restic.find_kept(tag, keep), keep


def is_kept_as_oldest(decision: Decision) -> bool:
    return all(reason.startswith("oldest") for reason in decision.reasons)
