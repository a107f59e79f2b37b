"""Measure storeletd with many jobs and a long history, as real processes.

    .venv/bin/python benchmarks/daemon.py [--jobs 1000] [--runs 100000] [--due 200] [--rounds 5]

1. It starts on new job files with no state, and then again and again with it, until it answers
   with all jobs; with 100,000 runs in history from then on.
2. `list`, `status` and `history` are run in turn.
3. It is left alone, and its processor time and memory are taken.
4. 200 other jobs are due in one minute, two at once.
5. As many runs as before are older than what is remembered: it forgets them while it is asked,
   without a pause, whether it is well. The longest answer says how long its event loop was held.

It prints medians, with the bounds that hold on a machine that does nothing else, and the load.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.measuring import read_text
from benchmarks.table import name_machine
from benchmarks.workplace import open_workplace
from storeletd.database import Database
from storeletd.events import SavedArchive
from storeletd.history import KEPT_RUNS
from storeletd.records import Run, to_row, to_texts
from storeletd.schedule import Due
from tests.helpers import Daemon, wait_for

__all__ = ["fill_history", "write_jobs"]

_JOB = """\
schedule: "{minute} {hour} * * *"
timezone: Europe/Berlin
randomized_delay: 30m
include:
- directory: /srv/www/{name}
  exclude:
  - "*.tmp"
save:
- s3: my-bucket
  prefix: backups/
"""
_SMALL = """\
schedule: "{minute} {hour} * * *"
timezone: UTC
include:
- directory: {source}
save:
- directory: {destination}
"""
_OUTPUT = [f"Added file “/srv/www/pages/page-{number}.html” to the archive" for number in range(10)]
_ARCHIVE = SavedArchive(
    url="s3://my-bucket/backups/web_20261124023000.zip",
    bytes=1_000_000,
    bytes_reused=900_000,
    bytes_sent=100_000,
    requests=7,
)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table."""

    what: str
    value: float
    bound: float | None
    unit: str


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--due", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=120.0, metavar="SECONDS")
    options = parser.parse_args()
    print(f"{name_machine()}; load {os.getloadavg()[0]:.1f}\n")
    with open_workplace(None) as work:
        for each in _measure_all(work, options):
            bound = "" if each.bound is None else f"{each.bound:>8g}"
            print(f"{each.what:58} {each.value:>8.3f} {each.unit:<3}{bound}", flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f} in the end")


def _measure_all(work: Path, options: argparse.Namespace) -> Iterator[Figure]:
    rounds = options.rounds
    with _own_daemon(work / "many") as daemon:
        write_jobs(daemon.jobs, options.jobs)
        yield _seconds("first start", _time(lambda: _start(daemon, options.jobs)), 3)
        daemon.stop()
        fill_history(daemon.state, jobs=options.jobs, runs=options.runs, days=(80, 1))
        starts = []
        for _ in range(rounds):
            starts.append(_time(lambda: _start(daemon, options.jobs)))
            daemon.stop()
        yield _seconds("start", statistics.median(starts), 3)
        _start(daemon, options.jobs)
        for verb, bound in (("list", 0.5), ("status", 0.3), ("history", 0.3)):
            times = [_time(lambda verb=verb: daemon.ctl(verb, check=False)) for _ in range(rounds)]
            yield _seconds(f"storeletctl {verb}", statistics.median(times), bound)
        name = next(iter(sorted(daemon.jobs.iterdir()))).stem
        for verb in ("status", "history"):
            times = [_time(lambda verb=verb: daemon.ctl(verb, name)) for _ in range(rounds)]
            yield _seconds(f"storeletctl {verb} JOB", statistics.median(times), 0.3)
        yield from _measure_idle(daemon, options.idle)
    with _own_daemon(work / "due") as daemon:
        yield from _measure_due(daemon, options.due)
    with _own_daemon(work / "old") as daemon:
        yield from _measure_forgetting(daemon, options.runs)


def _measure_idle(daemon: Daemon, seconds: float) -> Iterator[Figure]:
    time.sleep(10)  # the first look at everything
    used = _cpu_seconds(daemon.pid)
    time.sleep(seconds)
    share = (_cpu_seconds(daemon.pid) - used) / seconds
    yield Figure(what="idle, of a core", value=share * 100, bound=0.5, unit="%")
    rollup = read_text(Path(f"/proc/{daemon.pid}/smaps_rollup"))
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    yield Figure(what="memory (PSS)", value=pss * 1024 / 1e6, bound=120, unit="MB")


