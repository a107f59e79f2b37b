"""Measure Storelet beside its peers: whole commands, in turn, on one tree.

    .venv/bin/python benchmarks/bench.py [--rounds 5] [--scale 1.0] [--work DIR] [--only NAME]…

It makes a seeded tree (many small text files, large binaries, incompressible data; about 1.3 GB
in 66,000 files at scale 1), reads it once, and then lets every contender back it up to a directory
in each round, one after the other, so that a machine whose speed drifts is fair to all. Of each
run it takes the wall clock, the CPU seconds of all its processes, and the most memory they had
together (PSS, looked at every 20 ms). It prints medians, and their ratios to `zip -r`: the ratios
are what may be claimed, absolute times belong to the machine.

What is not installed is left out, and said so.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SEED = 20_130_421
CLONE = Path(__file__).resolve().parent.parent

STORELET = """
import sys, storelet
tree, kept, compression = sys.argv[1:]
destination = storelet.Directory(kept)
with storelet.ZipBackup("bench", destination=destination, compression=compression) as backup:
    backup.include_directory(tree)
"""
ZIPFILE = """
import os, sys, zipfile
tree, kept = sys.argv[1:]
with zipfile.ZipFile(kept + "/bench.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    for directory, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(directory, name)
            archive.write(path, os.path.relpath(path, tree))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A command that backs `tree` up into `kept`."""

    name: str
    needs: str  # the program that must be there
    command: Callable[[Path, Path], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run took."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int  # of memory, all processes together
    size_bytes: int  # of what it left


def _python(program: str, *more: str) -> Callable[[Path, Path], list[str]]:
    return lambda tree, kept: [sys.executable, "-c", program, str(tree), str(kept), *more]


CONTENDERS = [
    Contender(
        name="cat (only reads)",
        needs="cat",
        command=lambda tree, _kept: [
            *("sh", "-c", 'find "$0" -type f -print0 | xargs -0 cat > /dev/null'),
            str(tree),
        ],
    ),
    Contender(name="storelet fast", needs=sys.executable, command=_python(STORELET, "fast")),
    Contender(name="storelet small", needs=sys.executable, command=_python(STORELET, "small")),
    Contender(
        name="zip -r",
        needs="zip",
        command=lambda tree, kept: ["zip", "-rqy", str(kept / "bench.zip"), str(tree)],
    ),
    Contender(name="Python zipfile", needs=sys.executable, command=_python(ZIPFILE)),
    Contender(
        name="7z -tzip",
        needs="7z",
        command=lambda tree, kept: ["7z", "a", "-tzip", "-bd", str(kept / "bench.zip"), str(tree)],
    ),
]


def main() -> None:
    """Make the tree, let all run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/storelet-bench"))
    parser.add_argument("--only", action="append", metavar="NAME", help="in a contender's name")
    options = parser.parse_args()
    tree = make_tree(options.work / f"tree-{options.scale}", options.scale)
    chosen = [each for each in CONTENDERS if _is_chosen(each, options.only)]
    there = [each for each in chosen if shutil.which(each.needs)]
    for each in chosen:
        if each not in there:
            print(f"left out, since {each.needs} is not installed: {each.name}")
    runs: dict[str, list[Run]] = {each.name: [] for each in there}
    for number in range(options.rounds + 1):
        for each in there:
            run = measure(each, tree, options.work / "kept")
            if number:  # the first round warms up the page cache
                runs[each.name].append(run)
            print(f"round {number}: {each.name}: {run.wall_seconds:.2f} s", file=sys.stderr)
    print_table(tree, runs)


def _is_chosen(contender: Contender, only: list[str] | None) -> bool:
    return only is None or any(name in contender.name for name in only)


def make_tree(tree: Path, scale: float) -> Path:
    """Make the tree, always the same for a scale; one that is there is taken as it is."""
    if (tree / "done").exists():
        return tree
    shutil.rmtree(tree, ignore_errors=True)
    chance = random.Random(SEED)  # noqa: S311 - it shall be foreseeable
    words = [f"word{chance.randrange(50_000)}" for _ in range(8_000)]
    text = " ".join(chance.choice(words) for _ in range(400_000)).encode()
    for number in range(round(66_000 * scale)):
        path = tree / f"text{number // 4_000:02}" / f"{number % 4_000 // 100:02}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = min(int(chance.lognormvariate(8.6, 1.4)), 900_000)
        start = chance.randrange(len(text) - size)
        path.write_bytes(text[start : start + size])
    (tree / "large").mkdir()
    for number in range(round(22 * scale)):  # half text, half of few values
        few = bytes(chance.choices(range(24), k=1 << 20))
        blocks = [chance.choice((few, text[: 1 << 20])) for _ in range(20)]
        (tree / "large" / f"{number}.bin").write_bytes(b"".join(blocks))
    for number in range(round(11 * scale)):
        (tree / "large" / f"{number}.random").write_bytes(chance.randbytes(10 << 20))
    (tree / "done").touch()
    return tree


def measure(contender: Contender, tree: Path, kept: Path) -> Run:
    """Run one command to its end."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    os.sync()
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(contender.command(tree, kept), cwd=CLONE, stdout=subprocess.DEVNULL)
    memory = _Memory(process.pid)
    memory.start()
    status = process.wait()
    wall = time.perf_counter() - begun
    memory.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status:
        sys.exit(f"{contender.name} ended with status {status}")
    return Run(
        wall_seconds=wall,
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        peak_bytes=memory.peak_bytes,
        size_bytes=sum(path.stat().st_size for path in kept.rglob("*") if path.is_file()),
    )


class _Memory(threading.Thread):
    """Looks at the memory of a process and its descendants (proc(5), smaps_rollup)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._pid = pid
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss, _family(self._pid))))

    def stop(self) -> None:
        self._over.set()
        self.join()


