"""A soak: hundreds of short runs, and faults at random; every due time is in exactly one row.

    STORELET_SOAK_SECONDS=3600 STORELET_SOAK_SEED=7 pytest -s tests/daemon/test_soak.py

The seed is printed. What happens in which order follows from it, but not at which moment of a run.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.clock import LIBRARY, NIGHT, Clock, give_clock
from tests.daemon.test_daemon import write_job
from tests.daemon.test_job_faults import DONE
from tests.daemon.test_state_faults import assert_history_is_whole
from tests.daemon.test_uploads import open_uploads
from tests.helpers import Bucket, Daemon, wait_for
from tests.proxy import Answer, Proxy, Request, error_answer

SECONDS = float(os.environ.get("STORELET_SOAK_SECONDS", "80"))  # before the tests' own are cleared
SEED = int(os.environ.get("STORELET_SOAK_SEED", random.SystemRandom().randrange(10**6)))

PERIODS = {"tick": 1, "small": 2, "slow": 2, "large": 5, "come": 1}  # seconds between due times


class Soak:
    """A daemon with five jobs and a manual one, and what may befall it."""

    def __init__(self, daemon: Daemon, bucket: Bucket, proxy: Proxy, top: Path) -> None:
        self.daemon = daemon
        self.bucket = bucket
        self.proxy = proxy
        self.random = random.Random(SEED)  # noqa: S311 - no secret
        self.clock = Clock(top / "clock")
        self.happened: Counter[str] = Counter()
        self.away: list[tuple[datetime, datetime]] = []  # when the file of `come` was not there
        self._top = top
        self._is_down = False  # S3
        self._removed_at: datetime | None = None
        proxy.script = self._answer
        for name in ("source", "large", "archives"):
            (top / name).mkdir()
        (top / "source" / "page.html").write_text("hello\n" * 100)
        (top / "large" / "random").write_bytes(os.urandom(10 << 20))  # two parts

    def start(self) -> None:
        self.daemon.start("--max-runs", "4")

    def write_files(self, *names: str) -> None:
        """Write these job files anew, with the same jobs in another text."""
        source, large, archives = (self._top / name for name in ("source", "large", "archives"))
        directory = f"include: [{{directory: {source}}}]\nsave: [{{directory: {archives}}}]\n"
        texts = {
            "tick.py": f'SCHEDULE = "every 1s"\nOVERLAP = "queue"\n{DONE}',
            "small.yaml": f"schedule: every 2s\n{directory}",
            "slow.py": f'SCHEDULE = "every 2s"\nimport time\ntime.sleep(3)\n{DONE}',
            "large.yaml": f"schedule: every 5s\nretries: 1\nretry_wait: 1s\nreuse: false\n"
            f"include: [{{directory: {large}}}]\nsave: [{{s3: {self.bucket.name}}}]\n",
            "come.py": f'SCHEDULE = "every 1s"\n{DONE}',
            "hand.py": f'SCHEDULE = "manual"\n{DONE}',
        }
        for name in names or texts:
            write_job(self.daemon, name, f"{texts[name]}# {self.random.random()}\n")

    def now(self) -> datetime:
        """Return what the daemon's clock shows."""
        return self.clock.now() if LIBRARY else datetime.now().astimezone()

    def go_on(self, seconds: float, faults: list[Callable[[], None]]) -> None:
        """Let faults happen, one after the other."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            fault = self.random.choice(faults)
            self.happened[fault.__name__] += 1
            fault()
            time.sleep(self.random.uniform(0.2, 1.5))  # for runs to begin and end

    # What ends the daemon

    def kill_daemon(self) -> None:
        self.daemon.kill()
        time.sleep(self.random.choice([0, 0, 2]))
        self.start()

    def restart_daemon(self) -> None:
        self.daemon.stop()
        self.start()

    # What does not

    def kill_keeper(self) -> None:
        self._kill_one("keeper.py")

    def kill_worker(self) -> None:
        self._kill_one("-m storeletd.worker")

    def reload(self) -> None:
        self.daemon.process.send_signal(signal.SIGHUP)

    def rewrite_file(self) -> None:
        self.write_files(self.random.choice(["tick.py", "small.yaml", "large.yaml"]))

    def remove_or_restore_file(self) -> None:
        if self._removed_at is None:
            self._removed_at = self.now()
            (self.daemon.jobs / "come.py").unlink()
        else:
            self.write_files("come.py")
            self.daemon.request("POST", "/reload")
            self.away.append((self._removed_at, self.now()))
            self._removed_at = None

    def pause_or_resume(self) -> None:
        verb = self.random.choice(["pause", "resume", "resume"])
        self.daemon.request("POST", f"/jobs/{self.random.choice(['tick', 'small'])}/{verb}")

    def run_by_hand(self) -> None:
        for name in ("hand", "small"):
            assert self.daemon.request("POST", f"/jobs/{name}/runs")[0] in (202, 409)

    def stop_or_start_s3(self) -> None:
        self._is_down = not self._is_down

    def hold_history(self) -> None:
        with closing(sqlite3.connect(self.daemon.state / "history.sqlite", timeout=20)) as other:
            other.isolation_level = None
            other.execute("BEGIN IMMEDIATE")
            time.sleep(self.random.choice([0.2, 1, 4]))
            other.execute("ROLLBACK")

    def remove_socket(self) -> None:
        self.daemon.socket.unlink()
        wait_for(self._answers, seconds=30, what="a new socket")

    def step_clock(self) -> None:
        if LIBRARY:
            seconds = self.random.choice([-60, -5, 5, 60, 1000])
            self.clock.set(self.now() + timedelta(seconds=seconds))

    def heal(self) -> None:
        """Let nothing be the matter any more."""
        self._is_down = False
        if self._removed_at is not None:
            self.remove_or_restore_file()
        for name in ("tick", "small"):
            self.daemon.request("POST", f"/jobs/{name}/resume")

    def _kill_one(self, what: str) -> None:
        found = [each for each in self.daemon.processes() if what in each]
        if found:
            with suppress(ProcessLookupError):
                os.kill(int(self.random.choice(found).split()[0]), signal.SIGKILL)

    def _answers(self) -> bool:
        try:
            return bool(self.daemon.request("GET", "/health")[0] == 200)
        except OSError:
            return False

    def _answer(self, _request: Request) -> Answer | None:
        return error_answer(503, "ServiceUnavailable") if self._is_down else None


@pytest.fixture
def soak(daemon: Daemon, s3_server: Bucket, tmp_path: Path) -> Iterator[Soak]:
    with Proxy(s3_server.endpoint) as proxy:
        daemon.stop()
        soak = Soak(daemon, s3_server, proxy, tmp_path)
        daemon.environment |= s3_server.environment | {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        if LIBRARY:
            soak.clock.set(NIGHT)
            give_clock(daemon, soak.clock)
        soak.write_files()
        soak.start()
        yield soak
        daemon.stop()


def test_whatever_happens_each_due_time_is_counted_once_and_nothing_is_left(soak: Soak) -> None:
    print(f"STORELET_SOAK_SEED={SEED}")  # noqa: T201 - for who is to repeat it
    daemon = soak.daemon
    begun = soak.now()
    faults = [
        soak.kill_keeper,
        soak.kill_worker,
        soak.reload,
        soak.rewrite_file,
        soak.remove_or_restore_file,
        soak.pause_or_resume,
        soak.run_by_hand,
        soak.stop_or_start_s3,
        soak.hold_history,
        soak.remove_socket,
        soak.step_clock,
    ]
    soak.go_on(SECONDS / 2, [*faults, soak.kill_daemon, soak.restart_daemon])
    soak.go_on(SECONDS / 4, faults)  # it warms up
    memory, files = resident_bytes(daemon), open_files(daemon)
    soak.go_on(SECONDS / 4, faults)
    soak.heal()
    assert resident_bytes(daemon) < memory + (20 << 20)
    soak.restart_daemon()  # which aborts what was left
    wait_for(lambda: not open_uploads(soak.bucket), seconds=60, what="an end of uploads")
    for path in daemon.jobs.glob("*.*"):
        path.unlink()
    ended = soak.now()
    wait_for(lambda: is_quiet(daemon), seconds=120, what="an end of all")
    assert open_files(daemon) <= files + 5
    assert daemon.processes() == []
    # A daemon that is killed in the moment when a run begins leaves an empty directory.
    left_over = list(daemon.socket.parent.glob("storelet-*"))
    assert len(left_over) <= soak.happened["kill_daemon"], (SEED, left_over)
    assert [list(each.iterdir()) for each in left_over] == [[] for _ in left_over]
    assert open_uploads(soak.bucket) == set()
    left = daemon.jobs.parent / "archives"
    assert [each.name for each in left.iterdir() if each.suffix != ".zip"] == []
    daemon.stop()
    assert_history_is_whole(daemon)
    check_due_times(soak, begun, ended)


def check_due_times(soak: Soak, begun: datetime, ended: datetime) -> None:
    """Fail unless the due times of each job are in one row each, but for when it was not there."""
    with closing(sqlite3.connect(soak.daemon.state / "history.sqlite")) as database:
        outcomes = database.execute("SELECT job, outcome FROM run").fetchall()
        dues = database.execute(
            "SELECT job, due_first, due_last, due_count, id FROM run WHERE due_count > 0"
            " ORDER BY job, due_first"
        ).fetchall()
    print(f"{dict(soak.happened)}\n{Counter(outcomes)}")  # noqa: T201 - what was tested
    assert None not in {outcome for _, outcome in outcomes}
    assert {job for job, *_ in dues} == set(PERIODS)
    for name, period in PERIODS.items():
        rows = [
            (first // 1_000_000, last // 1_000_000, count, number)
            for job, first, last, count, number in dues
            if job == name
        ]
        gaps = 0
        for first, last, count, number in rows:
            assert count == (last - first) // period + 1, (SEED, name, number)
        for before, after in pairwise(rows):
            between = after[0] - before[1]
            is_gap = between != period
            was_away = name == "come" and any(
                before[1] <= to.timestamp() + 5 and since.timestamp() - 5 <= after[0]
                for since, to in soak.away
            )
            assert between > 0, (SEED, name, before, after)
            assert not is_gap or was_away, (SEED, name, before, after)
            gaps += is_gap
        assert gaps <= len(soak.away)
        assert rows[0][0] <= begun.timestamp() + 10, (SEED, name)
        assert rows[-1][1] >= ended.timestamp() - 10 - period, (SEED, name)


def is_quiet(daemon: Daemon) -> bool:
    health = daemon.request("GET", "/health")[1]
    return not (health["jobs"] or health["running"] or health["queued"])


def resident_bytes(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")
    )


def open_files(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
