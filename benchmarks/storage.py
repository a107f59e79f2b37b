"""Measure what ninety nights take: bytes sent, requests and storage, beside restic and borg.

    .venv/bin/python benchmarks/storage.py [--nights 7] [--scale 1.0] [--work DIR]

Three scenes, each at three rates of change a night:

- "together": small files (13,200, 191 MB at scale 1) that change in few directories, half of the
  files there;
- "anywhere": the same, but any file is as likely to change as any other;
- "in place": large files (40, 1,657 MB) in which pieces of 1 MiB are rewritten, as by databases.

Storelet and restic back up to S3, borg to a directory. All nights pass, but not all are backed up,
or it would take days: the first so many, and those whose archives
`keep: {daily: 7, weekly: 4, monthly: 12}` leaves after ninety nights. In the end restic and borg
forget all others, and one more night passes without a change.

Measured are the size of each archive and by how much each repository grows, what nights send whose
night before was backed up too, and what is left of the repositories. What 30 and 90 nights store is
calculated: the first nights as measured, and for each other one the mean growth of those nights.
Nothing depends on how fast the machine is. At scale 1 it takes about an hour and 15 GB of disk.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from shutil import rmtree

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.course import Course
from benchmarks.measuring import Run
from benchmarks.table import name_machine, name_versions
from benchmarks.trees import (
    change_anywhere,
    change_together,
    files_in,
    make_large_files,
    make_small_files,
    rewrite_pieces,
)
from benchmarks.workplace import open_workplace
from storelet.retention import Candidate, Keep, decide

_NIGHTS = 90
_SHARES = (0.001, 0.01, 0.05)
_KEEP = Keep(daily=7, weekly=4, monthly=12)
_FIRST_NIGHT = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)
# Contenders, and what the tables call them.
_TAKING_PART = {
    ("storelet fast", "S3"): "storelet",
    ("restic", "S3"): "restic",
    ("borg", "directory"): "borg",
}
_SETTLING_SECONDS = 3.0  # files younger than 2 s are never reused


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A tree, and what the days do to it."""

    name: str
    make: Callable[[Path, float], Path]
    change: Callable[[Path, int, float], int]  # of a night, by a share; returns bytes


