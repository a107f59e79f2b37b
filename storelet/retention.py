"""Retention: which archives are kept and which are let go, each with the reason; pure.

The rules are those of restic's `forget` (restic's manual, "Removing snapshots according to a
policy"). Each looks at all archives by itself, and what any of them keeps is kept:

1. `last` keeps the newest archives.
2. `hourly` to `yearly` keep the newest archive of each period, for the last so many periods that
   have any. Periods are those of the clock on the wall in a time zone: an hour that comes twice in
   autumn is one. Weeks are ISO 8601's.
3. Such a rule that finds fewer periods than it may keep also keeps the oldest archive, as restic
   does since 0.16, so that what it reaches back to is not lost before it has them all.
4. `within` keeps what began less than so long before the newest archive.

Where this is not restic:

- `last` is at least 1, so the newest archive is never let go, nor any of the `last` newest.
- A bad archive counts for no rule. It is let go when `last` good ones are newer.
- An archive whose time is still to come counts for no rule and is kept: some clock was wrong, and
  restic would let go of tonight's archive for it. Where it is the clock of now, all are kept.
- In `within` a day has 24 hours; for restic it has 23 or 25 where clocks change.

A decision stands: asked again about what was kept, it keeps all of it. And pruning every night
loses nothing: what pruning once, at the end, would keep was kept on each night before.

What is an archive of the job, what is good and whether to delete now is the caller's to know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice

from storelet.errors import UsageError

__all__ = ["Candidate", "Decision", "Keep", "decide"]

# Rule -> how its period is called, and by that known, in the words of strftime(3).
_PERIODS = {
    "hourly": "%Y-%m-%d %H:00",
    "daily": "%Y-%m-%d",
    "weekly": "%G-W%V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The rules. Raises UsageError for those that cannot mean anything."""

    last: int = 3  # the newest good archives; whatever else, no fewer are kept
    hourly: int = 0  # hours of which one is kept; 0, here and below: the rule keeps nothing
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None  # before the newest archive; None: the rule keeps nothing

    def __post_init__(self) -> None:
        for rule in ("last", *_PERIODS):
            count = getattr(self, rule)
            least = 1 if rule == "last" else 0
            if not isinstance(count, int) or isinstance(count, bool) or count < least:
                raise UsageError(
                    f"not a number of archives to keep: {rule}={count!r}",
                    hint=f"give a whole number from {least} on",
                )
        if self.within is None:
            return
        if not isinstance(self.within, timedelta) or self.within <= timedelta(0):
            raise UsageError(
                f"not a time to keep archives for: within={self.within!r}",
                hint="give a timedelta longer than nothing, or leave it out",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An archive as retention sees it."""

    name: str  # of its file; no two have the same
    started: datetime  # when the backup began, by the archive's own record; aware
    is_good: bool  # False: marked bad at the destination, since a verification failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of an archive."""

    candidate: Candidate
    is_kept: bool
    reasons: tuple[str, ...]  # never empty: which rules keep it, as "daily 2026-11-20"; or why not


def decide(
    keep: Keep, candidates: Iterable[Candidate], *, zone: tzinfo, now: datetime
) -> list[Decision]:
    """Decide on each archive, the newest first.

    `zone` is the one whose hours, days and weeks count; `now` is aware. Of two archives that began
    in the same moment the one whose name is greater is the newer.
    """
    newest_first = sorted(candidates, key=lambda each: (_moment(each), each.name), reverse=True)
    ahead = {each.name for each in newest_first if _moment(each) > now.astimezone(UTC)}
    good = [each for each in newest_first if each.is_good and each.name not in ahead]
    reasons = defaultdict[str, list[str]](list)
    for archive, reason in _find_kept(keep, good, zone):
        reasons[archive.name].append(reason)
    newer_good = 0
    decisions = []
    for each in newest_first:
        if each.name in ahead:
            is_kept, why = True, ["its time is still to come"]
        elif each.is_good:
            is_kept, why = each.name in reasons, reasons.get(each.name, ["no rule keeps it"])
            newer_good += 1
        else:
            is_kept = newer_good < keep.last
            newer = min(newer_good, keep.last)
            why = [f"bad; newer good ones: {newer} of {keep.last}"]
        decisions.append(Decision(candidate=each, is_kept=is_kept, reasons=tuple(why)))
    return decisions


def _find_kept(
    keep: Keep, archives: Sequence[Candidate], zone: tzinfo
) -> Iterator[tuple[Candidate, str]]:
    """Yield which archives, of those given newest first, are kept by which rules."""
    for number, each in enumerate(archives[: keep.last], 1):
        yield each, f"last {number}"
    for rule in _PERIODS:
        yield from _find_newest_of_each(rule, getattr(keep, rule), archives, zone)
    if keep.within is not None:
        for each in archives:
            # Of differences, since a moment that long ago may have no date.
            if _moment(archives[0]) - _moment(each) < keep.within:
                yield each, "within"


def _find_newest_of_each(
    rule: str, count: int, archives: Sequence[Candidate], zone: tzinfo
) -> Iterator[tuple[Candidate, str]]:
    """Yield what a rule of periods keeps."""
    newest: dict[str, Candidate] = {}
    for each in archives:
        newest.setdefault(each.started.astimezone(zone).strftime(_PERIODS[rule]), each)
    for period, each in islice(newest.items(), count):
        yield each, f"{rule} {period}"
    if len(newest) < count and archives and archives[-1] not in newest.values():
        yield archives[-1], f"oldest {rule}"


def _moment(archive: Candidate) -> datetime:
    """Return when it began, in UTC: two times of one zone are compared by the clock on the wall."""
    return archive.started.astimezone(UTC)