def _family(pid: int) -> list[int]:
    found = [pid]
    for each in found:  # grows as we go
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            found += map(int, _read(children).split())
    if len(found) == 1:  # a kernel without children files
        parents: dict[int, list[int]] = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            fields = _read(status).rpartition(")")[2].split()
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(status.parent.name))
        for each in found:
            found += parents.get(each, [])
    return found


def _pss(pid: int) -> int:
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended meanwhile
        return ""


def print_table(tree: Path, runs: dict[str, list[Run]]) -> None:
    """Print the medians as a table in reStructuredText, and where they were taken."""
    files = [path for path in tree.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    rounds = min(map(len, runs.values()))
    print(f"\n{len(files):,} files, {size / 1e6:,.0f} MB; medians of {rounds}; {_machine()}\n")
    reference = _median(runs.get("zip -r") or next(iter(runs.values())))
    rule = f"{'=' * 18} {'=' * 8} {'=' * 10} {'=' * 9} {'=' * 8} {'=' * 10}"
    print(rule)
    print(f"{'':18} {'wall s':>8} {'times zip':>10} {'CPU s':>9} {'MB kept':>8} {'memory MB':>10}")
    print(rule)
    for name, each in runs.items():
        run = _median(each)
        print(
            f"{name:18} {run.wall_seconds:8.2f}"
            f" {reference.wall_seconds / run.wall_seconds:10.1f} {run.cpu_seconds:9.2f}"
            f" {run.size_bytes / 1e6:8.0f} {run.peak_bytes / 1e6:10.0f}"
        )
    print(rule)


def _median(runs: list[Run]) -> Run:
    return Run(
        wall_seconds=statistics.median(each.wall_seconds for each in runs),
        cpu_seconds=statistics.median(each.cpu_seconds for each in runs),
        peak_bytes=round(statistics.median(each.peak_bytes for each in runs)),
        size_bytes=round(statistics.median(each.size_bytes for each in runs)),
    )


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _read(Path("/proc/cpuinfo")).splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{cores} cores of {cpu}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
