"""Measure Storelet beside its peers: whole commands, in turn, on one tree, to a directory and S3.

    .venv/bin/python benchmarks/bench.py [--rounds 5] [--scale 1.0] [--work DIR] [--only NAME]…

1. It makes a seeded tree (many small text files, large binaries, incompressible data; about 1.5 GB
   in 66,033 files at scale 1) and reads it once, so that it is in the page cache.
2. In each round all contenders make their first backup, to an empty directory or bucket.
3. Each night the tree changes (a hundredth of its files) and all back up again, where they did
   before; and then once more, when nothing has changed.
4. Those that can restore do: one file, then all.

Everyone runs in turn, on the same tree and against the same SeaweedFS. Of each run it takes the
wall clock, and of all its processes together the processor time, the most memory they had at once,
and the bytes they wrote to disk or sent to S3. It prints medians and their ratios to Storelet's:
the ratios are what may be claimed, absolute times belong to the machine. What is not installed is
left out, and said so. At scale 1 it takes about an hour and 15 GB of disk.

What was restored is deleted before the next one restores. On ext4 without a journal, as some
virtual machines have, whoever makes files is slow for minutes then, as the kernel passes over
inodes that were just freed, and times mean nothing: have --work on another file system.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.course import Course
from benchmarks.measuring import Run
from benchmarks.table import format_table, name_machine, name_versions
from benchmarks.trees import Churn, churn, files_in, make_tree
from benchmarks.workplace import open_workplace

_FIRST = "First backup"
_CHURN = "A night with 1 % of the files changed"
_STILL = "A night with no change"
_ONE = "Restore of one file"
_ALL = "Restore of all"
_SCENES = [_FIRST, _CHURN, _STILL, _ONE, _ALL]
_DESTINATIONS: dict[Literal["directory", "S3"], str] = {"directory": "a directory", "S3": "S3"}
# Who compares times of files does not trust those younger than this; real nights are longer.
_SETTLING_SECONDS = 3.0


def main() -> None:
    """Make the tree, let all run, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--work", type=Path, metavar="DIR", help="for temporary data ($TMPDIR)")
    parser.add_argument("--only", action="append", metavar="NAME", help="in “NAME to S3”, say")
    options = parser.parse_args()
    contenders = list(_choose(options.only))
    with open_workplace(options.work) as work:
        tree = make_tree(work / "tree", options.scale)
        sizes = [len(path.read_bytes()) for path in files_in(tree)]  # warms the cache
        print(f"{len(sizes):,} files, {sum(sizes) / 1e6:,.0f} MB", file=sys.stderr)
        results = _Results()
        try:
            days = _run_all(work, tree, contenders, options.rounds, results)
        finally:  # what was measured before it was broken off took long enough
            results.print_tables()
    print()
    print(f"{len(sizes):,} files, {sum(sizes) / 1e6:,.0f} MB; medians of {options.rounds}")
    print(_describe(days))
    print(f"{name_machine()}\n{name_versions(contenders)}")


def _describe(days: list[Churn]) -> str:
    changed = statistics.median(len(day.changed) for day in days)
    added = statistics.median(len(day.added) for day in days)
    size_bytes = statistics.median(day.size_bytes for day in days)
    return (
        f"a day: {changed:.0f} files changed, {added:.0f} added, as many deleted;"
        f" changed and added files hold {size_bytes / 1e6:.1f} MB"
    )


def _choose(only: list[str] | None) -> Iterable[Contender]:
    for each in CONTENDERS:
        label = f"{each.name} to {each.to}"
        if only and not any(name in label for name in only):
            continue
        if each.missing:
            print(f"left out, since {each.missing} is not installed: {label}")
        else:
            yield each


class _Results:
    """What was measured, by scene, kind of destination, contender."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], dict[str, list[Run]]] = {}

    def add(self, scene: str, found: Iterable[tuple[Contender, Run]]) -> None:
        for contender, run in found:
            of_scene = self._runs.setdefault((scene, contender.to), {})
            of_scene.setdefault(contender.name, []).append(run)
            label = f"{contender.name} to {contender.to}"
            print(f"{scene}: {label}: {run.wall_seconds:.2f} s", file=sys.stderr)

    def print_tables(self) -> None:
        for scene in _SCENES:
            is_restore = scene in (_ONE, _ALL)
            for to in _DESTINATIONS:
                if runs := self._runs.get((scene, to)):
                    print(f"\n{scene}, {'from' if is_restore else 'to'} {_DESTINATIONS[to]}:\n")
                    print(format_table(runs, to=to, is_restore=is_restore))


def _run_all(
    work: Path, tree: Path, contenders: list[Contender], rounds: int, results: _Results
) -> list[Churn]:
    """Run all scenes; return what happened to the tree."""
    days = []
    for number in range(1, rounds + 1):
        with Course.open(work / "course", tree, contenders) as course:
            results.add(_FIRST, course.back_up(0))
            if number < rounds:
                continue
            for night in range(1, rounds + 1):
                days.append(churn(tree, night))
                time.sleep(_SETTLING_SECONDS)
                results.add(_CHURN, course.back_up(2 * night))
                results.add(_STILL, course.back_up(2 * night + 1))
            texts = sorted(tree.glob("text*/*/*.txt"))
            for _ in range(rounds):
                results.add(_ONE, course.restore(2 * rounds + 1, texts[len(texts) // 2]))
                results.add(_ALL, course.restore(2 * rounds + 1, tree))
    return days


if __name__ == "__main__":
    main()