_SCENES = [
    Scene(name="together", make=make_small_files, change=change_together),
    Scene(name="anywhere", make=make_small_files, change=change_anywhere),
    Scene(name="in place", make=make_large_files, change=rewrite_pieces),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a contender took in a scene."""

    runs: Mapping[int, Run]  # by night
    still: Run  # the night without a change
    kept_bytes: int  # what it stores when it has let go of what `keep` does not keep

    @property
    def nights(self) -> list[Run]:
        """The nights but the first whose night before was backed up, too."""
        return [run for night, run in self.runs.items() if night - 1 in self.runs]

    def store(self, nights: int) -> float:
        """Return how many bytes so many nights store, in part calculated."""
        first = next(night for night in count(1) if night + 1 not in self.runs)
        measured = [self.runs[night].left_bytes for night in range(1, min(first, nights) + 1)]
        mean = statistics.mean(run.left_bytes for run in self.nights)
        return sum(measured) + (nights - len(measured)) * mean

    def take(self, what: Callable[[Run], float]) -> float:
        """Return the median of what a night takes."""
        return statistics.median(map(what, self.nights))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A scene at a rate of change."""

    scene: str
    share: float
    changed_bytes: float  # in a night; the median
    found: Mapping[str, Found]  # by what the tables call a contender


def main() -> None:
    """Let the nights go by, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nights", type=int, default=7, help="how many of the first to back up")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--work", type=Path, metavar="DIR", help="for temporary data ($TMPDIR)")
    options = parser.parse_args()
    contenders = [each for each in CONTENDERS if (each.name, each.to) in _TAKING_PART]
    for each in contenders:
        if each.missing:
            sys.exit(f"{each.missing} is not installed")
    kept = _find_kept()
    rows = []
    with open_workplace(options.work) as work:
        for scene in _SCENES:
            for share in _SHARES:
                tree = scene.make(work / "tree", options.scale)
                sizes = [path.stat().st_size for path in files_in(tree)]
                print(f"{scene.name}: {len(sizes):,} files, {sum(sizes) / 1e6:,.0f} MB")
                with Course.open(work / "course", tree, contenders) as course:
                    rows.append(_let_nights_go_by(course, tree, scene, share, options.nights, kept))
                rmtree(tree)
    print(_format_sent(rows))
    print(_format_stored(rows, options.nights, len(kept)))
    print(f"{name_machine()}\n{name_versions(contenders)}")


def _find_kept() -> list[int]:
    """Return the nights whose archives are kept in the end."""
    moments = {
        f"{night}": _FIRST_NIGHT + timedelta(days=night - 1) for night in range(1, _NIGHTS + 1)
    }
    archives = [
        Candidate(name=name, started=moment, is_good=True) for name, moment in moments.items()
    ]
    decisions = decide(_KEEP, archives, zone=UTC, now=max(moments.values()))
    return sorted(int(each.candidate.name) for each in decisions if each.is_kept)


def _let_nights_go_by(
    course: Course, tree: Path, scene: Scene, share: float, first: int, kept: Sequence[int]
) -> Row:
    backed_up = sorted({*range(1, first + 1), *kept})
    changed = []
    runs: dict[str, dict[int, Run]] = {}
    for night in range(1, _NIGHTS + 1):
        if night > 1:
            changed.append(scene.change(tree, night, share))
        if night in backed_up:
            for contender, run in _back_up(course, night):
                runs.setdefault(contender.name, {})[night] = run
                print(f"{scene.name} {share:.1%} {night}: {contender.name}: {run}", file=sys.stderr)
    left = {
        name: sum(run.left_bytes for night, run in of_one.items() if night in kept)
        for name, of_one in runs.items()
    }
    gone = [night for night in backed_up if night not in kept]
    left |= {contender.name: size for contender, size in course.keep(kept, gone)}
    still = {contender.name: run for contender, run in _back_up(course, _NIGHTS + 1)}
    return Row(
        scene=scene.name,
        share=share,
        changed_bytes=statistics.median(changed),
        found={
            title: Found(runs=runs[name], still=still[name], kept_bytes=left[name])
            for (name, _), title in _TAKING_PART.items()
        },
    )


def _back_up(course: Course, night: int) -> Iterator[tuple[Contender, Run]]:
    time.sleep(_SETTLING_SECONDS)
    return course.back_up(night)


def _format_sent(rows: Sequence[Row]) -> str:
    """Return what a night sends, and asks of S3."""
    titles = [
        "",
        "a night",
        "changes",
        "storelet sends",
        "restic sends",
        "storelet asks",
        "restic asks",
    ]
    table = []
    for row in rows:
        both = [row.found["storelet"], row.found["restic"]]
        changed = _format_number(row.changed_bytes / 1e6)
        table.append([*_name(row), changed, *map(_format_sent_by, both)])
        table[-1] += map(_format_requests, both)
    what = "A night: MB changed and sent (with no change); requests writing + reading"
    return f"\n{what}\n\n{_format_table(titles, table)}"


def _format_stored(rows: Sequence[Row], first: int, kept: int) -> str:
    """Return what is stored after so many nights, of which the first were backed up."""
    after = [7, 30, _NIGHTS]
    titles = [
        "",
        "a night",
        *(f"{'~' if nights > first else ''}{nights} nights" for nights in after),
    ]
    table = []
    for row in rows:
        stored = [[found.store(nights) for found in row.found.values()] for nights in after]
        stored.append([found.kept_bytes for found in row.found.values()])
        cells = [" / ".join(_format_number(size / 1e9) for size in sizes) for sizes in stored]
        table.append([*_name(row), *cells])
    what = f"GB stored: {' / '.join(rows[0].found)}; ~ is calculated"
    return f"\n{what}\n\n{_format_table([*titles, f'{kept} kept'], table)}"


def _name(row: Row) -> list[str]:
    return [row.scene, f"{row.share * 100:g} %"]


def _format_sent_by(found: Found) -> str:
    sent = found.take(lambda run: run.sent_bytes)
    return f"{_format_number(sent / 1e6)} ({_format_number(found.still.sent_bytes / 1e6)})"


def _format_requests(found: Found) -> str:
    writing = found.take(lambda run: run.requests.writing)
    reading = found.take(lambda run: run.requests.reading)
    return f"{writing:.0f} + {reading:.0f}"


def _format_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in reStructuredText."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    rule = ["=" * width for width in widths]
    lines = [rule, [titles[0] or chr(92), *titles[1:]], rule, *rows, rule]
    return "\n".join(
        " ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _format_number(number: float) -> str:
    """Show about two digits."""
    return f"{number:.{3 if number < 0.1 else 2 if number < 1 else 1 if number < 10 else 0}f}"


if __name__ == "__main__":
    main()