def _measure_due(daemon: Daemon, count: int) -> Iterator[Figure]:
    daemon.start()
    source = daemon.jobs.parent / "source"
    source.mkdir()
    (source / "page.html").write_text("hello")
    due = write_due_jobs(daemon.jobs, count, source)
    daemon.ctl("reload")

    def look() -> list[dict[str, str]]:
        runs: list[dict[str, str]] = daemon.request("GET", f"/runs?limit={count + 1}")[1]["runs"]
        return runs if len(runs) == count and all(run["outcome"] for run in runs) else []

    runs = wait_for(look, seconds=120 + 5 * count, what=f"{count} runs")
    if others := [run for run in runs if run["outcome"] != "success"]:
        raise SystemExit(f"not all was well: {others}")
    begun = [datetime.fromisoformat(run["begun_at"]) for run in runs[::-1]]
    ended = max(datetime.fromisoformat(run["finished_at"]) for run in runs)
    yield _seconds(f"{count} jobs due at once: the first begins after", (begun[0] - due).seconds)
    yield _seconds(f"{count} jobs due at once: all are over after", (ended - due).total_seconds())


def _measure_forgetting(daemon: Daemon, runs: int) -> Iterator[Figure]:
    daemon.start()
    daemon.stop()
    fill_history(daemon.state, jobs=10, runs=runs, days=(400, 100))
    daemon.start()
    times = []
    with closing(Database(daemon.state / "history.sqlite")) as database:
        while True:
            times.append(_time(lambda: daemon.request("GET", "/health")))
            left = database.rows("SELECT count(*) FROM run")[0][0] if len(times) % 50 == 0 else runs
            if left <= 10 * KEPT_RUNS:
                break
    yield _seconds(f"longest answer while {runs:,} runs are forgotten", max(times))
    yield _seconds("median of these answers", statistics.median(times))


def write_jobs(directory: Path, count: int) -> None:
    """Write so many jobs, each due once a day."""
    for number in range(count):
        name = f"job{number:04}"
        text = _JOB.format(name=name, minute=number % 60, hour=number // 60 % 24)
        _write(directory / f"{name}.yaml", text)


def write_due_jobs(directory: Path, count: int, source: Path) -> datetime:
    """Write so many jobs that are all due in a minute that is about to begin; return it."""
    due = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    if due - datetime.now(UTC) < timedelta(seconds=10):
        due += timedelta(minutes=1)
    for number in range(count):
        text = _SMALL.format(
            minute=due.minute, hour=due.hour, source=source, destination=directory.parent
        )
        _write(directory / f"due{number:04}.yaml", text)
    return due


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def fill_history(state: Path, *, jobs: int, runs: int, days: tuple[int, int]) -> None:
    """Put runs into the history of a daemon that is down, evenly between so many days ago."""
    now = datetime.now(UTC)
    with closing(Database(state / "history.sqlite")) as database:
        names, marks = "", ""
        with database.transaction() as connection:
            for number in range(runs):
                at = now - timedelta(days=days[0] - (days[0] - days[1]) * number / runs)
                run = Run(
                    id=1_000_000 + number,
                    job=f"job{number % jobs:04}",
                    cause="schedule",
                    state="finished",
                    outcome="success",
                    exit_code=0,
                    due=Due(first=at, last=at, count=1),
                    queued_at=at,
                    begun_at=at,
                    finished_at=at + timedelta(minutes=3),
                    archives=(_ARCHIVE,),
                )
                row = {**to_row(run), "output": to_texts(_OUTPUT)}
                names, marks = ", ".join(row), ", ".join("?" * len(row))
                connection.execute(
                    f"INSERT INTO run ({names}) VALUES ({marks})",  # noqa: S608 - ours alone
                    tuple(row.values()),
                )


@contextmanager
def _own_daemon(place: Path) -> Iterator[Daemon]:
    place.mkdir()
    (place / "jobs").mkdir(mode=0o700)
    daemon = Daemon(jobs=place / "jobs", state=place / "state", socket=place / "socket")
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.assert_alone()


def _start(daemon: Daemon, jobs: int) -> None:
    daemon.start()
    if (found := daemon.request("GET", "/health")[1]["jobs"]) != jobs:
        raise SystemExit(f"{found} jobs: {daemon.log()}")


def _time(do: Callable[[], object]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def _cpu_seconds(pid: int) -> float:
    fields = read_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _seconds(what: str, value: float, bound: float | None = None) -> Figure:
    return Figure(what=what, value=value, bound=bound, unit="s")


if __name__ == "__main__":
    sys.exit(main())
